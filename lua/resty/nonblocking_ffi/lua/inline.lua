-- Lua runtimes' functions in the event loop: what on_full = "inline" does when
-- the pool's queue is full. They block the event loop, as they would have
-- without this library.

local codec = require "resty.nonblocking_ffi.lua.codec"
local future = require "resty.nonblocking_ffi.future"
local startup = require "resty.nonblocking_ffi.lua.startup"
local waiting = require "resty.nonblocking_ffi.core.waiter"

local package = package
local require = require
local select = select
local traceback = codec.traceback
local type = type
local unpack = unpack
local xpcall = xpcall


local _M = {}


-- Init code that has been run here.
local ran = {}


local function invoke(self, func, ...)
    local init = self.init
    if init and not ran[init] then
        startup.run(init)
        ran[init] = true
    end
    if type(func) == "function" then
        return func(...)
    end
    return startup.find(require(self.module), self.module, func)(...)
end


local function results(ok, ...)
    if ok then
        return ...
    end
    local message = ...
    return nil, "runtime error: " .. message, 0, message
end


-- Calls a function, or one of the module by its name. Returns what the
-- runtime's `call` does.
function _M.call(self, func, ...)
    self.inline_calls = self.inline_calls + 1
    return results(xpcall(invoke, traceback, self, func, ...))
end


-- A future that is done, of what xpcall has returned.
local function finished(ok, ...)
    local waiter = waiting.fresh(0)
    waiter.done = true
    if ok then
        local count = select("#", ...)
        local values = { ... }
        waiter.unpack = function() return unpack(values, 1, count) end
    else
        waiter.res, waiter.err, waiter.code, waiter.message = results(ok, ...)
    end
    return future.new(waiter)
end


-- The same, as a future that is done.
function _M.submit(self, func, ...)
    self.inline_calls = self.inline_calls + 1
    return finished(xpcall(invoke, traceback, self, func, ...))
end


-- Loads the module anew, if it was loaded here.
function _M.reload(self, modules)
    if package.loaded[self.module] then
        startup.forget(self.module, modules)
    end
end


return _M
