-- How the core wakes the event loop: one light thread per Lua VM waits on a
-- cosocket, to which the core sends a byte, and drains completions.
--
-- The light thread runs in a timer of its own, until the worker exits and no
-- call waits. Calls that requests make even later poll for themselves. They do
-- so, too, where there is no semaphore to sleep on (core/flusher.lua).

local ffi = require "ffi"
local base = require "resty.nonblocking_ffi.core.base"
local drains = require "resty.nonblocking_ffi.core.drain"
local exit = require "resty.nonblocking_ffi.core.exit"
local flusher = require "resty.nonblocking_ffi.core.flusher"
local options = require "resty.nonblocking_ffi.core.options"
local slots = require "resty.nonblocking_ffi.core.slots"
local waiting = require "resty.nonblocking_ffi.core.waiter"
local yielding = require "resty.nonblocking_ffi.core.yielding"

local clock = base.clock
local concat = table.concat
local drain = drains.drain
local ffi_new = ffi.new
local ffi_string = ffi.string
local min = math.min
local ngx = ngx
local ngx_log = ngx.log
local pcall = pcall
local sleep = ngx.sleep
local text = base.text
local timer_at = ngx.timer.at
local tostring = tostring
local worker_exiting = ngx.worker.exiting

local LONGEST = waiting.LONGEST
local PATH_BYTES = 256
-- A timer that far in the future fires when the worker exits.
local NEVER = 10 * 365 * 86400
-- How often a worker looks for completions where it cannot be woken.
local POLL = 0.002
-- How long to wait before a connection is tried again.
local RETRY = 1
-- How long `block` blocks at a time.
local BLOCK = 0.1


local _M = {}


-- "down", "starting" or "up"; and when it was started.
local state = "down"
local started


local function connect()
    local C, client = base.C, base.client
    local path = ffi_new("char[?]", PATH_BYTES)
    local directories = concat(options.defaults.socket_dirs, "\0")
    local status = C.nbffi_channel_open(client, text(directories),
        ffi_new("nbffi_buffer", path, PATH_BYTES), base.error_buffer())
    if status ~= 0 then
        return nil, base.error_text()
    end

    local sock, err = ngx.socket.tcp()
    local connected = sock and sock:connect("unix:" .. ffi_string(path))
    status = C.nbffi_channel_accept(client, connected == 1, base.error_buffer())
    if not sock then
        return nil, err
    end
    if status ~= 0 then
        return nil, base.error_text()
    end
    sock:settimeout(LONGEST * 1000)
    return sock
end


-- Says whether posts may wait for the flusher, and other code for the channel.
local function offer(served)
    yielding.served(served)
    base.C.nbffi_may_hold(base.client, served)
end


local function sentinel()
    exit.begin()
    offer(false)
    base.C.nbffi_channel_wake(base.client)
    flusher.stop()
end


-- Serves the channel until the worker exits and no call waits.
local function serve()
    if not timer_at(NEVER, sentinel) then
        exit.begin()
    end
    state = "up"
    if flusher.is_open() and not exit.exiting then
        flusher.start()
        offer(true)
    end

    local sock, err
    while true do
        drain()
        if exit.exiting then
            slots.end_timers()
            if not slots.anybody_waits() then
                return
            end
            sleep(POLL)

        elseif not sock then
            sock, err = connect()
            if not sock then
                -- For instance: no connections left. Calls go on, slowly.
                ngx_log(ngx.ERR, "nonblocking_ffi: no channel, polling: ", err)
                local retry = clock() + RETRY
                while not exit.exiting and clock() < retry do
                    sleep(POLL)
                    drain()
                end
            end

        elseif base.C.nbffi_channel_arm(base.client) then
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
        exit.begin()
        state = "down"
        return
    end
    if state == "up" then
        -- Another timer was faster.
        return
    end
    local served, err = pcall(serve)
    offer(false)
    state = "down"
    if not served then
        -- Waiters that sleep have their timeouts; the next call starts a new
        -- light thread.
        ngx_log(ngx.ERR, "nonblocking_ffi: the drain failed: ", tostring(err))
        flusher.stop()
    end
end


-- Makes sure that completions are drained. False if they are not yet: the
-- caller must poll.
local function start()
    if state == "up" then
        return true
    end
    if state == "starting" and clock() < started + RETRY then
        return false
    end
    if exit.exiting or worker_exiting() then
        -- The first timer of a worker makes a connection in nginx that is
        -- closed when the exit begins; a new one would stay open.
        exit.begin()
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
_M.start = start


-- Whether a coroutine may sleep until its waiter is woken. If not, it has to
-- call `poll` until the waiter is done.
function _M.wakes()
    return (state == "up" or start()) and flusher.is_open()
end


-- Yields for a moment, then drains.
function _M.poll()
    sleep(POLL)
    drain()
end


-- Blocks the worker until a waiter is done. Only in init_worker_by_lua.
function _M.block(waiter, seconds)
    local finish = clock() + seconds
    while true do
        drain()
        if waiter.done then
            return true
        end
        local left = finish - clock()
        if left <= 0 then
            return false
        end
        base.C.nbffi_block(base.client, min(left, BLOCK))
    end
end


return _M
