-- A runtime: what `load` returns.

local ffi = require "ffi"
local cdefs = require "resty.nonblocking_ffi.cdefs"
local channel = require "resty.nonblocking_ffi.channel"
local future = require "resty.nonblocking_ffi.future"
local library = require "resty.nonblocking_ffi.library"
local options = require "resty.nonblocking_ffi.options"
local phase = require "resty.nonblocking_ffi.phase"
local pools = require "resty.nonblocking_ffi.pool"

local can_yield = phase.can_yield
local concat = table.concat
local error = error
local getmetatable = getmetatable
local ffi_new = ffi.new
local format = string.format
local is_contended = pools.is_contended
local new_waiter = channel.new_waiter
local now = ngx.now
local outcome = channel.outcome
local pairs = pairs
local pcall = pcall
local recycle = channel.recycle
local register = channel.register
local results = channel.results
local setmetatable = setmetatable
local texts = channel.texts
local tostring = tostring
local type = type
local wait = channel.wait

local CANNOT_YIELD = phase.CANNOT_YIELD
local CLOSED = cdefs.CLOSED
local DONE = cdefs.DONE
local QUEUE_OVERFLOW = -cdefs.QUEUE_OVERFLOW
local TIMEOUT = cdefs.TIMEOUT

local PRIORITIES = { high = 0, normal = 1, low = 2 }
local NORMAL = PRIORITIES.normal
local CALL_OPTIONS = { timeout = true, priority = true }
local LOAD_OPTIONS = {
    name = true, runtime = true, library = true, entry = true, config = true,
    pool = true, on_full = true, timeout = true, max_response = true,
}

-- How long load may take where it blocks the worker: in init_worker.
local BLOCKING_LOAD = 60


local _M = {}
local _MT = { __index = _M }

-- Runtimes that are loaded or being loaded, by their arguments ...
local by_arguments = {}
-- ... and by name.
local by_name = {}
-- Runtimes that are closed when their last task has been collected.
local closing = {}

local done -- where nbffi_post puts a result that is there at once
-- Keeps a request alive from its post until its result has been read or it is
-- registered, whatever the JIT compiler thinks of local variables.
local anchor = {}
local C, client


