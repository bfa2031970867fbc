-- The light thread that sends posts which were held back, at the end of each
-- turn of the event loop in which there was one: a semaphore that is posted in
-- a handler wakes its waiter only after all I/O events of the turn.

local semaphore = require "ngx.semaphore"
local base = require "resty.nonblocking_ffi.core.base"
local code_cache = require "resty.nonblocking_ffi.core.code_cache"
local waiter = require "resty.nonblocking_ffi.core.waiter"

local spawn = ngx.thread.spawn

local LONGEST = waiter.LONGEST
-- How soon the flusher checks whether the core has handled what it sent.
local WATCH = 0.01


local _M = {}


local flushes
local is_running = false
local is_posted = false


-- Makes the semaphore. True, or nil and an error. With `lua_code_cache off`
-- nginx-lua frees the memory of all semaphores before it ends this VM, and
-- complains of each that is left; so there is no flusher in such a VM.
function _M.open()
    if code_cache.is_off() then
        return true
    end
    local err
    flushes, err = semaphore.new(0)
    if not flushes then
        return nil, err
    end
    return true
end


-- Whether there is a flusher in this VM, and whether calls may use semaphores.
function _M.is_open()
    return flushes ~= nil
end


-- Has the flusher send what is held back, at the end of the turn.
function _M.wake()
    if not is_posted then
        is_posted = true
        flushes:post(1)
    end
end


local function run()
    local C, client = base.C, base.client
    local watch = false
    while is_running do
        if flushes:wait(watch and WATCH or LONGEST) then
            is_posted = false
            watch = C.nbffi_flush(client)
        else
            watch = C.nbffi_watch(client)
        end
    end
end


function _M.start()
    is_running = true
    spawn(run)
end


function _M.stop()
    is_running = false
    if flushes then
        flushes:post(1)
    end
end


return _M
