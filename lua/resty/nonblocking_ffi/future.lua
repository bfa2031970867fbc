-- A future: what `submit` returns. It is done when its task has ended, or its
-- deadline has passed, or it was cancelled; from then on `wait` returns the
-- same again and again.

local cdefs = require "resty.nonblocking_ffi.cdefs"
local channel = require "resty.nonblocking_ffi.channel"
local phase = require "resty.nonblocking_ffi.phase"
local waiting = require "resty.nonblocking_ffi.waiter"

local can_yield = phase.can_yield
local error = error
local fresh = waiting.fresh
local getmetatable = getmetatable
local huge = math.huge
local min = math.min
local now = ngx.now
local outcome = waiting.outcome
local setmetatable = setmetatable
local type = type
local wait = channel.wait

local CANCELLED = cdefs.CANCELLED
local CANNOT_YIELD = phase.CANNOT_YIELD
local TIMEOUT = cdefs.TIMEOUT

-- Waits are exact to half a millisecond: a deadline that is so near has come.
local ALMOST = 0.00075


local _M = {}
local _MT = { __index = _M }


function _M.new(waiter)
    return setmetatable({ waiter = waiter }, _MT)
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
        channel.abandon(waiter, code)
    end
    waiting.finish(waiter, channel.texts[code])
end


-- syntax: res, err, code, message = future:wait(timeout?)
--
-- Waits for the result, up to `timeout` seconds (default: until the task's own
-- deadline, which `submit` set). Returns what `call` would. If it returns
-- "timeout" before the deadline, the task goes on, and one may wait again.
function _M:wait(timeout)
    if getmetatable(self) ~= _MT then
        error("not a future: call its methods with a colon", 2)
    end
    check_timeout("wait", timeout)
    local waiter = self.waiter
    if not waiter.done then
        if not can_yield() then
            return nil, CANNOT_YIELD
        end
        local left = waiter.deadline - now()
        if left > 0 then
            local _, err = wait(waiter, min(timeout or huge, left))
            if err then
                return nil, err
            end
        end
        if not waiter.done then
            if waiter.deadline - now() > ALMOST then
                return nil, channel.texts[TIMEOUT]
            end
            end_early(waiter, TIMEOUT)
        end
    end
    return outcome(waiter)
end


-- syntax: cancelled = future:cancel()
--
-- Gives the task up: if it has not started it never will; if it runs, it can
-- ask whether it should stop. Waiting for the future then gives "cancelled".
-- Returns false if it was done already.
function _M:cancel()
    if getmetatable(self) ~= _MT then
        error("not a future: call its methods with a colon", 2)
    end
    if self.waiter.done then
        return false
    end
    end_early(self.waiter, CANCELLED)
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
    local deadline = timeout and now() + timeout
    for i = 1, #futures do
        local left
        if deadline then
            left = deadline - now()
            left = left > 0 and left or 0
        end
        local err
        results[i], err = futures[i]:wait(left)
        local waiter = futures[i].waiter
        if waiter.done then
            -- What `wait` returns second may be a second result.
            err = waiter.err
        end
        errors[i] = err
    end
    return results, errors
end


local function first_done(futures)
    for i = 1, #futures do
        if futures[i].waiter.done then
            return i
        end
    end
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
    local index = first_done(futures)
    if not index then
        if not can_yield() then
            return nil, CANNOT_YIELD
        end
        -- One waiter for all, done when any of theirs is.
        local any = fresh()
        local nearest = huge
        for i = 1, #futures do
            local waiter = futures[i].waiter
            waiter.watchers = waiter.watchers or {}
            waiter.watchers[any] = true
            nearest = min(nearest, waiter.deadline)
        end
        local left = nearest - now()
        local ok, err = wait(any, min(timeout or huge, left > 0 and left or 0))
        for i = 1, #futures do
            futures[i].waiter.watchers[any] = nil
        end
        if err then
            return nil, err
        end
        index = first_done(futures)
        if not index and not ok and now() >= nearest - ALMOST then
            -- The nearest deadline has passed: that future is done.
            for i = 1, #futures do
                if futures[i].waiter.deadline == nearest then
                    index = i
                    break
                end
            end
        end
        if not index then
            return nil, channel.texts[TIMEOUT]
        end
    end
    return index, futures[index]:wait()
end


return _M
