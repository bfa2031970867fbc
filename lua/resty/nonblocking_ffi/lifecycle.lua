-- What runtimes of all languages have in common: handles with other options,
-- statistics, closing.
--
-- What `load` returns has the state of the runtime and the options of its calls
-- (timeout, priority, key). What `with` returns is a handle: it has options of
-- its own, and in the field `runtime` what `load` returned, where that field is
-- the table itself.

local ffi = require "ffi"
local base = require "resty.nonblocking_ffi.core.base"
local cdefs = require "resty.nonblocking_ffi.core.cdefs"
local channel = require "resty.nonblocking_ffi.core.channel"
local drain = require "resty.nonblocking_ffi.core.drain"
local options = require "resty.nonblocking_ffi.core.options"
local phase = require "resty.nonblocking_ffi.core.phase"
local slots = require "resty.nonblocking_ffi.core.slots"
local wait = require "resty.nonblocking_ffi.core.wait"
local waiting = require "resty.nonblocking_ffi.core.waiter"

local can_yield = phase.can_yield
local clock = base.clock
local crc32 = ngx.crc32_short
local error = error
local ffi_new = ffi.new
local getmetatable = getmetatable
local pairs = pairs
local pcall = pcall
local post_control = slots.post_control
local register = slots.register
local setmetatable = setmetatable
local texts = base.texts
local type = type

local NORMAL = options.PRIORITIES.normal
local PRIORITIES = options.PRIORITIES
local TIMEOUT = cdefs.TIMEOUT


local _M = {}


-- Runtimes that are closed when their last task has been collected.
local closing = {}

-- The schemas of the options of calls, by the metatables of runtimes.
local classes = {}


local function check(self)
    if type(self) ~= "table" or not classes[getmetatable(self) or 0] then
        error("not a runtime: call its methods with a colon", 3)
    end
end


-- Reads the options of a call. Returns the timeout, the number of the priority
-- and that of the key: those in `given`, and the runtime's for the others.
-- Raises errors at a level that is counted from the caller of this function on.
local function call_options(self, what, given, schema, level, has_first)
    local opts = options.read(what, given, schema, level + 1, has_first)
    local priority, key = opts.priority, opts.key
    return opts.timeout or self.timeout,
           priority and PRIORITIES[priority] or self.priority,
           -- Not 0, which means that there is none.
           key and crc32(key) % 0x7fffffff + 1 or self.key
end
_M.call_options = call_options


-- syntax: runtime = runtime:with(options)
--
-- The same runtime with other options for its calls: those that are given, and
-- for the others what this one has. The options are those of one call.
local function with(self, given)
    check(self)
    local metatable = getmetatable(self)
    local timeout, priority, key = call_options(self, "with", given,
                                                classes[metatable], 2)
    return setmetatable({
        runtime = self.runtime,
        timeout = timeout,
        priority = priority,
        key = key,
    }, metatable)
end


local function summary(times)
    return {
        count = times.count,
        mean = times.mean,
        p50 = times.p50,
        p90 = times.p90,
        p99 = times.p99,
        p999 = times.p999,
        max = times.max,
    }
end


local function read_stats(self)
    local counted = ffi_new("nbffi_runtime_statistics")
    base.C.nbffi_runtime_stats(self.ptr, counted)
    local errors = {}
    local calls = counted.ok
    for code = 1, cdefs.ERRORS do
        if code ~= cdefs.LOAD then
            errors[texts[code]] = counted.errors[code - 1]
            calls = calls + counted.errors[code - 1]
        end
    end
    local stats = {
        name = self.name,
        pool = self.pool.name,
        calls = calls,
        ok = counted.ok,
        errors = errors,
        expired = counted.expired,
        in_flight = counted.in_flight,
        queued = counted.queued,
        running = counted.running,
        grace_hits = counted.grace_hits,
        grace_misses = counted.grace_misses,
        queue_time = summary(counted.queue_time),
        run_time = summary(counted.run_time),
        total_time = summary(counted.total_time),
    }
    if self.add_stats then
        self:add_stats(stats)
    end
    return stats
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
local function stats(self)
    check(self)
    self = self.runtime
    return self.last_stats or read_stats(self)
end


-- Frees what a runtime has in the core.
local function free(self)
    base.C.nbffi_runtime_free(base.client, self.ptr)
    self.ptr = nil
    if self.free_more then
        self:free_more()
    end
end
_M.free = free


-- The statistics of a closed runtime if there was no memory to read them.
local NO_STATS = { errors = {} }


-- Called when a runtime has been closed.
local function closed(self)
    local ok, last = pcall(read_stats, self)
    self.last_stats = ok and last or NO_STATS
    free(self)
    closing[self] = nil
end


-- Starts to close those runtimes whose last task has been collected.
local function advance_closing()
    for self, waiter in pairs(closing) do
        if not waiter.posted
           and base.C.nbffi_runtime_in_flight(self.ptr) == 0
        then
            -- If there is no memory even for that, it is tried again.
            local id = post_control(self.ptr, true)
            if id >= 0 then
                waiter.posted = true
                register(id, waiter)
            end
        end
    end
end


-- Starts to close a runtime, for a caller who waits until `deadline`, by the
-- clock. Returns the waiter, which is done when the runtime is closed.
local function begin_close(self, deadline)
    local waiter = closing[self]
    if not waiter then
        waiter = waiting.fresh(deadline)
        waiter.callback = function() closed(self) end
        self.last_stats = false
        closing[self] = waiter
        self.closing = true
        self.forget()
        advance_closing()
    end
    return waiter
end
_M.begin_close = begin_close


-- syntax: ok, err = runtime:close(timeout?)
--
-- Takes no more calls (they get "closed"), lets those in flight end, and then
-- closes the plugin's state; its library stays loaded. Waits for that in
-- phases that can yield, up to `timeout` seconds (default: the runtime's).
-- Returns true, or nil and "timeout": closing goes on nevertheless.
local function close(self, timeout)
    check(self)
    if timeout ~= nil and (type(timeout) ~= "number" or timeout <= 0
       or timeout ~= timeout) then
        error("close: timeout must be a positive number of seconds", 2)
    end
    timeout = timeout or self.timeout
    self = self.runtime
    if not self.ptr then
        return true
    end
    local deadline = clock() + timeout
    local waiter = begin_close(self, deadline)
    if not can_yield() then
        channel.start()
        return true
    end
    local ok, err = wait(waiter, timeout, deadline)
    if ok then
        return true
    end
    return nil, err or texts[TIMEOUT]
end


drain.on_drain(advance_closing)


-- A class of runtimes, for calls with options of a schema. Returns the table of
-- its methods, with those of this file, and a function that makes a runtime of
-- a table of:
--   name, ptr, pool, timeout
--   waits     whether on_full is "wait"
--   forget    called when it takes no more calls
-- and what the class needs.
function _M.class(schema)
    local methods = { with = with, stats = stats, close = close }
    local metatable = { __index = methods }
    classes[metatable] = schema
    return methods, metatable, function(fields)
        fields.runtime = fields
        fields.priority = NORMAL
        fields.key = 0
        fields.closing = false
        return setmetatable(fields, metatable)
    end
end


return _M
