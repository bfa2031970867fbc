-- Pools that do one thing each, as in Cloudflare's resty.threadpool: code that
-- runs once in each of their threads, and code that runs for each task.
--
--     local tp = require "resty.nonblocking_ffi.compat.threadpool"
--     tp.define("upper", { threads = 1, process = "return (...):upper()" })
--     tp.install()
--
--     local tp = require "resty.threadpool"
--     ngx.say(assert(tp.upper:push_task("foo")))   --> FOO
--
-- The pools are fields of this table, beside its two functions.

local nbffi = require "resty.nonblocking_ffi"
local options = require "resty.nonblocking_ffi.core.options"
local phase = require "resty.nonblocking_ffi.core.phase"
local vm = require "resty.nonblocking_ffi.compat.vm.threadpool"

local error = error
local format = string.format
local getmetatable = getmetatable
local loaded = package.loaded
local pairs = pairs
local pcall = pcall
local setmetatable = setmetatable
local type = type
local unpack = unpack

-- The end in the VM.
local MODULE = "resty.nonblocking_ffi.compat.vm.threadpool"
local INSTALLED = "resty.threadpool"

-- Options that are for the pool, and options that are for the runtime.
local POOL = { "threads", "max_queue", "nice" }
local RUNTIME = {
    "timeout", "on_full", "max_response", "vm_max_memory",
    "vm_recycle_memory", "vm_recycle_tasks",
}


-- `check` looks at these two.
local function is_anything()
    return true
end


local NAMES = { unpack(POOL) }
for i = 1, #RUNTIME do
    NAMES[#NAMES + 1] = RUNTIME[i]
end
local OPTIONS = options.schema(NAMES, {
    process = { check = is_anything },
    init = { check = is_anything },
})


local _M = {}

-- The methods of pools.
local Pool = {}
local Pool_MT = { __index = Pool }


-- Adds those of some options that have a name of a list to a table.
local function some(given, names, to)
    for i = 1, #names do
        to[names[i]] = given[names[i]]
    end
    return to
end


-- Loads a pool's runtime, which starts its threads. Returns it, or nil and an
-- error.
local function load(self)
    local given = self.given
    local name = self.name
    local settings = {
        language = "lua",
        module = MODULE,
        name = "threadpool " .. name,
        pool = name,
        init = format("require(%q).start(%q, %s, %q)", MODULE, name,
                      given.init and format("%q", given.init) or "nil",
                      given.process),
    }
    local rt, err = nbffi.load(some(given, RUNTIME, settings))
    self.runtime = rt
    return rt, err
end


-- syntax: res1, res2, ... = tp.<pool>:push_task(arg, ...)
--
-- Runs the pool's process code in one of its threads and waits for it, without
-- blocking the event loop.
--
-- Arguments are what the code gets as `...`: nil, booleans, numbers, strings,
-- ngx.null, 64-bit integers, and tables of these. So are its results, which
-- push_task returns. Or nil and an error, as runtime:call: "queue overflow",
-- "timeout", "runtime error: ...", "cannot yield in this phase", ...
function Pool:push_task(...)
    if getmetatable(self) ~= Pool_MT then
        error("not a thread pool: call push_task with a colon", 2)
    end
    local rt = self.runtime
    if not rt then
        local err
        rt, err = load(self)
        if not rt then
            return nil, err
        end
    end
    return rt:call("process", self.name, ...)
end


-- Whether two tables of options say the same.
local function is_same(one, other)
    for key, value in pairs(one) do
        if other[key] ~= value then
            return false
        end
    end
    for key in pairs(other) do
        if one[key] == nil then
            return false
        end
    end
    return true
end


-- The options of a pool. Raises an error, for the caller of define, unless its
-- arguments are right.
local function check(name, given)
    if type(name) ~= "string" or name == "" then
        error("define: name must be a non-empty string", 3)
    end
    if type(_M[name]) == "function" then
        error("define: no pool can be named \"" .. name .. "\"", 3)
    end
    given = options.read("define", given, OPTIONS, 3)
    local process, init = given.process, given.init
    if type(process) ~= "string" then
        error("define: process must be Lua code, got " .. type(process), 3)
    end
    if init ~= nil and type(init) ~= "string" then
        error("define: init must be Lua code, got " .. type(init), 3)
    end
    return given
end


-- syntax: ok, err = define(name, options)
--
-- Makes a pool, and the field `name` of this table.
--
--   process    Lua code that is run for each task and gets its arguments as
--              `...`. If it returns one function when it is first run in a
--              thread, that is called instead, for this task and all others.
--   init       Lua code that is run once in each thread, before any task
--   threads, max_queue, nice
--              as for nbffi.pool
--   timeout, on_full, max_response, vm_max_memory, vm_recycle_memory,
--   vm_recycle_tasks
--              as for nbffi.load; on_full = "inline" runs a task in the event
--              loop when the queue is full
--
-- In init_worker_by_lua the threads are started at once, elsewhere with the
-- first task. Returns true, also if the pool was defined before with the same
-- options; or nil and an error, if the code does not compile, the pool exists
-- with other options, or init fails in init_worker_by_lua. Raises an error for
-- options it does not know.
function _M.define(name, given)
    given = check(name, given)
    local self = _M[name]
    if self then
        if not is_same(self.given, given) then
            return nil, "thread pool \"" .. name .. "\" is defined already, "
                        .. "with other options"
        end
    else
        local ok, err = pcall(vm.compile, name, given.init, given.process)
        if not ok then
            return nil, err
        end
        ok, err = nbffi.pool(name, some(given, POOL, {}))
        if not ok then
            return nil, err
        end
        self = setmetatable({ name = name, given = given }, Pool_MT)
        _M[name] = self
    end
    if phase.is_init_worker() and not self.runtime then
        local rt, err = load(self)
        if not rt then
            return nil, err
        end
    end
    return true
end


-- syntax: ok, err = install()
--
-- Lets `require "resty.threadpool"` find this table. Returns true; or nil and
-- an error if another module of that name is loaded.
function _M.install()
    local there = loaded[INSTALLED]
    if there and there ~= _M then
        return nil, "another " .. INSTALLED .. " is loaded already"
    end
    loaded[INSTALLED] = _M
    return true
end


return _M
