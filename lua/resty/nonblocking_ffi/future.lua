-- A future: what `submit` returns, a waiter with methods. It is done when its
-- task has ended, or its deadline has passed, or it was cancelled; from then on
-- `wait` returns the same results whenever it is called.

local base = require "resty.nonblocking_ffi.core.base"
local cdefs = require "resty.nonblocking_ffi.core.cdefs"
local phase = require "resty.nonblocking_ffi.core.phase"
local slots = require "resty.nonblocking_ffi.core.slots"
local wait = require "resty.nonblocking_ffi.core.wait"
local waiting = require "resty.nonblocking_ffi.core.waiter"

local can_yield = phase.can_yield
local clock = base.clock
local error = error
local fresh = waiting.fresh
local getmetatable = getmetatable
local huge = math.huge
local min = math.min
local outcome = waiting.outcome
local protected_outcome = waiting.protected_outcome
local setmetatable = setmetatable
local texts = base.texts
local time_left = slots.time_left
local type = type

local CANCELLED = cdefs.CANCELLED
local CANNOT_YIELD = phase.CANNOT_YIELD
local TIMEOUT = cdefs.TIMEOUT


local _M = {}

-- The methods.
local methods = {}
local _MT = { __index = methods }


-- Makes a future of what task.submit returned: a waiter, or nil and an error.
-- Allocates nothing.
function _M.of(waiter, err)
    if waiter then
        return setmetatable(waiter, _MT)
    end
    return nil, err
end


local function check(self)
    if getmetatable(self) ~= _MT then
        error("not a future: call its methods with a colon", 3)
    end
end


local function check_timeout(what, timeout)
    if timeout ~= nil and (type(timeout) ~= "number" or timeout < 0
       or timeout ~= timeout) then
        error(what .. ": timeout must be a non-negative number of seconds", 3)
    end
end


-- Ends a future for its callers; its task is given up.
local function end_early(waiter, code)
    if waiter.slot then
        slots.abandon(waiter, code)
    end
    waiting.finish(waiter, texts[code])
end


-- Waits until a waiter is done, up to `timeout` seconds, which may have passed,
-- or until its deadline: that ends it. True if it is done; false if it is not;
-- nil and an error if the coroutine cannot wait.
local function await(waiter, timeout)
    if waiter.done then
        return true
    end
    if not can_yield() then
        return nil, CANNOT_YIELD
    end
    local left = time_left(waiter)
    if left > 0 then
        local finish
        if timeout and timeout < left then
            if timeout < 0 then
                return false
            end
            left, finish = timeout, clock() + timeout
        end
        local done, err = wait(waiter, left, finish)
        if done or err then
            return done, err
        end
        if finish and time_left(waiter) > 0 then
            return false
        end
    end
    end_early(waiter, TIMEOUT)
    return true
end


-- syntax: res, err, code, message = future:wait(timeout?)
--
-- Waits for the result, up to `timeout` seconds (default: until the task's own
-- deadline, which `submit` set). Returns what `call` would. If it returns
-- "timeout" before the deadline, the task goes on, and one may wait again.
function methods:wait(timeout)
    check(self)
    check_timeout("wait", timeout)
    local done, err = await(self, timeout)
    if not done then
        return nil, err or texts[TIMEOUT]
    end
    return outcome(self)
end


-- syntax: ok, ... = future:pwait(timeout?)
--
-- The same, but returns what `pcall` of the runtime would: true and the
-- results, or false, an error, a code and a message.
function methods:pwait(timeout)
    check(self)
    check_timeout("pwait", timeout)
    local done, err = await(self, timeout)
    if not done then
        return false, err or texts[TIMEOUT]
    end
    return protected_outcome(self)
end


-- syntax: cancelled = future:cancel()
--
-- Gives up the task: if it has not started, it never will; if it runs, it can
-- ask whether it should stop. `wait` then returns "cancelled". Returns false if
-- the future was done already.
function methods:cancel()
    check(self)
    if self.done then
        return false
    end
    end_early(self, CANCELLED)
    return true
end


local function check_list(what, futures)
    if type(futures) ~= "table" or getmetatable(futures) == _MT then
        local got = type(futures) == "table" and "a future" or type(futures)
        error(what .. ": a list of futures expected, got " .. got, 3)
    end
    for i = 1, #futures do
        if getmetatable(futures[i]) ~= _MT then
            error(what .. ": number " .. i .. " of the list is not a future", 3)
        end
    end
end


-- syntax: results, errors = nbffi.wait_all(futures, timeout?)
--
-- Waits until all futures of a list are done, up to `timeout` seconds. Returns
-- two tables: results[i] is the response of futures[i] or nil, errors[i] its
-- error or nil; "timeout" for those that are not done in time.
function _M.wait_all(futures, timeout)
    check_list("wait_all", futures)
    check_timeout("wait_all", timeout)
    local results, errors = {}, {}
    local finish = timeout and #futures > 0 and clock() + timeout
    for i = 1, #futures do
        local waiter = futures[i]
        local done, err = await(waiter, timeout)
        if done then
            -- Not the second value of `outcome`: that may be a second result.
            results[i] = outcome(waiter)
            err = waiter.err
        elseif not err then
            err = texts[TIMEOUT]
        end
        errors[i] = err
        timeout = finish and finish - clock()
    end
    return results, errors
end


-- The first future that is done; or nil, the one whose deadline is nearest, and
-- the seconds until then.
local function first_done(futures)
    local nearest, least
    for i = 1, #futures do
        local waiter = futures[i]
        if waiter.done then
            return i
        end
        local left = time_left(waiter)
        if not least or left < least then
            nearest, least = i, left
        end
    end
    return nil, nearest, least
end


-- Waits on one waiter for all futures, which is done when any of theirs is.
-- Returns what `wait` does.
local function wait_for_first(futures, seconds)
    local any = fresh(clock() + seconds)
    for i = 1, #futures do
        local waiter = futures[i]
        waiter.watchers = waiter.watchers or {}
        waiter.watchers[any] = true
    end
    local done, err = wait(any, seconds)
    for i = 1, #futures do
        futures[i].watchers[any] = nil
    end
    return done, err
end


-- syntax: index, res, err, code, message = nbffi.wait_any(futures, timeout?)
--
-- Waits until one future of a list is done, up to `timeout` seconds. Returns
-- its place in the list and what its `wait` returns; or nil and "timeout" (or
-- another error) if none is.
function _M.wait_any(futures, timeout)
    check_list("wait_any", futures)
    check_timeout("wait_any", timeout)
    if #futures == 0 then
        return nil, "no futures"
    end
    local finish
    while true do
        local index, nearest, left = first_done(futures)
        if index then
            return index, outcome(futures[index])
        end
        if not can_yield() then
            return nil, CANNOT_YIELD
        end
        if left <= 0 then
            end_early(futures[nearest], TIMEOUT)
        else
            local seconds = min(timeout or huge, left)
            if seconds < 0 then
                return nil, texts[TIMEOUT]
            end
            finish = finish or timeout and clock() + timeout
            local done, err = wait_for_first(futures, seconds)
            if err then
                return nil, err
            end
            if not done and finish then
                timeout = finish - clock()
            end
        end
    end
end


return _M
