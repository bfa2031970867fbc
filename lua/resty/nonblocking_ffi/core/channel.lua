-- The event loop's end of the call path: one per Lua VM.
--
-- A task that waits for its end has a *waiter* here, by its slot. One light
-- thread (the drain) waits on a cosocket, takes completions in batches, and
-- wakes their waiters. Slots are released here, never by the coroutine that
-- asked: it may be gone.
--
-- A second light thread (the flusher) runs at the end of each turn of the
-- event loop in which a post was held back: a semaphore that is posted in a
-- handler wakes its waiter only after all I/O events of the turn.
--
-- Lua code may be out of memory at any place, which raises an error. So nothing
-- is allocated between a post and its registration; and the drain gives those
-- for whose results there is no memory that error, and goes on.
--
-- When the worker is told to exit, nginx-lua fires all pending timers at once:
-- the sentinel is one. From then on the drain polls, and ends when no call
-- waits. Calls that requests make even later poll for themselves.
--
-- Requests may wait as long as they want to. Timers belong to nobody whom
-- nginx could hang up on: their waits end, with "shutting down", after
-- `shutdown_timeout`.
--
-- With `lua_code_cache off` nginx-lua frees the memory of all semaphores before
-- it ends this VM, and complains of each that is left. So such a VM has none:
-- there is no flusher, and calls poll.

local ffi = require "ffi"
local semaphore = require "ngx.semaphore"
local cdefs = require "resty.nonblocking_ffi.core.cdefs"
local code_cache = require "resty.nonblocking_ffi.core.code_cache"
local codec = require "resty.nonblocking_ffi.lua.codec"
local library = require "resty.nonblocking_ffi.core.library"
local log = require "resty.nonblocking_ffi.core.log"
local options = require "resty.nonblocking_ffi.core.options"
local yielding = require "resty.nonblocking_ffi.core.yielding"
local waiting = require "resty.nonblocking_ffi.core.waiter"

local concat = table.concat
local ffi_cast = ffi.cast
local ffi_gc = ffi.gc
local ffi_new = ffi.new
local ffi_sizeof = ffi.sizeof
local ffi_string = ffi.string
local get_phase = ngx.get_phase
local has_sleeper = waiting.has_sleeper
local huge = math.huge
local min = math.min
local ngx = ngx
local ngx_log = ngx.log
local pairs = pairs
local pcall = pcall
local setmetatable = setmetatable
local sleep = ngx.sleep
local sleep_on = waiting.sleep_on
local timer_at = ngx.timer.at
local tostring = tostring
local wake = waiting.wake
local worker_exiting = ngx.worker.exiting

local CHUNK = cdefs.CHUNK
local LACK = codec.LACK
local LONGEST = waiting.LONGEST
local NO_MEMORY = cdefs.NO_MEMORY
local RUNTIME = cdefs.RUNTIME
local SHUTTING_DOWN = cdefs.SHUTTING_DOWN

local BATCH = 64
-- In a completion: its slot is somebody else's to release.
local NO_SLOT = 0xffffffff
local LINE_BYTES = 4096
local PATH_BYTES = 256
-- A timer that far in the future fires when the worker exits.
local NEVER = 10 * 365 * 86400
-- How often a worker looks for completions where it cannot be woken.
local POLL = 0.002
-- When to try again what there was no connection for.
local RETRY = 1
-- The longest that one look may block the worker.
local BLOCK = 0.1
-- How soon the flusher looks whether what it sent has been taken care of.
local WATCH = 0.01
-- How long an exiting worker lets a task that runs come to its end, if nobody
-- waits for it.
local EXIT_RUNNING = 0.1
-- How long languages have at the end of a worker that is told to stop: the
-- master kills it after a second and a half.
local STOP_ENDING = 0.6
-- A timer that goes on waiting although it was told so often that the worker
-- shuts down is ended: it would keep the worker for ever.
local MAX_REFUSALS = 100


local _M = {
    -- set by open()
    C = nil,
    client = nil,
    -- texts of the errors, by code
    texts = {},
    -- whether the worker exits: then `may_wait` says who may wait
    exiting = false,
}