-- The bytes of a request: a string, or what a cosocket's send accepts.
local function flatten(value, parts, where)
    local kind = type(value)
    if kind == "string" then
        parts[#parts + 1] = value
    elseif kind == "number" then
        parts[#parts + 1] = tostring(value)
    elseif kind == "table" then
        for i = 1, #value do
            flatten(value[i], parts, where .. "[" .. i .. "]")
        end
    else
        error(where .. " must be a string, or a table of strings, got "
              .. kind, 0)
    end
    return parts
end


local function to_bytes(request)
    local ok, parts = pcall(flatten, request, {}, "request")
    if not ok then
        error(parts, 3)
    end
    return concat(parts)
end


-- The timeout and the number of the priority.
local function call_options(self, opts)
    options.check("options", opts, CALL_OPTIONS, 3)
    local priority = opts.priority
    return opts.timeout or self.timeout,
           priority and PRIORITIES[priority] or NORMAL
end


local function check_self(self)
    if getmetatable(self) ~= _MT then
        error("not a runtime: call its methods with a colon", 3)
    end
end


-- Counts and returns an error that the core did not see.
local function refuse(self, code)
    if self.ptr then
        C.nbffi_count(self.ptr, code)
    end
    return nil, texts[code]
end


-- Puts a task behind those that wait for room.
local function block(self, request, priority, waiter, seconds)
    waiter.deadline = now() + seconds
    local entry = {
        runtime = self,
        request = request,
        priority = priority,
        waiter = waiter,
    }
    pools.block(self.pool, entry)
    return entry
end


-- Posts a task that waited for room, unless there is none. Called by the pool.
function _M:post_blocked(entry)
    local waiter = entry.waiter
    if not self.ptr or self.closing then
        channel.finish(waiter, texts[CLOSED])
    else
        local id = C.nbffi_post(client, self.ptr, entry.request,
                                #entry.request, waiter.deadline - now(),
                                entry.priority, false, done)
        if id == QUEUE_OVERFLOW then
            return id
        end
        if id < 0 then
            C.nbffi_count(self.ptr, -id)
            channel.finish(waiter, texts[-id])
        else
            register(id, waiter, entry.request)
        end
    end
    if entry.admission then
        channel.finish(entry.admission)
    end
end


-- Waits for a call's result, up to its deadline, and ends it there.
local function await(self, waiter, seconds, entry)
    local ok, err = wait(waiter, seconds)
    if ok then
        local res, failed, code, message = outcome(waiter)
        recycle(waiter)
        if failed or code then
            return res, failed, code, message
        end
        return res
    end
    if waiter.slot then
        channel.abandon(waiter, TIMEOUT)
    else
        entry.dead = true
        C.nbffi_count(self.ptr, TIMEOUT)
    end
    recycle(waiter)
    return nil, err or texts[TIMEOUT]
end


-- syntax: res, err, code, message = runtime:call(request, options?)
--
-- Runs a request on the runtime's pool and waits for the response, without
-- blocking the event loop.
--
-- request   a string of any bytes, or a (nested) table of strings and numbers,
--           which are sent as one
-- options   timeout   seconds, default: the runtime's
--           priority  "high", "normal" (default) or "low"
--
-- Returns the response, a string; if the plugin gave a status of its own then
-- also nil, its code and its message. Or nil and an error: "timeout",
-- "queue overflow", "closed", "shutting down", "response too large",
-- "no memory", "cannot yield in this phase", or "runtime error: ..." with the
-- plugin's code and message.
function _M:call(request, opts)
    if getmetatable(self) ~= _MT then
        check_self(self)
    end
    local timeout, priority = self.timeout, NORMAL
    if opts ~= nil then
        timeout, priority = call_options(self, opts)
    end
    if type(request) ~= "string" then
        request = to_bytes(request)
    end
    if not can_yield() then
        return nil, CANNOT_YIELD
    end
    if self.closing then
        return refuse(self, CLOSED)
    end

    local waits = self.waits
    local id = QUEUE_OVERFLOW
    if not waits or not is_contended(self.pool) then
        anchor[1] = request
        id = C.nbffi_post(client, self.ptr, request, #request, timeout,
                          priority, true, done)
    end
    if id == DONE then
        local res, err, code, message = results(done)
        C.nbffi_release(client, done, 1)
        anchor[1] = nil
        if err or code then
            return res, err, code, message
        end
        return res
    end

    local waiter, entry
    if id >= 0 then
        waiter = new_waiter()
        register(id, waiter, request)
    elseif id == QUEUE_OVERFLOW and waits then
        waiter = new_waiter()
        entry = block(self, request, priority, waiter, timeout)
    else
        return refuse(self, -id)
    end
    return await(self, waiter, timeout, entry)
end


-- syntax: future, err = runtime:submit(request, options?)
--
-- Starts a request and returns at once (or, with on_full = "wait", when there
-- is room). Arguments as for call. Returns a future, see future.lua, or nil
-- and an error: "queue overflow", "closed", "shutting down", "no memory", and
-- with on_full = "wait" also "timeout".
function _M:submit(request, opts)
    check_self(self)
    local timeout, priority = self.timeout, NORMAL
    if opts ~= nil then
        timeout, priority = call_options(self, opts)
    end
    if type(request) ~= "string" then
        request = to_bytes(request)
    end
    if self.closing then
        return refuse(self, CLOSED)
    end

    local waits = self.waits and can_yield()
    local waiter = { sleeping = 0, done = false, deadline = now() + timeout }
    local id = QUEUE_OVERFLOW
    if not waits or not is_contended(self.pool) then
        id = C.nbffi_post(client, self.ptr, request, #request, timeout,
                          priority, false, done)
    end
    if id >= 0 then
        register(id, waiter, request)
        channel.start()

    elseif id == QUEUE_OVERFLOW and waits then
        local entry = block(self, request, priority, waiter, timeout)
        entry.admission = { sleeping = 0, done = false,
                            deadline = waiter.deadline }
        local ok, err = wait(entry.admission, timeout)
        if not ok then
            entry.dead = true
            C.nbffi_count(self.ptr, TIMEOUT)
            return nil, err or texts[TIMEOUT]
        end

    else
        return refuse(self, -id)
    end
    return future.new(waiter)
end


-- syntax: ok, err = runtime:cast(request, options?)
--
-- Starts a request whose result nobody needs. Arguments as for call; when the
-- timeout has passed before the task has started, it is dropped. Works in
-- every phase but init_by_lua, and never yields. Returns true, or nil and an
-- error: "queue overflow" (whatever on_full says), "closed", "shutting down",
-- "no memory".
function _M:cast(request, opts)
    check_self(self)
    local timeout, priority = self.timeout, NORMAL
    if opts ~= nil then
        timeout, priority = call_options(self, opts)
    end
    if type(request) ~= "string" then
        request = to_bytes(request)
    end
    if self.closing then
        return refuse(self, CLOSED)
    end
    local id = C.nbffi_post(client, self.ptr, request, #request, timeout,
                            priority, false, done)
    if id < 0 then
        return refuse(self, -id)
    end
    register(id, nil, request)
    channel.start()
    return true
end


local function summary(figures)
    return {
        count = figures.count,
        mean = figures.mean,
        p50 = figures.p50,
        p90 = figures.p90,
        p99 = figures.p99,
        p999 = figures.p999,
        max = figures.max,
    }
end


local function read_stats(self)
    local figures = ffi_new("nbffi_runtime_figures")
    C.nbffi_runtime_stats(self.ptr, figures)
    local errors = {}
    local calls = figures.ok
    for code = 1, cdefs.ERRORS do
        if code ~= cdefs.LOAD then
            errors[texts[code]] = figures.errors[code - 1]
            calls = calls + figures.errors[code - 1]
        end
    end
    return {
        name = self.name,
        pool = self.pool.name,
        calls = calls,
        ok = figures.ok,
        errors = errors,
        expired = figures.expired,
        in_flight = figures.in_flight,
        queued = figures.queued,
        running = figures.running,
        grace_hits = figures.grace_hits,
        grace_misses = figures.grace_misses,
        queue_time = summary(figures.queue_time),
        run_time = summary(figures.run_time),
        total_time = summary(figures.total_time),
    }
end


-- syntax: stats = runtime:stats()
--
-- What this worker has counted for the runtime:
--   name, pool          strings
--   calls               calls that have ended: ok and all errors
--   ok                  ended with a response
--   errors              by kind: timeout, cancelled, ["queue overflow"], ...
--   expired             tasks that never ran, as their deadline passed in the
--                       queue
--   in_flight           tasks posted and not collected; of these
--   queued, running       those that wait, and those that run or have ended
--   grace_hits/_misses  calls that got their result without yielding, and
--                       calls that waited for that in vain
--   queue_time, run_time, total_time
--                       { count, mean, p50, p90, p99, p999, max }, in seconds
function _M:stats()
    check_self(self)
    return self.last_stats or read_stats(self)
end


-- Called when a runtime has been closed.
local function closed(self)
    self.last_stats = read_stats(self)
    C.nbffi_runtime_free(client, self.ptr)
    self.ptr = nil
    closing[self] = nil
end


-- Starts to close those runtimes whose last task has been collected.
local function advance_closing()
    for self, waiter in pairs(closing) do
        if not waiter.posted and C.nbffi_runtime_in_flight(self.ptr) == 0 then
            waiter.posted = true
            local id = C.nbffi_post_control(client, self.ptr, true)
            if id < 0 then
                closed(self)
                channel.finish(waiter)
            else
                register(id, waiter)
            end
        end
    end
end


-- syntax: ok, err = runtime:close(timeout?)
--
-- Takes no more calls (they get "closed"), lets those in flight end, and then
-- closes the plugin's state; its library stays loaded. Waits for that in
-- phases that can yield, up to `timeout` seconds (default: the runtime's).
-- Returns true, or nil and "timeout": closing goes on nevertheless.
function _M:close(timeout)
    check_self(self)
    if timeout ~= nil and (type(timeout) ~= "number" or not (timeout > 0)) then
        error("close: timeout must be a positive number of seconds", 2)
    end
    if not self.ptr then
        return true
    end
    local waiter = closing[self]
    if not waiter then
        self.closing = true
        by_arguments[self.arguments] = nil
        by_name[self.name] = nil
        waiter = { sleeping = 0, done = false }
        waiter.callback = function() closed(self) end
        closing[self] = waiter
        advance_closing()
    end
    if not can_yield() then
        channel.start()
        return true
    end
    local ok, err = wait(waiter, timeout or self.timeout)
    if ok then
        return true
    end
    return nil, err or texts[TIMEOUT]
end


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
    local keys = { "name", "runtime", "library", "entry", "config", "pool",
                   "on_full", "timeout", "max_response" }
    for i = 1, #keys do
        local value = tostring(given[keys[i]])
        parts[i] = #value .. ":" .. type(given[keys[i]]) .. ":" .. value
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
    local path = library.plugin_path(given.library)
    local entry = given.entry or "nbffi_plugin_entry"
    local config = given.config or ""
    local ptr = C.nbffi_runtime_new_c(client, pool.ptr, channel.text(name),
        channel.text(path), channel.text(entry), channel.text(config),
        options.get(given, "max_response"), channel.error_buffer())
    if ptr == nil then
        return nil, channel.error_text()
    end

    local self = setmetatable({
        name = name,
        arguments = arguments,
        ptr = ptr,
        pool = pool,
        timeout = options.get(given, "timeout"),
        waits = options.get(given, "on_full") == "wait",
        closing = false,
    }, _MT)
    local waiter = { sleeping = 0, done = false,
                     deadline = now() + self.timeout }
    waiter.callback = function()
        self.loading = nil
        if waiter.err then
            -- A runtime that cannot be loaded is not there at all.
            waiter.err = waiter.message or waiter.err
            by_arguments[arguments] = nil
            by_name[name] = nil
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
    done = ffi_new("nbffi_completion")
    channel.on_drain(advance_closing)
    channel.before_exit = close_all
    return true
end


-- Loads a runtime; see nonblocking_ffi.lua.
function _M.load(given)
    options.check("load", given, LOAD_OPTIONS, 2)
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
        all[name] = read_stats(self)
    end
    return all
end


return _M
