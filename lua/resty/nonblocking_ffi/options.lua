-- Options: what is allowed, and the defaults that setup may change.

local cores -- set by the core

local error = error
local floor = math.floor
local format = string.format
local pairs = pairs
local type = type


local _M = {}


local function is_count(value)
    return type(value) == "number" and value >= 0 and value == floor(value)
           and value <= 0x7fffffff
end


local function is_positive(value)
    return type(value) == "number" and value > 0 and value == value
end


local function is_text(value)
    return type(value) == "string" and value ~= ""
end


local function is_text_list(value)
    if type(value) ~= "table" or #value == 0 then
        return false
    end
    for i = 1, #value do
        if not is_text(value[i]) then
            return false
        end
    end
    return true
end


-- For each option: what holds for its value, and that in words.
local RULES = {
    timeout = { is_positive, "a positive number of seconds" },
    shutdown_timeout = { is_positive, "a positive number of seconds" },
    max_response = { is_positive, "a positive number of bytes" },
    on_full = {
        function(value) return value == "error" or value == "wait" end,
        [["error" or "wait"]],
    },
    threads = {
        function(value)
            return is_count(value) and value >= 1 and value <= 1024
        end,
        "an integer from 1 to 1024",
    },
    max_queue = { is_count, "a non-negative integer" },
    nice = {
        function(value) return is_count(value) and value <= 19 end,
        "an integer from 0 to 19",
    },
    socket_dirs = { is_text_list, "a list of directories" },
    runtime = {
        function(value) return value == "c" end,
        [["c"]],
    },
    name = { is_text, "a non-empty string" },
    library = { is_text, "a non-empty string" },
    entry = { is_text, "a non-empty string" },
    config = {
        function(value) return type(value) == "string" end,
        "a string",
    },
    pool = { is_text, "a non-empty string" },
    priority = {
        function(value)
            return value == "high" or value == "normal" or value == "low"
        end,
        [["high", "normal" or "low"]],
    },
}


-- The defaults; setup changes them.
local defaults = {
    timeout = 60,
    shutdown_timeout = 1,
    max_response = 256 * 1024 * 1024,
    on_full = "error",
    max_queue = 65536,
    nice = 10,
    socket_dirs = { "/dev/shm", "/tmp", "/var/tmp", "/run", "." },
}
_M.defaults = defaults


local function quote(value)
    if type(value) == "string" then
        return format("%q", value)
    end
    return tostring(value)
end


-- Raises an error, for the caller's caller, unless `given` is a table that has
-- only `allowed` options with values that their rules allow.
function _M.check(what, given, allowed, level)
    level = (level or 2) + 1
    if type(given) ~= "table" then
        error(format("%s: a table of options expected, got %s", what,
                     type(given)), level)
    end
    for key, value in pairs(given) do
        if not allowed[key] then
            error(format("%s: unknown option %s", what, quote(key)), level)
        end
        local rule = RULES[key]
        if not rule[1](value) then
            error(format("%s: %s must be %s, got %s", what, key, rule[2],
                         quote(value)), level)
        end
    end
end


local SETUP = {
    timeout = true, shutdown_timeout = true, max_response = true,
    on_full = true, threads = true, max_queue = true, nice = true,
    socket_dirs = true,
}


-- Changes the defaults.
function _M.setup(given)
    _M.check("setup", given, SETUP, 2)
    for key, value in pairs(given) do
        defaults[key] = value
    end
    return true
end


-- The value of an option: given, or the default.
function _M.get(given, key)
    local value = given[key]
    if value == nil then
        value = defaults[key]
    end
    if value == nil and key == "threads" and cores then
        value = cores()
    end
    return value
end


function _M.set_cores(count)
    cores = count
end


return _M
