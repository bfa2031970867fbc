-- The class of Lua runtimes: a module's functions, run in VMs of pool threads.

local ffi = require "ffi"
local cdefs = require "resty.nonblocking_ffi.core.cdefs"
local channel = require "resty.nonblocking_ffi.core.channel"
local codec = require "resty.nonblocking_ffi.lua.codec"
local inline = require "resty.nonblocking_ffi.lua.inline"
local lifecycle = require "resty.nonblocking_ffi.lifecycle"
local options = require "resty.nonblocking_ffi.core.options"
local chunked = require "resty.nonblocking_ffi.lua.chunked"
local task = require "resty.nonblocking_ffi.core.task"
local yielding = require "resty.nonblocking_ffi.core.yielding"

local cast = task.cast
local crc32 = ngx.crc32_short
local decode_or = codec.decode_or
local dump = string.dump
local encode = codec.encode
local error = error
local ffi_new = ffi.new
local getmetatable = getmetatable
local getupvalue = debug.getupvalue
local pcall = pcall
local pauses = yielding.pauses
local decode_chunked = chunked.decode
local perform = task.call
local recycle = codec.recycle
local release = channel.release
local select = select
local setmetatable = setmetatable
local submit = task.submit
local text = channel.text
local type = type

local NORMAL = options.PRIORITIES.normal
local PRIORITIES = options.PRIORITIES
local STRING = codec.STRING
local VALUES = codec.VALUES
local LACK = codec.LACK
local NO_MEMORY = cdefs.NO_MEMORY
local CHUNKED = codec.CHUNKED
-- Tags are the number of a function times this, plus the encoding.
local FUNCTION = 16
-- What function 0 does beside calling a function that comes with its code.
local RELOAD = 2

local CALL_OPTIONS = options.schema { "timeout", "priority", "key" }


local _M = {}

-- The methods, beside those of lifecycle.lua.
local methods = {}
local _MT = lifecycle.add_class({ __index = methods })


-- What is called, and how: the first argument of call and its like. Returns
-- the function (or its name), timeout, number of the priority, key. Raises
-- errors for the caller of the method.
local function target(self, what, first, kind)
    if getmetatable(self) ~= _MT then
        error("not a runtime: call its methods with a colon", 3)
    end
    if type(first) == kind then
        return first, self.timeout, NORMAL, 0
    end
    if type(first) ~= "table" then
        error(what .. ": a " .. (kind == "string" and "function's name" or kind)
              .. " expected, or a table of that and options, got "
              .. type(first), 3)
    end
    local opts = options.read(what, first, CALL_OPTIONS, 3, true)
    local func = first[1]
    if type(func) ~= kind then
        error(what .. ": the table's first item must be the function"
              .. (kind == "string" and "'s name" or "") .. ", got "
              .. type(func), 3)
    end
    -- Not 0, which means that there is none.
    local key = opts.key and crc32(opts.key) % 0x7fffffff + 1
    return func, opts.timeout or self.timeout,
           opts.priority and PRIORITIES[opts.priority] or NORMAL, key or 0
end


-- The tag of a function of the module, but for the encoding; nil and an error
-- if there are too many.
local function tag_of(self, name)
    local tag = self.tags[name]
    if not tag then
        if not self.handle then
            return nil, channel.texts[cdefs.CLOSED]
        end
        local number = channel.C.nbffi_lua_function(self.handle, text(name))
        if number < 0 then
            return nil, channel.texts[NO_MEMORY]
        end
        if number == 0 then
            return nil, "too many different functions were called of module \""
                        .. self.module .. "\""
        end
        tag = number * FUNCTION
        self.tags[name] = tag
    end
    return tag
end


local function check_module(self, what)
    if not self.module then
        error(what .. ": runtime \"" .. self.name .. "\" was loaded without a "
              .. "module, so it has call_fn only", 3)
    end
end


-- What results are that could not be decoded.
local function failed(err)
    if err ~= LACK then
        error(err, 0)
    end
    return nil, channel.texts[NO_MEMORY]
end


-- Passes results on when their bytes can go.
local function release_after(held, ok, ...)
    if held then
        release(held)
    end
    if not ok then
        return failed(...)
    end
    return ...
end


