-- The end in the VM of compat/threadpool.lua: runs a pool's init code once,
-- and its process code for each task.
--
-- With on_full = "inline" the event loop's VM is one of them: it gets the code
-- when the pool is defined, and runs init before its first task.

local error = error
local loadstring = loadstring
local select = select
local type = type
local unpack = unpack


local _M = {}


-- By the pool's name: {
--   init     = the init code, compiled, until it has run
--   process  = the process code, compiled
--   handler  = what is called for each task: the function that the process
--              code returned when it was first run, or else that code itself
-- }
local definitions = {}


local function compile(code, where, name)
    local chunk, err = loadstring(code, "=" .. where .. "(" .. name .. ")")
    if not chunk then
        error(err, 0)
    end
    return chunk
end


-- Compiles a pool's code: init, which may be nil, and process. Nothing is run
-- yet. Raises an error if it is no Lua code.
function _M.define(name, init, process)
    definitions[name] = {
        init = init and compile(init, "thread_pool_init_by_lua", name),
        process = compile(process, "thread_pool_process_by_lua", name),
    }
end


-- Runs a pool's init code, once.
local function prepare(pool)
    if pool.init then
        pool.init()
        pool.init = nil
    end
end


-- Defines a pool and runs its init code: first of all, in each of its VMs.
function _M.start(name, init, process)
    _M.define(name, init, process)
    prepare(definitions[name])
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
    local pool = definitions[name]
    local handler = pool.handler
    if handler then
        return handler(...)
    end
    prepare(pool)
    return begin(pool, { ... }, select("#", ...), pool.process(...))
end


return _M
