-- lua-resty-nonblocking-ffi: runs blocking and CPU-heavy work, in any language
-- that can export C functions, off nginx's event loop.
--
--     local nbffi = require "resty.nonblocking_ffi"
--     local rt = assert(nbffi.load { language = "c", library = "libecho.so" })
--     local res, err = rt:call("hello", { timeout = 0.5 })
--
-- Requiring this module does nothing and patches nothing. The parts, in the
-- folder nonblocking_ffi/:
--
--     load.lua       finding or making runtimes
--     runtime.lua    runtimes of plugins: call, pcall, submit, cast
--     lifecycle.lua  methods of all runtimes: with, stats, close
--     future.lua     what submit returns
--     languages/     the options of each language
--     lua/           Lua runtimes, and what they share with their VMs
--     core/          what all languages rest on: tasks, pools, waiting, the
--                    channel to the shared object; requires nothing outside
--     worker.lua     what code in a pool thread's VM can ask
--     vm/            a pool thread's VM: its first code, its `ngx`
--     compat/        drop-ins for other libraries

local ffi = require "ffi"
local base = require "resty.nonblocking_ffi.core.base"
local future = require "resty.nonblocking_ffi.future"
local options = require "resty.nonblocking_ffi.core.options"
local pools = require "resty.nonblocking_ffi.core.pool"
local load = require "resty.nonblocking_ffi.load"


local _M = {
    _VERSION = "0.1.0",
}


-- A function below that only calls another one does so in a tail call: then no
-- frame of this file is between misuse and the line that is blamed for it.


-- syntax: nbffi.setup(options)
--
-- Sets defaults, for load and pool: timeout, max_response, on_full, threads,
-- max_queue, nice; and what has no other place: socket_dirs (where the channel
-- may make its socket for a moment), shutdown_timeout (seconds that an exiting
-- worker gives to tasks that nobody waits for). To be called in init_by_lua,
-- or before the first load. Returns true; raises an error for what it does
-- not know.
function _M.setup(given)
    return options.setup(given)
end


-- syntax: ok, err = nbffi.pool(name, options?)
--
-- Declares a named pool: threads (default: as many as there are cores),
-- max_queue (tasks that may wait while all threads are busy, default 65536),
-- nice (0 to 19, default 10: how much nicer than nginx its threads are, so that
-- the event loop gets a processor when it needs one). Its threads start
-- in each worker when it is first used. A pool named "default" is there
-- without. Returns true, or nil and an error if there is one that differs.
function _M.pool(name, given)
    return pools.declare(name, given)
end


-- syntax: runtime, err = nbffi.load(options)
--
--   language      "c" (a shared object with the plugin ABI), "lua", "python",
--                 "java" or "go"; `runtime` is the old name of this option
--   name          for logs and statistics, default: the library's, the module's
--   pool          the pool that runs it, default "default" (Python: "python")
--   on_full       when the pool's queue is full: "error" (default) or "wait"
--   timeout       seconds that a call may take, default 60
--   max_response  bytes that a response may have, default 256 MiB
--
-- and the options of the language, see languages/.
--
-- Returns the same runtime for the same options within a worker; nil and an
-- error if it cannot be loaded, in init_by_lua, and in phases that cannot
-- yield unless it is loaded already. Raises an error for options it does not
-- know. In init_worker_by_lua it blocks until the plugin is ready.
function _M.load(given)
    return load.load(given)
end


-- syntax: res, ... = nbffi.run(module, func, ...)
--
-- Calls a function of a Lua module on a pool thread: what load, with language =
-- "lua" and that module, and then call do. `module` is a name, or a table
-- { name, timeout = ..., priority = ..., key = ..., pool = ... }.
function _M.run(module, func, ...)
    return load.run(module, func, ...)
end


_M.wait_all = future.wait_all
_M.wait_any = future.wait_any


-- syntax: stats = nbffi.stats()
--
-- What this worker has counted:
--   runtimes     by name, see runtime:stats()
--   pools        by name: threads, max_queue, in_flight, queued, running,
--                wakeups (of threads)
--   channel      wakeups (of the event loop), completions
--   slots        used, allocated
--   log_dropped  log lines of plugins that found no room
function _M.stats()
    local stats = {
        runtimes = load.all_stats(),
        pools = pools.stats(),
        channel = { wakeups = 0, completions = 0 },
        slots = { used = 0, allocated = 0 },
        log_dropped = 0,
    }
    if base.client then
        local counted = ffi.new("nbffi_client_statistics")
        base.C.nbffi_client_stats(base.client, counted)
        stats.channel.wakeups = counted.wakeups
        stats.channel.completions = counted.completions
        stats.slots.used = counted.in_flight
        stats.slots.allocated = counted.slots
        stats.log_dropped = counted.log_dropped
    end
    return stats
end


return _M
