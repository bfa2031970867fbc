-- The contenders, by the names that src/workloads.rs uses.
--
--   empty         a Lua function: what the loop itself costs
--   yield         yields once and is resumed: the floor for any offload
--   ours          runtime:call
--   ours-no-grace runtime:submit and future:wait, which never waits inline
--   thread        ngx.run_worker_thread
--   socket        an echo server behind pooled cosockets
--
--   copy, copy-no-grace, thread-copy, socket-copy
--                 the same with a response that is a new string each time
--   sleep-<n>     a plugin that blocks for 5 ms, in a pool of n threads
--   lua-string, lua-numbers, lua-table, thread-numbers, thread-table
--                 a Lua function on a pool thread that returns its arguments
--   codec-buffer, codec-cjson, codec-lua
--                 a table as bytes and back, in the event loop
--   json-all, json-part, thread-json-all, thread-json-part, loop-json
--                 decoding JSON of 1 MB, for all of it or for a part; loop-json
--                 in the event loop
--   go, go-goroutine, java, java-buffer, python, python-async
--                 echo in these languages, see languages.lua
--   socket-go, socket-java, socket-asyncio, socket-threads
--                 servers in these languages behind pooled cosockets
--   spin-<nice>   a plugin that computes for 2 ms, in a pool as nice as that

local bit = require "bit"
local cjson = require "cjson"
local has_buffer, buffer = pcall(require, "string.buffer")
local languages = require "languages"
local lua_buffer = require "resty.nonblocking_ffi.lua.buffer"
local nbffi = require "resty.nonblocking_ffi"
local semaphore = require "ngx.semaphore"

local band = bit.band
local bor = bit.bor
local char = string.char
local byte = string.byte
local lshift = bit.lshift
local ngx = ngx
local random = math.random
local rshift = bit.rshift
local run_worker_thread = ngx.run_worker_thread -- luacheck: ignore 143
local tcp = ngx.socket.tcp

-- A LuaJIT of before 2021 does not have it.
if not has_buffer then
    buffer = lua_buffer
end

local SLEEP_US = "5000"
local SPIN_US = "2000"
local PATIENCE = 60
-- In a length, it asks the echo server to put a number into its answer.
local COPY_BIT = 0x80


local _M = {}


-- { ask = function, answer = "same" or "fresh", grace_hits = function? }
local contenders = {}
local libraries, echo_socket


local function empty(request)
    return request
end


-- Yielding once. A light thread can only be resumed by another one, or by the
-- event loop. The cheapest way that goes through the event loop, as the end of
-- any offloaded call does, is a semaphore which a light thread posts that
-- serves everybody. (ngx.sleep(0) is a timer, where nginx lacks OpenResty's
-- patch for delayed events, and starves the event loop.)
local bell
local sleeping, sleepers = {}, 0
local spare, spares = {}, 0


local function ring()
    while true do
        local ok = bell:wait(3600)
        local count = sleepers
        sleepers = 0
        for i = 1, ok and count or 0 do
            sleeping[i]:post(1)
        end
    end
end


local function yield(request)
    local sema
    if spares > 0 then
        sema = spare[spares]
        spares = spares - 1
    else
        sema = semaphore.new(0)
    end
    sleepers = sleepers + 1
    sleeping[sleepers] = sema
    if sleepers == 1 then
        bell:post(1)
    end
    local ok, err = sema:wait(PATIENCE)
    if not ok then
        return nil, err
    end
    spares = spares + 1
    spare[spares] = sema
    return request
end


local function in_worker_thread(name)
    return function(request)
        local ok, response = run_worker_thread("bench", "bench_thread", name,
                                               request)
        if not ok then
            return nil, response
        end
        return response
    end
end


