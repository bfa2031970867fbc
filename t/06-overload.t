# Full queues, deadlines that pass in the queue, priorities.

use lib '.';
use t::TestNbffi;

repeat_each(2);
plan tests => repeat_each() * (blocks() * 3);
run_tests();

__DATA__

=== TEST 1: on_full = "error": what does not fit is refused
--- lua
local nbffi = require "resty.nonblocking_ffi"
local say = require("test_plugins").say
local gate = require("test_plugins").gate()
gate.reset()
nbffi.pool("small", { threads = 1, max_queue = 3 })
local rt = assert(nbffi.load { language = "c", library = "gate",
                               name = ngx.var.request_id,
                               pool = "small" })
local first = rt:submit("hold x")
gate.has("started", 1)
local futures = {}
for i = 1, 3 do futures[i] = assert(rt:submit("note " .. i)) end
say("call:", rt:call("note 4"))
say("submit:", rt:submit("note 5"))
say("cast:", rt:cast("note 6"))
gate.open()
say(first:wait())
local results = nbffi.wait_all(futures)
ngx.say(table.concat(results))
-- There is room again.
say(rt:call("note 7"))
ngx.say(gate.order(), " ", rt:stats().errors["queue overflow"])
--- response_body
call: nil queue overflow
submit: nil queue overflow
cast: nil queue overflow
x
123
7
1237 3



=== TEST 2: max_queue = 0: a task either finds an idle thread or is refused
--- lua
local nbffi = require "resty.nonblocking_ffi"
local tp = require "test_plugins"
local say, gate = tp.say, tp.gate()
gate.reset()
nbffi.pool("none", { threads = 2, max_queue = 0 })
local rt = assert(nbffi.load { language = "c", library = "gate",
                               name = ngx.var.request_id,
                               pool = "none" })
local a, b = rt:submit("hold a"), rt:submit("hold b")
say("third:", rt:submit("hold c"))
say("fourth:", rt:call("hold d"))
gate.has("started", 2)
gate.open()
say(a:wait(), b:wait())
tp.poll(function() return rt:stats().in_flight == 0 end)
say(rt:call("note e"))
ngx.say(gate.started(), " ", rt:stats().errors["queue overflow"])
--- response_body
third: nil queue overflow
fourth: nil queue overflow
a b
e
3 2



=== TEST 3: on_full = "wait": calls wait for room, first come, first served
--- lua
local nbffi = require "resty.nonblocking_ffi"
local gate = require("test_plugins").gate()
gate.reset()
nbffi.pool("small", { threads = 1, max_queue = 2 })
local rt = assert(nbffi.load { language = "c", library = "gate",
                               name = ngx.var.request_id,
                               on_full = "wait", pool = "small" })
local first = rt:submit("hold x")
gate.has("started", 1)
local threads = {}
for i = 1, 9 do
    threads[i] = ngx.thread.spawn(function()
        return rt:call("note " .. i)
    end)
end
ngx.say(rt:stats().in_flight, " ", rt:stats().errors["queue overflow"])
gate.open()
ngx.say(first:wait())
local results = {}
for i = 1, 9 do
    local _, res, err = ngx.thread.wait(threads[i])
    results[i] = res or err
end
ngx.say(table.concat(results))
ngx.say(gate.order())
--- response_body
3 0
x
123456789
123456789



=== TEST 4: on_full = "wait": who comes when there is room goes behind who waits
--- lua
local nbffi = require "resty.nonblocking_ffi"
local tp = require "test_plugins"
local say, gate = tp.say, tp.gate()
gate.reset()
nbffi.pool("small", { threads = 1, max_queue = 1 })
local rt = assert(nbffi.load { language = "c", library = "gate",
                               name = ngx.var.request_id,
                               on_full = "wait", pool = "small" })
local first = rt:submit("hold x")
gate.has("started", 1)
local second = rt:submit("note 1")
local waits = ngx.thread.spawn(function() return rt:call("note 2") end)
gate.open()
-- Without yielding, so that nobody hears of the room that there is.
local limit = os.time() + 10
while nbffi.stats().pools.small.running > 0 or gate.ended() < 2 do
    if os.time() > limit then break end
end
say(rt:call("note 3"))
say(first:wait(), second:wait(), select(2, ngx.thread.wait(waits)))
ngx.say(gate.order())
--- response_body
3
x 1 2
123



