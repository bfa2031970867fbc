-- What codec.lua needs of LuaJIT's string.buffer, for a LuaJIT that is too old
-- to have it (before 2021; OpenResty before 1.21). Slower, and with bytes of
-- its own: a letter for the type, then the value.
--
--   N T F    nil, true, false
--   0        ngx.null (a light userdata that is NULL)
--   D        a number: 8 bytes, a double
--   I U      a 64-bit integer: 8 bytes
--   S        a string: its length as a double, its bytes
--   { }      a table: keys and values in turns, up to the brace

local ffi = require "ffi"

local byte = string.byte
local concat = table.concat
local copy = ffi.copy
local error = error
local ffi_istype = ffi.istype
local ffi_new = ffi.new
local ffi_string = ffi.string
local next = next
local setmetatable = setmetatable
local sub = string.sub
local type = type

-- As deep as string.buffer goes.
local MAX_DEPTH = 100

local double = ffi_new("double[1]")
local signed = ffi_new("int64_t[1]")
local unsigned = ffi_new("uint64_t[1]")

local OPEN, CLOSE = byte("{"), byte("}")


local _M = {}

-- A buffer: {
--   parts, count  what was put in
--   data          what is read, or `ref` has made of the parts
--   place         of the next byte to be read
-- }
local methods = {}
local _MT = { __index = methods }


function _M.new()
    return setmetatable({ parts = {}, count = 0, data = nil, place = 1 }, _MT)
end


local function put(self, part)
    local count = self.count + 1
    self.parts[count] = part
    self.count = count
end


local function eight_bytes(box)
    return ffi_string(box, 8)
end


local function put_value(self, value, depth)
    local kind = type(value)
    if kind == "string" then
        double[0] = #value
        put(self, "S")
        put(self, eight_bytes(double))
        put(self, value)
    elseif kind == "number" then
        double[0] = value
        put(self, "D")
        put(self, eight_bytes(double))
    elseif kind == "table" then
        if depth > MAX_DEPTH then
            error("too deep to serialize", 0)
        end
        put(self, "{")
        for key, item in next, value do
            put_value(self, key, depth + 1)
            put_value(self, item, depth + 1)
        end
        put(self, "}")
    elseif kind == "nil" then
        put(self, "N")
    elseif kind == "boolean" then
        put(self, value and "T" or "F")
    elseif kind == "userdata" and value == ngx.null then
        put(self, "0")
    elseif kind == "cdata" and ffi_istype("int64_t", value) then
        signed[0] = value
        put(self, "I")
        put(self, eight_bytes(signed))
    elseif kind == "cdata" and ffi_istype("uint64_t", value) then
        unsigned[0] = value
        put(self, "U")
        put(self, eight_bytes(unsigned))
    else
        error("cannot serialize '" .. kind .. "'", 0)
    end
end


function methods:encode(value)
    self.data = nil
    put_value(self, value, 1)
    return self
end


function methods:putcdata(data, len)
    self.data = nil
    put(self, ffi_string(data, len))
    return self
end


function methods:reset()
    for i = 1, self.count do
        self.parts[i] = nil
    end
    self.count, self.data, self.place = 0, nil, 1
    return self
end


-- What was put in: here a string, kept alive by the buffer.
function methods:ref()
    if not self.data then
        self.data = concat(self.parts, "", 1, self.count)
    end
    return self.data, #self.data
end


function methods:set(data, len)
    self:reset()
    self.data = len and ffi_string(data, len) or data
    return self
end


local function take_eight(self, box)
    local place = self.place
    if place + 7 > #self.data then
        error("the data ends too early", 0)
    end
    copy(box, sub(self.data, place, place + 7), 8)
    self.place = place + 8
    return box[0]
end


local take


local function take_table(self)
    local value = {}
    while byte(self.data, self.place) ~= CLOSE do
        local key = take(self)
        value[key] = take(self)
    end
    self.place = self.place + 1
    return value
end


local TAKERS = {
    [byte("N")] = function() return nil end,
    [byte("T")] = function() return true end,
    [byte("F")] = function() return false end,
    [byte("0")] = function() return ngx.null end,
    [byte("D")] = function(self) return take_eight(self, double) end,
    [byte("I")] = function(self) return take_eight(self, signed) end,
    [byte("U")] = function(self) return take_eight(self, unsigned) end,
    [byte("S")] = function(self)
        local len = take_eight(self, double)
        local place = self.place
        self.place = place + len
        return sub(self.data, place, place + len - 1)
    end,
    [OPEN] = take_table,
}


function take(self)
    local place = self.place
    local taker = TAKERS[byte(self.data, place) or 0]
    if not taker then
        error("bad data at byte " .. place, 0)
    end
    self.place = place + 1
    return taker(self)
end


methods.decode = take


-- A value as a string.
function _M.encode(value)
    return (_M.new():encode(value):ref())
end


-- The value in a string.
function _M.decode(data)
    return _M.new():set(data):decode()
end


return _M
