-- The class of runtimes: what `load` returns.

local ffi = require "ffi"
local cdefs = require "resty.nonblocking_ffi.cdefs"
local channel = require "resty.nonblocking_ffi.channel"
local future = require "resty.nonblocking_ffi.future"
local options = require "resty.nonblocking_ffi.options"
local phase = require "resty.nonblocking_ffi.phase"
local pools = require "resty.nonblocking_ffi.pool"

local can_yield = phase.can_yield
local concat = table.concat
local error = error
local getmetatable = getmetatable
local ffi_new = ffi.new
local is_contended = pools.is_contended
local new_waiter = channel.new_waiter
local now = ngx.now
local outcome = channel.outcome
local pairs = pairs
local pcall = pcall
local recycle = channel.recycle
local register = channel.register
local requests = channel.requests
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
-- A place in `requests` that no slot has.
local POSTING = -1
local TIMEOUT = cdefs.TIMEOUT

local PRIORITIES = { high = 0, normal = 1, low = 2 }
local NORMAL = PRIORITIES.normal
local CALL_OPTIONS = { timeout = true, priority = true }

-- The methods.
local _M = {}
local _MT = { __index = _M }

-- Runtimes that are closed when their last task has been collected.
local closing = {}

local done -- where nbffi_post puts a result that is there at once
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
        error(parts, 4)
    end
    return concat(parts)
end


-- The timeout and the number of the priority.
local function call_options(self, opts)
    options.check("options", opts, CALL_OPTIONS, 4)
    local priority = opts.priority
    return opts.timeout or self.timeout,
           priority and PRIORITIES[priority] or NORMAL
end


local function check_self(self)
    if getmetatable(self) ~= _MT then
        error("not a runtime: call its methods with a colon", 3)
    end
end


-- What call, submit and cast are given: the bytes of the request, the timeout,
-- the number of the priority. Raises errors for their callers.
local function arguments(self, request, opts)
    if getmetatable(self) ~= _MT then
        error("not a runtime: call its methods with a colon", 3)
    end
    local timeout, priority = self.timeout, NORMAL
    if opts ~= nil then
        timeout, priority = call_options(self, opts)
    end
    if type(request) ~= "string" then
        request = to_bytes(request)
    end
    return request, timeout, priority
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
    local timeout, priority
    request, timeout, priority = arguments(self, request, opts)
    if not can_yield() then
        return nil, CANNOT_YIELD
    end
    if self.closing then
        return refuse(self, CLOSED)
    end

    local waits = self.waits
    local id = QUEUE_OVERFLOW
    if not waits or not is_contended(self.pool) then
        -- Keeps it alive until its result has been read or it is registered,
        -- whatever the JIT compiler thinks of local variables.
        requests[POSTING] = request
        id = C.nbffi_post(client, self.ptr, request, #request, timeout,
                          priority, true, done)
    end
    if id == DONE then
        local res, err, code, message = results(done)
        C.nbffi_release(client, done, 1)
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
    local timeout, priority
    request, timeout, priority = arguments(self, request, opts)
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
    local timeout, priority
    request, timeout, priority = arguments(self, request, opts)
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
                -- No memory even for that: its state is left as it is.
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
    if timeout ~= nil and (type(timeout) ~= "number" or timeout <= 0
       or timeout ~= timeout) then
        error("close: timeout must be a positive number of seconds", 2)
    end
    if not self.ptr then
        return true
    end
    local waiter = closing[self]
    if not waiter then
        self.closing = true
        self.forget()
        waiter = { sleeping = 0, done = false,
                   deadline = now() + (timeout or self.timeout) }
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


-- A runtime of these fields:
--   name, ptr, pool, timeout
--   waits    = whether on_full is "wait"
--   forget   = called when it takes no more calls
local function new(fields)
    fields.closing = false
    return setmetatable(fields, _MT)
end


-- Takes the core's functions and this VM's client, once they are there.
local function attach()
    C, client = channel.C, channel.client
    done = ffi_new("nbffi_completion")
    channel.on_drain(advance_closing)
end


return {
    new = new,
    attach = attach,
}
