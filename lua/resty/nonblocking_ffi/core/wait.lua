-- Waiting until a waiter is done.

local base = require "resty.nonblocking_ffi.core.base"
local channel = require "resty.nonblocking_ffi.core.channel"
local exit = require "resty.nonblocking_ffi.core.exit"
local slots = require "resty.nonblocking_ffi.core.slots"
local waiting = require "resty.nonblocking_ffi.core.waiter"

local clock = base.clock
local may_wait = exit.may_wait
local note_sleep = slots.note_sleep
local poll = channel.poll
local sleep_on = waiting.sleep_on
local time_left = slots.time_left
local wakes = channel.wakes


-- Waits until a waiter is done, or until `finish`, by the clock, or, without
-- that, until the waiter's deadline; `seconds` is the time until then. Returns
-- true if the waiter is done; false if it is not, and never before that time;
-- nil and an error if the coroutine could not wait, or not so long.
local function wait(waiter, seconds, finish)
    if waiter.done then
        return true
    end
    if exit.exiting then
        local ok, err = may_wait()
        if not ok then
            return nil, err
        end
    end
    -- The channel may never come up: a timer needs a connection of nginx's.
    if not wakes() then
        poll()
    else
        local lone = not waiter.slot
        if lone then
            note_sleep(waiter, true)
        end
        local ok, err = sleep_on(waiter, seconds)
        if lone then
            note_sleep(waiter, false)
        end
        if not ok and err ~= "timeout" then
            return nil, err
        end
    end
    if waiter.done then
        return true
    end
    seconds = finish and finish - clock() or time_left(waiter)
    if seconds <= 0 then
        return false
    end
    return wait(waiter, seconds, finish)
end


return wait
