-- Options: what is allowed, and the defaults that setup may change.

local cores -- set by the core

local error = error
local floor = math.floor
local format = string.format
local pairs = pairs
local type = type


local _M = {
    -- The numbers of priorities in the shared object.
    PRIORITIES = { high = 0, normal = 1, low = 2 },
}


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
        function(value)
            return value == "error" or value == "wait" or value == "inline"
        end,
        [["error", "wait" or "inline"]],
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
    runtime = { is_text, "a language" },
    name = { is_text, "a non-empty string" },
    pool = { is_text, "a non-empty string" },
    priority = {
        function(value) return _M.PRIORITIES[value] ~= nil end,
        [["high", "normal" or "low"]],
    },
    vm_max_memory = {
        function(value) return is_positive(value) and value >= 1048576 end,
        "a number of bytes, at least 1 MiB",
    },
    vm_recycle_memory = { is_positive, "a positive number of bytes" },
    vm_recycle_tasks = { is_positive, "a positive number of tasks" },
    key = { is_text, "a non-empty string" },
}


-- The rule of an option, as hosts have it: { check, what }.
function _M.rule(key)
    return { check = RULES[key][1], what = RULES[key][2] }
end


_M.is_text = is_text


-- The defaults; setup changes them.
local defaults = {
    timeout = 60,
    shutdown_timeout = 1,
    max_response = 256 * 1024 * 1024,
    on_full = "error",
    max_queue = 65536,
    nice = 10,
    vm_max_memory = 512 * 1024 * 1024,
    vm_recycle_memory = math.huge,
    vm_recycle_tasks = math.huge,
    socket_dirs = { "/dev/shm", "/tmp", "/var/tmp", "/run", "." },
}
_M.defaults = defaults


local function quote(value)
    if type(value) == "string" then
        return format("%q", value)
    end
    return tostring(value)
end
_M.quote = quote


-- Raises an error, for the caller's caller, unless `given` is a table that has
-- only `allowed` options with values that their rules allow. `more` are options
-- with rules of their own: { check = function(value), what = "in words" }.
function _M.check(what, given, allowed, level, more)
    level = (level or 2) + 1
    if type(given) ~= "table" then
        error(format("%s: a table of options expected, got %s", what,
                     type(given)), level)
    end
    for key, value in pairs(given) do
        local check, words
        if more and more[key] then
            check, words = more[key].check, more[key].what
        elseif allowed[key] then
            check, words = RULES[key][1], RULES[key][2]
        else
            error(format("%s: unknown option %s", what, quote(key)), level)
        end
        if not check(value) then
            error(format("%s: %s must be %s, got %s", what, key, words,
                         quote(value)), level)
        end
    end
end


local SETUP = {
    timeout = true, shutdown_timeout = true, max_response = true,
    on_full = true, threads = true, max_queue = true, nice = true,
    socket_dirs = true, vm_max_memory = true, vm_recycle_memory = true,
    vm_recycle_tasks = true,
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
