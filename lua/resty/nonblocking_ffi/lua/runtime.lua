-- The class of Lua runtimes: a module's functions, run in VMs of pool threads.

local ffi = require "ffi"
local base = require "resty.nonblocking_ffi.core.base"
local cdefs = require "resty.nonblocking_ffi.core.cdefs"
local chunked = require "resty.nonblocking_ffi.lua.chunked"
local codec = require "resty.nonblocking_ffi.lua.codec"
local drain = require "resty.nonblocking_ffi.core.drain"
local future = require "resty.nonblocking_ffi.future"
local inline = require "resty.nonblocking_ffi.lua.inline"
local lifecycle = require "resty.nonblocking_ffi.lifecycle"
local options = require "resty.nonblocking_ffi.core.options"
local task = require "resty.nonblocking_ffi.core.task"
local waiting = require "resty.nonblocking_ffi.core.waiter"
local yielding = require "resty.nonblocking_ffi.core.yielding"

local call_options = lifecycle.call_options
local cast = task.cast
local decode = codec.decode_all
local decode_chunked = chunked.decode
local dump = string.dump
local encode = codec.encode
local error = error
local ffi_new = ffi.new
local getmetatable = getmetatable
local getupvalue = debug.getupvalue
local pauses = yielding.pauses
local pcall = pcall
local perform = task.call
local plain = waiting.plain
local protected = waiting.protected
local recycle = codec.recycle
local release = drain.release
local select = select
local spread = codec.spread
local submit = task.submit
local text = base.text
local texts = base.texts
local to_future = future.of
local type = type

local CHUNKED = codec.CHUNKED
local HIGH = options.PRIORITIES.high
local LACK = base.LACK
local NO_MEMORY = cdefs.NO_MEMORY
local STRING = codec.STRING
local VALUES = codec.VALUES
-- Tags are the number of a function times this, plus the encoding.
local FUNCTION = 16
-- What function 0 does beside calling a function that comes with its code.
local RELOAD = 2

local CALL_OPTIONS = options.schema { "timeout", "priority", "key" }


-- The methods beside those of lifecycle.lua are below.
local methods, _MT, new = lifecycle.class(CALL_OPTIONS)


-- In what follows, `level` is that of the method's caller, as for error(), from
-- the caller of the function on.


-- Reads the first argument of call and its like. Returns the function (or its
-- name), the timeout, the numbers of the priority and of the key. Raises errors
-- for the caller of the method.
local function target(self, what, first, kind, level)
    if getmetatable(self) ~= _MT then
        error("not a runtime: call its methods with a colon", level + 1)
    end
    if type(first) == kind then
        return first, self.timeout, self.priority, self.key
    end
    if type(first) ~= "table" then
        error(what .. ": a " .. (kind == "string" and "function's name" or kind)
              .. " expected, or a table of that and options, got "
              .. type(first), level + 1)
    end
    local timeout, priority, key = call_options(self, what, first, CALL_OPTIONS,
                                                level + 1, true)
    local func = first[1]
    if type(func) ~= kind then
        error(what .. ": the table's first item must be the function"
              .. (kind == "string" and "'s name" or "") .. ", got "
              .. type(func), level + 1)
    end
    return func, timeout, priority, key
end


-- The tag of a function of the module, without the encoding; nil and an error
-- if there are too many functions.
local function tag_of(runtime, name)
    local tag = runtime.tags[name]
    if not tag then
        if not runtime.handle then
            return nil, texts[cdefs.CLOSED]
        end
        local number = base.C.nbffi_lua_function(runtime.handle, text(name))
        if number < 0 then
            return nil, texts[NO_MEMORY]
        end
        if number == 0 then
            return nil, "too many different functions were called of module \""
                        .. runtime.module .. "\""
        end
        tag = number * FUNCTION
        runtime.tags[name] = tag
    end
    return tag
end


local function check_module(runtime, what, level)
    if not runtime.module then
        error(what .. ": runtime \"" .. runtime.name .. "\" was loaded without "
              .. "a module, so it has call_fn only", level + 1)
    end
end


-- The error of results for which there was no memory. Raises other errors.
local function no_memory(err)
    if err ~= LACK then
        error(err, 0)
    end
    return texts[NO_MEMORY]
end


-- Passes chunked results on when their bytes can be released.
local function release_after(held, ok, ...)
    if held then
        release(held)
    end
    if ok then
        return true, ...
    end
    return false, no_memory((...))
end


