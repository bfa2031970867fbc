-- language = "c": a shared object with the plugin ABI.

local library = require "resty.nonblocking_ffi.core.library"
local options = require "resty.nonblocking_ffi.core.options"

local is_text = options.is_text


return {
    options = {
        library = { check = is_text, what = "a non-empty string" },
        entry = { check = is_text, what = "a non-empty string" },
        config = {
            check = function(value) return type(value) == "string" end,
            what = "a string",
        },
    },

    -- What is missing in the options, if anything is.
    missing = function(given)
        if given.library == nil then
            return "library is missing: the path of a shared object"
        end
    end,

    -- What load makes a runtime of.
    prepare = function(given)
        local path, tried = library.plugin_path(given.library)
        local name = given.library:match("([^/]+)$") or given.library
        return {
            library = path,
            -- Where it was not found, in case the dynamic linker does not
            -- find it either.
            tried = tried,
            entry = given.entry or "nbffi_plugin_entry",
            config = given.config or "",
            name = name:gsub("%.so$", ""):gsub("^lib", ""),
        }
    end,
}
