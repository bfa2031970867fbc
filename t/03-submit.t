# submit, futures, wait_all, wait_any, cancelling.

use lib '.';
use t::TestNbffi;

repeat_each(2);
plan tests => repeat_each() * (blocks() * 3 + 3);
run_tests();

__DATA__

=== TEST 1: submit returns at once; wait gives the result, again and again
--- lua
local say = require("test_plugins").say
local nbffi = require "resty.nonblocking_ffi"
local gate = require("test_plugins").gate()
gate.reset()
local rt = assert(nbffi.load { language = "c", library = "gate" })
local fut = assert(rt:submit("hold x"))
ngx.say(gate.has("started", 1), " ", gate.ended())
gate.open()
say(fut:wait())
say(fut:wait())
say(fut:wait(0))
--- response_body
true 0
x
x
x



=== TEST 2: wait gives what call would
--- lua
local nbffi = require "resty.nonblocking_ffi"
local rt = assert(nbffi.load { language = "c", library = "verbs",
                               max_response = 100 })
local function try(req)
    local fut = rt:submit(req)
    local res, err, code, message = fut:wait()
    ngx.say(res, " | ", err, " | ", code, " | ", message)
end
try "name"
try "fail 42 out of cheese"
try "return 7"
try "status 206 partial"
try "size 101"
--- response_body
verbs | nil | nil | nil
nil | runtime error: out of cheese | 42 | out of cheese
nil | runtime error: code 7 | 7 | code 7
with a status | nil | 206 | partial
nil | response too large | nil | nil



=== TEST 3: a wait that times out before the deadline may be repeated
--- lua
local say = require("test_plugins").say
local nbffi = require "resty.nonblocking_ffi"
local gate = require("test_plugins").gate()
gate.reset()
local rt = assert(nbffi.load { language = "c", library = "gate" })
local fut = assert(rt:submit("hold x"))
say(fut:wait(0))
say(fut:wait(0.01))
say(fut:wait(0.01))
gate.open()
say(fut:wait(10))
ngx.say(gate.started(), " ", rt:stats().errors.timeout)
--- response_body
nil timeout
nil timeout
nil timeout
x
1 0



=== TEST 4: the deadline of the task ends the future, however long one waits
--- lua
local say = require("test_plugins").say
local nbffi = require "resty.nonblocking_ffi"
local tp = require "test_plugins"
local gate = tp.gate()
gate.reset()
local rt = assert(nbffi.load { language = "c", library = "gate",
                               name = ngx.var.request_id })
local fut, res, err
local tries = 0
tp.until_begun(rt, function()
    tries = tries + 1
    fut = assert(rt:submit("hold x", { timeout = 0.2 }))
    res, err = fut:wait(100)
end, gate.started)
say(res, err)
gate.open()
ngx.say(gate.has("ended", 1))
-- What comes later does not change it.
say(rt:call("note y"))
say(fut:wait())
ngx.say(fut:cancel())
ngx.say(rt:stats().errors.timeout == tries)
--- response_body
nil timeout
true
y
nil timeout
false
true



=== TEST 5: cancelled before it runs, a task never runs
--- lua
local say = require("test_plugins").say
local nbffi = require "resty.nonblocking_ffi"
local gate = require("test_plugins").gate()
gate.reset()
nbffi.pool("one", { threads = 1 })
local rt = assert(nbffi.load { language = "c", library = "gate",
                               name = ngx.var.request_id, pool = "one" })
local first = rt:submit("hold first")
ngx.say(gate.has("started", 1))
local futures = {}
for i = 1, 5 do futures[i] = rt:submit("note " .. i) end
for i = 2, 4 do ngx.say("cancel ", i, ": ", futures[i]:cancel()) end
say(futures[3]:cancel(), futures[3]:wait())
gate.open()
ngx.say(first:wait(), futures[1]:wait(), futures[5]:wait())
ngx.say("ran: ", gate.order())
local stats = rt:stats()
ngx.say("cancelled: ", stats.errors.cancelled, ", ok: ", stats.ok)
--- response_body
true
cancel 2: true
cancel 3: true
cancel 4: true
false nil cancelled
first15
ran: 15
cancelled: 3, ok: 3



=== TEST 6: a call that times out before it runs never runs
--- lua
local say = require("test_plugins").say
local nbffi = require "resty.nonblocking_ffi"
local gate = require("test_plugins").gate()
gate.reset()
nbffi.pool("one", { threads = 1 })
local rt = assert(nbffi.load { language = "c", library = "gate",
                               name = ngx.var.request_id, pool = "one" })
