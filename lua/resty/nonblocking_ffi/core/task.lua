-- Tasks of a runtime, whatever its language: posting them, waiting for room and
-- for their ends.
--
-- A request is given as:
--   request   what keeps its bytes alive: a string, or a string buffer
--   data, len the bytes: a string or a pointer, and their number
--   tag       a number for the runtime, 0 if it needs none
--   key       tasks of equal keys go to the same thread while it is free; 0:
--             none

local ffi = require "ffi"
local cdefs = require "resty.nonblocking_ffi.core.cdefs"
local channel = require "resty.nonblocking_ffi.core.channel"
local codec = require "resty.nonblocking_ffi.lua.codec"
local future = require "resty.nonblocking_ffi.future"
local phase = require "resty.nonblocking_ffi.core.phase"
local pools = require "resty.nonblocking_ffi.core.pool"
local waiting = require "resty.nonblocking_ffi.core.waiter"

local can_yield = phase.can_yield
local clock = channel.clock
local error = error
local ffi_new = ffi.new
local fresh = waiting.fresh
local is_contended = pools.is_contended
local grow = channel.grow
local new_waiter = waiting.new
local outcome = waiting.outcome
local pcall = pcall
local prepare = waiting.prepare
local recycle = waiting.recycle
local register = channel.register
local requests = channel.requests
local results = channel.results
local texts = channel.texts
local wait = channel.wait

local CANNOT_YIELD = phase.CANNOT_YIELD
local CLOSED = cdefs.CLOSED
local DONE = cdefs.DONE
local LACK = codec.LACK
local NO_MEMORY = cdefs.NO_MEMORY
local QUEUE_OVERFLOW = -cdefs.QUEUE_OVERFLOW
local SHUTTING_DOWN = cdefs.SHUTTING_DOWN
-- A place in `requests` that no slot has.
local POSTING = -1
local TIMEOUT = cdefs.TIMEOUT


local _M = {}


local done -- where nbffi_post puts a result that is there at once
local C, client
-- Whether there was no memory for the last task.
local is_short = false


-- Takes the core's functions and this VM's client, once they are there.
function _M.attach()
    C, client = channel.C, channel.client
    done = ffi_new("nbffi_completion")
end


-- Counts and returns an error that the core did not see.
local function refuse(self, code)
    if self.ptr then
        C.nbffi_count(self.ptr, code)
    end
    return nil, texts[code]
end


-- Posts a task. Returns what nbffi_post does. Nothing must be allocated before
-- the task is registered.
local function post(self, data, len, seconds, priority, waits, tag, key)
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


-- Posts a task that waited for room, unless there is none. Called by the pool.
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
            C.nbffi_count(self.ptr, -id)
            waiting.finish(waiter, texts[-id])
        else
            register(id, waiter, entry.request)
        end
    end
    if entry.admission then
        waiting.finish(entry.admission)
    end
end


-- Puts a task behind those that wait for room.
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


-- What `call` returns: no more values than there are.
local function trimmed(res, err, code, message)
    if code or message then
        return res, err, code, message
    end
    if err then
        return nil, err
    end
    return res
end


-- Waits for a call's result, up to its deadline, and ends it there.
local function await(self, waiter, seconds, entry)
    local ok, err = wait(waiter, seconds)
    if ok then
        local res, failed, code, message = outcome(waiter)
        recycle(waiter)
        return trimmed(res, failed, code, message)
    end
    local why = err == texts[SHUTTING_DOWN] and SHUTTING_DOWN or TIMEOUT
    if waiter.slot then
        channel.abandon(waiter, why)
    else
        entry.dead = true
        C.nbffi_count(self.ptr, why)
    end
    recycle(waiter)
    return nil, err or texts[why]
end


-- Runs a request and waits for its end. Returns what the runtime's `call`
-- does; or with on_full = "inline", if there is no room, false.
function _M.call(self, request, data, len, timeout, priority, tag, key)
    if not can_yield() then
        return nil, CANNOT_YIELD
    end
    if self.closing then
        return refuse(self, CLOSED)
    end
    if channel.exiting and not channel.may_wait() then
        return refuse(self, SHUTTING_DOWN)
    end

    local waits = self.waits
    local id = QUEUE_OVERFLOW
    if not waits or not is_contended(self.pool) then
        -- Keeps it alive until its result has been read or it is registered,
        -- whatever the JIT compiler thinks of local variables.
        requests[POSTING] = request
        if not prepare() then
            return refuse(self, NO_MEMORY)
        end
        id = post(self, data, len, timeout, priority, true, tag, key)
    end
    if id == DONE then
        local ok, res, err, code, message = pcall(results, done, self.takes)
        C.nbffi_release(client, done, 1)
        if not ok then
            if res ~= LACK then
                error(res, 0)
            end
            return nil, texts[NO_MEMORY]
        end
        return trimmed(res, err, code, message)
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


local function make_future()
    local waiter = fresh()
    return waiter, future.new(waiter)
end


-- Starts a request and returns a future, or nil and an error; or with on_full
-- = "inline", if there is no room, false. `unpack` is applied to what `call`
-- would return.
function _M.submit(self, request, data, len, timeout, priority, tag, key,
                   unpack)
    if self.closing then
        return refuse(self, CLOSED)
    end

    local waits = self.waits and can_yield()
    -- Who asks again and again makes no garbage.
    if is_short then
        is_short = not grow()
    end
    local ok, waiter, started
    if not is_short then
        ok, waiter, started = pcall(make_future)
    end
    if not ok then
        return refuse(self, NO_MEMORY)
    end
    waiter.unpack = unpack
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
            C.nbffi_count(self.ptr, TIMEOUT)
            return nil, err or texts[TIMEOUT]
        end

    elseif id == QUEUE_OVERFLOW and self.inline then
        return false
    else
        return refuse(self, -id)
    end
    return started
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
