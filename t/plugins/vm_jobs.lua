-- What tests of the Lua runtime run in VMs, beside jobs.lua.

local ffi = require "ffi"
local board = require "board"

local worker = require "resty.nonblocking_ffi.worker"

local concat = table.concat
local format = string.format

ffi.cdef "int abs(int number);"


local _M = {}


local function checksum(text)
    local sum = 0
    for i = 1, #text do
        sum = (sum * 31 + text:byte(i)) % 0x7fffffff
    end
    return sum
end


-- A value in words that say everything about it. Equal words: equal values.
local function describe(value)
    local kind = type(value)
    if kind == "number" then
        if value ~= value then
            return "nan"
        end
        -- "%.17g" is exact; 1 / -0 tells the zeros apart.
        return value == 0 and (1 / value < 0 and "-0" or "0")
               or format("%.17g", value)
    elseif kind == "string" then
        return format("%d bytes of sum %d", #value, checksum(value))
    elseif kind == "table" then
        local parts = {}
        for key, item in next, value do
            parts[#parts + 1] = describe(key) .. " = " .. describe(item)
        end
        table.sort(parts)
        return "{ " .. concat(parts, ", ") .. " }"
                .. (getmetatable(value) and " with a metatable" or "")
    elseif value == ngx.null then
        return value == nil and "nil" or "null"
    end
    return tostring(value)
end


-- How many values, and each of them in words.
function _M.describe(...)
    local parts = {}
    for i = 1, select("#", ...) do
        parts[i] = describe((select(i, ...)))
    end
    return #parts .. ": " .. concat(parts, "; ")
end


function _M.echo(...)
    return ...
end


-- Stays until the board says "go" (cell 1). Counts in cell 0 when it starts.
function _M.hold(address, value)
    local memory = board.at(address)
    memory:add(0)
    memory:await(1, 1)
    return value
end


-- Appends a letter to the list on a board (cells from 10 on, cell 9 counts), to
-- see an order. For pools of one thread.
function _M.note(address, number)
    local memory = board.at(address)
    local count = memory:get(9)
    memory:set(10 + count, number)
    memory:set(9, count + 1)
    return number
end


-- Runs until nobody waits for it any more: cell 2 when it has begun, cell 3
-- when it ends.
function _M.watch(address)
    local memory = board.at(address)
    memory:set(2, 1)
    while not worker.is_cancelled() do
        ffi.C.usleep(500)
    end
    memory:set(3, 1)
end


-- The same without sleeping, which is compiled, ...
function _M.cooperate(address)
    local memory = board.at(address)
    memory:set(2, 1)
    local rounds = 0
    while not worker.is_cancelled() do
        rounds = rounds + 1
    end
    memory:set(3, 1)
    return rounds
end

-- ... and which is not.
function _M.cooperate_interpreted(...)
    jit.off(true, true)
    return _M.cooperate(...)
end


-- Cells for nginx's phases.
_M.PHASES = {
    "init_worker", "set", "rewrite", "access", "content", "balancer",
    "header_filter", "body_filter", "log", "timer",
}

function _M.mark(address, phase, value)
    for cell, name in ipairs(_M.PHASES) do
        if name == phase then
            board.at(address):set(cell, value[1])
        end
    end
end


function _M.fail(why)
    error(why or "failed")
end


-- Works for a moment; where it did that is the third result.
function _M.spin(...)
    local sum = 0
    for i = 1, 20000 do sum = sum + i % 7 end
    local one, two = ...
    return one, two, worker.name(), sum
end


-- Large results, of many shapes. The same in the VM and in the event loop.
local BUILDERS = {
    ["list"] = function(size)
        local list = {}
        for i = 1, size do list[i] = i end
        return list
    end,
    ["list of maps"] = function(size)
        local list = {}
        for i = 1, size do list[i] = { id = i, name = "name " .. i } end
        return list
    end,
    ["map"] = function(size)
        local map = {}
        for i = 1, size do map["key " .. i] = i end
        return map
    end,
    ["map of lists"] = function(size)
        local map = {}
        for i = 1, size do map["key " .. i] = { i, { i } } end
        return map
    end,
    ["holes"] = function(size)
        local list = {}
        for i = 1, size do
            if i % 7 > 0 then list[i] = i end
        end
        list.also = "a key"
        list[1.5] = "another"
        return list
    end,
    ["nested"] = function(size)
        local half = math.floor(size / 2)
        local list, map = {}, {}
        for i = 1, half do list[i], map["k" .. i] = { i }, { i } end
        return { a = { list = list, small = 1, map = map }, list = { list } }
    end,
    ["deep"] = function(size)
        local value = { "bottom" }
        for i = 1, 90 do
            value = { x = value, fill = ("f"):rep(size / 10 + i) }
        end
        return value
    end,
    ["strings"] = function(size)
        local list = {}
        for i = 1, size / 100 do list[i] = ("s"):rep(i * 10) .. i end
        return list, list[1]
    end,
    ["one string"] = function(size)
        return { ("x"):rep(size * 10) }, 1
    end,
    ["falses"] = function(size)
        local list = {}
        for i = 1, size do list[i] = i % 2 == 0 end
        return list, false
    end,
    ["nils"] = function(size)
        local list = {}
        for i = 1, size do list[i] = ("n"):rep(4) end
        return nil, list, nil, list, nil
    end,
    ["many results"] = function(size)
        local list = {}
        for i = 1, math.min(size, 7000) do list[i] = { i } end
        return unpack(list)
    end,
    ["keys"] = function(size)
        local map = { [true] = 1, [false] = 2, [0] = 3, [-1] = 4, [1/0] = 5 }
        for i = 1, size do map[i * 1.5], map[-i * 2] = i, ngx.null end
        return map
    end,
    ["shared"] = function(size)
        local list = {}
        for i = 1, size do list[i] = i end
        return { list, { list }, list }, list
    end,
}

_M.SHAPES = {
    "list", "list of maps", "map", "map of lists", "holes", "nested", "deep",
    "strings", "one string", "falses", "nils", "many results", "keys", "shared",
}

function _M.build(shape, size)
    return BUILDERS[shape](size)
end


-- Whether two values are equal, tables by what is in them.
local function same(one, other)
    if type(one) ~= "table" or type(other) ~= "table" then
        return one == other
    end
    for key, item in next, one do
        if not same(item, other[key]) then
            return false
        end
    end
    for key in next, other do
        if one[key] == nil then
            return false
        end
    end
    return true
end
_M.same = same


-- How often it was called in this VM, and by which thread.
local calls = 0

function _M.count()
    calls = calls + 1
    return calls, worker.index()
end


-- Keeps so many bytes in this VM.
local hoard = {}

function _M.keep(bytes)
    hoard[#hoard + 1] = ("x"):rep(bytes - 1) .. #hoard
    return #hoard
end


-- Allocate until there is no more.
function _M.hoard_tables()
    local list = {}
    for i = 1, math.huge do list[i] = { i } end
    return list
end

function _M.hoard_strings()
    local text = "x"
    while true do text = text .. text end
end


-- Hits the memory limit and lives on.
function _M.survive()
    local unlimited = pcall(_M.hoard_tables)
    collectgarbage()
    return unlimited and "unlimited" or "survived"
end


-- Bytes in use when there is no garbage.
function _M.settled_memory()
    collectgarbage()
    collectgarbage()
    return collectgarbage("count") * 1024
end


-- Leaves something in the VM that notes its end in cell 5.
local at_end

function _M.at_end(address)
    at_end = newproxy(true)
    getmetatable(at_end).__gc = function()
        board.at(address):add(5)
    end
end


-- Leaves something in the VM whose finalizer never ends.
-- LuaJIT compiles nothing in finalizers, but runs what is compiled.
local function count_to(number)
    local count = 0
    while count ~= number do count = count + 1 end
end

local ENDLESS = {
    interpreted = function()
        while true do end
    end,
    compiled = function()
        count_to(-1)
    end,
    ["calls-a-C-function"] = function()
        while true do ffi.C.abs(-1) end
    end,
    ["raises-errors"] = function()
        while true do pcall(error, "again") end
    end,
}

function _M.never_ends(way)
    count_to(10000)
    at_end = newproxy(true)
    getmetatable(at_end).__gc = ENDLESS[way]
    return "left behind"
end


-- Counts in cell `start` + the thread's index, and stays until cell `go` + that
-- index is set.
function _M.occupy(address, start, go)
    local memory, index = board.at(address), worker.index()
    memory:add(start + index)
    memory:await(go + index, 1)
end


-- Where this runs.
function _M.whoami()
    return worker.name(), worker.index(), worker.pool()
end

function _M.comm()
    local file = io.open("/proc/thread-self/comm")
    local name = file:read("*l")
    file:close()
    return name
end


-- Seconds until the deadline.
function _M.deadline()
    return worker.deadline()
end

function _M.cast_deadline(address)
    local memory = board.at(address)
    memory:set(7, math.floor(worker.deadline()))
    memory:set(6, 1)
end


-- Stays a moment longer than the deadline, and notes that in cell 8.
function _M.overstay(address)
    while worker.deadline() > 0 do
        ffi.C.usleep(500)
    end
    board.at(address):set(8, worker.deadline() < 0 and 1 or 2)
end


-- Calls another runtime.
function _M.ask(...)
    return worker.call(...)
end

function _M.ask_many(runtime, count)
    for i = 1, count do
        local request = "1 " .. i
        local res = worker.call(runtime, request)
        if res ~= request and res ~= tostring(i) then
            error(i .. ": " .. tostring(res))
        end
    end
    return count
end

function _M.blame(arguments)
    local code = "local worker = ...\nlocal a = worker.call(" .. arguments
                 .. ")\nreturn a"
    local ok, err = pcall(assert(loadstring(code, "=caller")), worker)
    return ok and "no error" or err
end


return _M