local first = rt:submit("hold first")
ngx.say(gate.has("started", 1))
say(rt:call("note lost", { timeout = 0.02 }))
gate.open()
say(first:wait())
say(rt:call("note last"))
ngx.say("ran: ", gate.order())
--- response_body
true
nil timeout
first
last
ran: last



=== TEST 7: a running plugin sees that it was cancelled, or that its caller is gone
--- lua
local say = require("test_plugins").say
local nbffi = require "resty.nonblocking_ffi"
local tp = require "test_plugins"
local gate = tp.gate()
gate.reset()
local rt = assert(nbffi.load { language = "c", library = "gate" })
local fut = rt:submit("watch")
ngx.say(gate.has("started", 1), " ", gate.cancelled())
ngx.say(fut:cancel())
ngx.say(gate.has("cancelled", 1))
say(fut:wait())
local res, err
tp.until_begun(rt, function()
    res, err = rt:call("watch", { timeout = 0.2 })
end)
say(res, err)
ngx.say(gate.has("cancelled", 2))
tp.until_begun(rt, function()
    fut = rt:submit("watch", { timeout = 0.2 })
    res, err = fut:wait()
end)
say(res, err)
ngx.say(gate.has("cancelled", 3), " ", gate.ended())
--- response_body
true 0
true
true
nil cancelled
nil timeout
true
nil timeout
true 3



=== TEST 8: a task whose future is forgotten runs; its deadline is seen by the plugin
--- lua
local nbffi = require "resty.nonblocking_ffi"
local tp = require "test_plugins"
local gate = tp.gate()
gate.reset()
local rt = assert(nbffi.load { language = "c", library = "gate" })
for _ = 1, 50 do rt:submit("note .") end
collectgarbage()
collectgarbage()
ngx.say(gate.has("ended", 50))
ngx.say(gate.order() == ("."):rep(50))
ngx.say(tp.poll(function() return rt:stats().in_flight == 0 end))
--- response_body
true
true
true



=== TEST 9: cancel wakes who waits
--- lua
local nbffi = require "resty.nonblocking_ffi"
local gate = require("test_plugins").gate()
gate.reset()
local rt = assert(nbffi.load { language = "c", library = "gate" })
local fut = rt:submit("hold x")
local waiting = {}
for i = 1, 3 do
    waiting[i] = ngx.thread.spawn(function() return fut:wait() end)
end
ngx.say(gate.has("started", 1))
ngx.say(fut:cancel())
for i = 1, 3 do
    local ok, res, err = ngx.thread.wait(waiting[i])
    ngx.say(ok, " ", res, " ", err)
end
gate.open()
--- response_body
true
true
true nil cancelled
true nil cancelled
true nil cancelled



=== TEST 10: several light threads wait for one future
--- lua
local nbffi = require "resty.nonblocking_ffi"
local gate = require("test_plugins").gate()
gate.reset()
local rt = assert(nbffi.load { language = "c", library = "gate" })
local fut = rt:submit("hold x")
local waiting = {}
for i = 1, 4 do
    waiting[i] = ngx.thread.spawn(function()
        return fut:wait(i == 2 and 0.01 or 10)
    end)
end
local _, res, err = ngx.thread.wait(waiting[2])
ngx.say(res, " ", err)
gate.open()
for _, i in ipairs { 1, 3, 4 } do
    _, res, err = ngx.thread.wait(waiting[i])
    ngx.say(res, " ", err)
end
--- response_body
nil timeout
x nil
x nil
x nil



=== TEST 11: wait_all: results and errors by place
--- lua
local nbffi = require "resty.nonblocking_ffi"
local gate = require("test_plugins").gate()
gate.reset()
local verbs = assert(nbffi.load { language = "c", library = "verbs" })
local echo = assert(nbffi.load { language = "c", library = "echo" })
nbffi.pool("one", { threads = 1 })
local held = assert(nbffi.load { language = "c", library = "gate",
                                 pool = "one" })
local futures = {
    echo:submit("one"), verbs:submit("fail 2 two"),
    held:submit("hold three"), echo:submit(""), echo:submit("five"),
}
futures[5]:cancel()
local function show(results, errors)
    for i = 1, 5 do ngx.say(i, ": ", results[i], ", ", errors[i]) end
end
show(nbffi.wait_all(futures, 0.02))
gate.open()
show(nbffi.wait_all(futures))
local results, errors = nbffi.wait_all {}
ngx.say(next(results), " ", next(errors))
--- response_body
1: one, nil
2: nil, runtime error: two
3: nil, timeout
4: , nil
5: nil, cancelled
1: one, nil
2: nil, runtime error: two
3: three, nil
4: , nil
5: nil, cancelled
nil nil