-- Both directions: the length, 4 bytes with the highest first, and the bytes.
local function through_socket(flag, path)
    return function(request)
        local sock = tcp()
        local ok, err = sock:connect(path)
        if not ok then
            return nil, err
        end
        local length = #request
        local head = char(bor(rshift(length, 24), flag),
                          band(rshift(length, 16), 0xff),
                          band(rshift(length, 8), 0xff), band(length, 0xff))
        ok, err = sock:send({ head, request })
        if not ok then
            return nil, err
        end
        head, err = sock:receive(4)
        if not head then
            return nil, err
        end
        local a, b, c, d = byte(head, 1, 4)
        local response
        response, err = sock:receive(lshift(a, 24) + lshift(b, 16)
                                     + lshift(c, 8) + d)
        if not response then
            return nil, err
        end
        ok, err = sock:setkeepalive()
        if not ok then
            return nil, err
        end
        return response
    end
end


-- A plugin of plugins/, or examples/echo.
local function load(name, plugin, config, pool)
    return nbffi.load {
        name = name,
        runtime = "c",
        library = libraries .. "/lib" .. plugin .. ".so",
        config = config,
        pool = pool,
    }
end


local function calls(runtime, answer)
    return {
        ask = function(request)
            return runtime:call(request)
        end,
        answer = answer or "same",
        grace_hits = function()
            return runtime:stats().grace_hits
        end,
    }
end


local function submits(runtime, answer)
    return {
        ask = function(request)
            local future, err = runtime:submit(request)
            if not future then
                return nil, err
            end
            return future:wait()
        end,
        answer = answer or "same",
    }
end


-- Tables and numbers -------------------------------------------------------
--
-- These contenders return their request if they got the right answer.

local TABLE = {
    id = 5,
    name = "some name",
    list = { 1, 2, 3 },
    nested = { flag = true, deeper = { text = "something deeper" } },
}


local function is_table_right(value)
    return value and value.id == TABLE.id and #value.list == 3
           and value.nested.deeper.text == TABLE.nested.deeper.text
end


local USERS = 8000
local document


-- About 1 MB of JSON.
local function make_document()
    local users = {}
    for i = 1, USERS do
        users[i] = {
            id = i, name = "user " .. i, score = i * 1.5, active = i % 3 == 0,
            tags = { "a", "b", "c" },
            address = { street = "Street " .. i, city = { name = "C" .. i } },
        }
    end
    return cjson.encode(users)
end


local function is_document_right(value)
    return value and #value == USERS and value[USERS].id == USERS
end


local function is_part_right(value)
    return value and value.id == 2 and value.address.city.name == "C2"
end


-- A contender that makes a call and checks its answer.
local function checks(call, is_right)
    return {
        ask = function(request)
            local value, err = call()
            if not is_right(value) then
                return nil, err or "a wrong answer"
            end
            return request
        end,
        answer = "same",
    }
end