local C, client
local batch = ffi_new("nbffi_completion[?]", BATCH)
-- The same as numbers: a completion begins with its slot. To look at it so
-- needs no memory.
local numbers = ffi_cast("const uint32_t *", batch)
local NUMBERS = ffi_sizeof("nbffi_completion") / 4
local line = ffi_new("char[?]", LINE_BYTES)
local line_buffer

-- By slot: who waits, and the request, which must not be collected meanwhile.
-- `false` where there is none, so that the tables stay arrays, and have room
-- for every slot.
local waiters, requests = {}, {}
_M.requests = requests
-- The waiters, as keys, on which a coroutine began to sleep when they had no
-- slot: for room in a pool, for one of several futures. A coroutine that was
-- killed leaves its own here, as long as anybody else knows it.
local slotless = setmetatable({}, { __mode = "k" })
-- Called after completions were delivered.
local hooks = {}

-- "down", "starting" or "up"; and when it was started.
local state = "down"
local started
-- Whether calls never sleep on semaphores.
local polls = false
local exiting = false
-- When waits of timers end, once the worker exits.
local timers_end = huge
-- The key of how often a timer was refused, in its ngx.ctx.
local REFUSALS = {}
local flushes
local flush_posted = false


-- Releases what `take` gave, when nobody needs its bytes any more.
local function release(held)
    ffi_gc(held, nil)
    -- At the end of the VM the client may have gone before.
    if client then
        C.nbffi_release(client, held, 1)
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
            return nil, _M.texts[status]
        end
        return nil, _M.texts[status], nil,
               ffi_string(done.message, done.message_len)
    end
    local message = ffi_string(done.message, done.message_len)
    return nil, "runtime error: " .. message, done.code, message
end
_M.results = results


local function deliver(done)
    local slot = done.slot
    local waiter = waiters[slot]
    if waiter then
        waiter.res, waiter.err, waiter.code, waiter.message =
            results(done, waiter.res)
        -- Not before: if there is no memory for them, it gets that error.
        waiters[slot] = false
        wake(waiter)
    end
    -- Not before: the response may be a part of the request.
    requests[slot] = false
end


-- How many completions `batch` holds, and how many of them were delivered; and
-- whether the hooks are to be called. Kept between calls, so that an error
-- loses nothing.
local count, delivered = 0, 0
local some = false


local function deliver_all()
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
local function give_up(slot, err)
    local waiter = waiters[slot]
    requests[slot] = false
    if waiter then
        waiters[slot] = false
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
            -- It was one of the hooks: they are called again next time.
            return
        end
        pcall(give_up, numbers[(delivered - 1) * NUMBERS],
              _M.texts[NO_MEMORY])
        ok, err = pcall(deliver_all)
    until ok
end


-- Takes all completions and wakes their waiters. Never yields, and raises no
-- error. No loop is in here: LuaJIT would not compile what calls it.
local function drain()
    local ok, err = pcall(deliver_all)
    if not ok then
        drain_after(err)
    end
end


