-- The end in the VM of compat/threadpool.lua: runs a pool's init code once,
-- and its process code for each task. With on_full = "inline" the event loop's
-- VM is one of them.

local error = error
local loadstring = loadstring
local select = select
local type = type
local unpack = unpack


local _M = {}


-- By the pool's name: {
--   process  = the process code, compiled
--   handler  = what is called for each task: the function that the process
--              code returned when it was first run, or else that code itself
-- }
local pools = {}


local function compile(code, where, name)
    local chunk, err = loadstring(code, "=" .. where .. "(" .. name .. ")")
    if not chunk then
        error(err, 0)
    end
    return chunk
end


-- Compiles a pool's code: init, if there is any, and process. Raises an error
-- if one of them is no Lua code.
local function compile_both(name, init, process)
    return init and compile(init, "thread_pool_init_by_lua", name),
           compile(process, "thread_pool_process_by_lua", name)
end
_M.compile = compile_both


-- Runs a pool's init code, once for each VM, and readies its process code.
function _M.start(name, init, process)
    init, process = compile_both(name, init, process)
    if init then
        init()
    end
    pools[name] = { process = process }
end


-- Results of the first run of the process code. One function means that the
-- code was there to make it, and that is the one to call.
local function begin(pool, args, count, ...)
    local made = ...
    if select("#", ...) ~= 1 or type(made) ~= "function" then
        pool.handler = pool.process
        return ...
    end
    pool.handler = made
    return made(unpack(args, 1, count))
end


-- Runs a task.
function _M.process(name, ...)
    local pool = pools[name]
    local handler = pool.handler
    if handler then
        return handler(...)
    end
    return begin(pool, { ... }, select("#", ...), pool.process(...))
end


return _M
