-- Loading: which runtimes there are in this VM, and making new ones.

local cdefs = require "resty.nonblocking_ffi.cdefs"
local channel = require "resty.nonblocking_ffi.channel"
local library = require "resty.nonblocking_ffi.library"
local options = require "resty.nonblocking_ffi.options"
local phase = require "resty.nonblocking_ffi.phase"
local pools = require "resty.nonblocking_ffi.pool"
local runtime = require "resty.nonblocking_ffi.runtime"

local can_yield = phase.can_yield
local concat = table.concat
local error = error
local format = string.format
local now = ngx.now
local pairs = pairs
local register = channel.register
local texts = channel.texts
local tostring = tostring
local type = type
local wait = channel.wait

local CANNOT_YIELD = phase.CANNOT_YIELD
local TIMEOUT = cdefs.TIMEOUT

local OPTIONS = {
    "name", "runtime", "library", "entry", "config", "pool", "on_full",
    "timeout", "max_response",
}
local ALLOWED = {}
for i = 1, #OPTIONS do
    ALLOWED[OPTIONS[i]] = true
end

-- How long load may take where it blocks the worker: in init_worker.
local BLOCKING_LOAD = 60


local _M = {}


-- Runtimes that are loaded or being loaded, by their arguments ...
local by_arguments = {}
-- ... and by name.
local by_name = {}

local C, client


-- Before the worker exits: the plugins of idle runtimes are closed.
local function close_all()
    for _, self in pairs(by_arguments) do
        if not self.loading
           and C.nbffi_runtime_in_flight(self.ptr) == 0
        then
            C.nbffi_post_control(client, self.ptr, true)
        end
    end
end


-- A string that is equal for equal arguments, and only for these.
local function arguments_key(given)
    local parts = {}
    for i = 1, #OPTIONS do
        local value = given[OPTIONS[i]]
        local text = tostring(value)
        parts[i] = #text .. ":" .. type(value) .. ":" .. text
    end
    return concat(parts, ",")
end


-- A name for a runtime that was given none: the library's, made unique.
local function name_for(given)
    if given.name then
        if by_name[given.name] then
            return nil, "a runtime named \"" .. given.name .. "\" is loaded "
                        .. "already, with other arguments"
        end
        return given.name
    end
    local base = given.library:match("([^/]+)$") or given.library
    base = base:gsub("%.so$", ""):gsub("^lib", "")
    local name, number = base, 1
    while by_name[name] do
        number = number + 1
        name = format("%s-%d", base, number)
    end
    return name
end


-- Makes a runtime and posts its initialisation. Returns it, or nil and an
-- error.
local function begin_load(given, arguments)
    local name, err = name_for(given)
    if not name then
        return nil, err
    end
    local pool
    pool, err = pools.obtain(given.pool or "default")
    if not pool then
        return nil, err
    end
    local path, tried = library.plugin_path(given.library)
    local entry = given.entry or "nbffi_plugin_entry"
    local config = given.config or ""
    local ptr = C.nbffi_runtime_new_c(client, pool.ptr, channel.text(name),
        channel.text(path), channel.text(entry), channel.text(config),
        options.get(given, "max_response"), channel.error_buffer())
    if ptr == nil then
        return nil, channel.error_text()
    end

    local function forget()
        by_arguments[arguments] = nil
        by_name[name] = nil
    end
    local self = runtime.new {
        name = name,
        ptr = ptr,
        pool = pool,
        timeout = options.get(given, "timeout"),
        waits = options.get(given, "on_full") == "wait",
        forget = forget,
    }
    local waiter = { sleeping = 0, done = false,
                     deadline = now() + self.timeout }
    waiter.callback = function()
        self.loading = nil
        if waiter.err then
            -- A runtime that cannot be loaded is not there at all.
            waiter.err = waiter.message or waiter.err
            if tried then
                waiter.err = waiter.err .. "; not in package.cpath either:"
                             .. tried
            end
            forget()
            C.nbffi_runtime_free(client, ptr)
        end
    end
    local id = C.nbffi_post_control(client, ptr, false)
    if id < 0 then
        C.nbffi_runtime_free(client, ptr)
        return nil, texts[-id]
    end
    self.loading = waiter
    by_arguments[arguments] = self
    by_name[name] = self
    register(id, waiter)
    return self
end


-- Opens the core in this VM. True, or nil and an error.
local function open()
    if client then
        return true
    end
    local ok, err = channel.open()
    if not ok then
        return nil, err
    end
    C, client = channel.C, channel.client
    runtime.attach()
    channel.before_exit = close_all
    return true
end


-- Loads a runtime; see nonblocking_ffi.lua.
function _M.load(given)
    options.check("load", given, ALLOWED, 2)
    if given.runtime == nil then
        error("load: runtime is missing: which language host is it for?", 2)
    end
    if given.library == nil then
        error("load: library is missing: the path of a shared object", 2)
    end
    if phase.is_init() then
        return nil, "load must not be called in init_by_lua: threads do not "
                    .. "survive the fork of workers; call it in "
                    .. "init_worker_by_lua or later"
    end
    local arguments = arguments_key(given)
    local self = by_arguments[arguments]
    if self and not self.loading then
        return self
    end
    local blocks = phase.is_init_worker()
    if not blocks and not can_yield() then
        return nil, CANNOT_YIELD
    end

    local ok, err = open()
    if not ok then
        return nil, err
    end
    if not self then
        self, err = begin_load(given, arguments)
        if not self then
            return nil, err
        end
    end
    local waiter = self.loading
    if blocks then
        ok = channel.block(waiter, BLOCKING_LOAD)
        channel.start()
    else
        ok, err = wait(waiter, self.timeout)
    end
    if not ok then
        return nil, err or texts[TIMEOUT]
    end
    if waiter.err then
        return nil, waiter.err
    end
    return self
end


-- Statistics of all runtimes, by name.
function _M.all_stats()
    local all = {}
    for name, self in pairs(by_name) do
        all[name] = self:stats()
    end
    return all
end


return _M
