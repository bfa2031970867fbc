-- The `ngx` table of a worker VM: what of nginx-lua's makes sense off the event
-- loop.
--
--   require("resty.nonblocking_ffi.vm.ngx")(env, C)
--
-- sets the globals `ngx`, `ndk` and `print` of a fresh VM and returns `ngx`.
-- `env` is what vm/env.lua collected on the event loop; `C` is our shared
-- object. package.path is nginx's: files of lua-resty-core whose C functions
-- only compute, or lock what they share, are used as they are.

local args = require "resty.nonblocking_ffi.vm.args"
local log = require "resty.nonblocking_ffi.vm.log"
local re = require "resty.nonblocking_ffi.vm.re"
local shdict = require "resty.nonblocking_ffi.vm.shdict"
local split = require "resty.nonblocking_ffi.vm.split"
local time = require "resty.nonblocking_ffi.vm.time"
local unavailable = require "resty.nonblocking_ffi.vm.unavailable"
require "resty.nonblocking_ffi.vm.cdefs"

local ipairs = ipairs
local package = package
local pairs = pairs
local require = require


-- What ngx.get_phase says in a worker VM.
local PHASE = "worker_thread"

-- Files that call functions of nginx which only compute: they write to what
-- their caller gives them. resty.core.worker reads what does not change while
-- a worker lives, and whether it is exiting.
local CORE = {
    "resty.core.base", "resty.core.uri", "resty.core.hash",
    "resty.core.base64", "resty.core.time", "resty.core.worker",
}


local function install_config(ngx, env)
    ngx.config = {
        subsystem = env.subsystem,
        debug = env.debug,
        nginx_version = env.nginx_version,
        ngx_lua_version = env.ngx_lua_version,
        prefix = function()
            return env.prefix
        end,
        nginx_configure = function()
            return env.nginx_configure
        end,
    }
    for name, value in pairs(env.constants) do
        ngx[name] = value
    end
    ngx.null = env.null
end


-- The library that reads the level of the log, and writes lines as they are.
local function errlog(env, raw_log)
    return {
        get_sys_filter_level = function()
            return env.log_level
        end,
        raw_log = function(level, text)
            raw_log(level, text)
        end,
    }
end


return function(env, C)
    -- Files of lua-resty-core find them there.
    local ngx = { worker = {} }
    local ndk = {}
    _G.ngx = ngx
    _G.ndk = ndk
    package.loaded.ngx = ngx
    package.loaded.ndk = ndk

    install_config(ngx, env)
    local raw_log
    ngx.log, _G.print, raw_log = log.new(C, env.log_level, env.null)
    package.loaded["ngx.errlog"] = errlog(env, raw_log)

    function ngx.get_phase()
        return PHASE
    end


    unavailable.guard_modules()
    for _, name in ipairs(CORE) do
        require(name)
    end
    time.install(ngx, C)
    args.install(ngx)
    shdict.install(ngx, env.shared, env.shared_c, C)
    local inner
    ngx.re, inner = re.new(C, env, function(text)
        raw_log(ngx.ERR, text)
    end)
    package.loaded["ngx.re"] = split.new(C, inner)
    unavailable.install(ngx, ndk)
    return ngx
end
