-- The functions for strings of `ngx` that nginx has in C only: arguments of a
-- URI, quoting for SQL, HMAC.

local bit = require "bit"
local ffi = require "ffi"
local new_tab = require "table.new"

local bxor = bit.bxor
local byte = string.byte
local concat = table.concat
local error = error
local ffi_fill = ffi.fill
local ffi_string = ffi.string
local find = string.find
local format = string.format
local gsub = string.gsub
local pairs = pairs
local sub = string.sub
local tonumber = tonumber
local tostring = tostring
local type = type


local _M = {}


-- How many arguments decode_args takes unless told otherwise.
local MAX_ARGS = 100

local AMPERSAND = byte("&")
local EQUALS = byte("=")

-- Block of SHA-1, in bytes, and the bytes that HMAC mixes the key with.
local BLOCK = 64
local INNER = 0x36
local OUTER = 0x5c

local SQL = {
    ["\0"] = "\\0", ["\b"] = "\\b", ["\n"] = "\\n", ["\r"] = "\\r",
    ["\t"] = "\\t", ["\26"] = "\\Z", ["\\"] = "\\\\", ["'"] = "\\'",
    ['"'] = '\\"',
}


-- Raises an error in the caller of `func`.
local function bad_argument(number, func, expected, got)
    error(format("bad argument #%d to '%s' (%s expected, got %s)", number, func,
                 expected, type(got)), 4)
end


local function check_table(value, number, func)
    if type(value) ~= "table" then
        bad_argument(number, func, "table", value)
    end
end


-- A number, or the text of one.
local function check_number(value, number, func)
    local parsed = tonumber(value)
    if not parsed then
        bad_argument(number, func, "number", value)
    end
    return parsed
end


-- A string, or the text of a number.
local function check_string(value, number, func)
    local kind = type(value)
    if kind == "string" then
        return value
    elseif kind ~= "number" then
        bad_argument(number, func, "string", value)
    end
    return tostring(value)
end


local function install_args(ngx)
    local escape_uri = ngx.escape_uri
    local unescape_uri = ngx.unescape_uri


    -- Appends one "key=value" to `parts`.
    local function put_arg(parts, count, key, value)
        local kind = type(value)
        if kind == "boolean" then
            if not value then
                return count
            end
            parts[count + 1] = key
            return count + 1
        end
        if kind ~= "string" and kind ~= "number" then
            error("attempt to use " .. kind .. " as query arg value", 3)
        end
        parts[count + 1] = key .. "=" .. escape_uri(tostring(value))
        return count + 1
    end


    function ngx.encode_args(args)
        check_table(args, 1, "encode_args")
        local parts, count = {}, 0
        for key, value in pairs(args) do
            if type(key) ~= "string" then
                error("attempt to use a non-string key in the \"args\" option"
                      .. " table", 2)
            end
            key = escape_uri(key)
            if type(value) == "table" then
                for _, item in pairs(value) do
                    count = put_arg(parts, count, key, item)
                end
            else
                count = put_arg(parts, count, key, value)
            end
        end
        return concat(parts, "&")
    end


    -- Adds an argument; the values of one that repeats are a list.
    local function add_arg(args, key, value)
        local old = args[key]
        if old == nil then
            args[key] = value
        elseif type(old) == "table" then
            old[#old + 1] = value
        else
            args[key] = { old, value }
        end
    end


    function ngx.decode_args(text, max)
        text = check_string(text, 1, "decode_args")
        max = max == nil and MAX_ARGS or check_number(max, 2, "decode_args")

        local args = new_tab(0, 4)
        local len = #text
        local from, count = 1, 0
        local equals
        for i = 1, len + 1 do
            local char = byte(text, i)
            if char == EQUALS and not equals then
                equals = i
            elseif char == AMPERSAND or i > len and from <= len then
                local key = unescape_uri(sub(text, from, (equals or i) - 1))
                if key ~= "" then
                    add_arg(args, key, not equals
                                       or unescape_uri(sub(text, equals + 1,
                                                           i - 1)))
                end
                from, equals = i + 1, nil
                count = count + 1
                if char and count == max then
                    return args, "truncated"
                end
            end
        end
        return args
    end
end


local function install_sql(ngx)
    function ngx.quote_sql_str(text)
        text = check_string(text, 1, "quote_sql_str")
        if find(text, "[%z\b\n\r\t\26\\'\"]") then
            text = gsub(text, "[%z\b\n\r\t\26\\'\"]", SQL)
        end
        return "'" .. text .. "'"
    end
end


local function install_hmac(ngx)
    local sha1_bin = ngx.sha1_bin
    local pad = ffi.new("uint8_t[?]", BLOCK)


    -- The key, padded with zeros and mixed with a byte.
    local function padded(key, with)
        ffi_fill(pad, BLOCK, with)
        for i = 1, #key do
            pad[i - 1] = bxor(byte(key, i), with)
        end
        return ffi_string(pad, BLOCK)
    end


    function ngx.hmac_sha1(key, text)
        key = check_string(key, 1, "hmac_sha1")
        text = check_string(text, 2, "hmac_sha1")
        if #key > BLOCK then
            key = sha1_bin(key)
        end
        return sha1_bin(padded(key, OUTER)
                        .. sha1_bin(padded(key, INNER) .. text))
    end
end


-- Adds the functions to `ngx`, which has those of resty.core.uri and
-- resty.core.hash.
function _M.install(ngx)
    install_args(ngx)
    install_sql(ngx)
    install_hmac(ngx)
end


return _M
