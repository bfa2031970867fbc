-- Lua values as bytes, from one VM to another: arguments on their way to a
-- pool thread, results on their way back.
--
-- The bytes are those of LuaJIT's string.buffer (or buffer.lua, where LuaJIT is
-- too old to have it; both ends have the same). Values that travel are nil,
-- booleans, numbers, strings, tables of these, ngx.null, and 64-bit integers;
-- metatables do not, and a table that is there twice arrives as two tables.
--
-- Encodings, which go with the bytes:
--   STRING  one value, a string: its bytes
--   VALUES  the number of values, then each of them
--   CHUNKED  large results: see chunked.lua

local ffi = require "ffi"

local found, buffer = pcall(require, "string.buffer")
if not found then
    buffer = require "resty.nonblocking_ffi.lua.buffer"
end

local concat = table.concat
local ffi_istype = ffi.istype
local find = string.find
local format = string.format
local getinfo = debug.getinfo
local new_buffer = buffer.new
local next = next
local pairs = pairs
local pcall = pcall
local select = select
local tostring = tostring
local traceback = debug.traceback
local type = type
local unpack = unpack
local wrap = coroutine.wrap
local yield = coroutine.yield

-- What LuaJIT raises when it has no memory.
local LACK = "not enough memory"
-- string.buffer goes no deeper.
local MAX_DEPTH = 100
-- A buffer that has grown beyond is not kept.
local MAX_KEPT = 1048576
local MAX_SPARE = 1024
-- What a traceback begins with: not with the message handler. Of a stack that
-- is full so many levels are shown.
local LEVEL = 1
local MAX_LEVELS = 20


local _M = {
    STRING = 0,
    VALUES = 1,
    CHUNKED = 2,
    LACK = LACK,
    new_buffer = new_buffer,
}


-- Buffers for reuse.
local spare, spares = {}, 0
local reader = new_buffer()


-- One function for each small count: LuaJIT compiles these, but not a variable
-- number of arguments below pcall.
local function put_1(buf, a)
    buf:encode(1)
    buf:encode(a)
end


local function put_2(buf, a, b)
    buf:encode(2)
    buf:encode(a)
    buf:encode(b)
end


local function put_3(buf, a, b, c)
    buf:encode(3)
    buf:encode(a)
    buf:encode(b)
    buf:encode(c)
end


local function put(buf, count, ...)
    buf:encode(count)
    for i = 1, count do
        buf:encode((select(i, ...)))
    end
end


local SIMPLE = { ["nil"] = true, boolean = true, number = true, string = true }


local function step(key)
    if type(key) == "string" and find(key, "^[%a_][%w_]*$") then
        return "." .. key
    end
    if type(key) == "string" then
        return format("[%q]", key)
    end
    return "[" .. tostring(key) .. "]"
end


-- What cannot be encoded in a value, and where; nil if all can be.
local function fault(value, where, above, depth)
    local kind = type(value)
    if SIMPLE[kind] or value == ngx.null then
        return nil
    end
    if kind == "cdata" and (ffi_istype("int64_t", value)
       or ffi_istype("uint64_t", value))
    then
        return nil
    end
    if kind ~= "table" then
        return format("%s is a %s, which cannot be passed to another Lua VM",
                      where, kind)
    end
    if above[value] then
        return format("%s is a table that contains itself: it is %s", where,
                      above[value])
    end
    if depth > MAX_DEPTH then
        return format("%s is nested deeper than %d tables", where, MAX_DEPTH)
    end
    above[value] = where
    for key, item in next, value do
        local here = where .. step(key)
        local found_fault = fault(key, "a key of " .. where, above, depth + 1)
                            or fault(item, here, above, depth + 1)
        if found_fault then
            return found_fault
        end
    end
    above[value] = nil
end


-- What is wrong with one of the values, which are called `what`.
local function describe(what, err, count, ...)
    for i = 1, count do
        local wrong = fault((select(i, ...)), what .. "[" .. i .. "]", {}, 1)
        if wrong then
            return wrong
        end
    end
    return what .. ": " .. tostring(err)
end


