-- What the Lua code in the tests' configurations shares. Every runtime is
-- loaded when it is first asked for, and the same from then on.

local ffi = require "ffi"
local nbffi = require "resty.nonblocking_ffi"

local format = string.format
local sort = table.sort
local concat = table.concat


local _M = {
    -- Set by the configuration that the tests' harness writes.
    counters = nil,
}


-- Adds the options that are given, if any, to others, and returns these.
function _M.with(options, given)
    for key, value in pairs(given or {}) do
        options[key] = value
    end
    return options
end


-- load, with the options that are given added to others.
function _M.load(options, given)
    return nbffi.load(_M.with(options, given))
end


-- The plugin that misbehaves; `given` has more options for load.
function _M.fault(given)
    return assert(_M.load({
        runtime = "c", library = "fault", config = "counters=" .. _M.counters,
    }, given))
end


-- The same as an asynchronous plugin.
function _M.async(given)
    return _M.fault(_M.with({ entry = "fault_async", name = "async" }, given))
end


function _M.echo()
    return assert(nbffi.load { runtime = "c", library = "echo" })
end


local function flatten(into, value, path)
    if type(value) == "table" then
        for key, inner in pairs(value) do
            flatten(into, inner, path == "" and key or path .. "." .. key)
        end
        return
    end
    into[#into + 1] = format("%s=%s", path, tostring(value))
end


-- Prints a table, one line "a.b=value" for each value.
function _M.dump(value)
    local lines = {}
    flatten(lines, value, "")
    sort(lines)
    ngx.print(concat(lines, "\n"), "\n")
end


-- Prints the results of a call: "ok <response>", or "error <error>".
function _M.say(res, err, code, message)
    if res then
        return ngx.print("ok ", res)
    end
    ngx.print("error ", tostring(err), " code=", tostring(code),
              " message=", tostring(message))
end


-- Adds up: counts[result] is how often a call has ended that way.
function _M.count(counts, res, err)
    local key = res and "ok" or err
    counts[key] = (counts[key] or 0) + 1
    return counts
end


-- Runs func(1) to func(count) in light threads, and waits for them.
function _M.together(count, func)
    local threads = {}
    for i = 1, count do
        threads[i] = ngx.thread.spawn(func, i)
    end
    for i = 1, count do
        assert(ngx.thread.wait(threads[i]))
    end
end


-- Sets what the process may have of something: memory ("AS"), descriptors
-- ("NOFILE"). Returns a function that lifts the limit, without taking memory.
function _M.limit(what, amount)
    ffi.cdef [[
        typedef struct { unsigned long soft, hard; } nbffi_test_rlimit;
        int getrlimit(int resource, nbffi_test_rlimit *limit);
        int setrlimit(int resource, const nbffi_test_rlimit *limit);
    ]]
    local C = ffi.C
    local number = assert(({ AS = 9, NOFILE = 7 })[what])
    local before = ffi.new("nbffi_test_rlimit")
    assert(C.getrlimit(number, before) == 0)
    local limit = ffi.new("nbffi_test_rlimit", before)
    local function lift()
        assert(C.setrlimit(number, before) == 0)
    end
    limit.soft = amount
    assert(C.setrlimit(number, limit) == 0)
    return lift
end


-- The address space of the process, in bytes.
function _M.space()
    local file = assert(io.open("/proc/self/statm"))
    local pages = file:read("*n")
    file:close()
    return pages * 4096
end


-- How many threads the process may start from now on; nil: as many as it likes.
-- With the preloaded library `shortage`.
function _M.threads(number)
    ffi.cdef "void shortage_threads(int number);"
    ffi.C.shortage_threads(number or -1)
end


return _M
