-- Plugins written for lua-resty-ffi, unchanged: requiring this module gives
-- nginx the function that they are loaded with.
--
--     require "resty_ffi"
--     local demo = ngx.load_ffi("ffi_go_echo")
--     local ok, res = demo:echo("hello")
--
-- Unlike everything in resty/, it adds to the global table `ngx`, since that is
-- where code written for lua-resty-ffi expects the function.

local base = require "resty.nonblocking_ffi.core.base"
local channel = require "resty.nonblocking_ffi.core.channel"
local language = require "resty.nonblocking_ffi.languages.resty_ffi"
local lifecycle = require "resty.nonblocking_ffi.lifecycle"
local load = require "resty.nonblocking_ffi.load"
local options = require "resty.nonblocking_ffi.core.options"
local phase = require "resty.nonblocking_ffi.core.phase"
local pools = require "resty.nonblocking_ffi.core.pool"
local task = require "resty.nonblocking_ffi.core.task"

local begin_close = lifecycle.begin_close
local call = task.call
local ceil = math.ceil
local error = error
local huge = math.huge
local match = string.match
local max = math.max
local min = math.min
local ngx = ngx
local rawset = rawset
local setmetatable = setmetatable
local sub = string.sub
local tonumber = tonumber
local type = type

local NORMAL = options.PRIORITIES.normal

-- Libraries are initialised by the one thread of this pool: loaders keep what
-- belongs to a thread (JNI's environment) from one initialisation to the next.
local POOL = "resty_ffi"
-- The original's default for max_queue, and the most that it can be.
local MAX_QUEUE = 65536
local MOST = 0x7fffffff
-- The shortest time for a call, in seconds.
local SHORTEST = 0.001
-- The tag of a task that has no request, as opposed to an empty one.
local NO_REQUEST = 1

-- The texts of the original.
local FINISHED = "task queue is finished"
local FULL = "post failed, queue full"
local OVERFLOW = "queue overflow"
local CLOSED = "closed"


local _M = {}


-- By the library and the configuration, as in the original.
local runtimes = {}


-- The results of the core as those of the original: true and the response (nil
-- if there is none), or false, the code, and the plugin's text if it gave one.
-- What the plugin did not do is false and a text.
local function results(res, err, code, message)
    if res then
        if message then
            return true
        end
        return true, res
    end
    if code then
        return false, code, message ~= "" and sub(message, 2) or nil
    end
    if err == OVERFLOW then
        return false, FULL
    end
    if err == CLOSED then
        return false, FINISHED
    end
    return false, err
end


-- syntax: ok, res | rc, err = runtime:any_name(request?)
--
-- Sends a request, a string of any bytes or nil, and waits for the response.
-- Whatever the name is, the request is all that the plugin gets.
--
-- Returns true and the response, or true alone if there is none; if the plugin
-- returned another code than 0, false, the code, and the plugin's text if it
-- gave one. If it was not the plugin's doing, false and an error: "post failed,
-- queue full", "task queue is finished" (unloaded), "timeout" (with the option
-- of that name), "cannot yield in this phase", "response too large",
-- "no memory", "shutting down".
local function post(self, request)
    if self.finished then
        return false, FINISHED
    end
    local tag = 0
    if not request then
        request, tag = "", NO_REQUEST
    elseif type(request) ~= "string" then
        error("request must be a string or nil, got " .. type(request), 2)
    end
    local inner = self[1]
    return results(call(inner, request, request, #request, inner.timeout,
                        NORMAL, tag, 0))
end


-- syntax: runtime:__unload()
--
-- Takes no more calls, and has the plugin told that there are none after those
-- that it has been sent. Does not wait.
local function unload(self)
    if self.finished then
        return
    end
    self.finished = true
    runtimes[self.key] = nil
    local inner = self[1]
    if inner.ptr then
        base.C.nbffi_runtime_finish(inner.ptr)
        begin_close(inner, base.clock() + inner.timeout)
        channel.start()
    end
end


-- Every name is a method; once used it is there.
local _MT = {
    __index = function(self, name)
        rawset(self, name, post)
        return post
    end,
    __call = post,
}


-- An option that is a number of 0 or more, or the default. As in the original,
-- options that it does not know are nobody's mistake.
local function number(opts, name, default)
    local value = opts[name]
    if value == nil then
        return default
    end
    if type(value) ~= "number" or value < 0 or value ~= value then
        error("load_ffi: " .. name .. " must be a non-negative number", 3)
    end
    return value
end


-- syntax: runtime, rc = ngx.load_ffi(lib, cfg?, opts?)
--
-- Loads a library and has it start what serves its runtime, unless that has
-- been done for this library and configuration. Blocks the worker meanwhile,
-- like the original, so that it works in every phase but init_by_lua, and where
-- a module is being required.
--
-- lib    the path of a library, or its name with or without "lib" and ".so";
--        a name is searched by the dynamic linker, then in package.cpath
-- cfg    a string for libffi_init; NULL if nil
-- opts   max_queue   tasks that may wait to be polled, default 65536
--        is_global   whether the library's symbols are for everybody, which
--                    loaders of Python and Node.js need
--        unpin       whether the library is loaded anew when its file has
--                    changed since it was loaded
--        timeout     seconds that a call may take, default: for ever
--
-- Returns the runtime; or nil and what libffi_init returned, if not 0. Raises
-- an error if the library cannot be loaded.
function _M.load_ffi(lib, cfg, opts)
    if type(lib) ~= "string" or lib == "" then
        error("load_ffi: lib must be the name of a library", 2)
    end
    if cfg ~= nil and type(cfg) ~= "string" then
        error("load_ffi: cfg must be a string, got " .. type(cfg), 2)
    end
    opts = opts or {}
    local max_queue = number(opts, "max_queue", MAX_QUEUE)
    local timeout = number(opts, "timeout", huge)
    local key = cfg and lib .. "&" .. cfg or lib
    local self = runtimes[key]
    if self then
        return self
    end
    if phase.is_init() then
        error("load_ffi: not in init_by_lua: threads do not survive the fork of"
              .. " workers; use init_worker_by_lua or later", 2)
    end

    -- As important as nginx, like the threads of the original. Somebody may
    -- have declared it otherwise, who will know why.
    pools.declare(POOL, { threads = 1, nice = 0 })
    local inner, err = load.load({
        library = lib,
        config = cfg,
        pool = POOL,
        timeout = max(timeout, SHORTEST),
        on_full = "error",
        max_queue = min(ceil(max_queue), MOST),
        is_global = not not opts.is_global,
        unpin = not not opts.unpin,
    }, language)
    if not inner then
        local rc = match(err, "^libffi_init returned (-?%d+)")
        if rc then
            return nil, tonumber(rc)
        end
        error("load_ffi: " .. err, 2)
    end
    self = setmetatable({
        inner,
        finished = false,
        key = key,
        __unload = unload,
    }, _MT)
    runtimes[key] = self
    return self
end


ngx.load_ffi = _M.load_ffi -- luacheck: globals ngx.load_ffi


return _M
