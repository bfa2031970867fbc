-- Long work in the event loop, spread over its turns.
--
-- A coroutine that has worked for BUDGET yields until the event loop has served
-- everything else once: it sends a byte through the channel, which the drain
-- receives in the next turn. (`ngx.sleep(0)` would not do: on a stock
-- nginx its timer fires within the same turn.)

local semaphore = require "ngx.semaphore"
local base = require "resty.nonblocking_ffi.core.base"
local phase = require "resty.nonblocking_ffi.core.phase"

local can_yield = phase.can_yield
local clock = base.clock
local sleep = ngx.sleep

-- Seconds that a coroutine may work in one turn.
local BUDGET = 0.0002
-- Seconds to wait at most, in case the drain ends meanwhile; and where there is
-- no channel.
local LONGEST = 1
local SHORT = 0.001


local _M = {}


local turn -- the semaphore of the coroutines that have more to do
local waiting = 0
local is_served = false


-- Says whether the drain waits for the channel, and so calls `resume`.
function _M.served(served)
    is_served = served
end


-- A new turn has begun.
function _M.resume()
    if waiting > 0 then
        turn:post(waiting)
        waiting = 0
    end
end


local function wait()
    if not is_served then
        sleep(SHORT)
        return
    end
    turn = turn or semaphore.new(0)
    waiting = waiting + 1
    if waiting == 1 then
        base.C.nbffi_channel_wake(base.client)
    end
    turn:wait(LONGEST)
end


local function no_pause()
end


-- A function to be called now and then in some long work: returns at once, or
-- in another turn if the budget is spent.
function _M.pauses()
    if not can_yield() then
        return no_pause
    end
    local began = clock()
    return function()
        if clock() - began > BUDGET then
            wait()
            began = clock()
        end
    end
end


return _M
