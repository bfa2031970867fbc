-- language = "java": a method of a Java class, in the one JVM of the worker.
-- The language runtime is a plugin, runtimes/java.

local form = require "resty.nonblocking_ffi.languages.fields"
local library = require "resty.nonblocking_ffi.core.library"
local options = require "resty.nonblocking_ffi.core.options"

local absolute = form.absolute
local add = form.add
local concat = table.concat
local find = string.find
local gmatch = string.gmatch
local ipairs = ipairs
local is_text = options.is_text
local match = string.match
local tostring = tostring
local type = type

local LIBRARY = "libnonblocking_ffi_java"
local ENTRY = "nbffi_plugin_entry"


-- The plugin takes C strings.
local function is_plain(value)
    return is_text(value) and not find(value, "%z")
end


local function is_plain_list(value)
    if type(value) ~= "table" or #value == 0 then
        return false
    end
    for _, text in ipairs(value) do
        if not is_plain(text) then
            return false
        end
    end
    return true
end


local function is_boolean(value)
    return type(value) == "boolean"
end


-- "com.acme.Echo#call", or a class alone. Java's names may have letters of any
-- language.
local function is_entry(value)
    return is_plain(value)
           and find(value, "^[^%s#/.]+[^%s#/]*#[^%s#/.]+$") ~= nil
           or is_plain(value) and find(value, "^[^%s#/.]+[^%s#/]*$") ~= nil
end


-- A list may have folders with a colon in their names.
local function places(class_path)
    if type(class_path) == "table" then
        return class_path
    end
    local list = {}
    for place in gmatch(class_path, "[^:]+") do
        list[#list + 1] = place
    end
    return list
end


local function to_config(given)
    local fields = {}
    add(fields, "entry", given.entry)
    add(fields, "config", given.config or "")
    for _, place in ipairs(places(given.class_path)) do
        add(fields, "class_path", absolute(place))
    end
    for _, argument in ipairs(given.jvm_args or {}) do
        add(fields, "jvm_args", argument)
    end
    if given.java_home then
        add(fields, "java_home", absolute(given.java_home))
    end
    if given.interrupt ~= nil then
        add(fields, "interrupt", tostring(given.interrupt))
    end
    if given.virtual_threads then
        add(fields, "virtual_threads", "true")
    end
    return concat(fields)
end


return {
    options = {
        class_path = {
            check = function(value)
                return is_plain_list(value)
                       or is_plain(value) and find(value, "[^:]") ~= nil
            end,
            what = "jars and folders, with \":\" between them or as a list",
        },
        entry = { check = is_entry, what = [["package.Class#method"]] },
        jvm_args = {
            check = is_plain_list,
            what = "a list of the JVM's arguments",
            none_if_empty = true,
        },
        java_home = { check = is_plain, what = "the folder of a Java" },
        interrupt = { check = is_boolean, what = "a boolean" },
        virtual_threads = { check = is_boolean, what = "a boolean" },
        config = {
            check = function(value)
                return type(value) == "string" and not find(value, "%z")
            end,
            what = "a string without NUL",
        },
    },

    -- What is missing in the options, if anything is.
    missing = function(given)
        if given.class_path == nil then
            return "class_path is missing: jars and folders with classes"
        end
        if given.entry == nil then
            return "entry is missing: \"package.Class#method\""
        end
    end,

    -- What load makes a runtime of.
    prepare = function(given)
        local path, tried = library.plugin_path(LIBRARY)
        return {
            library = path,
            -- Where it was not found, in case the dynamic linker does not
            -- find it either.
            tried = tried,
            entry = ENTRY,
            config = to_config(given),
            -- The class without its package.
            name = match(given.entry, "([^.#]+)#")
                   or match(given.entry, "([^.]+)$"),
        }
    end,
}
