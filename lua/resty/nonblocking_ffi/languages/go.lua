-- language = "go": a library built with the Go package nonblockingffi. It is a
-- plugin by itself, so all there is to do is to say which of its functions.

local library = require "resty.nonblocking_ffi.core.library"
local options = require "resty.nonblocking_ffi.core.options"
local pools = require "resty.nonblocking_ffi.core.pool"

local concat = table.concat
local is_text = options.is_text
local tostring = tostring
local type = type

-- Its entry as a plugin, for a config made of fields.
local ENTRY = "nbffi_go_entry"


-- A field of the config: "key:length:value\n".
local function field(key, value)
    value = tostring(value)
    return key .. ":" .. #value .. ":" .. value .. "\n"
end


return {
    options = {
        library = { check = is_text, what = "a non-empty string" },
        entry = { check = is_text, what = "the name of a function" },
        config = {
            check = function(value) return type(value) == "string" end,
            what = "a string",
        },
    },

    -- What is missing in the options, if anything is.
    missing = function(given)
        if given.library == nil then
            return "library is missing: the path of a shared object that "
                   .. "go build -buildmode=c-shared made"
        end
    end,

    -- What load makes a runtime of.
    prepare = function(given)
        local path, tried = library.plugin_path(given.library)
        local pool = given.pool or "default"
        local obtained, err = pools.obtain(pool)
        if not obtained then
            return nil, err
        end
        local fields = {
            -- A pool thread runs quick functions itself if the pool has
            -- another one.
            field("pool", pool),
            field("threads", pools.stats()[pool].threads),
            field("config", given.config or ""),
        }
        if given.entry then
            fields[#fields + 1] = field("entry", given.entry)
        end
        local name = given.library:match("([^/]+)$") or given.library
        name = name:gsub("%.so$", ""):gsub("^lib", "")
        return {
            library = path,
            -- Where it was not found, in case the dynamic linker does not
            -- find it either.
            tried = tried,
            entry = ENTRY,
            config = concat(fields),
            name = given.entry or name,
        }
    end,
}
