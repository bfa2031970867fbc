-- This VM's client of the core: opened with the first runtime, closed when the
-- VM ends.

local ffi = require "ffi"
local base = require "resty.nonblocking_ffi.core.base"
local cdefs = require "resty.nonblocking_ffi.core.cdefs"
local exit = require "resty.nonblocking_ffi.core.exit"
local flusher = require "resty.nonblocking_ffi.core.flusher"
local library = require "resty.nonblocking_ffi.core.library"
local log = require "resty.nonblocking_ffi.core.log"
local options = require "resty.nonblocking_ffi.core.options"

local ffi_gc = ffi.gc
local ffi_string = ffi.string
local min = math.min
local pcall = pcall

-- How long the worker's exit waits for a running task that has no waiter.
local EXIT_RUNNING = 0.1
-- How long languages have at the end of a worker that is told to stop: the
-- master kills it after a second and a half.
local STOP_ENDING = 0.6


local _M = {}


-- Functions that are called before an exiting worker closes the client.
local hooks = {}


-- Adds such a function. It must not yield.
function _M.before_exit(hook)
    hooks[#hooks + 1] = hook
end


-- The VM ends: no thread may read its memory any more when this returns.
local function close(client)
    local C = base.C
    local ending = options.defaults.shutdown_timeout
    local queued = 0
    if exit.exiting then
        for i = 1, #hooks do
            pcall(hooks[i])
        end
        queued = ending
    else
        ending = min(ending, STOP_ENDING)
    end
    base.close()
    C.nbffi_client_close(client, queued, EXIT_RUNNING, ending)
    -- What plugins logged at their end.
    pcall(log.write_at_end, client)
end


-- Opens the shared object, readies the worker, and makes this VM's client,
-- once. True, or nil and an error.
function _M.open()
    if base.client then
        return true
    end
    local C, path = library.open_core()
    if not C then
        return nil, path
    end
    local ok, err = flusher.open()
    if not ok then
        return nil, err
    end
    local status = C.nbffi_enter(base.error_buffer())
    if status < 0 then
        return nil, ffi_string(C.nbffi_error_text(-status))
    elseif status > 0 then
        ngx.log(ngx.WARN, "nonblocking_ffi: [children] ", base.error_text())
    end
    local client = C.nbffi_client_new(base.text(ngx.config.subsystem),
                                      base.error_buffer())
    if client == nil then
        return nil, base.error_text()
    end
    base.open(C, ffi_gc(client, close), path, cdefs.ERRORS)
    C.nbffi_log_level(client, log.level())
    return true
end


return _M
