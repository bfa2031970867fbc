-- A library that was written for lua-resty-ffi. Only for resty_ffi.lua, which
-- makes the original's results of those of the core.

local base = require "resty.nonblocking_ffi.core.base"
local library = require "resty.nonblocking_ffi.core.library"
local options = require "resty.nonblocking_ffi.core.options"
local runtime = require "resty.nonblocking_ffi.runtime"

local find = string.find
local get = options.get
local is_text = options.is_text
local match = string.match
local sub = string.sub
local text = base.text

-- Bits of nbffi_runtime_new_resty_ffi's flags.
local GLOBAL, FRESH, CONFIGURED = 1, 2, 4


local function is_flag(value)
    return value == true or value == false
end


-- The name for the dynamic linker, as LuaJIT makes it of "demo", "libdemo" or
-- "libdemo.so"; the path that package.cpath has for it, or nil and where that
-- was looked for.
local function locate(lib)
    if find(lib, "/", 1, true) then
        return lib
    end
    local file = lib
    if not find(file, ".", 1, true) then
        file = file .. ".so"
    end
    if sub(file, 1, 3) ~= "lib" then
        file = "lib" .. file
    end
    local path, tried = library.plugin_path((match(file, "^(.*)%.so$") or file))
    if tried then
        return file, nil, tried
    end
    return file, path
end


return {
    options = {
        library = { check = is_text, what = "a non-empty string" },
        config = {
            check = function(value) return type(value) == "string" end,
            what = "a string",
        },
        max_queue = options.rule("max_queue"),
        is_global = { check = is_flag, what = "a boolean" },
        unpin = { check = is_flag, what = "a boolean" },
    },

    -- Makes a runtime, not yet initialised: its pointer and more fields, or nil
    -- and an error.
    make = function(given, name, pool)
        local file, path, tried = locate(given.library)
        local config = given.config
        local flags = (given.is_global and GLOBAL or 0)
                      + (given.unpin and FRESH or 0)
                      + (config and CONFIGURED or 0)
        local ptr = base.C.nbffi_runtime_new_resty_ffi(base.client,
            pool.ptr, text(name), text(file), text(path or ""),
            text(config or ""), flags, given.max_queue,
            get(given, "max_response"), base.error_buffer())
        if ptr == nil then
            return nil, base.error_text()
        end
        return ptr, { tried = tried }
    end,

    class = runtime,

    -- The name of a runtime without the option `name`.
    name = function(given)
        local file = match(given.library, "([^/]+)$") or given.library
        return (file:gsub("%.so$", ""):gsub("^lib", ""))
    end,
}
