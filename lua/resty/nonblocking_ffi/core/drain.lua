-- Completions on their way to waiters: taken from the core in batches, turned
-- into results, released.
--
-- If there is no memory for a result, its waiter gets that error, and the drain
-- goes on.

local ffi = require "ffi"
local base = require "resty.nonblocking_ffi.core.base"
local cdefs = require "resty.nonblocking_ffi.core.cdefs"
local log = require "resty.nonblocking_ffi.core.log"
local slots = require "resty.nonblocking_ffi.core.slots"
local waiting = require "resty.nonblocking_ffi.core.waiter"

local ffi_cast = ffi.cast
local ffi_gc = ffi.gc
local ffi_new = ffi.new
local ffi_sizeof = ffi.sizeof
local ffi_string = ffi.string
local forget_request = slots.forget_request
local forget_waiter = slots.forget_waiter
local ngx = ngx
local ngx_log = ngx.log
local pcall = pcall
local texts = base.texts
local tostring = tostring
local waiter_of = slots.waiter_of
local wake = waiting.wake
local write_log = log.write

local LACK = base.LACK
local NO_MEMORY = cdefs.NO_MEMORY
local RUNTIME = cdefs.RUNTIME

local BATCH = 64
-- In a completion: its slot is not to be released.
local NO_SLOT = 0xffffffff


local _M = {}


local batch = ffi_new("nbffi_completion[?]", BATCH)
-- The same memory as numbers: a completion begins with its slot. Reading it
-- this way allocates nothing.
local numbers = ffi_cast("const uint32_t *", batch)
local NUMBERS = ffi_sizeof("nbffi_completion") / 4

-- Functions that are called after completions were delivered.
local hooks = {}

-- How many completions `batch` holds, how many of them were delivered, and
-- whether the hooks are to be called. Kept between calls, so that an error
-- loses nothing.
local count, delivered = 0, 0
local some = false


-- Releases what `take` returned, when nobody needs its bytes any more.
local function release(held)
    ffi_gc(held, nil)
    -- At the end of the VM the client may have been closed before.
    local client = base.client
    if client then
        base.C.nbffi_release(client, held, 1)
    end
end
_M.release = release


-- Takes a completion out of a batch that is about to be released.
local function take(done)
    local held = ffi_gc(ffi_new("nbffi_completion", done), release)
    done.slot = NO_SLOT
    return held
end


-- The results of a completion, as `call` returns them. A response of the status
-- code `takes` is not copied into a string: it is a completion that has to be
-- released.
local function results(done, takes)
    local status = done.status
    if status == 0 then
        if done.code == takes then
            return take(done), nil, takes
        end
        local res = ffi_string(done.data, done.len)
        if done.code == 0 and done.message_len == 0 then
            return res
        end
        return res, nil, done.code,
               ffi_string(done.message, done.message_len)
    end
    if status ~= RUNTIME then
        if done.message_len == 0 then
            return nil, texts[status]
        end
        return nil, texts[status], nil,
               ffi_string(done.message, done.message_len)
    end
    local message = ffi_string(done.message, done.message_len)
    return nil, "runtime error: " .. message, done.code, message
end
_M.results = results


local function deliver(done)
    local slot = done.slot
    local waiter = waiter_of(slot)
    if waiter then
        waiter.res, waiter.err, waiter.code, waiter.message =
            results(done, waiter.res)
        -- Only now: if there is no memory for the results, the waiter gets that
        -- error.
        forget_waiter(slot)
        wake(waiter)
    end
    -- Only now: the response may be a part of the request.
    forget_request(slot)
end


local function deliver_all()
    local C, client = base.C, base.client
    repeat
        if delivered == count then
            count = C.nbffi_drain(client, batch, BATCH)
            delivered = 0
        end
        while delivered < count do
            delivered = delivered + 1
            deliver(batch[delivered - 1])
        end
        local last = count < BATCH
        if count > 0 then
            some = true
            C.nbffi_release(client, batch, count)
            count, delivered = 0, 0
        end
    until last
    if some then
        for i = 1, #hooks do
            hooks[i]()
        end
        some = false
    end
end


-- Gives the waiter of a slot an error instead of its results.
local function fail(slot, err)
    local waiter = waiter_of(slot)
    forget_request(slot)
    if waiter then
        forget_waiter(slot)
        waiter.res = nil
        waiting.finish(waiter, err)
    end
end


-- The rest of `drain`, after an error.
local function drain_after(err)
    local ok
    repeat
        if err ~= LACK then
            pcall(ngx_log, ngx.ERR, "nonblocking_ffi: ", tostring(err))
        end
        if count == 0 then
            -- A hook has failed: all hooks are called again next time.
            return
        end
        pcall(fail, numbers[(delivered - 1) * NUMBERS], texts[NO_MEMORY])
        ok, err = pcall(deliver_all)
    until ok
end


-- Takes all completions, wakes their waiters, and writes what plugins log.
-- Never yields, and raises no error. There is no loop in here: LuaJIT would not
-- compile what calls it.
function _M.drain()
    local ok, err = pcall(deliver_all)
    if not ok then
        drain_after(err)
    end
    write_log()
end


-- Adds a function to be called after completions were delivered. It must not
-- yield.
function _M.on_drain(hook)
    hooks[#hooks + 1] = hook
end


return _M
