-- What Lua code on a pool thread can ask about its task and its thread. In the
-- event loop (on_full = "inline") the same module answers for that.

local ffi = require "ffi"

local error = error
local ffi_new = ffi.new
local ffi_string = ffi.string
local tonumber = tonumber
local type = type

local NAME_BYTES = 64
local DEFAULT_TIMEOUT = 60
-- What nbffi_vm_call returns beside codes of errors.
local UNKNOWN = -1
local IS_LUA = -2
local RUNTIME_ERROR = 7


local _M = {}


-- nil in the event loop.
local C
local pool_name, thread_name, index
local answer


-- Called when a VM starts.
function _M.start(functions)
    C = functions
    local pool = ffi_new("char[?]", NAME_BYTES)
    local thread = ffi_new("char[?]", NAME_BYTES)
    index = tonumber(C.nbffi_vm_thread_id({ pool, NAME_BYTES },
                                     { thread, NAME_BYTES }))
    pool_name, thread_name = ffi_string(pool), ffi_string(thread)
    answer = ffi_new("nbffi_answer")
end


-- syntax: name = worker.name()
--
-- The thread's name, "nbffi/<pool>/<index>", the pool's name cut so that it
-- has 15 bytes; "nginx" in the event loop.
function _M.name()
    return C and thread_name or "nginx"
end


-- syntax: index = worker.index()
--
-- The thread's number in its pool, from 0; -1 in the event loop.
function _M.index()
    return C and index or -1
end


-- syntax: name = worker.pool()
--
-- The name of the thread's pool; nil in the event loop.
function _M.pool()
    return pool_name
end


-- syntax: cancelled = worker.is_cancelled()
--
-- Whether the task's caller has given up: it timed out or cancelled. A task
-- that runs for long should ask, and return: it has some 30 ms before it is
-- stopped.
function _M.is_cancelled()
    return C ~= nil and C.nbffi_vm_is_cancelled()
end


-- syntax: seconds = worker.deadline()
--
-- Seconds until the task's caller stops waiting, less than 0 if that has
-- passed; nil if there is no such time.
function _M.deadline()
    local left = C and C.nbffi_vm_left()
    if left and left < 1e9 then
        return left
    end
    return nil
end


local function text(value)
    return ffi_new("nbffi_text", value, #value)
end


-- syntax: res, err, code, message = worker.call(runtime, request, timeout?)
--
-- Runs a request on a runtime of another language, by its name, and blocks this
-- thread until it ends, up to `timeout` seconds (default 60, and never longer
-- than until the task's own deadline). It runs on this very thread. Returns
-- what the runtime's own `call` does in the event loop. For another Lua module,
-- use `require`.
function _M.call(runtime, request, timeout)
    if type(runtime) ~= "string" then
        error("worker.call: a runtime's name expected, got " .. type(runtime),
              2)
    end
    if type(request) ~= "string" then
        error("worker.call: request must be a string, got " .. type(request),
              2)
    end
    if timeout ~= nil and (type(timeout) ~= "number" or timeout <= 0
       or timeout ~= timeout) then
        error("worker.call: timeout must be a positive number of seconds", 2)
    end
    if not C then
        return nil, "worker.call works on pool threads only: in the event "
                    .. "loop, use the runtime's own call"
    end
    local left = _M.deadline()
    timeout = timeout or DEFAULT_TIMEOUT
    if left and left < timeout then
        timeout = left > 0 and left or 0
    end
    local status = C.nbffi_vm_call(text(runtime), text(request), timeout,
                                   answer)
    if status == UNKNOWN then
        return nil, "no runtime is named \"" .. runtime .. "\""
    end
    if status == IS_LUA then
        return nil, "\"" .. runtime .. "\" is a Lua runtime: require its "
                    .. "module instead"
    end
    if status ~= 0 and status ~= RUNTIME_ERROR then
        return nil, ffi_string(C.nbffi_error_text(status))
    end
    local message = answer.message_len > 0
                    and ffi_string(answer.message, answer.message_len) or nil
    if status == RUNTIME_ERROR then
        return nil, "runtime error: " .. (message or ""), answer.code,
               message or ""
    end
    local res = ffi_string(answer.data, answer.len)
    if answer.code == 0 and not message then
        return res
    end
    return res, nil, answer.code, message or ""
end


return _M
