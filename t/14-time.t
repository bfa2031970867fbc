# Time: one clock for all deadlines, that of the core.

use lib '.';
use t::TestNbffi;

repeat_each(1);
plan tests => repeat_each() * (blocks() * 3);
log_level('info');
run_tests();

__DATA__

=== TEST 1: a future whose wait ends has ended, and none ends before its time
--- lua
local nbffi = require "resty.nonblocking_ffi"
local clock = require("test_plugins").clock
local gate = require("test_plugins").gate()
gate.reset()
assert(nbffi.pool("stuck", { threads = 1 }))
local rt = assert(nbffi.load { language = "c", library = "gate",
                               pool = "stuck" })
local holds = assert(rt:submit("hold x"))
gate.has("started", 1)
local early, pending, wrong, ended = 0, 0, 0, 0
local function one(i)
    local timeout = (i % 97 + 1) * 0.00037
    local began = clock()
    local fut = assert(rt:submit("note y", { timeout = timeout }))
    local res, err
    if i % 3 == 0 then
        res, err = nil, select(2, nbffi.wait_all { fut })[1]
    elseif i % 3 == 1 then
        res, err = select(2, nbffi.wait_any { fut })
    else
        res, err = fut:wait()
    end
    ended = ended + 1
    early = early + (clock() - began < timeout and 1 or 0)
    wrong = wrong + ((res or err ~= "timeout") and 1 or 0)
    -- One that is done cannot be cancelled.
    pending = pending + (fut:cancel() and 1 or 0)
end
local function many(first)
    for i = first, first + 99 do
        one(i)
    end
end
local threads = {}
for i = 1, 60 do
    threads[i] = ngx.thread.spawn(many, i * 100)
end
for i = 1, 60 do
    ngx.thread.wait(threads[i])
end
gate.open()
holds:wait()
ngx.say(ended, " ended, ", early, " early, ", pending, " pending, ",
        wrong, " wrong, ", rt:stats().errors.timeout, " counted")
--- response_body
6000 ended, 0 early, 0 pending, 0 wrong, 6000 counted



=== TEST 2: calls do not end before their time, though the event loop's clock is old
--- lua
local nbffi = require "resty.nonblocking_ffi"
local clock = require("test_plugins").clock
local rt = assert(nbffi.load { language = "c", library = "late",
                               name = "never" })
local early, wrong = 0, 0
for i = 1, 100 do
    local timeout = 0.0101 + i % 10 / 10000
    -- nginx looks at its clock once a turn.
    local busy = clock() + 0.006
    while clock() < busy do end
    local began = clock()
    local res, err = rt:call("never" .. i, { timeout = timeout })
    early = early + (clock() - began < timeout and 1 or 0)
    wrong = wrong + ((res or err ~= "timeout") and 1 or 0)
end
ngx.say(early, " early, ", wrong, " wrong, ",
        rt:stats().errors.timeout, " counted")
--- response_body
0 early, 0 wrong, 100 counted



=== TEST 3: a wait with a timeout of its own is not early either, and leaves the future
--- lua
local nbffi = require "resty.nonblocking_ffi"
local clock = require("test_plugins").clock
local rt = assert(nbffi.load { language = "c", library = "late",
                               name = "never" })
local early, ended, wrong = 0, 0, 0
local function waits(fut, timeout)
    local _, err = fut:wait(timeout)
    return err
end
local function waits_all(fut, timeout)
    local _, errs = nbffi.wait_all({ fut, fut }, timeout)
    return errs[1] == errs[2] and errs[1]
end
local function waits_any(fut, timeout)
    local _, err = nbffi.wait_any({ fut }, timeout)
    return err
end
local function many(wait)
    for i = 1, 60 do
        local fut = assert(rt:submit("never", { timeout = 600 }))
        local timeout = (i % 29 + 1) * 0.00043
        local busy = clock() + 0.001
        while clock() < busy do end
        local began = clock()
        local err = wait(fut, timeout)
        early = early + (clock() - began < timeout and 1 or 0)
        wrong = wrong + (err ~= "timeout" and 1 or 0)
        ended = ended + (fut:cancel() and 0 or 1)
    end
end
local threads = {}
for i, wait in ipairs { waits, waits_all, waits_any } do
    threads[i] = ngx.thread.spawn(many, wait)
end
for i = 1, #threads do
    ngx.thread.wait(threads[i])
end
ngx.say(early, " early, ", ended, " ended, ", wrong, " wrong, ",
        rt:stats().errors.cancelled, " cancelled")
--- response_body
0 early, 0 ended, 0 wrong, 180 cancelled



=== TEST 4: close and tasks that wait for room are not early
--- lua
local nbffi = require "resty.nonblocking_ffi"
local clock = require("test_plugins").clock
local late = require("test_plugins").late()
local gate = require("test_plugins").gate()
gate.reset()
assert(nbffi.pool("one", { threads = 1, max_queue = 0 }))
local rt = assert(nbffi.load { language = "c", library = "gate",
                               pool = "one", on_full = "wait" })
local other = assert(nbffi.load { language = "c", library = "late",
                                  name = "held" })
