-- Tasks of a runtime of any language: posting them, waiting for room in the
-- pool, waiting for their results.
--
-- A request is given as:
--   request   what keeps its bytes alive: a string, or a string buffer
--   data, len the bytes: a string or a pointer, and their number
--   tag       a number for the runtime, 0 if it needs none
--   key       tasks of equal keys go to the same thread while it is free; 0:
--             none

local ffi = require "ffi"
local base = require "resty.nonblocking_ffi.core.base"
local cdefs = require "resty.nonblocking_ffi.core.cdefs"
local channel = require "resty.nonblocking_ffi.core.channel"
local drain = require "resty.nonblocking_ffi.core.drain"
local exit = require "resty.nonblocking_ffi.core.exit"
local phase = require "resty.nonblocking_ffi.core.phase"
local pools = require "resty.nonblocking_ffi.core.pool"
local slots = require "resty.nonblocking_ffi.core.slots"
local wait = require "resty.nonblocking_ffi.core.wait"
local waiting = require "resty.nonblocking_ffi.core.waiter"

local can_yield = phase.can_yield
local clock = base.clock
local error = error
local ffi_new = ffi.new
local fresh = waiting.fresh
local is_contended = pools.is_contended
local grow = slots.grow
local hold = slots.hold
local new_waiter = waiting.new
local pcall = pcall
local plain = waiting.plain
local prepare = waiting.prepare
local recycle = waiting.recycle
local register = slots.register
local results = drain.results
local texts = base.texts

local CANNOT_YIELD = phase.CANNOT_YIELD
local CLOSED = cdefs.CLOSED
local DONE = cdefs.DONE
local LACK = base.LACK
local NO_MEMORY = cdefs.NO_MEMORY
local QUEUE_OVERFLOW = -cdefs.QUEUE_OVERFLOW
local SHUTTING_DOWN = cdefs.SHUTTING_DOWN
local TIMEOUT = cdefs.TIMEOUT


local _M = {}


-- Where nbffi_post puts a result that is there at once.
local done = ffi_new("nbffi_completion")
-- Whether there was no memory for the last task.
local is_short = false


-- Counts and returns an error that the core did not see.
local function refuse(self, code)
    if self.ptr then
        base.C.nbffi_count(self.ptr, code)
    end
    return nil, texts[code]
end


-- Posts a task. Returns what nbffi_post does. Nothing must be allocated before
-- the task is registered.
local function post(self, data, len, seconds, priority, waits, tag, key)
    local C, client = base.C, base.client
    local id = C.nbffi_post(client, self.ptr, data, len, seconds, priority,
                            waits, tag, key, done)
    if id == -NO_MEMORY then
        is_short = not grow()
        if not is_short then
            id = C.nbffi_post(client, self.ptr, data, len, seconds, priority,
                              waits, tag, key, done)
        end
    end
    return id
end


-- Posts a task that waits for room. Returns QUEUE_OVERFLOW if there is still no
-- room. Called by the pool.
local function post_blocked(entry)
    local self, waiter = entry.runtime, entry.waiter
    if not self.ptr or self.closing then
        waiting.finish(waiter, texts[CLOSED])
    else
        local id = post(self, entry.data, entry.len, waiter.deadline - clock(),
                        entry.priority, false, entry.tag, entry.key)
        if id == QUEUE_OVERFLOW then
            return id
        end
        if id < 0 then
            base.C.nbffi_count(self.ptr, -id)
            waiting.finish(waiter, texts[-id])
        else
            register(id, waiter, entry.request)
        end
    end
    if entry.admission then
        waiting.finish(entry.admission)
    end
end


-- Adds a task to those that wait for room in its pool.
local function block(self, request, data, len, seconds, priority, tag, key,
                     waiter)
    waiter.deadline = clock() + seconds
    local entry = {
        runtime = self,
        request = request,
        data = data,
        len = len,
        priority = priority,
        tag = tag,
        key = key,
        waiter = waiter,
        post = post_blocked,
    }
    pools.block(self.pool, entry)
    return entry
end


