-- language = "python": a function or an object in Python, in the one CPython of
-- the worker. The language runtime is a plugin, runtimes/python.

local form = require "resty.nonblocking_ffi.languages.fields"
local library = require "resty.nonblocking_ffi.core.library"
local options = require "resty.nonblocking_ffi.core.options"
local pools = require "resty.nonblocking_ffi.core.pool"

local absolute = form.absolute
local add = form.add
local concat = table.concat
local find = string.find
local ipairs = ipairs
local is_text = options.is_text
local type = type

local LIBRARY = "libnonblocking_ffi_python"
local ENTRY = "nbffi_plugin_entry"
-- The pool unless another one is named. It is not "default", where threads that
-- wait for Python's lock would be missing.
local POOL = "python"


-- The plugin takes C strings.
local function is_path(value)
    return is_text(value) and not find(value, "%z")
end


local function is_path_or_list(value)
    if type(value) ~= "table" then
        return is_path(value)
    end
    for _, path in ipairs(value) do
        if not is_path(path) then
            return false
        end
    end
    return #value > 0
end


local function to_config(given)
    local fields = {}
    add(fields, "entry", given.entry)
    add(fields, "config", given.config or "")
    local paths = given.path or {}
    if type(paths) ~= "table" then
        paths = { paths }
    end
    for _, path in ipairs(paths) do
        add(fields, "path", absolute(path))
    end
    if given.venv then
        add(fields, "venv", absolute(given.venv))
    end
    if given.python then
        -- A mere name is one to be found in PATH.
        local is_name = not find(given.python, "/", 1, true)
        add(fields, "python", is_name and given.python
                              or absolute(given.python))
    end
    return concat(fields)
end


-- The name of the pool; nil and an error if it cannot be declared.
local function pool_for(given)
    if given.pool then
        return given.pool
    end
    local threads = given.threads
    if not threads then
        -- If it was declared with other options, these hold.
        pools.declare(POOL)
        return POOL
    end
    local name = POOL .. "-" .. threads
    local ok, err = pools.declare(name, { threads = threads })
    if not ok then
        return nil, err
    end
    return name
end


return {
    options = {
        entry = {
            check = function(value)
                return type(value) == "string"
                       and find(value, "^[^:%s%z]+:[^:%s%z]+$") ~= nil
            end,
            what = [["package.module:function"]],
        },
        path = {
            check = is_path_or_list,
            what = "a folder, or a list of folders",
        },
        venv = { check = is_path, what = "the folder of an environment" },
        python = {
            check = is_path,
            what = "the path of an interpreter or of a libpython",
        },
        threads = options.rule("threads"),
        config = {
            check = function(value)
                return type(value) == "string" and not find(value, "%z")
            end,
            what = "a string without NUL",
        },
    },

    -- What is missing in the options, or does not go together.
    missing = function(given)
        if given.entry == nil then
            return "entry is missing: \"package.module:function\""
        end
        if given.threads and given.pool then
            return "threads and pool exclude each other: a pool has its own "
                   .. "number of threads"
        end
    end,

    -- What load makes a runtime of.
    prepare = function(given)
        local pool, err = pool_for(given)
        if not pool then
            return nil, err
        end
        local path, tried = library.plugin_path(LIBRARY)
        return {
            library = path,
            tried = tried,
            entry = ENTRY,
            config = to_config(given),
            name = given.entry,
            pool = pool,
        }
    end,
}
