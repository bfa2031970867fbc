-- The class of runtimes whose requests and responses are bytes: plugins.

local base = require "resty.nonblocking_ffi.core.base"
local cdefs = require "resty.nonblocking_ffi.core.cdefs"
local future = require "resty.nonblocking_ffi.future"
local lifecycle = require "resty.nonblocking_ffi.lifecycle"
local options = require "resty.nonblocking_ffi.core.options"
local task = require "resty.nonblocking_ffi.core.task"
local waiting = require "resty.nonblocking_ffi.core.waiter"

local call_options = lifecycle.call_options
local concat = table.concat
local error = error
local getmetatable = getmetatable
local pcall = pcall
local protected = waiting.protected
local texts = base.texts
local to_future = future.of
local tostring = tostring
local type = type

local LACK = base.LACK
local NO_MEMORY = cdefs.NO_MEMORY
-- How deep tables of a request may be in each other.
local DEEPEST = 100
local CALL_OPTIONS = options.schema { "timeout", "priority" }


-- The methods beside those of lifecycle.lua are below.
local methods, _MT, new = lifecycle.class(CALL_OPTIONS)


-- The bytes of a request: a string, or what a cosocket's send accepts.
local function flatten(value, parts, where, depth)
    local kind = type(value)
    if kind == "string" then
        parts[#parts + 1] = value
    elseif kind == "number" then
        parts[#parts + 1] = tostring(value)
    elseif kind == "table" then
        if depth > DEEPEST then
            error("request must not have tables more than " .. DEEPEST
                  .. " deep, or in themselves", 0)
        end
        for i = 1, #value do
            flatten(value[i], parts, where .. "[" .. i .. "]", depth + 1)
        end
    else
        error(where .. " must be a string, or a table of strings, got "
              .. kind, 0)
    end
    return parts
end


local function joined(request)
    return concat(flatten(request, {}, "request", 1))
end


local function to_bytes(request)
    local ok, bytes = pcall(joined, request)
    if ok then
        return bytes
    end
    if bytes ~= LACK then
        error(bytes, 4)
    end
    return nil, texts[NO_MEMORY]
end


-- The arguments of call, pcall, submit and cast: the bytes of the request, the
-- timeout, the number of the priority. Nil and an error if there is no memory.
-- Raises errors for the callers of these methods.
local function arguments(self, request, opts)
    if getmetatable(self) ~= _MT then
        error("not a runtime: call its methods with a colon", 3)
    end
    local timeout, priority = self.timeout, self.priority
    if opts ~= nil then
        timeout, priority = call_options(self, "options", opts, CALL_OPTIONS, 3)
    end
    if type(request) ~= "string" then
        local err
        request, err = to_bytes(request)
        if not request then
            return nil, err
        end
    end
    return request, timeout, priority
end


-- syntax: res, err, code, message = runtime:call(request, options?)
--
-- Runs a request on the runtime's pool and waits for the response, without
-- blocking the event loop.
--
-- request   a string of any bytes, or a (nested) table of strings and numbers,
--           which are sent as one
-- options   timeout   seconds, default: the runtime's
--           priority  "high", "normal" (default) or "low"
--
-- Returns the response, a string; if the plugin gave a status of its own then
-- also nil, its code and its message. Or nil and an error: "timeout",
-- "queue overflow", "closed", "shutting down", "response too large",
-- "no memory", "cannot yield in this phase", or "runtime error: ..." with the
-- plugin's code and message.
function methods:call(request, opts)
    local timeout, priority
    request, timeout, priority = arguments(self, request, opts)
    if not request then
        return nil, timeout
    end
    return task.call(self.runtime, request, request, #request, timeout,
                     priority, 0, 0)
end


-- syntax: ok, res, code, message = runtime:pcall(request, options?)
--
-- The same, but returns true and the response (with the code and the message if
-- the plugin gave a status of its own); or false, an error, and the code and
-- the message of a "runtime error".
function methods:pcall(request, opts)
    local timeout, priority
    request, timeout, priority = arguments(self, request, opts)
    if not request then
        return false, timeout
    end
    return protected(task.call(self.runtime, request, request, #request,
                               timeout, priority, 0, 0))
end


-- syntax: future, err = runtime:submit(request, options?)
--
-- Starts a request and returns at once (or, with on_full = "wait", when there
-- is room). Arguments as for call. Returns a future, see future.lua, or nil
-- and an error: "queue overflow", "closed", "shutting down", "no memory", and
-- with on_full = "wait" also "timeout".
function methods:submit(request, opts)
    local timeout, priority
    request, timeout, priority = arguments(self, request, opts)
    if not request then
        return nil, timeout
    end
    return to_future(task.submit(self.runtime, request, request, #request,
                                 timeout, priority, 0, 0))
end


-- syntax: ok, err = runtime:cast(request, options?)
--
-- Starts a request whose result nobody needs. Arguments as for call; when the
-- timeout has passed before the task has started, it is dropped. Works in
-- every phase but init_by_lua, and never yields. Returns true, or nil and an
-- error: "queue overflow" (whatever on_full says), "closed", "shutting down",
-- "no memory".
function methods:cast(request, opts)
    local timeout, priority
    request, timeout, priority = arguments(self, request, opts)
    if not request then
        return nil, timeout
    end
    return task.cast(self.runtime, request, request, #request, timeout,
                     priority, 0, 0)
end


return { new = new }
