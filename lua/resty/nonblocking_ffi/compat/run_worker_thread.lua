-- ngx.run_worker_thread on our pools: the same arguments, checks, errors and
-- results as lua-nginx-module's.
--
--     require("resty.nonblocking_ffi.compat.run_worker_thread").install()
--
-- What differs: modules are loaded, and results are checked, in the pool
-- thread; there is a VM for every thread, so none is ever missing; and all of
-- `ngx` that VMs of this library have is there.

local ffi = require "ffi"
local nbffi = require "resty.nonblocking_ffi"
local phase = require "resty.nonblocking_ffi.core.phase"
local values = require "resty.nonblocking_ffi.compat.values"

local C = ffi.C
local error = error
local fault = values.fault
local find = string.find
local match = string.match
local ngx = ngx
local pairs = pairs
local pcall = pcall
local PLAIN = values.PLAIN
local rawset = rawset
local refusal = phase.refusal
local select = select
local tostring = tostring
local type = type

-- The end in the VM.
local MODULE = "resty.nonblocking_ffi.compat.vm.run_worker_thread"
-- The size of a pool that only nginx.conf names, as it is of nginx's own
-- "default". What its directive says cannot be asked.
local THREADS = 32
local MAX_QUEUE = 65536
-- There is no limit in the original: longer than any worker lives.
local TIMEOUT = 100 * 365 * 86400


local _M = {}


-- Names of our own for nginx's functions: somebody else may have declared them
-- otherwise.
ffi.cdef[[
typedef struct {
    size_t      len;
    const char *data;
} nbffi_nginx_text;

extern void *nbffi_nginx_cycle __asm__("ngx_cycle");
void *nbffi_nginx_thread_pool(void *cycle, nbffi_nginx_text *name)
    __asm__("ngx_thread_pool_get");
]]


-- Runtimes by the name of their pool.
local runtimes = {}


local function ask_nginx(name)
    local text = ffi.new("nbffi_nginx_text", #name, name)
    return C.nbffi_nginx_thread_pool(C.nbffi_nginx_cycle, text) ~= nil
end


-- Whether nginx.conf has a thread_pool of that name. An nginx that was built
-- without threads has no function to ask.
local function is_known_to_nginx(name)
    local ok, known = pcall(ask_nginx, name)
    return ok and known
end


-- The original's error for a pool that is not there: it takes the name for a C
-- string.
local function not_found(pool)
    return nil, "thread pool " .. match(pool, "^%Z*") .. " not found"
end


-- The runtime for a pool; nil and an error if there is no such pool, or the
-- runtime cannot be loaded.
local function obtain(pool)
    if pool == "" then
        return not_found(pool)
    end
    if is_known_to_nginx(pool) then
        -- If it was declared before it stays as it is.
        nbffi.pool(pool, { threads = THREADS, max_queue = MAX_QUEUE })
    end
    local rt, err = nbffi.load {
        language = "lua",
        module = MODULE,
        pool = pool,
        name = "run_worker_thread " .. pool,
        on_full = "error",
        timeout = TIMEOUT,
    }
    if rt then
        runtimes[pool] = rt
        return rt
    end
    if find(err, "no pool ", 1, true) == 1 then
        return not_found(pool)
    end
    return nil, err
end


-- The original's error for one of ours.
local function failure(err)
    if err == "queue overflow" then
        return "ngx_thread_task_post failed"
    end
    return err
end


-- From what rt:call returned to what run_worker_thread returns.
local function settle(status, ...)
    if status == nil then
        return false, failure((...))
    end
    return status, ...
end


-- The same for a call whose arguments, in `args`, may be to blame.
local function settle_packed(rt, module, func, args, ok, status, ...)
    if ok and status ~= nil then
        return status, ...
    end
    for i = 1, args.n do
        local found = fault(args[i])
        if found then
            -- The original looks at the arguments last.
            local has, err = settle(rt:call("has", module, func))
            if not has then
                return false, err
            end
            return false, found .. " in the argument"
        end
    end
    if not ok then
        error(status, 0)
    end
    return settle(status, ...)
end


-- Calls a function with arguments some of which may be impossible to copy.
-- They go in one table: as it counts, too, for how deep tables may be nested,
-- the limit for each argument is that of the original.
local function call_packed(rt, module, func, args)
    return settle_packed(rt, module, func, args,
                         pcall(rt.call, rt, "run_packed", module, func, args))
end


-- A name as the original takes it: a string, or a number; nil if it is none.
local function name_of(value)
    local kind = type(value)
    if kind == "string" then
        return value
    end
    return kind == "number" and tostring(value) or nil
end


local function call(pool, module, func, ...)
    pool = name_of(pool)
    if not pool then
        return false, "threadpool should be a string"
    end
    local rt = runtimes[pool]
    if not rt then
        local err
        rt, err = obtain(pool)
        if not rt then
            return false, err
        end
    end
    module = name_of(module)
    if not module then
        return false, "module name should be a string"
    end
    func = name_of(func)
    if not func then
        return false, "function name should be a string"
    end

    local count = select("#", ...)
    for i = 1, count do
        if not PLAIN[type((select(i, ...)))] then
            return call_packed(rt, module, func, { n = count, ... })
        end
    end
    return settle(rt:call("run", module, func, ...))
end


-- syntax: ok, res1, res2, ... = run_worker_thread(pool, module, func, ...)
--
-- Calls a function of a Lua module in a pool thread, as ngx.run_worker_thread
-- does, without replacing that. Returns true and the function's results, or
-- false and an error. Raises an error in phases that cannot yield.
--
-- pool    a thread_pool of nginx.conf, one that install was given, or one that
--         was declared with nbffi.pool
-- ...     nil, booleans, numbers, strings, light userdata (ngx.null), and
--         tables of these
function _M.run_worker_thread(...)
    local why = refusal()
    if why then
        error(why, 2)
    end
    if select("#", ...) < 3 then
        return false, "expecting at least 3 arguments"
    end
    return call(...)
end


-- syntax: ok, err = install(options?)
--
-- Replaces ngx.run_worker_thread in this Lua VM; in init_by_lua, in those of
-- all workers. Nothing is started before the first call.
--
-- options
--   pools   by name, sizes of pools as nbffi.pool takes them: threads,
--           max_queue, nice
--
-- Returns true; or nil and an error if a pool was declared before with other
-- sizes. Raises an error for options it does not know.
function _M.install(given)
    given = given or {}
    if type(given) ~= "table" then
        error("install: a table of options expected, got " .. type(given), 2)
    end
    for key in pairs(given) do
        if key ~= "pools" then
            error("install: unknown option " .. tostring(key)
                  .. " (there are: pools)", 2)
        end
    end
    local sizes = given.pools or {}
    if type(sizes) ~= "table" then
        error("install: pools must be a table, got " .. type(sizes), 2)
    end
    for name, size in pairs(sizes) do
        local ok, done, err = pcall(nbffi.pool, name, size)
        if not ok then
            error("install: " .. done, 2)
        end
        if not done then
            return nil, err
        end
    end
    rawset(ngx, "run_worker_thread", _M.run_worker_thread)
    return true
end


return _M
