-- language = "lua": a Lua module, in persistent VMs on the pool's threads.

local ffi = require "ffi"
local base = require "resty.nonblocking_ffi.core.base"
local cdefs = require "resty.nonblocking_ffi.core.cdefs"
local codec = require "resty.nonblocking_ffi.lua.codec"
local env = require "resty.nonblocking_ffi.vm.env"
local lua_runtime = require "resty.nonblocking_ffi.lua.runtime"
local options = require "resty.nonblocking_ffi.core.options"

local ffi_new = ffi.new
local get = options.get
local is_text = options.is_text
local text = base.text


return {
    options = {
        module = { check = is_text, what = "the name of a module" },
        init = { check = is_text, what = "Lua code, or a module's name" },
        vm = { check = is_text, what = "a non-empty string" },
        vm_max_memory = options.rule("vm_max_memory"),
        vm_recycle_memory = options.rule("vm_recycle_memory"),
        vm_recycle_tasks = options.rule("vm_recycle_tasks"),
    },

    -- Makes a runtime, not yet initialised: its pointer, and what
    -- lua_runtime.new needs beside the common fields; or nil and an error.
    make = function(given, name, pool)
        local limits = {
            get(given, "vm_max_memory"), get(given, "vm_recycle_memory"),
            get(given, "vm_recycle_tasks"),
        }
        local boot = codec.pack {
            init = given.init,
            env = env.collect(),
        }
        local fingerprint = codec.fingerprint {
            given.vm or "", given.init or "", limits[1], limits[2], limits[3],
            package.path, package.cpath,
        }
        local handle = ffi_new("nbffi_lua *[1]")
        local module = given.module or ""
        local opts = ffi_new("nbffi_lua_options", {
            module = text(module),
            group = text(fingerprint),
            package_path = text(package.path),
            package_cpath = text(package.cpath),
            core = text(base.path),
            boot = text(boot),
            max_response = get(given, "max_response"),
            max_memory = limits[1],
            recycle_memory = limits[2],
            recycle_tasks = limits[3],
            init_timeout = get(given, "timeout"),
        })
        local ptr = base.C.nbffi_runtime_new_lua(base.client, pool.ptr,
            text(name), opts, handle)
        if ptr == nil then
            return nil, base.texts[cdefs.NO_MEMORY]
        end
        return ptr, {
            handle = handle[0],
            module = given.module,
            init = given.init,
            inline = get(given, "on_full") == "inline",
        }
    end,

    -- The class of what load returns.
    class = lua_runtime,

    -- The name of a runtime without the option `name`.
    name = function(given)
        return given.module or "lua"
    end,
}