-- True and the chunked results; or false and an error. `res` is a string, or a
-- completion that has to be released.
local function from_chunks(res)
    if type(res) == "string" then
        return release_after(nil, pcall(decode_chunked, res, #res, pauses()))
    end
    return release_after(res, pcall(decode_chunked, res.data, res.len,
                                    pauses()))
end


local function without_status(ok, ...)
    if ok then
        return ...
    end
    return nil, ...
end


-- What `call` returns, for what task.call returned.
local function results(res, err, code, message)
    if err then
        return plain(nil, err, code, message)
    end
    if code == VALUES then
        local ok, count, first, second, values = pcall(decode, res)
        if not ok then
            return nil, no_memory(count)
        end
        return spread(count, first, second, values)
    end
    if code == CHUNKED then
        return without_status(from_chunks(res))
    end
    return res
end


-- What `pcall` returns, for what task.call returned.
local function protected_results(res, err, code, message)
    if err then
        return protected(nil, err, code, message)
    end
    if code == VALUES then
        local ok, count, first, second, values = pcall(decode, res)
        if not ok then
            return false, no_memory(count)
        end
        return true, spread(count, first, second, values)
    end
    if code == CHUNKED then
        return from_chunks(res)
    end
    return true, res
end


-- How call and pcall differ: in their results, and in what they do if there is
-- no room.
local CALL = { results = results, inline = inline.call }
local PCALL = { results = protected_results, inline = inline.pcall }
-- The same for futures.
local SHAPES = { plain = results, protected = protected_results }


-- Keeps the buffer of a request that no thread reads any more.
local function reuse(request)
    if type(request) ~= "string" then
        recycle(request)
    end
end


-- The results of a call. If the caller gave up, a thread may still be reading
-- the request.
local function finish(kind, request, res, err, code, message)
    if not err then
        reuse(request)
    end
    return kind.results(res, err, code, message)
end


-- The rest of call and pcall, which end in a tail call of it: of what comes
-- after a yield, LuaJIT compiles nothing that returns through a function with a
-- variable number of arguments.
local function perform_it(kind, runtime, request, data, len, timeout, priority,
                          tag, key)
    return finish(kind, request, perform(runtime, request, data, len, timeout,
                                         priority, tag, key))
end


-- The same, but if there is no room, the function runs here.
local function perform_or_inline(kind, func, runtime, request, data, len,
                                 timeout, priority, tag, key, ...)
    local res, err, code, message = perform(runtime, request, data, len,
                                            timeout, priority, tag, key)
    if res == false then
        reuse(request)
        return kind.inline(runtime, func, ...)
    end
    return finish(kind, request, res, err, code, message)
end


-- A buffer with encoded arguments; nil and an error if there is no memory.
-- Raises an error, for the caller of the method `what`, if an argument cannot
-- be encoded.
local function encode_args(what, level, count, ...)
    local buf, err = encode("args", count, ...)
    if buf then
        return buf
    end
    if err ~= LACK then
        error(what .. ": " .. err, level + 1)
    end
    return nil, texts[NO_MEMORY]
end


-- Reads the arguments of call, pcall, submit and cast. Returns the request
-- (what keeps it alive, its bytes, their number), the function's name, the
-- timeout, the number of the priority, the tag, the number of the key. Or nil
-- and an error.
local function prepare(self, what, func, count, ...)
    local name, timeout, priority, key = target(self, what, func, "string", 3)
    local runtime = self.runtime
    check_module(runtime, what, 3)
    local tag, err = tag_of(runtime, name)
    if not tag then
        return nil, err
    end
    local value = ...
    if count == 1 and type(value) == "string" then
        return value, value, #value, name, timeout, priority, tag + STRING, key
    end
    local buf
    buf, err = encode_args(what, 3, count, ...)
    if not buf then
        return nil, err
    end
    local data, len = buf:ref()
    return buf, data, len, name, timeout, priority, tag + VALUES, key
end


-- syntax: res, ... = lua_runtime:call(func, ...)
--
-- Calls a function of the module, in a VM of the runtime's pool, and waits for
-- its results without blocking the event loop.
--
-- func   the function's name; or a table { name, timeout = seconds,
--        priority = "high", "normal" or "low", key = string }: the same as the
--        name alone, called on `with` of these options. Calls of equal keys go
--        to the same thread while it is free: its caches are warm.
-- ...    arguments: nil, booleans, numbers, strings, tables of these,
--        ngx.null, 64-bit integers
--
-- Returns what the function returns, several results and nils included. Or nil,
-- an error, a code and a message, as a plugin's `call` does; an error of the
-- function is "runtime error: " and the message with the VM's traceback.
-- Raises an error if an argument cannot be passed; it names the place.
function methods:call(func, ...)
    local request, data, len, name, timeout, priority, tag, key =
        prepare(self, "call", func, select("#", ...), ...)
    if not request then
        return nil, data
    end
    local runtime = self.runtime
    if runtime.inline then
        return perform_or_inline(CALL, name, runtime, request, data, len,
                                 timeout, priority, tag, key, ...)
    end
    return perform_it(CALL, runtime, request, data, len, timeout, priority, tag,
                      key)
end


-- syntax: ok, res, ... = lua_runtime:pcall(func, ...)
--
-- The same, but returns true and what the function returns; or false, an error,
-- a code and a message.
function methods:pcall(func, ...)
    local request, data, len, name, timeout, priority, tag, key =
        prepare(self, "pcall", func, select("#", ...), ...)
    if not request then
        return false, data
    end
    local runtime = self.runtime
    if runtime.inline then
        return perform_or_inline(PCALL, name, runtime, request, data, len,
                                 timeout, priority, tag, key, ...)
    end
    return perform_it(PCALL, runtime, request, data, len, timeout, priority,
                      tag, key)
end


-- syntax: future, err = lua_runtime:submit(func, ...)
--
-- Starts a call and returns at once. Arguments as for call. Returns a future,
-- whose `wait` returns what `call` would, or nil and an error.
function methods:submit(func, ...)
    local request, data, len, name, timeout, priority, tag, key =
        prepare(self, "submit", func, select("#", ...), ...)
    if not request then
        return nil, data
    end
    local waiter, err = submit(self.runtime, request, data, len, timeout,
                               priority, tag, key, SHAPES)
    if waiter == false then
        return inline.submit(self.runtime, name, ...)
    end
    return to_future(waiter, err)
end


-- syntax: ok, err = lua_runtime:cast(func, ...)
--
-- Starts a call whose results nobody needs, in any phase but init_by_lua.
-- Arguments as for call. Returns true, or nil and an error.
function methods:cast(func, ...)
    local request, data, len, _, timeout, priority, tag, key =
        prepare(self, "cast", func, select("#", ...), ...)
    if not request then
        return nil, data
    end
    return cast(self.runtime, request, data, len, timeout, priority, tag, key)
end


-- syntax: res, ... = lua_runtime:call_fn(func, ...)
--
-- Calls a Lua function that is sent along, for one-off work. `func` is a
-- function without upvalues, or a table { func, timeout = ..., priority = ...,
-- key = ... }; in the VM it sees that VM's globals. Otherwise like call.
function methods:call_fn(func, ...)
    local fn, timeout, priority, key = target(self, "call_fn", func, "function",
                                              2)
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
    -- Faults are described by the arguments' own numbers.
    local buf, err = encode_args("call_fn", 2, count, ...)
    if not buf then
        return nil, err
    end
    recycle(buf)
    buf, err = encode_args("call_fn", 2, count + 1, code, ...)
    if not buf then
        return nil, err
    end
    local data, len = buf:ref()
    return perform_or_inline(CALL, fn, self.runtime, buf, data, len, timeout,
                             priority, VALUES, key, ...)
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
    local runtime = self.runtime
    check_module(runtime, "reload", 2)
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
    local ok, err = perform(runtime, forget, forget, #forget, self.timeout,
                            HIGH, RELOAD, 0)
    if err then
        return nil, err
    end
    if ok == false then
        return nil, texts[cdefs.QUEUE_OVERFLOW]
    end
    if runtime.handle
       and not base.C.nbffi_lua_reload(runtime.handle, text(forget))
    then
        return nil, texts[NO_MEMORY]
    end
    inline.reload(runtime, modules)
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
    local counted = ffi_new("nbffi_vm_statistics")
    base.C.nbffi_lua_stats(self.handle, counted)
    stats.inline = self.inline_calls
    stats.vm = {
        vms = counted.vms,
        memory = counted.memory,
        made = counted.made,
        stuck = counted.stuck,
        replaced = {
            memory = counted.out_of_memory,
            stopped = counted.stopped,
            recycled = counted.recycled,
        },
    }
end


-- Called by lifecycle.lua when the runtime is gone.
function methods:free_more()
    base.C.nbffi_lua_free(self.handle)
    self.handle = nil
end


-- Makes a runtime of the fields of lifecycle.class, and:
--   handle   what the core's functions for Lua runtimes are given
--   module   its name, or nil
--   init     code or a module that is run once in each VM, or nil
--   inline   whether on_full is "inline"
local function new_lua(fields)
    fields.tags = {}
    fields.inline_calls = 0
    -- They are large, and decoded at once.
    fields.takes = CHUNKED
    return new(fields)
end


return { new = new_lua }
