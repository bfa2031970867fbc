-- Coroutines of a worker VM, which may be nested only so deep.
--
-- LuaJIT takes some of the thread's C stack for each coroutine that another one
-- resumes, and looks at its end nowhere: code that nests them without end would
-- kill the worker. (In nginx's own VM they are not nested: nginx-lua runs them
-- all.) Here that is an error, as it is in plain Lua, which goes less deep.

-- luacheck: ignore 122

local create = coroutine.create
local error = error
local resume = coroutine.resume
local type = type

-- So deep. Each has 10 KB of the stack: C functions may be between them, of
-- which string.gsub takes most.
local DEEPEST = 800
local TOO_DEEP = "C stack overflow"


-- How deep the code that runs is.
local depth = 0


-- Passes results on, at the depth to which they return.
local function back(before, ...)
    depth = before
    return ...
end


-- The same for what `wrap` gives: an error is raised, for its caller.
local function back_or_raise(before, ok, ...)
    depth = before
    if ok then
        return ...
    end
    local err = ...
    error(err, 2)
end


function coroutine.resume(thread, ...)
    if type(thread) ~= "thread" then
        error("bad argument #1 to 'resume' (coroutine expected)", 2)
    end
    local before = depth
    if before >= DEEPEST then
        return false, TOO_DEEP
    end
    depth = before + 1
    return back(before, resume(thread, ...))
end


function coroutine.wrap(func)
    if type(func) ~= "function" then
        error("bad argument #1 to 'wrap' (function expected, got "
              .. type(func) .. ")", 2)
    end
    local thread = create(func)
    return function(...)
        local before = depth
        if before >= DEEPEST then
            error(TOO_DEEP, 2)
        end
        depth = before + 1
        return back_or_raise(before, resume(thread, ...))
    end
end
