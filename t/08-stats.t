# Statistics: every call is counted, once, where it belongs.

use lib '.';
use t::TestNbffi;

repeat_each(1);
plan tests => repeat_each() * (blocks() * 3);
run_tests();

__DATA__

=== TEST 1: every field of a runtime's stats, before the first call
--- lua
local nbffi = require "resty.nonblocking_ffi"
nbffi.pool("mine", { threads = 2 })
local rt = assert(nbffi.load { language = "c", library = "echo",
                               name = "fresh", pool = "mine" })
local lines = {}
local function walk(prefix, stats)
    for key, value in pairs(stats) do
        if type(value) == "table" then
            walk(prefix .. key .. ".", value)
        else
            lines[#lines + 1] = prefix .. key .. " = " .. tostring(value)
        end
    end
end
walk("", rt:stats())
table.sort(lines)
ngx.say(table.concat(lines, "\n"))
--- response_body
calls = 0
errors.cancelled = 0
errors.closed = 0
errors.no memory = 0
errors.queue overflow = 0
errors.response too large = 0
errors.runtime error = 0
errors.shutting down = 0
errors.timeout = 0
expired = 0
grace_hits = 0
grace_misses = 0
in_flight = 0
name = fresh
ok = 0
pool = mine
queue_time.count = 0
queue_time.max = 0
queue_time.mean = 0
queue_time.p50 = 0
queue_time.p90 = 0
queue_time.p99 = 0
queue_time.p999 = 0
queued = 0
run_time.count = 0
run_time.max = 0
run_time.mean = 0
run_time.p50 = 0
run_time.p90 = 0
run_time.p99 = 0
run_time.p999 = 0
running = 0
total_time.count = 0
total_time.max = 0
total_time.mean = 0
total_time.p50 = 0
total_time.p90 = 0
total_time.p99 = 0
total_time.p999 = 0



=== TEST 2: each outcome is counted once, under its name
--- lua
local nbffi = require "resty.nonblocking_ffi"
local tp = require "test_plugins"
local gate = tp.gate()
gate.reset()
nbffi.pool("small", { threads = 1, max_queue = 5 })
local rt = assert(nbffi.load { language = "c", library = "gate",
                               pool = "small" })
local verbs = assert(nbffi.load { language = "c", library = "verbs",
                                  max_response = 20 })
local kinds = { "timeout", "cancelled", "queue overflow", "closed",
                "response too large", "runtime error", "no memory",
                "shutting down" }
local function show(what, runtime)
    tp.poll(function() return runtime:stats().in_flight == 0 end)
    local stats = runtime:stats()
    local text, sum = {}, stats.ok
    for _, kind in ipairs(kinds) do
        local n = stats.errors[kind]
        if n > 0 then text[#text + 1] = kind .. " " .. n end
        sum = sum + n
    end
    ngx.say(what, ": calls ", stats.calls, ", ok ", stats.ok, ", ",
            table.concat(text, ", "))
    if sum ~= stats.calls then ngx.say("they do not add up") end
end
show("nothing", rt)
local first = rt:submit("hold x")
gate.has("started", 1)
local a, b = rt:submit("note a", { timeout = 0.01 }), rt:submit("note b")
local rest = { first, rt:submit("note c"), rt:submit("note d"),
               rt:submit("note e") }
rt:call("note f")
rt:cast("note g")
b:cancel()
a:wait()
gate.open()
nbffi.wait_all(rest)
show("gate", rt)
verbs:call("size 21")
verbs:call("fail 1 x")
verbs:call("return 1")
verbs:call("status 7 fine")
show("verbs", verbs)
rt:close()
rt:call("late")
rt:submit("late")
rt:cast("late")
--- response_body
nothing: calls 0, ok 0, 
gate: calls 8, ok 4, timeout 1, cancelled 1, queue overflow 2
verbs: calls 4, ok 1, response too large 1, runtime error 2



=== TEST 3: in flight, queued, running while a pool is busy
--- lua
local nbffi = require "resty.nonblocking_ffi"
local tp = require "test_plugins"
local gate = tp.gate()
gate.reset()
nbffi.pool("two", { threads = 2 })
local rt = assert(nbffi.load { language = "c", library = "gate",
                               pool = "two" })
local function show(rt_too)
    local stats, all = rt:stats(), nbffi.stats()
    local pool = all.pools.two
    if rt_too then
        ngx.say("runtime: ", stats.in_flight, " ", stats.queued, " ",
                stats.running)
    end
    ngx.say("pool: ", pool.in_flight, " ", pool.queued, " ",
            pool.running, " of ", pool.threads, ", at most ",
            pool.max_queue, "; slots: ", all.slots.used)
end
local futures = {}
for i = 1, 7 do futures[i] = rt:submit("hold x") end
gate.has("started", 2)
tp.poll(function() return rt:stats().running == 2 end)
show(true)
gate.open()
nbffi.wait_all(futures)
tp.poll(function() return nbffi.stats().pools.two.running == 0 end)
show(true)
ngx.say(nbffi.stats().slots.allocated >= 7)
--- response_body
runtime: 7 5 2
pool: 7 5 2 of 2, at most 65536; slots: 7
runtime: 0 0 0
pool: 0 0 0 of 2, at most 65536; slots: 0
true



=== TEST 4: times: counted per task, in seconds, in order of their ranks
--- lua
local nbffi = require "resty.nonblocking_ffi"
local tp = require "test_plugins"
local gate = tp.gate()
gate.reset()
local rt = assert(nbffi.load { language = "c", library = "gate" })
for _ = 1, 99 do rt:call("note x") end
local fut = rt:submit("hold x")
gate.has("started", 100)
-- It runs for at least that long.
ngx.sleep(0.03)
gate.open()
fut:wait()
tp.poll(function() return rt:stats().run_time.count == 100 end)
local stats = rt:stats()
for _, name in ipairs { "queue_time", "run_time", "total_time" } do
    local t = stats[name]
    local ordered = t.p50 <= t.p90 and t.p90 <= t.p99
                    and t.p99 <= t.p999 and t.p999 <= t.max
                    and t.mean > 0 and t.mean < t.max
    ngx.say(name, ": ", t.count, " ", ordered)
end
local run, total = stats.run_time, stats.total_time
ngx.say(run.max >= 0.03 and run.max < 20, " ",
        total.max >= 0.03 and total.max < 20)
--- response_body
queue_time: 100 true
run_time: 100 true
total_time: 100 true
true true



=== TEST 5: nbffi.stats: before anything is loaded, and with names
--- lua
local nbffi = require "resty.nonblocking_ffi"
local function names(list)
    local all = {}
    for name in pairs(list) do all[#all + 1] = name end
    table.sort(all)
    return table.concat(all, " ")
end
local before = nbffi.stats()
ngx.say("[", names(before.runtimes), "] [", names(before.pools), "] ",
        before.channel.wakeups, " ", before.channel.completions, " ",
        before.slots.used, " ", before.slots.allocated, " ",
        before.log_dropped)
nbffi.pool("unused", { threads = 1 })
nbffi.pool("other", { threads = 1, max_queue = 9 })
assert(nbffi.load { language = "c", library = "echo" })
local rt = assert(nbffi.load { language = "c", library = "echo",
                               name = "second", pool = "other" })
for _ = 1, 50 do rt:call("x") end
local stats = nbffi.stats()
ngx.say("[", names(stats.runtimes), "] [", names(stats.pools), "]")
ngx.say(stats.runtimes.second.ok, " ", stats.runtimes.echo.ok, " ",
        stats.runtimes.second.pool)
ngx.say(stats.pools.other.max_queue, " ", stats.pools.other.threads)
ngx.say(stats.channel.completions >= 50, " ",
        stats.channel.wakeups <= stats.channel.completions)
rt:close()
ngx.say("[", names(nbffi.stats().runtimes), "]")
--- response_body
[] [] 0 0 0 0 0
[echo second] [default other]
50 0 other
9 1
true true
[echo]



=== TEST 6: many completions, few wake-ups of the event loop
--- lua
local nbffi = require "resty.nonblocking_ffi"
local gate = require("test_plugins").gate()
gate.reset()
nbffi.pool("one", { threads = 1 })
local rt = assert(nbffi.load { language = "c", library = "gate",
                               pool = "one" })
local futures = {}
for i = 1, 200 do futures[i] = rt:submit("hold ") end
gate.has("started", 1)
local before = nbffi.stats().channel
gate.open()
-- nginx is busy with this while they end.
gate.has("ended", 200)
nbffi.wait_all(futures)
local after = nbffi.stats().channel
ngx.say(after.completions - before.completions)
ngx.say(after.wakeups - before.wakeups < 200)
--- response_body
200
true



=== TEST 7: grace: hits and misses are lone calls that waited
--- lua
local nbffi = require "resty.nonblocking_ffi"
local rt = assert(nbffi.load { language = "c", library = "echo" })
for _ = 1, 500 do rt:call("x") end
local stats = rt:stats()
ngx.say(stats.grace_hits + stats.grace_misses <= 500)
ngx.say(stats.ok, " ", stats.total_time.count)
--- response_body
true
500 500



=== TEST 8: the figures of a closed runtime stay as they were
--- lua
local nbffi = require "resty.nonblocking_ffi"
local rt = assert(nbffi.load { language = "c", library = "echo" })
for _ = 1, 3 do rt:call("x") end
rt:close()
local stats = rt:stats()
ngx.say(stats.name, " ", stats.ok, " ", stats.in_flight)
local again = assert(nbffi.load { language = "c", library = "echo" })
ngx.say(again:stats().ok, " ", rt:stats().ok)
--- response_body
echo 3 0
0 3
