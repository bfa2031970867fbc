-- What runtimes of every language have in common beside their tasks: what they
-- have counted, and their end.

local ffi = require "ffi"
local cdefs = require "resty.nonblocking_ffi.core.cdefs"
local channel = require "resty.nonblocking_ffi.core.channel"
local phase = require "resty.nonblocking_ffi.core.phase"
local waiting = require "resty.nonblocking_ffi.core.waiter"

local can_yield = phase.can_yield
local clock = channel.clock
local error = error
local ffi_new = ffi.new
local getmetatable = getmetatable
local pairs = pairs
local pcall = pcall
local post_control = channel.post_control
local register = channel.register
local texts = channel.texts
local type = type
local wait = channel.wait

local TIMEOUT = cdefs.TIMEOUT


local _M = {}


-- Runtimes that are closed when their last task has been collected.
local closing = {}

-- The metatables of runtimes.
local classes = {}

local C, client


-- Adds a class of runtimes, by its metatable.
function _M.add_class(metatable)
    classes[metatable] = true
    metatable.__index.stats = _M.stats
    metatable.__index.close = _M.close
    return metatable
end


local function check(self)
    if type(self) ~= "table" or not classes[getmetatable(self) or 0] then
        error("not a runtime: call its methods with a colon", 3)
    end
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
    local stats = {
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
function _M:stats()
    check(self)
    return self.last_stats or read_stats(self)
end


-- Frees what a runtime has in the core.
local function free(self)
    C.nbffi_runtime_free(client, self.ptr)
    self.ptr = nil
    if self.free_more then
        self:free_more()
    end
end
_M.free = free


-- What a runtime has counted, if there was no memory for it at its end.
local NO_STATS = { errors = {} }


-- Called when a runtime has been closed.
local function closed(self)
    local ok, stats = pcall(read_stats, self)
    self.last_stats = ok and stats or NO_STATS
    free(self)
    closing[self] = nil
end


-- Starts to close those runtimes whose last task has been collected.
local function advance_closing()
    for self, waiter in pairs(closing) do
        if not waiter.posted and C.nbffi_runtime_in_flight(self.ptr) == 0 then
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
function _M:close(timeout)
    check(self)
    if timeout ~= nil and (type(timeout) ~= "number" or timeout <= 0
       or timeout ~= timeout) then
        error("close: timeout must be a positive number of seconds", 2)
    end
    if not self.ptr then
        return true
    end
    timeout = timeout or self.timeout
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


-- Takes the core's functions and this VM's client, once they are there.
function _M.attach()
    C, client = channel.C, channel.client
    channel.on_drain(advance_closing)
end


return _M