-- A buffer with the encoded values; give it to `recycle` when it has been read.
-- Or nil and what is wrong with them: `what` is what the values are called; or
-- LACK if nothing is wrong with them.
function _M.encode(what, count, ...)
    local buf
    if spares > 0 then
        buf = spare[spares]
        -- It may not come back.
        spare[spares] = false
        spares = spares - 1
    else
        buf = new_buffer()
    end
    local ok, err
    if count == 1 then
        ok, err = pcall(put_1, buf, (...))
    elseif count == 2 then
        ok, err = pcall(put_2, buf, ...)
    elseif count == 3 then
        ok, err = pcall(put_3, buf, ...)
    else
        ok, err = pcall(put, buf, count, ...)
    end
    if not ok then
        return nil, err == LACK and err or describe(what, err, count, ...)
    end
    return buf
end


-- Makes a buffer, that nobody reads any more, an empty one.
function _M.recycle(buf)
    local _, len = buf:ref()
    if spares < MAX_SPARE and len <= MAX_KEPT then
        buf:reset()
        spares = spares + 1
        spare[spares] = buf
    end
end


-- The number of values in some bytes (a string, or a pointer and a length), the
-- first two, and all in a table if there are more.
local function decode_all(data, len)
    reader:set(data, len)
    local count = reader:decode()
    if count == 0 then
        return 0
    end
    local first = reader:decode()
    if count == 1 then
        return 1, first
    end
    local second = reader:decode()
    if count == 2 then
        return 2, first, second
    end
    local values = { first, second }
    for i = 3, count do
        values[i] = reader:decode()
    end
    return count, first, second, values
end
_M.decode_all = decode_all


-- The values that `decode_all` returned, one by one.
local function spread(count, first, second, values)
    if count == 1 then
        return first
    end
    if count == 2 then
        return first, second
    end
    if count > 2 then
        return unpack(values, 1, count)
    end
end
_M.spread = spread


-- The values in some bytes.
function _M.decode(data, len)
    return spread(decode_all(data, len))
end


-- A table as a string that is equal for equal tables (whose keys are strings
-- and numbers), and only for these.
local function fingerprint(value)
    if type(value) ~= "table" then
        -- tostring makes the same of numbers that differ in the last digits.
        local text = type(value) == "number" and format("%.17g", value)
                     or tostring(value)
        return type(value) .. #text .. ":" .. text
    end
    local parts = {}
    for key, item in pairs(value) do
        parts[#parts + 1] = fingerprint(key) .. "=" .. fingerprint(item)
    end
    table.sort(parts)
    return "{" .. concat(parts, ",") .. "}"
end
_M.fingerprint = fingerprint


-- One value as a string, and back.
_M.pack = buffer.encode
_M.unpack = buffer.decode


-- An error as a string.
local function text_of(err)
    if type(err) == "table" then
        local readable, text = pcall(tostring, err)
        return readable and text or "(an error that is a table)"
    end
    return tostring(err)
end


-- Raises an error with a traceback, as `nil, err` of a worker VM has it: a
-- message handler for xpcall.
function _M.traceback(err)
    -- Not as the argument: what follows a NUL would be cut off.
    return text_of(err) .. traceback("", 2)
end


-- A level of a stack as debug.traceback has it; nil beyond the last.
local function level_of(thread, level)
    local info = getinfo(thread, level, "Snl")
    if not info then
        return nil
    end
    local source = info.short_src
    local where = source .. ":"
    if info.currentline > 0 then
        where = where .. info.currentline .. ":"
    end
    if info.name then
        return format("\n\t%s in function '%s'", where, info.name)
    elseif info.what == "main" then
        return "\n\t" .. where .. " in main chunk"
    end
    return format("\n\t%s in function <%s:%d>", where, source,
                  info.linedefined)
end


-- The innermost levels of a full stack, for which debug.traceback has no room.
local function innermost(thread)
    local lines = { "\nstack traceback:" }
    for level = LEVEL, MAX_LEVELS do
        lines[#lines + 1] = level_of(thread, level)
    end
    lines[#lines + 1] = "\n\t..."
    return concat(lines)
end


-- The same for errors in a thread, a message handler that is called in it.
-- After a stack overflow older LuaJITs have no room left for that, so the
-- handler is a coroutine, which needs none of the thread's.
function _M.traceback_of(thread)
    local function explain(err)
        local text = text_of(err)
        if find(text, "stack overflow", 1, true) then
            return text .. innermost(thread)
        end
        return text .. traceback(thread, "", LEVEL)
    end


    return wrap(function(err)
        while true do
            local done, text = pcall(explain, err)
            err = yield(done and text or "error in error handling")
        end
    end)
end


return _M
