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
--   PIECES  large results: see pieces.lua

local ffi = require "ffi"

local found, buffer = pcall(require, "string.buffer")
if not found then
    buffer = require "resty.nonblocking_ffi.buffer"
end

local concat = table.concat
local ffi_istype = ffi.istype
local find = string.find
local format = string.format
local new_buffer = buffer.new
local next = next
local pairs = pairs
local pcall = pcall
local select = select
local tostring = tostring
local type = type
local unpack = unpack

-- What LuaJIT raises when it has no memory.
local LACK = "not enough memory"
-- string.buffer goes no deeper.
local MAX_DEPTH = 100
-- A buffer that has grown beyond is not kept.
local MAX_KEPT = 1048576
local MAX_SPARE = 1024


local _M = {
    STRING = 0,
    VALUES = 1,
    PIECES = 2,
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
-- first two, and all in a table if there are more. No tail calls of `decode`:
-- LuaJIT would not compile a function that ends in one.
local function decode(data, len)
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


-- The values in some bytes; `failed` of the error if that raises one.
function _M.decode_or(failed, data, len)
    local ok, count, first, second, values = pcall(decode, data, len)
    if not ok then
        return failed(count)
    end
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


-- The same, where errors may be raised.
function _M.decode(data, len)
    local count, first, second, values = decode(data, len)
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


-- A table as a string that is equal for equal tables (whose keys are strings
-- and numbers), and only for these.
local function fingerprint(value)
    if type(value) ~= "table" then
        local text = tostring(value)
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


-- Raises an error with a traceback, as `nil, err` of a worker VM has it: a
-- message handler for xpcall.
function _M.traceback(err)
    if type(err) == "table" then
        local readable, text = pcall(tostring, err)
        err = readable and text or "(an error that is a table)"
    end
    -- Not as the argument: what follows a NUL would be cut off.
    return tostring(err) .. debug.traceback("", 2)
end


return _M
