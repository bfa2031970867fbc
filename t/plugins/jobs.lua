-- What tests run in pool threads: any Lua VM has all that it needs.

local ffi = require "ffi"

ffi.cdef[[
int usleep(unsigned int microseconds);
]]


local _M = {}


function _M.echo(...)
    return ...
end


function _M.kinds(...)
    local kinds = {}
    for i = 1, select("#", ...) do
        kinds[i] = type((select(i, ...)))
    end
    return table.concat(kinds, " ")
end


function _M.nothing()
end


-- How deep tables are nested.
function _M.depth(value)
    local depth = 0
    while type(value) == "table" do
        depth = depth + 1
        value = value.x
    end
    return depth
end


function _M.deep(depth)
    local value
    for _ = 1, depth do
        value = { x = value }
    end
    return value
end


-- Raises what it is given, or one of these that nothing can be given.
local RAISED = {
    table = {},
    speaking = setmetatable({}, { __tostring = function() return "me" end }),
    userdata = io.stdout,
    ["function"] = print,
}

function _M.raise(value, level)
    error(value, level)
end


function _M.raise_one(name)
    error(RAISED[name])
end


local function recurse()
    return recurse() + 1
end
_M.recurse = recurse


-- Returns what cannot be copied.
local RETURNED = {
    ["function"] = print,
    builtin = string.rep,
    thread = coroutine.create(function() end),
    userdata = io.stdout,
    proxy = newproxy and newproxy(),
    cdata = ffi.new("int[2]"),
    key = { [print] = 1 },
    nested = { a = { b = { 1, 2, coroutine.create(function() end) } } },
    cycle = {},
    mutual = { {} },
}
RETURNED.cycle.me = RETURNED.cycle
RETURNED.mutual[1].back = RETURNED.mutual

function _M.give(name)
    return 1, RETURNED[name]
end


-- Whether a value has a metatable, what is in it, and a field that is not.
function _M.look(value)
    return getmetatable(value) == nil, #value, value.missing
end


-- How often it was called, in this VM.
local calls = 0

function _M.count()
    calls = calls + 1
    return calls
end


function _M.globals(name, value)
    local before = _G[name]
    _G[name] = value
    return before
end


function _M.path()
    return package.path, package.cpath
end


-- Whether two arguments are the same table.
function _M.same(one, other)
    return one == other, one[1], other[1]
end


function _M.yield()
    return coroutine.yield(1)
end


function _M.in_coroutine(value)
    local co = coroutine.wrap(function(first)
        local second = coroutine.yield(first .. "a")
        return second .. "b"
    end)
    return co(value), co(value)
end


-- Waits in this thread until the shared dictionary `state` has a key, up to
-- ten seconds; before, sets "started".
function _M.hold(key)
    local state = ngx.shared.state
    state:incr("started", 1, 0)
    for _ = 1, 10000 do
        if state:get(key) then
            state:incr("ended", 1, 0)
            return "held"
        end
        ffi.C.usleep(1000)
    end
    return "in vain"
end


function _M.shared(key, value)
    local state = ngx.shared.state
    local before = state:get(key)
    return before, state:set(key, value)
end


_M.not_a_function = 5
_M.callable = setmetatable({}, { __call = function() return 1 end })
_M[5] = function() return "by number" end
_M["5"] = function() return "by string" end


return _M
