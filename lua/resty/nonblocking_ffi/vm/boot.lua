-- The first code of a worker VM, and its dispatcher: what runs each task. The
-- core calls both (crates/lua-vm/src/vm.rs).

local ffi = require "ffi"
local codec = require "resty.nonblocking_ffi.lua.codec"
local chunked = require "resty.nonblocking_ffi.lua.chunked"
local startup = require "resty.nonblocking_ffi.lua.startup"
local log = require "resty.nonblocking_ffi.vm.log"
require "resty.nonblocking_ffi.vm.cdefs"

local decode = codec.decode
local encode = codec.encode
local error = error
local ffi_new = ffi.new
local ffi_string = ffi.string
local loadstring = loadstring
local next = next
local package = package
local pcall = pcall
local recycle = codec.recycle
local require = require
local select = select
local type = type

local STRING = codec.STRING
local VALUES = codec.VALUES
local CHUNKED = codec.CHUNKED
-- What function 0 does: load the module, call a function that comes with its
-- code, or load the module anew.
local LOAD = 0
local RELOAD = 2

-- nginx's levels of the log.
local ERR, DEBUG = 4, 8

local NAME_BYTES = 4096
-- Functions that came with their code are kept, up to so many.
local MAX_CHUNKS = 64


local C, frame
local name_buffer = ffi_new("nbffi_buffer")
local name_bytes = ffi_new("char[?]", NAME_BYTES)
name_buffer.data, name_buffer.size = name_bytes, NAME_BYTES

-- By the runtime's number: { name, module, generation, names = functions' names
-- by their numbers }.
local runtimes = {}
-- Functions by their code.
local chunks, chunks_count = {}, 0


local function load_runtime(number)
    for known in next, runtimes do
        if not C.nbffi_vm_serves(known) then
            runtimes[known] = nil
        end
    end
    local runtime = { generation = frame.generation, names = {} }
    C.nbffi_vm_module(name_buffer)
    runtime.name = ffi_string(name_bytes)
    if runtime.name ~= "" then
        startup.forget_failed()
        runtime.module = require(runtime.name)
    end
    runtimes[number] = runtime
    return runtime
end


-- Loads the runtime's module again; the old code stays if that fails.
local function reload(runtime, modules)
    startup.forget_failed()
    local forgotten = startup.forget(runtime.name, modules)
    local ok, module = pcall(require, runtime.name)
    if ok then
        runtime.module = module
        return
    end
    for name, value in next, forgotten do
        package.loaded[name] = value
    end
    return module
end


-- The runtime of the task, with the code of its present generation.
local function present_runtime(number)
    local runtime = runtimes[number]
    if not runtime then
        return load_runtime(number)
    end
    local generation = frame.generation
    if runtime.generation ~= generation then
        runtime.generation = generation
        C.nbffi_vm_forget(name_buffer)
        local err = reload(runtime, startup.lines(ffi_string(name_bytes)))
        if err then
            ngx.log(ngx.ERR, "the old code of module \"", runtime.name,
                    "\" stays: ", err)
        end
    end
    return runtime
end


local function learn(runtime, number)
    C.nbffi_vm_function(number, name_buffer)
    local name = ffi_string(name_bytes)
    runtime.names[number] = name
    return name
end


-- Ends the task with the results of its function.
local function respond(...)
    local count = select("#", ...)
    local value = ...
    if count == 1 and type(value) == "string" then
        C.nbffi_vm_respond(STRING, value, #value)
        return
    end
    local buf, err = encode("results", count, ...)
    if not buf then
        error(err, 0)
    end
    local encoding = VALUES
    local data, len = buf:ref()
    if len >= chunked.MIN_BYTES then
        chunked.encode(buf, count, ...)
        encoding = CHUNKED
        data, len = buf:ref()
    end
    C.nbffi_vm_respond(encoding, data, len)
    recycle(buf)
end


local function call_chunk(code, ...)
    local func = chunks[code]
    if not func then
        local err
        func, err = loadstring(code, "=call_fn")
        if not func then
            error(err, 0)
        end
        if chunks_count == MAX_CHUNKS then
            chunks, chunks_count = {}, 0
        end
        chunks[code], chunks_count = func, chunks_count + 1
    end
    return func(...)
end


-- Runs a task that is not a call of the module's function.
local function dispatch_special(runtime, encoding)
    if encoding == LOAD then
        return
    end
    if encoding == VALUES then
        return respond(call_chunk(decode(frame.data, frame.len)))
    end
    if encoding == RELOAD then
        local modules = startup.lines(ffi_string(frame.data, frame.len))
        local err = reload(runtime, modules)
        if err then
            error(err, 0)
        end
        -- The event loop tells the other VMs when this one has succeeded.
        runtime.generation = frame.generation + 1
        return respond()
    end
end


-- Runs the task that the frame describes. No tail calls: LuaJIT does not
-- compile a function that returns by one to the core.
local function dispatch()
    local runtime = present_runtime(frame.runtime)
    local number, encoding = frame["function"], frame.encoding
    if number == 0 then
        dispatch_special(runtime, encoding)
        return
    end
    local name = runtime.names[number] or learn(runtime, number)
    local module = runtime.module
    local func = type(module) == "table" and module[name]
    if not func then
        func = startup.find(module, runtime.name, name)
    end
    if encoding == STRING then
        respond(func(ffi_string(frame.data, frame.len)))
    else
        respond(func(decode(frame.data, frame.len)))
    end
end


local function no_exit()
    error("os.exit is not available in a pool thread's VM: it would end the "
          .. "nginx worker", 2)
end


-- Readies the VM. `core` is the path of the shared object, "" for a program
-- that has its functions; `boot` an encoded table { init, env }, or ""; `place`
-- where the core puts tasks, `thread` the main thread, in which they run.
-- Returns a message handler and the dispatcher.
return function(core, boot, place, thread)
    C = core == "" and ffi.C or ffi.load(core)
    frame = ffi.cast("nbffi_call_frame *", place)
    boot = boot == "" and {} or codec.unpack(boot)
    require("resty.nonblocking_ffi.vm.debug")(frame)
    require "resty.nonblocking_ffi.vm.coroutine"
    if boot.env then
        require("resty.nonblocking_ffi.vm.ngx")(boot.env, C)
    else
        -- Without nginx, there is only a log.
        local ngx = _G.ngx
        ngx.ERR = ERR
        ngx.log, _G.print = log.new(C, DEBUG, ngx.null)
    end
    require("resty.nonblocking_ffi.worker").start(C)
    os.exit = no_exit -- luacheck: ignore 122
    if boot.init then
        startup.run(boot.init)
    end
    return codec.traceback_of(thread), dispatch
end
