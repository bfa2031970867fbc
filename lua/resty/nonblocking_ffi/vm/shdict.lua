-- ngx.shared in a worker VM: the same dictionaries as on the event loop.
--
-- Most methods are those of resty.core.shdict: functions of nginx that take the
-- dictionary's lock, copy, and let go, all in C. Lists and keys have no such
-- functions, only ones for the Lua C API, which build Lua values *while they
-- hold the lock*. If that failed, for a VM is limited in its memory, every
-- worker of nginx would wait for the lock for ever. So they are not called in
-- this VM, but in a tiny state beside it that has no limit, and their results
-- are copied from there.
--
-- nginx compares times of expiry with the clock of the event loop, which it
-- looks at once a turn: while the event loop sleeps, that stands still. So
-- before a method runs, an old clock is made new: the event loop is woken.

local ffi = require "ffi"

local _G = _G
local error = error
local ffi_cast = ffi.cast
local ffi_string = ffi.string
local format = string.format
local loadfile = loadfile
local match = string.match
local next = next
local package = package
local pairs = pairs
local select = select
local setfenv = setfenv
local setmetatable = setmetatable
local tonumber = tonumber
local type = type


local _M = {}


ffi.cdef[[
typedef struct nbffi_lua_State nbffi_lua_State;

int nbffi_lua_gettop(nbffi_lua_State *L) __asm__("lua_gettop");
void nbffi_lua_settop(nbffi_lua_State *L, int index) __asm__("lua_settop");
int nbffi_lua_type(nbffi_lua_State *L, int index) __asm__("lua_type");
int nbffi_lua_toboolean(nbffi_lua_State *L, int index)
    __asm__("lua_toboolean");
double nbffi_lua_tonumber(nbffi_lua_State *L, int index)
    __asm__("lua_tonumber");
const char *nbffi_lua_tolstring(nbffi_lua_State *L, int index, size_t *len)
    __asm__("lua_tolstring");
size_t nbffi_lua_objlen(nbffi_lua_State *L, int index) __asm__("lua_objlen");
void nbffi_lua_rawgeti(nbffi_lua_State *L, int index, int n)
    __asm__("lua_rawgeti");
void nbffi_lua_rawseti(nbffi_lua_State *L, int index, int n)
    __asm__("lua_rawseti");
void nbffi_lua_createtable(nbffi_lua_State *L, int array, int records)
    __asm__("lua_createtable");
void nbffi_lua_pushnil(nbffi_lua_State *L) __asm__("lua_pushnil");
void nbffi_lua_pushboolean(nbffi_lua_State *L, int value)
    __asm__("lua_pushboolean");
void nbffi_lua_pushnumber(nbffi_lua_State *L, double value)
    __asm__("lua_pushnumber");
void nbffi_lua_pushlstring(nbffi_lua_State *L, const char *text, size_t len)
    __asm__("lua_pushlstring");
void nbffi_lua_pushlightuserdata(nbffi_lua_State *L, void *pointer)
    __asm__("lua_pushlightuserdata");
void nbffi_lua_pushcclosure(nbffi_lua_State *L, void *func, int upvalues)
    __asm__("lua_pushcclosure");
int nbffi_lua_pcall(nbffi_lua_State *L, int arguments, int results,
    int handler) __asm__("lua_pcall");
int nbffi_lua_gc(nbffi_lua_State *L, int what, int data) __asm__("lua_gc");
]]


local C = ffi.C

local CORE = "resty.core.shdict"

local MULTRET = -1
local GCCOLLECT = 2
-- Results of the Lua C API's lua_type.
local TBOOLEAN, TNUMBER, TSTRING, TTABLE = 1, 3, 4, 5
-- Tables of more values are not left to the small state's collector.
local LARGE = 1024

-- Seconds by which nginx's clock may be behind ...
local OLD = 0.01
-- ... how long it may take an event loop that was woken to look at it, and how
-- long to wait for one that is awake: its clock is that of its present turn.
local WAKING, AWAKE = 0.1, 0.0002
-- How long to sleep between two looks.
local LOOK = 0.00005

local len_ptr = ffi.new("size_t[1]")

-- Our shared object, and the state, which it frees when the VM ends.
local core, scratch_state
-- nginx's clock, in seconds since 1970.
local nginx_now


-- Brings nginx's clock up to date.
local function freshen()
    local seen = nginx_now()
    local behind = core.nbffi_vm_now() - seen
    -- The system's may have been set back.
    if behind < OLD and behind > -OLD then
        return
    end
    local patience = core.nbffi_vm_rouse() and WAKING or AWAKE
    local finish = core.nbffi_vm_monotonic() + patience
    while nginx_now() == seen and core.nbffi_vm_monotonic() < finish do
        core.nbffi_vm_sleep(LOOK)
    end
end


local function small_state()
    if not scratch_state then
        local state = core.nbffi_vm_scratch_state()
        if state == nil then
            error("no memory", 0)
        end
        scratch_state = state
    end
    return scratch_state
end


