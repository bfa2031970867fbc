-- What the `ngx` table of a worker VM needs from the event loop's, collected
-- there, and copied into the VM when it is made.

local ffi = require "ffi"
local errlog = require "ngx.errlog"

local C = ffi.C
local coroutine = coroutine
local find = string.find
local getmetatable = getmetatable
local match = string.match
local pairs = pairs
local pcall = pcall
local rawget = rawget
local tonumber = tonumber
local tostring = tostring
local type = type


local _M = {}


-- What nginx has if it was built without regular expressions.
local DEFAULT_CACHE = 1024

-- Methods of shared dictionaries that nginx has in C only, not as functions
-- for FFI.
local C_METHODS = {
    "lpush", "rpush", "lpop", "rpop", "llen", "get_keys", "flush_expired",
}


if not pcall(ffi.typeof, "nbffi_lua_State") then
    ffi.cdef[[
typedef struct nbffi_lua_State nbffi_lua_State;
void *nbffi_lua_tocfunction(nbffi_lua_State *L, int index)
    __asm__("lua_tocfunction");
    ]]
end


local function address(pointer)
    return tonumber(ffi.cast("uintptr_t", pointer))
end


-- The address of a function written in C, nil for another one. Only the Lua
-- C API knows it, and that wants a state to find the function in. A coroutine
-- is one, with its function on the stack, and its text has the state's address.
local function address_of(func)
    -- nginx-lua keeps LuaJIT's own function in here; its replacement refuses
    -- C functions.
    local create = rawget(coroutine, "_create") or coroutine.create
    local ok, thread = pcall(create, func)
    if not ok then
        return nil
    end
    local state = tonumber(match(tostring(thread), "0x%x+"))
    local pointer = C.nbffi_lua_tocfunction(
                        ffi.cast("nbffi_lua_State *", state), 1)
    if pointer == nil then
        return nil
    end
    return address(pointer)
end


-- The zones of the shared dictionaries by name, and the addresses of C_METHODS.
-- A zone is the address of nginx-lua's userdata, which nginx's VM keeps.
local function shared_dicts()
    local zones, addresses = {}, {}
    for name, dict in pairs(ngx.shared) do
        zones[name] = address(ffi.cast("void *", dict[1]))
        local methods = getmetatable(dict).__index
        for i = 1, #C_METHODS do
            local method = C_METHODS[i]
            local func = methods[method]
            if func and not addresses[method] then
                addresses[method] = address_of(func)
            end
        end
    end
    return zones, addresses
end


-- ngx.OK, ngx.ERR, ngx.HTTP_NOT_FOUND, ...
local function constants()
    local all = {}
    for name, value in pairs(ngx) do
        if type(value) == "number" and type(name) == "string"
           and find(name, "^[A-Z][A-Z0-9_]*$")
        then
            all[name] = value
        end
    end
    return all
end


-- Calls a function of nginx-lua for regular expressions; they may be missing.
local function regex_setting(name)
    local ok, value = pcall(function()
        return C["ngx_" .. ngx.config.subsystem .. "_lua_ffi_" .. name]()
    end)
    return ok and value or nil
end


-- Returns a table of strings, numbers, booleans, tables, and ngx.null:
--
--   prefix, subsystem, debug, nginx_version, nginx_configure, ngx_lua_version
--              as in ngx.config
--   constants  numbers of the ngx table, by name
--   null       ngx.null
--   shared     addresses of the shared dictionaries, by name
--   shared_c   addresses of those of their methods that are only in C, by name
--   log_level  level of nginx's error log; more verbose lines are not wanted
--   regex_cache  patterns that ngx.re keeps (lua_regex_cache_max_entries)
--   pcre2      whether nginx's own ngx.re uses PCRE2
--
-- To be called in init_worker or later.
function _M.collect()
    local config = ngx.config
    local zones, addresses = shared_dicts()
    local version = regex_setting("pcre_version")
    local major = version and tonumber(match(ffi.string(version), "^%d+"))
    return {
        prefix = config.prefix(),
        subsystem = config.subsystem,
        debug = config.debug,
        nginx_version = config.nginx_version,
        nginx_configure = config.nginx_configure(),
        ngx_lua_version = config.ngx_lua_version,
        constants = constants(),
        null = ngx.null,
        shared = zones,
        shared_c = addresses,
        log_level = errlog.get_sys_filter_level(),
        regex_cache = regex_setting("max_regex_cache_size") or DEFAULT_CACHE,
        pcre2 = major ~= nil and major >= 10,
    }
end


return _M