local function lua_contenders(runtime)
    local function thread(name, ...)
        local ok, value = run_worker_thread("bench", "bench_thread", name, ...)
        if not ok then
            return nil, value
        end
        return value
    end

    contenders["lua-string"] = {
        ask = function(request)
            return runtime:call("echo", request)
        end,
        answer = "same",
        grace_hits = function()
            return runtime:stats().grace_hits
        end,
    }
    local function is_one(value)
        return value == 1
    end
    contenders["lua-numbers"] = checks(function()
        return runtime:call("echo", 1, 2)
    end, is_one)
    contenders["thread-numbers"] = checks(function()
        return thread("echo", 1, 2)
    end, is_one)
    contenders["lua-table"] = checks(function()
        return runtime:call("echo", TABLE)
    end, is_table_right)
    contenders["thread-table"] = checks(function()
        return thread("echo", TABLE)
    end, is_table_right)

    -- What could carry arguments and results between VMs.
    local function codec(encode, decode)
        return checks(function()
            return decode(encode(TABLE))
        end, is_table_right)
    end
    contenders["codec-buffer"] = codec(buffer.encode, buffer.decode)
    contenders["codec-lua"] = codec(lua_buffer.encode, lua_buffer.decode)
    contenders["codec-cjson"] = codec(cjson.encode, cjson.decode)

    -- More documents than the cache of one VM has room for, but not more than
    -- those of all four have.
    assert(nbffi.pool("keys", { threads = 4 }))
    local keyed = assert(nbffi.load {
        runtime = "lua", module = "bench_thread", pool = "keys",
    })
    local targets = {}
    for i = 1, 64 do
        targets[i] = { "cached", key = "document " .. i }
    end
    local function cached(target)
        return {
            ask = function(request)
                local number = random(64)
                if keyed:call(target(number), number) ~= number then
                    return nil, "a wrong answer"
                end
                return request
            end,
            answer = "same",
        }
    end
    contenders["cached"] = cached(function() return "cached" end)
    contenders["cached-key"] = cached(function(number)
        return targets[number]
    end)

    document = make_document()
    contenders["json-all"] = checks(function()
        return runtime:call("decode", document)
    end, is_document_right)
    contenders["json-part"] = checks(function()
        return runtime:call("part", document)
    end, is_part_right)
    contenders["thread-json-all"] = checks(function()
        return thread("decode", document)
    end, is_document_right)
    contenders["thread-json-part"] = checks(function()
        return thread("part", document)
    end, is_part_right)
    -- A handler that decodes for itself lets others run before it does so
    -- again, as requests do that come one after the other.
    contenders["loop-json"] = checks(function()
        ngx.sleep(0.001)
        return cjson.decode(document)
    end, is_document_right)
end


-- Contenders in other languages, and those with a number in their names, are
-- made when first asked for.
local function make(name)
    local socket = languages.socket(name)
    if socket then
        return { ask = through_socket(0, socket), answer = "same" }
    end
    local options = languages.options(name)
    if options then
        local runtime, err = nbffi.load(options)
        if not runtime then
            return nil, err
        end
        return calls(runtime)
    end
    local kind, number = name:match("^(%a+)%-(%d+)$")
    local settings, config
    if kind == "sleep" then
        settings, config = { threads = tonumber(number) }, SLEEP_US
    elseif kind == "spin" then
        settings, config = { nice = tonumber(number) }, SPIN_US
    else
        return nil, "no such contender: " .. name
    end
    local ok, err = nbffi.pool(name, settings)
    if not ok then
        return nil, err
    end
    local runtime
    runtime, err = load(name, kind, config, name)
    if not runtime then
        return nil, err
    end
    return calls(runtime)
end


function _M.get(name)
    local contender = contenders[name]
    if contender then
        return contender
    end
    local err
    contender, err = make(name)
    contenders[name] = contender
    return contender, err
end


function _M.init(settings)
    libraries = settings.libraries
    echo_socket = settings.echo_socket
    languages.init(settings)
end


function _M.init_worker()
    bell = assert(semaphore.new(0))
    assert(ngx.timer.at(0, ring))

    local echo = assert(load("echo", "echo"))
    local copy = assert(load("copy", "copy"))
    lua_contenders(assert(nbffi.load {
        runtime = "lua", module = "bench_thread",
    }))
    contenders.empty = { ask = empty, answer = "same" }
    contenders.yield = { ask = yield, answer = "same" }
    contenders.ours = calls(echo)
    contenders["ours-no-grace"] = submits(echo)
    contenders.thread = { ask = in_worker_thread("echo"), answer = "same" }
    contenders.socket = {
        ask = through_socket(0, echo_socket),
        answer = "same",
    }
    contenders.copy = calls(copy, "fresh")
    contenders["copy-no-grace"] = submits(copy, "fresh")
    contenders["thread-copy"] = {
        ask = in_worker_thread("copy"),
        answer = "fresh",
    }
    contenders["socket-copy"] = {
        ask = through_socket(COPY_BIT, echo_socket),
        answer = "fresh",
    }
end


return _M