local holds = assert(rt:submit("hold x"))
gate.has("started", 1)
local held = assert(other:submit("held"))
late.has("held")
local early, wrong = 0, 0
local function try(timeout, func, ...)
    local busy = clock() + 0.003
    while clock() < busy do end
    local began = clock()
    local res, err = func(...)
    early = early + (clock() - began < timeout and 1 or 0)
    wrong = wrong + ((res or err ~= "timeout") and 1 or 0)
end
for i = 1, 20 do
    local timeout = 0.0041 + i * 0.00013
    try(timeout, rt.call, rt, "note y", { timeout = timeout })
    try(timeout, rt.submit, rt, "note y", { timeout = timeout })
    try(timeout, other.close, other, timeout)
end
gate.open()
late.act("held", "respond", "it is")
ngx.say(early, " early, ", wrong, " wrong, ", holds:wait(), ", ",
        held:wait(), ", ", other:close())
--- response_body
0 early, 0 wrong, x, it is, true



=== TEST 5: a time beyond all times is no limit, wherever it is given
--- http_config eval
"
init_by_lua_block {
    require('resty.nonblocking_ffi').setup{ shutdown_timeout = math.huge,
                                            timeout = 2^63 }
}"
--- lua
local nbffi = require "resty.nonblocking_ffi"
assert(nbffi.load { language = "c", library = "echo", name = "echo" })
local results = {}
for _, long in ipairs { math.huge, 1e10, 1e12, 2^63, 2^64, 1e308 } do
    local name = string.format("long %g", long)
    assert(nbffi.pool(name, { threads = 1, max_queue = 0 }))
    local rt = assert(nbffi.load {
        language = "lua", pool = name, timeout = long, name = name,
        vm = name, init = "ngx.sleep(0.05)",
    })
    local function slow(long)
        ngx.sleep(0.02)
        local worker = require "resty.nonblocking_ffi.worker"
        return assert(worker.call("echo", "tea", long)),
               worker.deadline()
    end
    local function echo(x) return x end
    local slows = loadstring(string.dump(slow))
    assert(rt:call_fn({ slows, timeout = long }, long) == "tea")
    assert(select("#", rt:call_fn(slows, long)) == 2)
    assert(select(2, rt:call_fn(slows, long)) == nil)
    assert(rt:call_fn(loadstring(string.dump(echo)), "x") == "x")
    assert(rt:close(long) == true)

    local plugin = assert(nbffi.load {
        language = "c", library = "async_timer", timeout = long,
        name = "plugin " .. name, on_full = "wait", pool = name,
    })
    local function submit()
        return assert(plugin:submit("20 tea", { timeout = long }))
    end
    assert(plugin:call("20 tea", { timeout = long }) == "tea")
    assert(submit():wait(long) == "tea")
    assert(nbffi.wait_all({ submit(), submit() }, long)[2] == "tea")
    assert(select(2, nbffi.wait_any({ submit() }, long)) == "tea")
    assert(plugin:cast("1 tea", { timeout = long }))
    assert(plugin:close(long))
end
-- What is no time is refused.
local echo = assert(nbffi.load { language = "c", library = "echo" })
local fut = assert(echo:submit("x"))
local huge, nan = math.huge, 0 / 0
for _, bad in ipairs { -1, -huge, nan, "1" } do
    for what, try in pairs {
        setup = function() nbffi.setup { timeout = bad } end,
        exit = function() nbffi.setup { shutdown_timeout = bad } end,
        load = function()
            nbffi.load { language = "c", library = "echo",
                         timeout = bad }
        end,
        call = function() echo:call("x", { timeout = bad }) end,
        submit = function() echo:submit("x", { timeout = bad }) end,
        cast = function() echo:cast("x", { timeout = bad }) end,
        wait = function() fut:wait(bad) end,
        wait_all = function() nbffi.wait_all({ fut }, bad) end,
        wait_any = function() nbffi.wait_any({ fut }, bad) end,
        close = function() echo:close(bad) end,
        run = function()
            nbffi.run({ "string", timeout = bad }, "rep", "x")
        end,
    } do
        local ok, err = pcall(try)
        if ok or not err:find("timeout must be a ", 1, true) then
            ngx.say(what, " ", bad, ": ", err)
        end
    end
end
ngx.say("done")
--- response_body
done



=== TEST 6: what a plugin says after the deadline is a timeout, whoever notices first
--- lua
local nbffi = require "resty.nonblocking_ffi"
local tp = require "test_plugins"
local clock, late = tp.clock, tp.late()
local rt = assert(nbffi.load { language = "c", library = "late" })
local function counted(...)
    return select("#", ...), ...
end
for _, action in ipairs { "respond", "fail", "status" } do
    local call = ngx.thread.spawn(function()
        return counted(rt:call(action, { timeout = 0.2 }))
    end)
    -- The event loop does not look at its timers meanwhile.
    late.has(action)
    local past = clock() + 0.2
    while clock() < past do end
    late.act(action, action, "too late")
    if action == "status" then
        late.act(action, "respond", "too late")
    end
    tp.say(select(2, ngx.thread.wait(call)))
end
ngx.say(rt:stats().errors.timeout, " ", rt:stats().ok)
--- response_body
2 nil timeout
2 nil timeout
2 nil timeout
3 0