-- Waits for a call's result, up to its deadline, and ends it there.
local function await(self, waiter, seconds, entry)
    local ok, err = wait(waiter, seconds)
    if ok then
        local res, failed = waiter.res, waiter.err
        local code, message = waiter.code, waiter.message
        recycle(waiter)
        return plain(res, failed, code, message)
    end
    local why = err == texts[SHUTTING_DOWN] and SHUTTING_DOWN or TIMEOUT
    if waiter.slot then
        slots.abandon(waiter, why)
    else
        entry.dead = true
        base.C.nbffi_count(self.ptr, why)
    end
    recycle(waiter)
    return nil, err or texts[why]
end


-- Runs a request and waits for its results. Returns what the runtime's `call`
-- returns; or with on_full = "inline", if there is no room, false.
function _M.call(self, request, data, len, timeout, priority, tag, key)
    if not can_yield() then
        return nil, CANNOT_YIELD
    end
    if self.closing then
        return refuse(self, CLOSED)
    end
    if exit.exiting and not exit.may_wait() then
        return refuse(self, SHUTTING_DOWN)
    end

    local waits = self.waits
    local id = QUEUE_OVERFLOW
    if not waits or not is_contended(self.pool) then
        hold(request)
        if not prepare() then
            return refuse(self, NO_MEMORY)
        end
        id = post(self, data, len, timeout, priority, true, tag, key)
    end
    if id == DONE then
        local ok, res, err, code, message = pcall(results, done, self.takes)
        base.C.nbffi_release(base.client, done, 1)
        if not ok then
            if res ~= LACK then
                error(res, 0)
            end
            return nil, texts[NO_MEMORY]
        end
        return plain(res, err, code, message)
    end

    local waiter, entry
    if id >= 0 then
        waiter = new_waiter()
        waiter.res = self.takes
        register(id, waiter, request)
    elseif id == QUEUE_OVERFLOW and waits then
        if not prepare() then
            return refuse(self, NO_MEMORY)
        end
        waiter = new_waiter()
        waiter.res = self.takes
        entry = block(self, request, data, len, timeout, priority, tag, key,
                      waiter)
    elseif id == QUEUE_OVERFLOW and self.inline then
        return false
    else
        return refuse(self, -id)
    end
    return await(self, waiter, timeout, entry)
end


-- Starts a request and returns a waiter for its results, or nil and an error;
-- or with on_full = "inline", if there is no room, false. `shapes` is the
-- waiter's `results`.
function _M.submit(self, request, data, len, timeout, priority, tag, key,
                   shapes)
    if self.closing then
        return refuse(self, CLOSED)
    end

    local waits = self.waits and can_yield()
    -- While there is no memory for tasks, none is taken for a waiter either.
    if is_short then
        is_short = not grow()
    end
    local ok, waiter
    if not is_short then
        ok, waiter = pcall(fresh)
    end
    if not ok then
        return refuse(self, NO_MEMORY)
    end
    waiter.results = shapes
    local id = QUEUE_OVERFLOW
    if not waits or not is_contended(self.pool) then
        id = post(self, data, len, timeout, priority, false, tag, key)
    end
    if id >= 0 then
        register(id, waiter, request)
        channel.start()

    elseif id == QUEUE_OVERFLOW and waits then
        local entry = block(self, request, data, len, timeout, priority, tag,
                            key, waiter)
        entry.admission = fresh(waiter.deadline)
        local admitted, err = wait(entry.admission, timeout)
        if not admitted then
            entry.dead = true
            base.C.nbffi_count(self.ptr, TIMEOUT)
            return nil, err or texts[TIMEOUT]
        end

    elseif id == QUEUE_OVERFLOW and self.inline then
        return false
    else
        return refuse(self, -id)
    end
    return waiter
end


-- Starts a request whose result nobody needs. Returns true, or nil and an
-- error.
function _M.cast(self, request, data, len, timeout, priority, tag, key)
    if self.closing then
        return refuse(self, CLOSED)
    end
    local id = post(self, data, len, timeout, priority, false, tag, key)
    if id < 0 then
        return refuse(self, -id)
    end
    register(id, nil, request)
    channel.start()
    return true
end


return _M