local function push(state, value)
    local kind = type(value)
    if kind == "string" then
        C.nbffi_lua_pushlstring(state, value, #value)
    elseif kind == "number" then
        C.nbffi_lua_pushnumber(state, value)
    elseif kind == "boolean" then
        C.nbffi_lua_pushboolean(state, value and 1 or 0)
    elseif kind == "nil" then
        C.nbffi_lua_pushnil(state)
    else
        -- No method takes anything else; it will say so.
        C.nbffi_lua_createtable(state, 0, 0)
    end
end


local function pull_string(state, index)
    local text = C.nbffi_lua_tolstring(state, index, len_ptr)
    return ffi_string(text, len_ptr[0])
end


local function pull(state, index)
    local kind = C.nbffi_lua_type(state, index)
    if kind == TSTRING then
        return pull_string(state, index)
    elseif kind == TNUMBER then
        return C.nbffi_lua_tonumber(state, index)
    elseif kind == TBOOLEAN then
        return C.nbffi_lua_toboolean(state, index) ~= 0
    elseif kind == TTABLE then
        local list = {}
        for i = 1, tonumber(C.nbffi_lua_objlen(state, index)) do
            C.nbffi_lua_rawgeti(state, index, i)
            list[i] = pull_string(state, -1)
            C.nbffi_lua_settop(state, -2)
        end
        return list
    end
    return nil
end


-- An error of the method `name`, as it would be in this VM. In the small state
-- it is nobody's method, so its arguments count from the dictionary.
local function text_of_error(text, name)
    local number, rest = match(text, "^bad argument #(%d+) to '%?' (.*)$")
    if not number then
        return text
    end
    return format("bad argument #%d to '%s' %s", number - 1, name, rest)
end


-- Calls a method's C function with a zone and further arguments.
local function call(name, func, zone, ...)
    local state = small_state()
    local count = select("#", ...)
    -- What an error before left.
    C.nbffi_lua_settop(state, 0)
    C.nbffi_lua_pushcclosure(state, func, 0)
    C.nbffi_lua_createtable(state, 1, 0)
    C.nbffi_lua_pushlightuserdata(state, zone)
    C.nbffi_lua_rawseti(state, 2, 1)
    for i = 1, count do
        push(state, (select(i, ...)))
    end
    if C.nbffi_lua_pcall(state, count + 1, MULTRET, 0) ~= 0 then
        -- The caller calls this by a tail call.
        error(text_of_error(pull_string(state, -1), name), 2)
    end

    local top = C.nbffi_lua_gettop(state)
    local first = top > 0 and pull(state, 1)
    if top > 0 and C.nbffi_lua_type(state, 1) == TTABLE and #first > LARGE then
        C.nbffi_lua_settop(state, 0)
        C.nbffi_lua_gc(state, GCCOLLECT, 0)
        return first
    end
    local second = top > 1 and pull(state, 2)
    C.nbffi_lua_settop(state, 0)
    if top == 0 then
        return
    elseif top == 1 then
        return first
    end
    return first, second
end


local function method_of(name, address)
    local func = ffi_cast("void *", ffi_cast("uintptr_t", address))
    return function(dict, ...)
        local zone = type(dict) == "table" and dict[1]
        if type(zone) ~= "cdata" then
            error("bad \"zone\" argument", 2)
        end
        return call(name, func, zone, ...)
    end
end


-- The file of lua-resty-core checks that zones are userdata, and then passes
-- them to functions that take pointers. In a VM, zones are pointers.
local function type_for_core(value)
    local kind = type(value)
    return kind == "cdata" and "userdata" or kind
end


-- Lets the installed file fill the table of methods.
local function load_core()
    local path, tried = package.searchpath(CORE, package.path)
    if not path then
        error("cannot find " .. CORE .. ":" .. tried, 0)
    end
    local chunk, err = loadfile(path)
    if not chunk then
        error(err, 0)
    end
    setfenv(chunk, setmetatable({ type = type_for_core }, { __index = _G }))
    package.loaded[CORE] = chunk(CORE) or true
end


-- The same method, by a clock that is not old. By a tail call: misuse is blamed
-- on the caller.
local function timely(method)
    return function(...)
        freshen()
        return method(...)
    end
end


-- Adds `shared` to `ngx`. `zones` and `addresses`: see env.lua. resty.core.time
-- is loaded, and declares nginx's clock.
function _M.install(ngx, zones, addresses, functions)
    core = functions
    nginx_now = C["ngx_" .. ngx.config.subsystem .. "_lua_ffi_now"]
    local methods = {}
    methods.__index = methods
    local shared = {}
    for name, zone in pairs(zones) do
        zone = ffi_cast("void *", ffi_cast("uintptr_t", zone))
        shared[name] = setmetatable({ zone }, methods)
    end
    ngx.shared = shared
    if not next(shared) then
        return
    end

    load_core()
    for name, address in pairs(addresses) do
        if not methods[name] then
            methods[name] = method_of(name, address)
        end
    end
    for name, method in pairs(methods) do
        if type(method) == "function" then
            methods[name] = timely(method)
        end
    end
end


return _M
