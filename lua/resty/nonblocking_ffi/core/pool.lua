-- Named pools, and the tasks that wait for room in a pool (on_full = "wait").

local ffi = require "ffi"
local base = require "resty.nonblocking_ffi.core.base"
local cdefs = require "resty.nonblocking_ffi.core.cdefs"
local drain = require "resty.nonblocking_ffi.core.drain"
local options = require "resty.nonblocking_ffi.core.options"

local ffi_new = ffi.new
local error = error
local get = options.get
local ipairs = ipairs
local next = next
local pairs = pairs
local tostring = tostring
local type = type

local DEFAULT = "default"
local QUEUE_OVERFLOW = -cdefs.QUEUE_OVERFLOW


local _M = {}


-- By name: what was declared, or used without, and the pool itself.
local declared = {}
-- {
--   name, ptr
--   first, last  = the tasks that wait for room: blocked[first..last]
--   blocked      = each a table of what task.lua posts, and: waiter,
--                  admission = the waiter of a coroutine that waits for room
--                  only, dead = whether the task was given up
-- }
local made = {}
-- How many tasks wait for room, in all pools.
local waiting = 0


local SIZES = options.schema { "threads", "max_queue", "nice" }


-- An option of a pool: as given, or the default, which is for `threads` the
-- number of cores, as soon as that can be asked.
local function size_of(settings, key)
    local value = get(settings, key)
    if value == nil and key == "threads" and base.C then
        value = base.C.nbffi_cores()
    end
    return value
end


-- Declares a pool; its threads start when it is first used.
function _M.declare(name, given)
    if type(name) ~= "string" or name == "" then
        error("pool: name must be a non-empty string", 2)
    end
    local settings = options.read("pool", given or {}, SIZES, 2)
    local known = declared[name]
    if known then
        for _, key in ipairs(SIZES.names) do
            local is = size_of(known, key)
            if is ~= size_of(settings, key) then
                return nil, "pool \"" .. name .. "\" exists already, with "
                            .. key .. " = " .. tostring(is or "the default")
            end
        end
        return true
    end
    declared[name] = settings
    return true
end


-- Posts the tasks that wait for room, oldest first, as far as there is room.
-- The task of a coroutine that was killed is posted too: it was asked for.
local function admit_blocked()
    for _, pool in pairs(made) do
        local blocked = pool.blocked
        while pool.first <= pool.last do
            local entry = blocked[pool.first]
            if not entry.dead then
                local code = entry.post(entry)
                if code == QUEUE_OVERFLOW then
                    break
                end
            end
            blocked[pool.first] = nil
            pool.first = pool.first + 1
            waiting = waiting - 1
        end
    end
end


-- Mostly no task waits. Then there must be no loop in here: LuaJIT does not
-- compile the end of a lone task with one.
local function admit()
    if waiting > 0 then
        admit_blocked()
    end
end


-- Adds a task to those that wait for room.
function _M.block(pool, entry)
    pool.last = pool.last + 1
    pool.blocked[pool.last] = entry
    waiting = waiting + 1
end


-- The pool of a name, made if there is none; nil and an error if that fails.
function _M.obtain(name)
    local pool = made[name]
    if pool then
        return pool
    end
    local settings = declared[name]
    if not settings then
        if name ~= DEFAULT then
            return nil, "no pool \"" .. name .. "\": declare it with pool()"
        end
        settings = {}
        declared[name] = settings
    end
    local ptr = base.C.nbffi_pool_obtain(base.client, base.text(name),
        size_of(settings, "threads"), get(settings, "max_queue"),
        get(settings, "nice"), base.error_buffer())
    if ptr == nil then
        return nil, base.error_text()
    end
    pool = {
        name = name,
        ptr = ptr,
        first = 1,
        last = 0,
        blocked = {},
    }
    if next(made) == nil then
        drain.on_drain(admit)
    end
    made[name] = pool
    return pool
end


-- Whether tasks wait for room.
function _M.is_contended(pool)
    return pool.first <= pool.last
end


-- The statistics of the pools that are in use, by name.
function _M.stats()
    local counted = ffi_new("nbffi_pool_statistics")
    local all = {}
    for name, pool in pairs(made) do
        base.C.nbffi_pool_stats(pool.ptr, counted)
        all[name] = {
            threads = counted.threads,
            max_queue = counted.max_queue,
            in_flight = counted.in_flight,
            queued = counted.queued,
            running = counted.running,
            wakeups = counted.wakeups,
        }
    end
    return all
end


return _M
