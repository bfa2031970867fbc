-- The Lua side of the bench: the contenders, and the loops that time them.
--
-- A contender is a function that takes a request and returns the response, or
-- nil and an error: the very code that a user would write. Its response is
-- either the request itself or ("fresh") the request with another number in
-- its first four bytes each time. Every response is checked.
--
-- The loops are timed here, by the monotonic clock, so that HTTP is no part
-- of what is measured. The bench says how many calls to make.

local ffi = require "ffi"
local nbffi = require "resty.nonblocking_ffi"
local semaphore = require "ngx.semaphore"
local contenders = require "contenders"

local floor = math.floor
local ngx = ngx
local pcall = pcall
local spawn = ngx.thread.spawn
local tonumber = tonumber


ffi.cdef [[
    struct nbffi_bench_time { int64_t sec; int64_t nsec; };
    int clock_gettime(int clock, struct nbffi_bench_time *time);
]]
local CLOCK_MONOTONIC = 1
-- The processor time of the event loop's thread.
local CLOCK_THREAD_CPUTIME_ID = 3
-- Light threads that wait for longer have been forgotten.
local PATIENCE = 300


local _M = {
    -- Handlers with one call per request, by contender.
    once = {},
}


local time = ffi.new("struct nbffi_bench_time")

local function clock_ns(clock)
    ffi.C.clock_gettime(clock, time)
    return tonumber(time.sec) * 1e9 + tonumber(time.nsec)
end


-- The loop. Each contender gets a copy of its own, since LuaJIT compiles a
-- loop for what it calls first.
local LOOP = [[
    local byte = string.byte
    return function(ask, request, calls)
        local length = #request
        for _ = 1, calls do
            local response, err = ask(request)
            if %s then
                error("wrong response: " .. tostring(err or response), 0)
            end
        end
    end
]]
local WRONG = {
    same = "response ~= request",
    fresh = "not response or #response ~= length or response == request "
            .. "or byte(response, 5) ~= byte(request, 5) "
            .. "or byte(response, length) ~= byte(request, length)",
}
local loops = {}


local function loop_for(name, answer)
    local loop = loops[name]
    if not loop then
        loop = assert(loadstring(LOOP:format(WRONG[answer]), "=" .. name))()
        loops[name] = loop
    end
    return loop
end


local payloads = {}

-- A string of so many bytes with no period that a multiple of it would have.
local function payload(bytes)
    local text = payloads[bytes]
    if not text then
        local parts = {}
        for i = 1, bytes do
            parts[i] = string.char((i * 7 + floor(i / 251)) % 256)
        end
        text = table.concat(parts)
        payloads[bytes] = text
    end
    return text
end


-- Calls one after another. Returns the nanoseconds that they took, those of the
-- event loop's processor time, and what failed if anything did.
local function alone(loop, ask, request, calls)
    local begin, cpu = clock_ns(CLOCK_MONOTONIC),
                       clock_ns(CLOCK_THREAD_CPUTIME_ID)
    local ok, err = pcall(loop, ask, request, calls)
    cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu
    return clock_ns(CLOCK_MONOTONIC) - begin, cpu, not ok and err
end


-- The same for calls from so many light threads at a time, from the moment
-- that all of them may start until the last one has ended.
local function in_flight(loop, ask, request, calls, threads)
    local start = assert(semaphore.new(0))
    local ended = assert(semaphore.new(0))
    local left, failure = threads, nil
    local function body()
        assert(start:wait(PATIENCE))
        local ok, err = pcall(loop, ask, request, calls)
        if not ok then
            failure = err
        end
        left = left - 1
        if left == 0 then
            ended:post(1)
        end
    end
    local spawned = {}
    for i = 1, threads do
        spawned[i] = spawn(body)
    end
    local begin, cpu = clock_ns(CLOCK_MONOTONIC),
                       clock_ns(CLOCK_THREAD_CPUTIME_ID)
    start:post(threads)
    local ok, err = ended:wait(PATIENCE)
    cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu
    local elapsed = clock_ns(CLOCK_MONOTONIC) - begin
    for i = 1, threads do
        ngx.thread.wait(spawned[i])
    end
    if not ok then
        failure = err
    end
    return elapsed, cpu, failure
end


local function reply(failure, text)
    if failure then
        ngx.status = 500
        text = tostring(failure)
    end
    ngx.header["Content-Length"] = #text
    ngx.print(text)
end


-- GET /loop?ask=<contender>&bytes=<of a request>&threads=<in flight>
--          &calls=<of each thread>
-- Answers "<calls> <nanoseconds> <of the event loop's processor time>", and
-- how many calls the grace answered, if there is one.
function _M.loop()
    local args = ngx.req.get_uri_args()
    local contender, err = contenders.get(args.ask)
    if not contender then
        return reply(err)
    end
    local loop = loop_for(args.ask, contender.answer)
    local request = payload(tonumber(args.bytes))
    local calls, threads = tonumber(args.calls), tonumber(args.threads)
    local grace_hits = contender.grace_hits
    local hits = grace_hits and grace_hits()

    -- Not on this one's bill: the garbage of the one before.
    collectgarbage()
    collectgarbage()
    local elapsed, cpu, failure
    if threads == 1 then
        elapsed, cpu, failure = alone(loop, contender.ask, request, calls)
    else
        elapsed, cpu, failure = in_flight(loop, contender.ask, request, calls,
                                          threads)
    end
    local text = ("%d %d %d"):format(calls * threads, elapsed, cpu)
    if hits then
        text = text .. (" %d"):format(grace_hits() - hits)
    end
    return reply(failure, text)
end


-- { running, calls, failure, ended = a semaphore }
local saturation

-- GET /saturate?ask=<contender>&threads=<in flight>
-- Keeps so many calls in flight, until /relax.
function _M.saturate()
    local args = ngx.req.get_uri_args()
    local contender, err = contenders.get(args.ask)
    if not contender then
        return reply(err)
    end
    if saturation then
        return reply("there is a load already")
    end
    local state = { running = true, calls = 0, ended = semaphore.new(0) }
    local request = payload(16)
    local function body()
        while state.running do
            local response, failed = contender.ask(request)
            if response ~= request then
                state.failure = failed or "wrong response"
                return
            end
            state.calls = state.calls + 1
        end
    end
    local threads = tonumber(args.threads)
    local ok
    ok, err = ngx.timer.at(0, function()
        local spawned = {}
        for i = 1, threads do
            spawned[i] = spawn(body)
        end
        for i = 1, threads do
            ngx.thread.wait(spawned[i])
        end
        state.ended:post(1)
    end)
    if not ok then
        return reply(err)
    end
    saturation = state
    return reply(nil, "saturated")
end


-- GET /relax: ends the load, and answers how many calls it has made.
function _M.relax()
    local state = saturation
    if not state then
        return reply("there is no load")
    end
    saturation = nil
    state.running = false
    local ok, err = state.ended:wait(PATIENCE)
    return reply(state.failure or not ok and err, ("%d"):format(state.calls))
end


local function once(name)
    local ask = assert(contenders.get(name)).ask
    local request = payload(16)
    _M.once[name] = function()
        local response, err = ask(request)
        if response ~= request then
            ngx.log(ngx.ERR, "wrong response: ", err or response)
            return ngx.exit(500)
        end
    end
end


function _M.init(settings)
    assert(nbffi.setup { socket_dirs = { settings.socket_dir } })
    contenders.init(settings)
end


function _M.init_worker()
    contenders.init_worker()
    once("yield")
    once("ours")
    once("thread")
    once("socket")
end


return _M