=== TEST 5: on_full = "wait": up to the timeout
--- lua
local nbffi = require "resty.nonblocking_ffi"
local tp = require "test_plugins"
local say, gate = tp.say, tp.gate()
gate.reset()
nbffi.pool("small", { threads = 1, max_queue = 1 })
local rt = assert(nbffi.load { language = "c", library = "gate",
                               name = ngx.var.request_id,
                               on_full = "wait", pool = "small" })
local first = rt:submit("hold x")
gate.has("started", 1)
local second = rt:submit("note 2")
say("call:", rt:call("note lost", { timeout = 0.02 }))
say("submit:", rt:submit("note lost", { timeout = 0.02 }))
ngx.say(rt:stats().errors.timeout)
gate.open()
say(first:wait(), second:wait())
say(rt:call("note 3"))
ngx.say(gate.order())
--- response_body
call: nil timeout
submit: nil timeout
2
x 2
3
23



=== TEST 6: on_full = "wait": submit waits for room, not for the result
--- lua
local nbffi = require "resty.nonblocking_ffi"
local gate = require("test_plugins").gate()
gate.reset()
nbffi.pool("small", { threads = 1, max_queue = 1 })
local rt = assert(nbffi.load { language = "c", library = "gate",
                               name = ngx.var.request_id,
                               on_full = "wait", pool = "small" })
local first = rt:submit("hold a")
gate.has("started", 1)
local second = rt:submit("hold b")
local third
local waiting = ngx.thread.spawn(function()
    third = rt:submit("hold c")
end)
ngx.say(third)
gate.let(1)
ngx.thread.wait(waiting)
-- The first has ended, the second runs, the third is in the queue.
ngx.say(first:wait(), " ", gate.ended(), " ", third ~= nil)
gate.open()
ngx.say(second:wait(), third:wait())
--- response_body
nil
a 1 true
bc



=== TEST 7: on_full = "wait" on two runtimes of one pool; one of them is closed
--- lua
local nbffi = require "resty.nonblocking_ffi"
local tp = require "test_plugins"
local gate = tp.gate()
gate.reset()
nbffi.pool("small", { threads = 1, max_queue = 1 })
local function load(name)
    return assert(nbffi.load { language = "c", library = "gate",
                               name = name .. ngx.var.request_id,
                               on_full = "wait", pool = "small" })
end
local a, b = load "a", load "b"
local first = a:submit("hold x")
gate.has("started", 1)
local second = a:submit("note 1")
local waits_a = ngx.thread.spawn(function() return a:call("note 2") end)
local waits_b = ngx.thread.spawn(function() return b:call("note 3") end)
local closing = ngx.thread.spawn(function() return a:close() end)
gate.open()
tp.say("in flight:", first:wait(), second:wait())
tp.say("blocked, closed:", select(2, ngx.thread.wait(waits_a)))
tp.say("blocked:", select(2, ngx.thread.wait(waits_b)))
tp.say("close:", select(2, ngx.thread.wait(closing)))
ngx.say(gate.order())
--- response_body
in flight: x 1
blocked, closed: nil closed
blocked: 3
close: true
13



=== TEST 8: a caller that waits for room and is killed
--- lua
local nbffi = require "resty.nonblocking_ffi"
local tp = require "test_plugins"
local gate = tp.gate()
gate.reset()
nbffi.pool("small", { threads = 1, max_queue = 1 })
local rt = assert(nbffi.load { language = "c", library = "gate",
                               name = ngx.var.request_id,
                               on_full = "wait", pool = "small" })
local first = rt:submit("hold x")
gate.has("started", 1)
local second = rt:submit("note 1")
local killed = ngx.thread.spawn(function() rt:call("note 2") end)
local waits = ngx.thread.spawn(function() return rt:call("note 3") end)
assert(ngx.thread.kill(killed))
gate.open()
tp.say(first:wait(), second:wait(), select(2, ngx.thread.wait(waits)))
tp.say(rt:call("note 4"))
ngx.say(tp.poll(function() return rt:stats().in_flight == 0 end))
ngx.say(gate.order():gsub("2", "", 1))
--- response_body_like
x 1 3
4
true
134[01]



