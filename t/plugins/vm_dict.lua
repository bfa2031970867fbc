-- Random operations on shared dictionaries, for a VM and for the event loop.

local vm_ngx = require "vm_ngx"

local random = math.random


local _M = { run = vm_ngx.run, value = vm_ngx.value }


local function key()
    local kind = random(40)
    if kind == 1 then
        return nil
    elseif kind == 2 then
        return ""
    elseif kind == 3 then
        return ("k"):rep(65536)
    elseif kind == 4 then
        return random(3)
    end
    return "key" .. random(6)
end


local function value()
    local kind = random(8)
    if kind == 1 then
        return nil
    elseif kind == 2 then
        return { "a table" }
    elseif kind == 3 then
        return random(2) == 1
    elseif kind == 4 then
        return random()
    elseif kind == 5 then
        return vm_ngx.bytes(9000)
    elseif kind == 6 then
        return random(10)
    end
    return vm_ngx.bytes(20)
end


local function seconds()
    local kind = random(6)
    return kind == 1 and 1000 or kind == 2 and 0 or kind == 3 and -1 or nil
end


local function store()
    return key(), value(), seconds(), random(4) == 1 and random(100) or nil
end


local ARGUMENTS = {
    get = key, get_stale = key, delete = key, ttl = key, llen = key,
    lpop = key, rpop = key,
    set = store, add = store, replace = store, safe_set = store,
    safe_add = store,
    lpush = function() return key(), value() end,
    rpush = function() return key(), value() end,
    expire = function() return key(), random(3) == 1 and 0 or 1000 end,
    incr = function()
        return key(), random(9), random(2) == 1 and random(9) or nil,
               random(9) == 1 and 1000 or nil
    end,
    get_keys = function() return random(3) == 1 and random(0, 3) or nil end,
    flush_expired = function() return random(2) == 1 and random(3) or nil end,
    capacity = function() end,
    flush_all = function() end,
}

local METHODS = {}
for name in pairs(ARGUMENTS) do
    METHODS[#METHODS + 1] = name
end
table.sort(METHODS)


-- Calls a method of a dictionary. If it has no name, the event loop has one and
-- a VM another.
function _M.operate(name, method, ...)
    local dict = ngx.shared[ngx.get_phase() == "worker_thread" and "inside"
                            or "outside"]
    if name then
        dict = ngx.shared[name]
    end
    if method == "ttl" then
        -- Time passes between one side and the other.
        local left, err = dict:ttl(...)
        return left and (left > 0 and "some time" or left), err
    elseif method == "get_keys" then
        local keys = dict:get_keys(...)
        if select("#", ...) == 0 or (...) == nil or (...) == 0 then
            table.sort(keys)
            return keys
        end
        return #keys
    end
    return dict[method](dict, ...)
end


-- So many cases. One in five hundred empties the dictionary.
function _M.cases(count)
    local cases = {}
    for i = 1, count do
        local method = METHODS[random(#METHODS)]
        if method == "flush_all" and random(25) > 1 then
            method = "get"
        end
        local args = vm_ngx.pack(ARGUMENTS[method]())
        cases[i] = { "vm_dict:operate", n = args.n + 2, nil, method,
                     unpack(args, 1, args.n) }
    end
    return cases
end


-- What nginx counts as an argument depends on how it was called.
function _M.adapt(result)
    if result[1] == false then
        result[2] = result[2]:gsub("^bad argument #%d", "bad argument")
    end
end


-- Adds one, so often.
function _M.count(name, times)
    local dict = ngx.shared[name]
    for _ = 1, times do
        dict:incr("count", 1, 0)
    end
    return times
end


-- Pushes and pops, so often; what went in is what came out.
function _M.shuffle(name, times)
    local dict = ngx.shared[name]
    local pushed, popped = 0, 0
    for i = 1, times do
        assert(dict:lpush("list", i))
        pushed = pushed + i
        popped = popped + assert(dict:rpop("list"))
    end
    return pushed, popped
end


function _M.keys(name)
    return #ngx.shared[name]:get_keys(0)
end


return _M