=== TEST 12: wait_all runs them in parallel
--- lua
local nbffi = require "resty.nonblocking_ffi"
local gate = require("test_plugins").gate()
gate.reset()
nbffi.pool("four", { threads = 4 })
local rt = assert(nbffi.load { language = "c", library = "gate",
                               pool = "four" })
local futures = {}
for i = 1, 8 do futures[i] = rt:submit("hold " .. i) end
-- Four hold at a time, and no more.
ngx.say(gate.has("started", 4), " ", gate.ended())
ngx.say(rt:stats().running, " ", rt:stats().queued)
gate.let(2)
ngx.say(gate.has("started", 6), " ", gate.ended())
gate.open()
local results = nbffi.wait_all(futures)
ngx.say(table.concat(results))
--- response_body
true 0
4 4
true 2
12345678



=== TEST 13: wait_any: the first that is done, whatever its outcome
--- lua
local say = require("test_plugins").say
local nbffi = require "resty.nonblocking_ffi"
local late = require("test_plugins").late()
local rt = assert(nbffi.load { language = "c", library = "late" })
local id = ngx.var.request_id:sub(1, 8)
local futures = {}
for i = 1, 3 do
    futures[i] = rt:submit(id .. i)
    late.has(id .. i)
end
say(nbffi.wait_any(futures, 0.01))
say(nbffi.wait_any(futures, 0))
local function any() return nbffi.wait_any(futures) end
local also, waiting = ngx.thread.spawn(any), ngx.thread.spawn(any)
late.act(id .. 2, "fail", "second first")
local _, i, res, err, code, message = ngx.thread.wait(waiting)
ngx.say(i, " ", res, " ", err, " ", code, " ", message)
ngx.say(select(2, ngx.thread.wait(also)) == 2)
table.remove(futures, 2)
late.act(id .. 3, "respond", "third")
say(nbffi.wait_any(futures, 10))
table.remove(futures, 2)
ngx.say(futures[1]:cancel())
say(nbffi.wait_any(futures))
say(nbffi.wait_any {})
--- response_body
nil timeout
nil timeout
2 nil runtime error: second first -9 second first
true
2 third
true
1 nil cancelled
nil no futures



=== TEST 14: wait_any ends with the nearest deadline
--- lua
local say = require("test_plugins").say
local nbffi = require "resty.nonblocking_ffi"
local gate = require("test_plugins").gate()
gate.reset()
local rt = assert(nbffi.load { language = "c", library = "gate" })
local futures = {
    rt:submit("hold a", { timeout = 30 }),
    rt:submit("hold b", { timeout = 0.03 }),
}
say(nbffi.wait_any(futures))
gate.open()
say(futures[1]:wait())
--- response_body
2 nil timeout
a



=== TEST 15: misuse blames the caller
--- lua
local nbffi = require "resty.nonblocking_ffi"
local blame = require("test_plugins").blame
local rt = assert(nbffi.load { language = "c", library = "echo" })
for _, code in ipairs {
    "fut.wait()", "fut.cancel()", "fut:wait(-1)", "fut:wait('1')",
    "fut:wait(0/0)", "nbffi.wait_all(fut)", "nbffi.wait_all()",
    "nbffi.wait_all({ fut, 5 })", "nbffi.wait_any({ fut }, -1)",
    "nbffi.wait_any('x')",
} do
    ngx.say(blame("local fut, nbffi = ...\nlocal x = " .. code
                  .. "\nreturn x", rt:submit("x"), nbffi))
end
--- response_body
caller:2: not a future: call its methods with a colon
caller:2: not a future: call its methods with a colon
caller:2: wait: timeout must be a non-negative number of seconds
caller:2: wait: timeout must be a non-negative number of seconds
caller:2: wait: timeout must be a non-negative number of seconds
caller:2: wait_all: a list of futures expected, got a future
caller:2: wait_all: a list of futures expected, got nil
caller:2: wait_all: number 2 of the list is not a future
caller:2: wait_any: timeout must be a non-negative number of seconds
caller:2: wait_any: a list of futures expected, got string



=== TEST 16: a future outlives the request that made it
--- config
    location = /submit {
        content_by_lua_block {
            local nbffi = require "resty.nonblocking_ffi"
            require("test_plugins").gate().reset()
            local rt = assert(nbffi.load { language = "c",
                                           library = "gate" })
            package.loaded.kept = assert(rt:submit("hold over"))
            ngx.say("submitted")
        }
    }
    location = /wait {
        content_by_lua_block {
            local say = require("test_plugins").say
            local gate = require("test_plugins").gate()
            local kept = require "kept"
            say(kept:wait(0.01))
            gate.open()
            say(kept:wait())
        }
    }
--- request eval
["GET /submit", "GET /wait"]
--- response_body eval
["submitted\n", "nil timeout\nover\n"]
