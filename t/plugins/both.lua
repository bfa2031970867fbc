-- Runs the same code with nginx-lua's own ngx.run_worker_thread and with ours,
-- and says whether both did the same. To be required in init_by_lua, before
-- anything is installed.

local compat = require "resty.nonblocking_ffi.compat.run_worker_thread"

local concat = table.concat
local sort = table.sort

local original = rawget(ngx, "run_worker_thread")


local _M = { original = original, ours = compat.run_worker_thread }


-- Values as text: one that is equal for equal values.
local function show(value)
    local kind = type(value)
    if kind == "table" then
        local fields = {}
        for key, field in pairs(value) do
            fields[#fields + 1] = "[" .. show(key) .. "]=" .. show(field)
        end
        sort(fields)
        return "{" .. concat(fields, ",") .. "}"
    end
    if kind == "string" then
        return #value > 2000 and #value .. ":" .. ngx.md5(value)
               or (value:gsub("[%z\1-\31\127-\255]", function(char)
                   return ("\\%d"):format(char:byte())
               end))
    end
    return tostring(value)
end


local function list(...)
    local all = {}
    for i = 1, select("#", ...) do
        all[i] = show((select(i, ...)))
    end
    return concat(all, " ")
end
_M.list = list


-- What code(run, ...) returns or raises.
local function try(code, ...)
    return list(pcall(code, ...))
end


-- Without what depends on the machine: folders, line numbers, and where
-- `require` has looked.
local function shorten(text)
    text = text:gsub("not found:\\10.*", "not found: ...")
               :gsub("nginx%.conf:%d+%):%d+:", "nginx.conf):")
               :gsub("/[^ ':]*/", ""):gsub("%.lua:%d+:", ".lua:")
    return #text > 2000 and "much" or text
end


-- What both did; "original: ..., ours: ..." if that differs. code(run, ...)
-- gets one of the two as `run`.
local function compare(code, ...)
    assert(original, "this nginx has no ngx.run_worker_thread")
    local theirs = try(code, original, ...)
    local mine = try(code, _M.ours, ...)
    if theirs == mine then
        return (shorten(mine):gsub("^true ", ""))
    end
    return "original: " .. shorten(theirs) .. ", ours: " .. shorten(mine)
end
_M.compare = compare


-- Says what both did with these arguments of run_worker_thread.
function _M.say(...)
    ngx.say(compare(function(run, ...) return run(...) end, ...))
end


-- Both, with a function of the module `jobs` in the pool `testpool`.
function _M.job(func, ...)
    ngx.say(compare(function(run, ...)
        return run("testpool", "jobs", func, ...)
    end, ...))
end


-- Installs ours.
function _M.install(given)
    return compat.install(given)
end


return _M
