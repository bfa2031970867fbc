-- Waiters: what coroutines sleep on until a task, or something else, has ended.

local semaphore = require "ngx.semaphore"
local base = require "resty.nonblocking_ffi.core.base"
local cdefs = require "resty.nonblocking_ffi.core.cdefs"

local ceil = math.ceil
local max = math.max
local min = math.min
local new_semaphore = semaphore.new
local pairs = pairs
local pcall = pcall
local texts = base.texts

local NO_MEMORY = cdefs.NO_MEMORY
-- How many waiters, and how many semaphores, are kept for reuse.
local MAX_SPARE = 16384
-- The longest that a semaphore or cosocket can wait: 2^31 ms, and some less.
local LONGEST = 2000000


local _M = {
    LONGEST = LONGEST,
}


-- Waiters and semaphores for reuse. The tables have room for all that were ever
-- made, so that giving one back never fails for lack of memory.
local spare, spares, made = {}, 0, 0
local spare_semas, spare_semas_count, made_semas = {}, 0, 0


-- A waiter: {
--   sema      = its semaphore, while coroutines wait on it
--   sleeping  = how many coroutines wait on it
--   slot      = of its task, once that is posted
--   done      = whether the results are valid
--   res, err, code, message
--               the results; before, `res` is the status code of responses
--               that are not to be copied, or nil
-- and beside, if it is not of `new`:
--   deadline  = when it ends for its caller, by base.clock(), if that is not
--               its task's own deadline
--   posted    = whether the task that closes its runtime is posted
--   watchers  = waiters (as keys) that are done when this one is
--   callback  = called when it is done
--   results   = nil, or { plain, protected }: functions that make of the
--               results what `wait` and `pwait` of a future return
-- }
--
-- The keys are there from the start. A table that lacks some is rebuilt again
-- and again, since each time the keys of fields that are nil are dropped: that
-- took a fifth of what a call costs the event loop. And those for calls have
-- just eight, since thousands of them are to fit into the cache.


local function without_results(waiter)
    waiter.res = nil
    waiter.err = nil
    waiter.code = nil
    waiter.message = nil
    return waiter
end


local function make_spare()
    if made < MAX_SPARE then
        spare[made + 1] = false
        made = made + 1
    end
    spare[1] = without_results({
        sema = false, sleeping = 0, slot = false, done = false,
        res = false, err = false, code = false, message = false,
    })
    spares = 1
end


-- Sees to it that there is a waiter for a call, before its task is posted.
-- False if there is no memory for one.
function _M.prepare()
    return spares > 0 or pcall(make_spare)
end


-- That waiter.
function _M.new()
    local waiter = spare[spares]
    spares = spares - 1
    return waiter
end


-- A waiter for anything else.
function _M.fresh(deadline)
    local waiter = {
        sema = false, sleeping = 0, slot = false, done = false,
        res = false, err = false, code = false, message = false,
        deadline = deadline or false, posted = false, watchers = false,
        callback = false, results = false,
    }
    return without_results(waiter)
end


-- Keeps a waiter of `new` for reuse: it is done, and nobody knows it any more.
-- One that has got more keys meanwhile would be rebuilt.
function _M.recycle(waiter)
    if spares < made and not waiter.deadline then
        waiter.done = false
        waiter.slot = false
        spares = spares + 1
        spare[spares] = without_results(waiter)
    end
end


-- Notes that a waiter's results are there.
local function wake(waiter)
    waiter.done = true
    if waiter.sleeping > 0 then
        waiter.sema:post(waiter.sleeping)
    end
    local watchers = waiter.watchers
    if watchers then
        for watcher in pairs(watchers) do
            if not watcher.done then
                wake(watcher)
            end
        end
    end
    local callback = waiter.callback
    if callback then
        callback(waiter)
    end
end
_M.wake = wake


-- Ends a waiter with an error before its task has ended.
function _M.finish(waiter, err)
    waiter.err = err
    wake(waiter)
end


local function make_semaphore()
    if made_semas < MAX_SPARE then
        spare_semas[made_semas + 1] = false
        made_semas = made_semas + 1
    end
    return new_semaphore(0)
end


-- Puts a coroutine to sleep on a waiter. True if it was posted. It may wake
-- before its time: nginx's timers count from when the event loop last looked at
-- its clock, which is coarse. Whoever waits for a deadline looks again.
function _M.sleep_on(waiter, seconds)
    local sema = waiter.sema
    if not sema then
        if spare_semas_count > 0 then
            sema = spare_semas[spare_semas_count]
            spare_semas_count = spare_semas_count - 1
        else
            local ok, err
            ok, sema, err = pcall(make_semaphore)
            if not ok then
                return nil, texts[NO_MEMORY]
            end
            if not sema then
                return nil, err
            end
        end
        waiter.sema = sema
    end
    waiter.sleeping = waiter.sleeping + 1
    -- A semaphore cuts fractions of a millisecond off. Half of one keeps the
    -- whole ones whole, since they cannot be represented exactly.
    local milliseconds = max(ceil(seconds * 1000), 1) + 0.5
    local ok, err = sema:wait(min(milliseconds / 1000, LONGEST))
    local sleeping = waiter.sleeping - 1
    waiter.sleeping = sleeping
    if sleeping == 0 then
        waiter.sema = false
        -- Posted and timed out in the same turn: the post is still in it.
        if (ok or not waiter.done) and spare_semas_count < made_semas then
            spare_semas_count = spare_semas_count + 1
            spare_semas[spare_semas_count] = sema
        end
    end
    return ok, err
end


-- Results as `call` returns them: no more values than there are.
local function plain(res, err, code, message)
    if code or message then
        return res, err, code, message
    end
    if err then
        return nil, err
    end
    return res
end
_M.plain = plain


-- Results as `pcall` returns them: whether there was no error, and the rest.
local function protected(res, err, code, message)
    local ok = not err
    if code or message then
        return ok, ok and res or err, code, message
    end
    return ok, ok and res or err
end
_M.protected = protected


-- What `wait` returns for a waiter that is done.
function _M.outcome(waiter)
    local results = waiter.results
    if results then
        return results.plain(waiter.res, waiter.err, waiter.code,
                             waiter.message)
    end
    return plain(waiter.res, waiter.err, waiter.code, waiter.message)
end


-- What `pwait` returns for it.
function _M.protected_outcome(waiter)
    local results = waiter.results
    if results then
        return results.protected(waiter.res, waiter.err, waiter.code,
                                 waiter.message)
    end
    return protected(waiter.res, waiter.err, waiter.code, waiter.message)
end


-- Whether a coroutine sleeps on a waiter. `sleeping` alone does not tell: a
-- coroutine that was killed has not decremented it, but is off the semaphore.
function _M.has_sleeper(waiter)
    return waiter.sleeping > 0 and waiter.sema:count() < 0
end


return _M