-- The results in pieces: a string, or a completion that has to be released.
local function from_chunks(res)
    if type(res) == "string" then
        return release_after(nil, pcall(decode_chunked, res, #res, pauses()))
    end
    return release_after(res, pcall(decode_chunked, res.data, res.len,
                                    pauses()))
end


-- The results of a call of ours, of those of task.call.
local function results(res, err, code, message)
    if err then
        if message then
            return nil, err, code, message
        end
        return nil, err
    end
    if code == VALUES then
        return decode_or(failed, res)
    end
    if code == CHUNKED then
        return from_chunks(res)
    end
    return res
end


-- A request, of those of `request_of`, is read by nobody any more.
local function done_with(request)
    if type(request) ~= "string" then
        recycle(request)
    end
end


-- The same for a request of `request_of`. If the caller gave up, somebody may
-- be reading it still.
local function results_of(request, res, err, code, message)
    if not err then
        done_with(request)
    end
    return results(res, err, code, message)
end


-- What a request is made of for any number of arguments: what keeps it alive,
-- its bytes and their number, its encoding. Or nil and what is wrong.
local function request_of(count, ...)
    local value = ...
    if count == 1 and type(value) == "string" then
        return value, value, #value, STRING
    end
    local buf, err = encode("args", count, ...)
    if not buf then
        return nil, err
    end
    local data, len = buf:ref()
    return buf, data, len, VALUES
end


-- What a method of that name returns if there is no request, for what `err`
-- says. To be called last: misuse is blamed on who has called the method.
local function no_request(what, err)
    if err ~= LACK then
        error(what .. ": " .. err, 2)
    end
    return nil, channel.texts[NO_MEMORY]
end


-- The rest of `call`, which ends in a tail call of it: of what comes after a
-- yield, LuaJIT compiles nothing that returns through a function with a
-- variable number of arguments.
local function perform_it(self, request, data, len, timeout, priority, tag,
                          key)
    return results_of(request, perform(self, request, data, len, timeout,
                                       priority, tag, key))
end


-- The same, but if there is no room, the function runs here.
local function perform_or_inline(self, func, request, data, len, timeout,
                                 priority, tag, key, ...)
    local res, err, code, message = perform(self, request, data, len, timeout,
                                            priority, tag, key)
    if res == false then
        done_with(request)
        return inline.call(self, func, ...)
    end
    return results_of(request, res, err, code, message)
end


-- syntax: res, ... = lua_runtime:call(func, ...)
--
-- Calls a function of the module, in a VM of the runtime's pool, and waits for
-- its results without blocking the event loop.
--
-- func   the function's name; or a table { name, timeout = seconds,
--        priority = "high", "normal" or "low", key = string }. Calls of equal
--        keys go to the same thread while it is free: its caches are warm.
-- ...    arguments: nil, booleans, numbers, strings, tables of these,
--        ngx.null, 64-bit integers
--
-- Returns what the function returns, several results and nils included. Or nil,
-- an error, a code and a message, as a plugin's `call` does; an error of the
-- function is "runtime error: " and the message with the VM's traceback.
-- Raises an error if an argument cannot be passed; it names the place.
function methods:call(func, ...)
    local name, timeout, priority, key = target(self, "call", func, "string")
    check_module(self, "call")
    local tag, err = tag_of(self, name)
    if not tag then
        return nil, err
    end
    local request, data, len, encoding = request_of(select("#", ...), ...)
    if not request then
        return no_request("call", data)
    end
    tag = tag + encoding
    if self.inline then
        return perform_or_inline(self, name, request, data, len, timeout,
                                 priority, tag, key, ...)
    end
    return perform_it(self, request, data, len, timeout, priority, tag, key)
end


-- syntax: future, err = lua_runtime:submit(func, ...)
--
-- Starts a call and returns at once. Arguments as for call. Returns a future,
-- whose `wait` returns what `call` would, or nil and an error.
function methods:submit(func, ...)
    local name, timeout, priority, key = target(self, "submit", func, "string")
    check_module(self, "submit")
    local tag, err = tag_of(self, name)
    if not tag then
        return nil, err
    end
    local request, data, len, encoding = request_of(select("#", ...), ...)
    if not request then
        return no_request("submit", data)
    end
    local started
    started, err = submit(self, request, data, len, timeout, priority,
                          tag + encoding, key, results)
    if started == false then
        return inline.submit(self, name, ...)
    end
    return started, err
end


-- syntax: ok, err = lua_runtime:cast(func, ...)
--
-- Starts a call whose results nobody needs, in any phase but init_by_lua.
-- Arguments as for call. Returns true, or nil and an error.
function methods:cast(func, ...)
    local name, timeout, priority, key = target(self, "cast", func, "string")
    check_module(self, "cast")
    local tag, err = tag_of(self, name)
    if not tag then
        return nil, err
    end
    local request, data, len, encoding = request_of(select("#", ...), ...)
    if not request then
        return no_request("cast", data)
    end
    return cast(self, request, data, len, timeout, priority, tag + encoding,
                key)
end


-- syntax: res, ... = lua_runtime:call_fn(func, ...)
--
-- Calls a Lua function that is sent along, for one-off work. `func` is a
-- function without upvalues, or a table { func, timeout = ..., priority = ...,
-- key = ... }; in the VM it sees that VM's globals. Otherwise like call.
function methods:call_fn(func, ...)
    local fn, timeout, priority, key = target(self, "call_fn", func, "function")
    local upvalue = getupvalue(fn, 1)
    local dumped, code = pcall(dump, fn)
    if not dumped then
        error("call_fn: a function that is written in C cannot be sent to "
              .. "another Lua VM", 2)
    end
    if upvalue then
        error("call_fn: the function has an upvalue \"" .. upvalue .. "\": "
              .. "pass it as an argument, or require it inside", 2)
    end
    local count = select("#", ...)
    local buf, err = encode("args", count, ...)
    if not buf then
        return no_request("call_fn", err)
    end
    recycle(buf)
    buf, err = encode("args", count + 1, code, ...)
    if not buf then
        return no_request("call_fn", err)
    end
    local data, len = buf:ref()
    return perform_or_inline(self, fn, buf, data, len, timeout, priority,
                             VALUES, key, ...)
end


-- syntax: ok, err = lua_runtime:reload(modules?)
--
-- Has the VMs load the module's new code before their next task, and with it
-- the modules below it ("a.b" and "a.b.c") and those of a list. Calls in flight
-- end on the old code. Returns true when one VM has loaded the new code; or nil
-- and an error, and the old code stays.
function methods:reload(modules)
    if getmetatable(self) ~= _MT then
        error("not a runtime: call its methods with a colon", 2)
    end
    check_module(self, "reload")
    modules = modules or {}
    if type(modules) ~= "table" then
        error("reload: a list of modules' names expected, got "
              .. type(modules), 2)
    end
    for i = 1, #modules do
        if not options.is_text(modules[i]) then
            error("reload: number " .. i .. " of the list is no module's name",
                  2)
        end
    end
    local forget = table.concat(modules, "\n")
    local ok, err = perform(self, forget, forget, #forget, self.timeout,
                            PRIORITIES.high, RELOAD, 0)
    if err then
        return nil, err
    end
    if ok == false then
        return nil, channel.texts[cdefs.QUEUE_OVERFLOW]
    end
    if self.handle
       and not channel.C.nbffi_lua_reload(self.handle, text(forget))
    then
        return nil, channel.texts[NO_MEMORY]
    end
    inline.reload(self, modules)
    return true
end


-- Called by lifecycle.lua: what a Lua runtime has beside.
--   vms      VMs that there are
--   memory   bytes that they use
--   made     VMs that were made so far
--   stuck    VMs whose code should have ended but cannot be stopped
--   replaced { memory, stopped, recycled }: VMs that were, as they hit their
--            memory limit, as their code had to be stopped, as they had
--            served their time
--   inline   calls that ran in the event loop, as the queue was full
function methods:add_stats(stats)
    local figures = ffi_new("nbffi_vm_figures")
    channel.C.nbffi_lua_stats(self.handle, figures)
    stats.inline = self.inline_calls
    stats.vm = {
        vms = figures.vms,
        memory = figures.memory,
        made = figures.made,
        stuck = figures.stuck,
        replaced = {
            memory = figures.out_of_memory,
            stopped = figures.stopped,
            recycled = figures.recycled,
        },
    }
end


-- Called by lifecycle.lua when the runtime is gone.
function methods:free_more()
    channel.C.nbffi_lua_free(self.handle)
    self.handle = nil
end


-- A runtime of the fields of runtime.lua, and:
--   handle   what the core's functions for Lua runtimes are given
--   module   its name, or nil
--   init     code or a module that is run once in each VM, or nil
--   inline   whether on_full is "inline"
function _M.new(fields)
    fields.closing = false
    fields.tags = {}
    fields.inline_calls = 0
    -- They are large, and decoded at once.
    fields.takes = CHUNKED
    return setmetatable(fields, _MT)
end


return _M
