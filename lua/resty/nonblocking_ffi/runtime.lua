-- The class of runtimes whose requests and responses are bytes: plugins.

local codec = require "resty.nonblocking_ffi.lua.codec"
local lifecycle = require "resty.nonblocking_ffi.lifecycle"
local options = require "resty.nonblocking_ffi.core.options"
local task = require "resty.nonblocking_ffi.core.task"
local waiting = require "resty.nonblocking_ffi.core.waiter"

local concat = table.concat
local error = error
local getmetatable = getmetatable
local pcall = pcall
local setmetatable = setmetatable
local tostring = tostring
local type = type

local LACK = codec.LACK
local NO_MEMORY = waiting.NO_MEMORY
local NORMAL = options.PRIORITIES.normal
local PRIORITIES = options.PRIORITIES
-- How deep tables of a request may be in each other.
local DEEPEST = 100
local CALL_OPTIONS = options.schema { "timeout", "priority" }


local _M = {}

-- The methods, beside those of lifecycle.lua.
local methods = {}
local _MT = lifecycle.add_class({ __index = methods })


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
    return nil, NO_MEMORY
end


-- The timeout and the number of the priority.
local function call_options(self, opts)
    opts = options.read("options", opts, CALL_OPTIONS, 4)
    local priority = opts.priority
    return opts.timeout or self.timeout,
           priority and PRIORITIES[priority] or NORMAL
end


-- What call, submit and cast are given: the bytes of the request, the timeout,
-- the number of the priority. Nil and an error if there is no memory; raises
-- errors for their callers.
local function arguments(self, request, opts)
    if getmetatable(self) ~= _MT then
        error("not a runtime: call its methods with a colon", 3)
    end
    local timeout, priority = self.timeout, NORMAL
    if opts ~= nil then
        timeout, priority = call_options(self, opts)
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
    return task.call(self, request, request, #request, timeout, priority, 0, 0)
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
    return task.submit(self, request, request, #request, timeout, priority,
                       0, 0)
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
    return task.cast(self, request, request, #request, timeout, priority, 0, 0)
end


-- A runtime of these fields:
--   name, ptr, pool, timeout
--   waits    = whether on_full is "wait"
--   forget   = called when it takes no more calls
function _M.new(fields)
    fields.closing = false
    return setmetatable(fields, _MT)
end


return _M
