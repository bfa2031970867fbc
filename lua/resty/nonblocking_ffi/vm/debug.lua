-- The debug library of a worker VM: the standard one, which tells the core when
-- a task has changed what later tasks rely on. Such a VM is replaced after the
-- task.
--
--   require("resty.nonblocking_ffi.vm.debug")(frame)
--
-- What changes a VM: a hook that is left, or taken away; other upvalues, locals
-- or environments of the library's functions, which are on the stack below a
-- task's; metatables of all values of a type; the registry. What a module does
-- while it is loaded stays, since every VM that loads it has that: coverage
-- tools set a hook.

-- luacheck: ignore 122

local debug = debug
local setfenv = setfenv

local getinfo = debug.getinfo
local gethook = debug.gethook
local require = require
local select = select
local sub = string.sub
local type = type


-- Where the library's files are, and the name of the code that loads boot.lua.
local FILES = getinfo(1, "S").source:match("^(.*)vm/debug%.lua$")
local LOADER = "=nonblocking_ffi"


local function is_ours(func)
    if type(func) ~= "function" then
        return false
    end
    local source = getinfo(func, "S").source
    return source == LOADER or FILES ~= nil and sub(source, 1, #FILES) == FILES
end


-- Whether the caller is loading a module. This file has the
-- `require` of the standard library; lua-resty-core puts a function in front.
local function is_loading()
    local level = 3
    local info = getinfo(level, "f")
    while info do
        if info.func == require then
            return true
        end
        level = level + 1
        info = getinfo(level, "f")
    end
    return false
end


return function(frame)
    local kept_hook, kept_mask, kept_count = gethook()

    -- Those that change a function.
    local function watch(name, index)
        local change = debug[name]
        debug[name] = function(...)
            if is_ours((select(index, ...))) then
                frame.changed = 1
            end
            return change(...)
        end
    end

    watch("setupvalue", 1)
    watch("upvaluejoin", 1)
    -- Its upvalue is shared with another function afterwards, too.
    watch("upvaluejoin", 3)

    local sethook = debug.sethook
    function debug.sethook(...)
        sethook(...)
        local hook, mask, count = gethook()
        if is_loading() then
            kept_hook, kept_mask, kept_count = hook, mask, count
            frame.keeps_hook = 1
        end
        frame.hooked = (hook ~= kept_hook or mask ~= kept_mask
                       or count ~= kept_count) and 1 or 0
    end

    -- With a thread in front or not; levels are the caller's.
    local setlocal = debug.setlocal
    function debug.setlocal(...)
        local thread, level, index, value = ...
        local info
        if type(thread) == "thread" then
            info = type(level) == "number" and getinfo(thread, level, "f")
        else
            thread, level, index, value = nil, ...
            level = type(level) == "number" and level + 1 or level
            info = type(level) == "number" and getinfo(level, "f")
        end
        if info and is_ours(info.func) then
            frame.changed = 1
        end
        local name
        if thread then
            name = setlocal(thread, level, index, value)
        else
            name = setlocal(level, index, value)
        end
        return name
    end

    -- Level 0 is the thread, of which code gets it that is compiled later.
    local function changes_env(object)
        if object == 0 or type(object) == "thread" or is_ours(object) then
            frame.changed = 1
        end
    end

    local debug_setfenv = debug.setfenv
    function debug.setfenv(object, env)
        changes_env(object)
        return debug_setfenv(object, env)
    end

    function _G.setfenv(object, env)
        if type(object) == "number" and object > 0 then
            local info = getinfo(object + 1, "f")
            object = info and info.func or object + 1
        end
        changes_env(object)
        return setfenv(object, env)
    end

    local setmetatable = debug.setmetatable
    function debug.setmetatable(value, metatable)
        local kind = type(value)
        if kind ~= "table" and kind ~= "userdata" and not is_loading() then
            frame.changed = 1
        end
        return setmetatable(value, metatable)
    end

    local getregistry = debug.getregistry
    function debug.getregistry()
        if not is_loading() then
            frame.changed = 1
        end
        return getregistry()
    end
end
