-- The exit of the worker: who may still wait.
--
-- When the worker is told to exit, nginx-lua fires all pending timers at once:
-- that of core/channel.lua notices. Requests may go on to wait as long as they
-- want to. Timers belong to no client that nginx could disconnect: their waits
-- end, with "shutting down", after `shutdown_timeout`.

local base = require "resty.nonblocking_ffi.core.base"
local cdefs = require "resty.nonblocking_ffi.core.cdefs"
local options = require "resty.nonblocking_ffi.core.options"

local clock = base.clock
local get_phase = ngx.get_phase
local huge = math.huge
local ngx = ngx
local ngx_log = ngx.log
local sleep = ngx.sleep
local texts = base.texts

local SHUTTING_DOWN = cdefs.SHUTTING_DOWN
-- How long a timer is delayed that may not wait.
local DELAY = 0.002
-- A timer that goes on waiting after so many refusals is ended: it would keep
-- the worker alive for ever.
local MAX_REFUSALS = 100


local _M = {
    -- whether the worker exits: then `may_wait` says who may wait
    exiting = false,
}


-- When waits of timers end.
local timers_end = huge
-- The key of how often a timer was refused, in its ngx.ctx.
local REFUSALS = {}


-- Notes that the worker exits.
function _M.begin()
    if not _M.exiting then
        _M.exiting = true
        timers_end = clock() + options.defaults.shutdown_timeout
    end
end


-- Whether the time of timers is over.
function _M.timers_over()
    return clock() >= timers_end
end


-- Whether the calling coroutine may wait while the worker exits: true; or nil
-- and an error if it is a timer's and the time of timers is over. In that case
-- it yields, since many timers call in a loop, and some of these loops ignore
-- errors.
function _M.may_wait()
    if clock() < timers_end or get_phase() ~= "timer" then
        return true
    end
    local ctx = ngx.ctx
    local refusals = (ctx[REFUSALS] or 0) + 1
    ctx[REFUSALS] = refusals
    if refusals > MAX_REFUSALS then
        ngx_log(ngx.ERR, "nonblocking_ffi: a timer goes on calling although ",
                "the worker shuts down: it is ended")
        ngx.exit(ngx.OK)
    end
    sleep(DELAY)
    return nil, texts[SHUTTING_DOWN]
end


return _M
