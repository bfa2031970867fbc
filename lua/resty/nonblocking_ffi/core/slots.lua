-- Who waits for which task, by the task's slot in the core.
--
-- A slot is released by core/drain.lua, never by the coroutine that posted its
-- task: that coroutine may have been killed.
--
-- Lua code may run out of memory anywhere, which raises an error. So nothing is
-- allocated between a post and its registration here.

local base = require "resty.nonblocking_ffi.core.base"
local cdefs = require "resty.nonblocking_ffi.core.cdefs"
local exit = require "resty.nonblocking_ffi.core.exit"
local flusher = require "resty.nonblocking_ffi.core.flusher"
local waiting = require "resty.nonblocking_ffi.core.waiter"

local clock = base.clock
local flush = flusher.wake
local has_sleeper = waiting.has_sleeper
local pairs = pairs
local pcall = pcall
local setmetatable = setmetatable

local CHUNK = cdefs.CHUNK
local HELD = cdefs.HELD
local NO_MEMORY = cdefs.NO_MEMORY
-- A place in `requests` that no slot has.
local POSTING = -1


local _M = {}


-- By slot: the waiter, and the request, which must not be collected meanwhile.
-- `false` where there is none, so that the tables stay arrays and have room for
-- every slot.
local waiters = {}
local requests = {} -- luacheck: ignore 241
-- The waiters, as keys, on which a coroutine began to sleep when they had no
-- slot: for room in a pool, for one of several futures. If a coroutine is
-- killed, its waiter stays here as long as somebody else refers to it.
local slotless = setmetatable({}, { __mode = "k" })


local function make_room(first)
    for slot = first, first + CHUNK - 1 do
        waiters[slot] = false
        requests[slot] = false
    end
end


-- Makes slots for more tasks, and room for them here. False if there is no
-- memory.
local function grow()
    local C, client = base.C, base.client
    local first = C.nbffi_more_slots(client)
    if first < 0 or not pcall(make_room, first) then
        return false
    end
    C.nbffi_use_slots(client)
    return true
end
_M.grow = grow


-- Keeps a request alive until its result has been read or it is registered,
-- whatever the JIT compiler thinks of local variables.
function _M.hold(request)
    requests[POSTING] = request
end


-- Registers a posted task: what nbffi_post returned, the waiter (if anybody
-- waits), and the request.
function _M.register(slot, waiter, request)
    if slot >= HELD then
        slot = slot - HELD
        flush()
    end
    requests[slot] = request
    if waiter then
        waiters[slot] = waiter
        waiter.slot = slot
    end
end


-- Posts the initialisation or the closing of a runtime. Returns the slot, or -n
-- for the error n.
function _M.post_control(ptr, is_close)
    local C, client = base.C, base.client
    local id = C.nbffi_post_control(client, ptr, is_close)
    if id == -NO_MEMORY and grow() then
        id = C.nbffi_post_control(client, ptr, is_close)
    end
    return id
end


-- The waiter of a slot, or false.
function _M.waiter_of(slot)
    return waiters[slot]
end


-- Forgets the waiter of a slot.
function _M.forget_waiter(slot)
    waiters[slot] = false
end


-- Lets the request of a slot be collected.
function _M.forget_request(slot)
    requests[slot] = false
end


-- Gives up a waiter's task, for the error `why`. The waiter is told nothing
-- more.
function _M.abandon(waiter, why)
    local slot = waiter.slot
    waiters[slot] = false
    waiter.slot = false
    if base.C.nbffi_cancel(base.client, slot, why) == 0 then
        -- No thread will read the request.
        requests[slot] = false
    end
end


-- Seconds until the deadline of a waiter that is not done.
local function time_left(waiter)
    local deadline = waiter.deadline
    if deadline then
        return deadline - clock()
    end
    return base.C.nbffi_left(waiter.slot)
end
_M.time_left = time_left


-- Notes that a coroutine sleeps on a waiter without a slot, or not any more.
function _M.note_sleep(waiter, sleeps)
    slotless[waiter] = sleeps or nil
end


-- Whether a coroutine waits for a task, before the task's deadline, or for
-- anything else.
function _M.anybody_waits()
    for _, waiter in pairs(waiters) do
        if waiter and time_left(waiter) > 0 and has_sleeper(waiter) then
            return true
        end
    end
    for waiter in pairs(slotless) do
        if has_sleeper(waiter) then
            return true
        end
    end
    return false
end


local function wake_sleepers(waiter)
    if has_sleeper(waiter) then
        waiter.sema:post(waiter.sleeping)
    end
end


-- Once the time of timers is over: wakes all coroutines that sleep, so that
-- each checks whether it may go on waiting.
local timers_ended = false
function _M.end_timers()
    if timers_ended or not exit.timers_over() then
        return
    end
    timers_ended = true
    for _, waiter in pairs(waiters) do
        if waiter then
            wake_sleepers(waiter)
        end
    end
    for waiter in pairs(slotless) do
        wake_sleepers(waiter)
    end
end


return _M