=== TEST 9: a task whose deadline passes in the queue is dropped unrun, and counted
--- lua
local nbffi = require "resty.nonblocking_ffi"
local tp = require "test_plugins"
local say, gate = tp.say, tp.gate()
gate.reset()
nbffi.pool("one", { threads = 1 })
local rt = assert(nbffi.load { language = "c", library = "gate",
                               name = ngx.var.request_id, pool = "one" })
local first = rt:submit("hold x")
gate.has("started", 1)
for i = 1, 7 do
    assert(rt:cast("note lost", { timeout = 0.01 }))
end
local last = rt:submit("note kept")
ngx.sleep(0.02)
gate.open()
say(first:wait(), last:wait())
ngx.say(tp.poll(function() return rt:stats().in_flight == 0 end))
local stats = rt:stats()
ngx.say(gate.order(), " ", gate.started(), " ", stats.expired, " ",
        stats.errors.timeout, " ", stats.ok)
--- response_body
x kept
true
kept 2 7 7 2



=== TEST 10: priorities: high before normal before low, and each in order
--- lua
local nbffi = require "resty.nonblocking_ffi"
local gate = require("test_plugins").gate()
gate.reset()
nbffi.pool("one", { threads = 1 })
local rt = assert(nbffi.load { language = "c", library = "gate",
                               name = ngx.var.request_id, pool = "one" })
local first = rt:submit("hold x")
gate.has("started", 1)
local futures = {}
local function add(priority, letter, count)
    for i = 1, count do
        futures[#futures + 1] = rt:submit("note " .. letter .. i .. " ",
                                          { priority = priority })
    end
end
add("low", "l", 40)
add("normal", "n", 40)
add(nil, "d", 1)
add("high", "h", 40)
-- Posts may be sent to the pool at the end of the event loop's turn.
ngx.sleep(0.001)
gate.open()
first:wait()
nbffi.wait_all(futures)
local at, seen, count = {}, { l = 0, n = 0, h = 0, d = 0 }, 0
local sums = { l = 0, n = 0, h = 0 }
for letter, i in gate.order():gmatch("(%a)(%d+)") do
    count = count + 1
    seen[letter] = seen[letter] + 1
    if tonumber(i) ~= seen[letter] then ngx.say("not in order: ", i) end
    at[letter .. i] = count
    if sums[letter] then sums[letter] = sums[letter] + count end
end
ngx.say(count)
if sums.h > sums.n or sums.n > sums.l then
    ngx.say("not by priority: ", gate.order())
end
ngx.say(at.d1 > at.n40)
-- While there are tasks of high priority, some low ones start as well.
ngx.say(at.l1 < at.h40, " ", at.n1 < at.h40)
--- response_body
121
true
true true



=== TEST 11: low is not starved by a flood of high
--- lua
local nbffi = require "resty.nonblocking_ffi"
local tp = require "test_plugins"
local gate = tp.gate()
gate.reset()
nbffi.pool("one", { threads = 1 })
local rt = assert(nbffi.load { language = "c", library = "gate",
                               name = ngx.var.request_id, pool = "one" })
local done = false
local low = ngx.thread.spawn(function()
    local res = rt:call("note low ", { priority = "low", timeout = 10 })
    done = true
    return res
end)
-- The flood ends only when the task of low priority has run.
local rounds = 0
local flood = {}
for i = 1, 20 do
    flood[i] = ngx.thread.spawn(function()
        while not done and rounds < 1000000 do
            rounds = rounds + 1
            rt:call("hold ", { priority = "high" })
        end
    end)
end
gate.open()
local _, res, err = ngx.thread.wait(low)
for i = 1, 20 do ngx.thread.wait(flood[i]) end
ngx.say(res or err)
--- response_body eval
"low \n"



=== TEST 12: a queue that is full of one pool does not concern another
--- lua
local nbffi = require "resty.nonblocking_ffi"
local tp = require "test_plugins"
local gate = tp.gate()
gate.reset()
nbffi.pool("small", { threads = 1, max_queue = 0 })
nbffi.pool("other", { threads = 1, max_queue = 0 })
local held = assert(nbffi.load { language = "c", library = "gate",
                                 pool = "small" })
local free = assert(nbffi.load { language = "c", library = "gate",
                                 pool = "other" })
local fut = held:submit("hold x")
gate.has("started", 1)
tp.say(held:call("note y"))
tp.say(free:call("note z"))
gate.open()
tp.say(fut:wait())
--- response_body
nil queue overflow
z
x