-- Adds a function to be called after completions were delivered. It must not
-- yield.
function _M.on_drain(hook)
    hooks[#hooks + 1] = hook
end


local function write_log()
    log.write(C, client, line, LINE_BYTES)
end


local function make_room(first)
    for slot = first, first + CHUNK - 1 do
        waiters[slot] = false
        requests[slot] = false
    end
end


-- Makes slots for more tasks, and room for these here. False if there is no
-- memory.
function _M.grow()
    local first = C.nbffi_more_slots(client)
    if first < 0 or not pcall(make_room, first) then
        return false
    end
    C.nbffi_use_slots(client)
    return true
end


-- Posts the initialisation or the closing of a runtime. Returns the slot, or -n
-- for the error n.
function _M.post_control(ptr, is_close)
    local id = C.nbffi_post_control(client, ptr, is_close)
    if id == -NO_MEMORY and _M.grow() then
        id = C.nbffi_post_control(client, ptr, is_close)
    end
    return id
end


-- Registers a posted task: what nbffi_post gave, who waits for it (if anybody
-- does), and the request.
function _M.register(slot, waiter, request)
    if slot >= cdefs.HELD then
        slot = slot - cdefs.HELD
        if not flush_posted then
            flush_posted = true
            flushes:post(1)
        end
    end
    requests[slot] = request
    if waiter then
        waiters[slot] = waiter
        waiter.slot = slot
    end
end


-- Gives up a waiter's task, for the error `why`. The waiter will hear no more
-- of it.
local function abandon(waiter, why)
    local slot = waiter.slot
    waiters[slot] = false
    waiter.slot = false
    if C.nbffi_cancel(client, slot, why) == 0 then
        -- Nobody will read the request.
        requests[slot] = false
    end
end
_M.abandon = abandon


-- The clock by which all deadlines go, in seconds: that of the core. It is
-- monotonic, exact and never cached; ngx.now() is nothing of that.
local function clock()
    return C.nbffi_vm_monotonic()
end
_M.clock = clock


-- Notes that the worker exits.
local function begin_exit()
    if not _M.exiting then
        _M.exiting = true
        exiting = true
        timers_end = clock() + options.defaults.shutdown_timeout
    end
end


-- Whether the calling coroutine may wait, while the worker exits: true; or nil
-- and an error, if it is a timer's whose time is over. Then it yields, since
-- many timers call in a loop, and some of these loops look at no error.
local function may_wait()
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
    sleep(POLL)
    return nil, _M.texts[SHUTTING_DOWN]
end
_M.may_wait = may_wait


-- Seconds until the deadline of a waiter that is not done.
local function time_left(waiter)
    local deadline = waiter.deadline
    if deadline then
        return deadline - clock()
    end
    return C.nbffi_left(waiter.slot)
end
_M.time_left = time_left


-- Waits until a waiter is done, or until `finish`, by the clock, but by default
-- until its deadline; which is in so many seconds. True if it is done; false
-- if it is not, and never before that time; nil and an error if the coroutine
-- could not wait, or not so long.
local function wait(waiter, seconds, finish)
    if waiter.done then
        return true
    end
    if exiting then
        local ok, err = may_wait()
        if not ok then
            return nil, err
        end
    end
    -- The drain may never come up: a timer needs one of nginx's connections.
    if state ~= "up" and not _M.start() or polls then
        sleep(POLL)
        drain()
        write_log()
    else
        local lone = not waiter.slot
        if lone then
            slotless[waiter] = true
        end
        local ok, err = sleep_on(waiter, seconds)
        if lone then
            slotless[waiter] = nil
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
_M.wait = wait


-- Whether some coroutine still has to get the result of a waiter that is not
-- done, before the deadline.
local function is_awaited(waiter)
    return time_left(waiter) > 0 and has_sleeper(waiter)
end


local function anybody_waits()
    for _, waiter in pairs(waiters) do
        if waiter and is_awaited(waiter) then
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


-- Has all who sleep look whether they may, if the time of timers is over.
local timers_ended = false
local function end_timers()
    if timers_ended or clock() < timers_end then
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


local function flusher()
    local watch = false
    while state == "up" and not exiting do
        if flushes:wait(watch and WATCH or LONGEST) then
            flush_posted = false
            watch = C.nbffi_flush(client)
        else
            watch = C.nbffi_watch(client)
        end
    end
end


local function connect()
    local directories = concat(options.defaults.socket_dirs, "\0")
    local path = ffi_new("char[?]", PATH_BYTES)
    local status = C.nbffi_channel_open(client,
        ffi_new("nbffi_text", directories, #directories),
        ffi_new("nbffi_buffer", path, PATH_BYTES), line_buffer)
    if status ~= 0 then
        return nil, ffi_string(line)
    end

    local sock, err = ngx.socket.tcp()
    local connected = sock and sock:connect("unix:" .. ffi_string(path))
    status = C.nbffi_channel_accept(client, connected == 1, line_buffer)
    if not sock then
        return nil, err
    end
    if status ~= 0 then
        return nil, ffi_string(line)
    end
    sock:settimeout(LONGEST * 1000)
    return sock
end


-- Says whether posts may wait for the flusher, and others for the channel.
local function offer(served)
    yielding.served(served)
    C.nbffi_may_hold(client, served)
end


local function end_flusher()
    if flushes then
        flushes:post(1)
    end
end


local function sentinel()
    begin_exit()
    offer(false)
    C.nbffi_channel_wake(client)
    end_flusher()
end


-- Serves the channel until the worker exits and no call waits.
local function serve()
    local watched = timer_at(NEVER, sentinel)
    if not watched then
        exiting = true
    end
    state = "up"
    if not polls then
        ngx.thread.spawn(flusher)
        offer(not exiting)
    end

    local sock, err
    while true do
        drain()
        write_log()
        if exiting then
            end_timers()
            if not anybody_waits() then
                return
            end
            sleep(POLL)

        elseif not sock then
            sock, err = connect()
            if not sock then
                -- For instance: no connections left. Calls go on, slowly.
                ngx_log(ngx.ERR, "nonblocking_ffi: no channel, polling: ", err)
                local retry = clock() + RETRY
                while not exiting and clock() < retry do
                    sleep(POLL)
                    drain()
                end
            end

        elseif C.nbffi_channel_arm(client) then
            local byte, failed = sock:receive(1)
            if not byte and failed ~= "timeout" then
                sock = nil
            end
            yielding.resume()
        end
    end
end


local function run(premature)
    if premature then
        begin_exit()
        state = "down"
        return
    end
    if state == "up" then
        -- Another one was faster.
        return
    end
    local served, err = pcall(serve)
    offer(false)
    state = "down"
    if not served then
        -- Waiters that sleep have their timeouts; the next one to come
        -- starts again.
        ngx_log(ngx.ERR, "nonblocking_ffi: the drain failed: ", tostring(err))
        end_flusher()
    end
end


-- Sees to it that completions are drained. False if nobody does as yet: the
-- caller must poll.
function _M.start()
    if state == "up" then
        return true
    end
    if state == "starting" and clock() < started + RETRY then
        return false
    end
    if exiting or worker_exiting() then
        -- The first timer of a worker makes a connection of nginx's that is
        -- closed when the exit begins; now it would be left.
        begin_exit()
        return false
    end
    -- Without a connection for the timer, nginx-lua raises an error.
    local ok, made = pcall(timer_at, 0, run)
    if ok and made then
        state = "starting"
        started = clock()
    end
    return false
end


-- Blocks the worker until a waiter is done. Only in init_worker_by_lua.
function _M.block(waiter, seconds)
    local finish = clock() + seconds
    while true do
        drain()
        write_log()
        if waiter.done then
            return true
        end
        local left = finish - clock()
        if left <= 0 then
            return false
        end
        C.nbffi_block(client, min(left, BLOCK))
    end
end


-- The VM ends: whatever reads its memory must have stopped when this returns.
local function close(ptr)
    local ending = options.defaults.shutdown_timeout
    local queued = 0
    if exiting then
        if _M.before_exit then
            pcall(_M.before_exit)
        end
        queued = ending
    else
        ending = min(ending, STOP_ENDING)
    end
    client = nil
    C.nbffi_client_close(ptr, queued, EXIT_RUNNING, ending)
    -- What plugins had to say at their end.
    pcall(log.write_at_end, C, ptr, line, LINE_BYTES)
end


-- Opens the shared object and makes this VM's client, once. True, or nil and
-- an error.
function _M.open()
    if client then
        return true
    end
    local lib, path = library.open_core()
    if not lib then
        return nil, path
    end
    C = lib
    polls = code_cache.is_off()
    if not polls then
        local err
        flushes, err = semaphore.new(0)
        if not flushes then
            return nil, err
        end
    end
    line_buffer = ffi_new("nbffi_buffer", line, LINE_BYTES)
    local ptr = C.nbffi_client_new(_M.text(ngx.config.subsystem), line_buffer)
    if ptr == nil then
        return nil, ffi_string(line)
    end
    client = ffi_gc(ptr, close)
    for code = 1, cdefs.ERRORS do
        _M.texts[code] = ffi_string(C.nbffi_error_text(code))
    end
    options.set_cores(function() return C.nbffi_cores() end)
    C.nbffi_log_level(client, log.level())
    _M.C = C
    _M.client = client
    _M.core_path = path
    yielding.attach(C, ptr)
    return true
end


-- A string as the C functions take it; it must be kept alive meanwhile.
function _M.text(value)
    return ffi_new("nbffi_text", value, #value)
end


-- Where C functions write errors, and the text that one has written.
function _M.error_buffer()
    return line_buffer
end


function _M.error_text()
    return ffi_string(ffi_cast("const char *", line))
end


return _M
