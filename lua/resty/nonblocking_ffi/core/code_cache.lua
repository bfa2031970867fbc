-- Whether `lua_code_cache` is off where this runs: then the Lua VM was made for
-- one request, and lives until that and its timers are gone.
--
-- nginx-lua tells nobody, so its VM for the whole worker is compared with this
-- one, by their registries. These first members of nginx's and nginx-lua's
-- structures have not changed since there are dynamic modules.

local ffi = require "ffi"

local C = ffi.C
local debug = debug
local format = string.format
local match = string.match
local ngx = ngx
local pcall = pcall
local tostring = tostring

local LUA_REGISTRYINDEX = -10000


ffi.cdef[[
typedef struct {
    uintptr_t ctx_index;
    uintptr_t index;
} nbffi_nginx_module;

extern nbffi_nginx_module nbffi_nginx_http __asm__("ngx_http_module");
extern nbffi_nginx_module nbffi_nginx_http_lua __asm__("ngx_http_lua_module");
extern nbffi_nginx_module nbffi_nginx_stream __asm__("ngx_stream_module");
extern nbffi_nginx_module nbffi_nginx_stream_lua
    __asm__("ngx_stream_lua_module");
/* cycle -> conf_ctx[index] -> main_conf[ctx_index] -> lua */
extern void ******nbffi_nginx_cycle __asm__("ngx_cycle");
const void *nbffi_lua_topointer(void *vm, int index) __asm__("lua_topointer");
]]


local _M = {}


-- The address in what `tostring` or "%p" says.
local function address(text)
    return match(text, "0x0*(%x+)")
end


local function is_own_vm()
    local system = "nbffi_nginx_" .. ngx.config.subsystem
    local index = C[system].index
    local main = C.nbffi_nginx_cycle[0][index][0][C[system .. "_lua"].ctx_index]
    local worker_vm = main ~= nil and main[0] or nil
    if worker_vm == nil then
        return false
    end
    local registry = C.nbffi_lua_topointer(worker_vm, LUA_REGISTRYINDEX)
    return address(tostring(registry))
           ~= address(format("%p", debug.getregistry()))
end


-- False as well if it cannot be found out.
function _M.is_off()
    local known, own = pcall(is_own_vm)
    return known and own
end


return _M
