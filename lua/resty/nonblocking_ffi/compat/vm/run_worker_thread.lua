-- The end in the VM of compat/run_worker_thread.lua: finds the function of a
-- module, calls it, and says what became of it as the original would.

local values = require "resty.nonblocking_ffi.compat.values"

local fault = values.fault
local loaded = package.loaded
local next = next
local pcall = pcall
local PLAIN = values.PLAIN
local require = require
local select = select
local tostring = tostring
local type = type
local unpack = unpack

-- What `require` keeps in package.loaded for a module while it loads it, as it
-- does for this one now; and for ever, if that fails.
local LOADING = loaded[...]


local _M = {}


-- An error's text. The original turns what is neither a string nor a number
-- into the empty string.
local function text(err)
    local kind = type(err)
    if kind == "string" then
        return err
    end
    return kind == "number" and tostring(err) or ""
end


-- Lets modules that failed to load be loaded again when they are asked for
-- next. `require` would answer "loop or previous error", for ever.
local function forget_failed()
    for name, module in next, loaded do
        if module == LOADING then
            loaded[name] = nil
        end
    end
end


-- A module's function; nil and an error if there is none.
local function find(name, func)
    local module = loaded[name]
    if type(module) ~= "table" then
        local ok
        ok, module = pcall(require, name)
        if not ok then
            forget_failed()
            return nil, text(module)
        end
        if type(module) ~= "table" then
            return nil, "invalid lua module"
        end
    end
    local found = module[func]
    if type(found) ~= "function" then
        return nil, "invalid function"
    end
    return found
end


-- Results of a function that pcall has called.
local function outcome(ok, ...)
    if not ok then
        return false, text((...))
    end
    for i = 1, select("#", ...) do
        local value = select(i, ...)
        if not PLAIN[type(value)] then
            local err = fault(value)
            if err then
                return false, err .. " in the return value"
            end
        end
    end
    return true, ...
end


-- Calls a module's function: true and its results, or false and an error.
function _M.run(name, func, ...)
    local found, err = find(name, func)
    if not found then
        return false, err
    end
    return outcome(pcall(found, ...))
end


-- The same with the arguments in a table, with their number as `n`.
function _M.run_packed(name, func, args)
    return _M.run(name, func, unpack(args, 1, args.n))
end


-- True if a module has a function; false and an error if not.
function _M.has(name, func)
    local found, err = find(name, func)
    if not found then
        return false, err
    end
    return true
end


return _M
