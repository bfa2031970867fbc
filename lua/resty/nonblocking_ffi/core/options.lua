-- Options: what is allowed, and the defaults that setup may change.

local concat = table.concat
local error = error
local find = string.find
local floor = math.floor
local format = string.format
local next = next
local pairs = pairs
local sort = table.sort
local tostring = tostring
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


local function is_path_list(value)
    if type(value) ~= "table" or #value == 0 then
        return false
    end
    for i = 1, #value do
        if not is_text(value[i]) or find(value[i], "\0", 1, true) then
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
    socket_dirs = { is_path_list, "a list of directories" },
    language = { is_text, "a language" },
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


-- The rule of an option, as languages have it: { check, what }.
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


-- A value as errors show it. A table's address would tell nobody anything.
local function quote(value)
    if type(value) == "string" then
        return format("%q", value)
    end
    return type(value) == "table" and "table" or tostring(value)
end
_M.quote = quote


-- The options that some function takes, for `read`: the names of some of those
-- above, and `more` with rules of their own, by name:
--   check          function(value)
--   what           what it checks, in words
--   none_if_empty  whether an empty list is as good as none
function _M.schema(names, more)
    local schema = { names = {}, rules = {} }
    local function add(name, rule)
        schema.names[#schema.names + 1] = name
        schema.rules[name] = rule
    end
    for i = 1, #names do
        if not (more and more[names[i]]) then
            add(names[i], _M.rule(names[i]))
        end
    end
    for name, rule in pairs(more or {}) do
        add(name, rule)
    end
    sort(schema.names)
    return schema
end


-- The value of an option: of a table, which can only be a list, a copy.
local function value_of(given, name, rule)
    local value = given[name]
    if type(value) ~= "table" then
        return value
    end
    local list = {}
    for i = 1, #value do
        list[i] = value[i]
    end
    if rule.none_if_empty and #list == 0 then
        return nil
    end
    return list
end


-- The options in `given`, as a plain table: what they inherit by a metatable is
-- read like all else, once, and what becomes of `given` later does not matter.
-- Raises an error, for the caller's caller, unless `given` is a table of no
-- other options than those of a schema, with values that their rules allow. If
-- `has_first`, something else is at [1].
function _M.read(what, given, schema, level, has_first)
    level = (level or 2) + 1
    if type(given) ~= "table" then
        error(format("%s: a table of options expected, got %s", what,
                     type(given)), level)
    end
    local names, rules = schema.names, schema.rules
    for key in next, given do
        if not rules[key] and not (has_first and key == 1) then
            error(format("%s: unknown option %s (there are: %s)", what,
                         quote(key), concat(names, ", ")), level)
        end
    end
    local values = {}
    for i = 1, #names do
        local name = names[i]
        local rule = rules[name]
        local value = value_of(given, name, rule)
        if value ~= nil then
            if not rule.check(value) then
                error(format("%s: %s must be %s, got %s", what, name,
                             rule.what, quote(value)), level)
            end
            values[name] = value
        end
    end
    return values
end


local SETUP = _M.schema {
    "timeout", "shutdown_timeout", "max_response", "on_full", "threads",
    "max_queue", "nice", "socket_dirs", "vm_max_memory", "vm_recycle_memory",
    "vm_recycle_tasks",
}


-- Changes the defaults.
function _M.setup(given)
    for name, value in pairs(_M.read("setup", given, SETUP, 2)) do
        defaults[name] = value
    end
    return true
end


-- The value of an option: given, or the default.
function _M.get(given, key)
    local value = given[key]
    if value == nil then
        value = defaults[key]
    end
    return value
end


return _M
