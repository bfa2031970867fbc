-- What ngx.run_worker_thread copies from one Lua VM to another, and what it
-- says of the rest. Used on both sides: for arguments in the event loop, for
-- results in the VM that has them. 64-bit integers, which the original refuses
-- and we copy, are no fault here.

local ffi = require "ffi"

local getfenv = debug.getfenv
local istype = ffi.istype
local next = next
local type = type

-- Tables may be nested one less deep than this.
local MAX_DEPTH = 100

local TOO_DEEP = "suspicious circular references, table depth exceed max "
                 .. "depth: " .. MAX_DEPTH
local FAULTS = {
    ["function"] = "unsupported Lua type: LUA_TFUNCTION",
    thread = "unsupported Lua type: LUA_TTHREAD",
}


local _M = {}


-- Types whose values always can be copied.
_M.PLAIN = { ["nil"] = true, boolean = true, number = true, string = true }
local PLAIN = _M.PLAIN


-- Whether it is a light userdata, such as ngx.null: only full ones have an
-- environment.
local function is_light(userdata)
    return getfenv(userdata) == nil
end


-- Why a value cannot be copied, in the words of the original; nil if it can.
-- Looks at keys and values in the same order as the original, so that of
-- several faults both name the same one.
local function fault(value, depth)
    local kind = type(value)
    if PLAIN[kind] then
        return nil
    end
    if kind == "table" then
        if depth == MAX_DEPTH then
            return TOO_DEEP
        end
        for key, field in next, value do
            local found = fault(key, depth + 1) or fault(field, depth + 1)
            if found then
                return found
            end
        end
        return nil
    end
    if kind == "userdata" then
        if is_light(value) then
            return nil
        end
        return "unsupported Lua type: LUA_TUSERDATA"
    end
    if kind == "cdata" and (istype("int64_t", value)
       or istype("uint64_t", value))
    then
        return nil
    end
    return FAULTS[kind] or "unsupported Lua type"
end


-- Why a value, an argument or a result, cannot be copied; nil if it can.
function _M.fault(value)
    return fault(value, 1)
end


return _M
