-- Functions of Lua runtimes in the event loop: what on_full = "inline" does if
-- the pool's queue is full. They block the event loop, as they would without
-- this library.

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


-- Init code that has run here, as keys.
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


-- What `pcall` returns, for what xpcall returned.
local function protected(ok, ...)
    if ok then
        return true, ...
    end
    local message = ...
    return false, "runtime error: " .. message, 0, message
end


-- What `call` returns, for what `pcall` returns.
local function plain(ok, ...)
    if ok then
        return ...
    end
    return nil, ...
end


-- Calls a function, or one of the module by its name. Returns what the
-- runtime's `pcall` returns.
local function call(self, func, ...)
    self.inline_calls = self.inline_calls + 1
    return protected(xpcall(invoke, traceback, self, func, ...))
end
_M.pcall = call


-- The same as the runtime's `call`.
function _M.call(self, func, ...)
    return plain(call(self, func, ...))
end


local SHAPES = {
    plain = function(results)
        return plain(unpack(results, 1, results.n))
    end,
    protected = function(results)
        return unpack(results, 1, results.n)
    end,
}


-- A future that is done, for what `pcall` returns.
local function finished(...)
    local waiter = waiting.fresh(0)
    local ok, err = ...
    waiter.done = true
    waiter.res = { n = select("#", ...), ... }
    waiter.err = not ok and err or nil
    waiter.results = SHAPES
    return future.of(waiter)
end


-- The same as a future that is done.
function _M.submit(self, func, ...)
    return finished(call(self, func, ...))
end


-- Forgets the module if it was loaded here, so that it is loaded anew.
function _M.reload(self, modules)
    if package.loaded[self.module] then
        startup.forget(self.module, modules)
    end
end


return _M
