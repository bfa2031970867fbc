-- ngx.log and print, whose lines go to nginx's error log. They look as they do
-- in nginx, "[lua] file.lua:12: func(): text"; the core writes the first word.

local debug = debug
local error = error
local format = string.format
local getmetatable = getmetatable
local match = string.match
local select = select
local concat = table.concat
local tonumber = tonumber
local tostring = tostring
local type = type


local _M = {}


local STDERR = 0
local NOTICE = 6
local DEBUG = 8

-- Levels of the stack from `position` to whoever called log or print.
local CALLER = 4


local function position()
    local info = debug.getinfo(CALLER, "Snl")
    if not info then
        return ""
    end
    local name = match(info.short_src, "[^/\\]*$")
    local line = info.currentline
    if line == 0 then
        line = info.linedefined
    end
    if info.namewhat ~= "" and info.what == "Lua" then
        return format("%s:%d: %s(): ", name, line, info.name)
    end
    return format("%s:%d: ", name, line)
end


-- The text of an argument. `index` is its number among those to be logged.
local function text_of(value, null, func, index)
    local kind = type(value)
    if kind == "string" then
        return value
    end
    if kind == "number" or kind == "boolean" or kind == "nil" then
        return tostring(value)
    end
    if kind == "table" then
        local meta = getmetatable(value)
        local to_string = type(meta) == "table" and meta.__tostring
        if not to_string then
            error(format("bad argument #%d to '%s' (expected table to have "
                         .. "__tostring metamethod)", index, func), 4)
        end
        return tostring(value)
    end
    if value == null then
        return "null"
    end
    error(format("bad argument #%d to '%s' (string, number, boolean, or nil "
                 .. "expected, got %s)", index, func, kind), 4)
end


-- Returns the functions log and print, and one for plain lines:
-- raw_log(level, text).
--
-- `max_level` is the level of nginx's log. `null` is ngx.null.
function _M.new(C, max_level, null)
    local function raw_log(level, text)
        if level <= max_level then
            C.nbffi_vm_log(level, text, #text)
        end
    end


    local function write(level, func, ...)
        local parts = { position() }
        for i = 1, select("#", ...) do
            local value = select(i, ...)
            parts[i + 1] = text_of(value, null, func, i)
        end
        raw_log(level, concat(parts))
    end


    local function log(level, ...)
        local number = tonumber(level)
        if not number then
            error(format("bad argument #1 to 'log' (number expected, got %s)",
                         type(level)), 2)
        end
        if number < STDERR or number > DEBUG then
            error(format("bad argument #1 to 'log' (bad log level: %d)",
                         number), 2)
        end
        if number <= max_level then
            write(number, "log", ...)
        end
    end


    local function print(...)
        if NOTICE <= max_level then
            write(NOTICE, "print", ...)
        end
    end


    return log, print, raw_log
end


return _M
