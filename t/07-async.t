# Asynchronous plugins: responses from other threads, late, twice, never.

use lib '.';
use t::TestNbffi;

repeat_each(2);
plan tests => repeat_each() * (blocks() * 3);
run_tests();

__DATA__

=== TEST 1: responses from the plugin's own thread: copied, owned, in a buffer
--- lua
local nbffi = require "resty.nonblocking_ffi"
local tp = require "test_plugins"
local say, late = tp.say, tp.late()
local id = ngx.var.request_id:sub(1, 8)
local rt = assert(nbffi.load { language = "c", library = "late" })
local before = late.released()
for _, data in ipairs { "", "short", ("long "):rep(50000) } do
    for _, action in ipairs { "respond", "owned", "buffer" } do
        local key = id .. action .. #data
        local fut = rt:submit(key)
        late.has(key)
        local code = late.act(key, action, data)
        if code ~= 0 or fut:wait() ~= data then
            say(action, #data, code, fut:wait())
        end
    end
end
ngx.say("released: ", late.released() - before)
--- response_body
released: 3



=== TEST 2: the request is readable until the task is completed
--- lua
local nbffi = require "resty.nonblocking_ffi"
local tp = require "test_plugins"
local late = tp.late()
local rt = assert(nbffi.load { language = "c", library = "late" })
local futures, keys = {}, {}
local id = ngx.var.request_id
for i = 1, 50 do
    -- Nobody but the queue refers to what is sent.
    local key = i .. "/" .. id
    futures[i] = rt:submit { key, "" }
    late.has(key)
    keys[i] = { i, "/", id }
end
for i = 1, 50000 do tostring(i) end
collectgarbage()
collectgarbage()
local wrong = 0
for i = 1, 50 do
    local key = table.concat(keys[i])
    local code = late.act(key, "request")
    local res, err = futures[i]:wait(5)
    if res ~= key then
        wrong = wrong + 1
        ngx.say(key, ": ", res or err, " ", code)
    end
end
ngx.say("wrong: ", wrong)
--- response_body
wrong: 0



=== TEST 3: failures and statuses
--- lua
local nbffi = require "resty.nonblocking_ffi"
local tp = require "test_plugins"
local say, late = tp.say, tp.late()
local id = ngx.var.request_id:sub(1, 8)
local rt = assert(nbffi.load { language = "c", library = "late" })
local a, b = rt:submit(id .. "a"), rt:submit(id .. "b")
late.has(id .. "a")
late.has(id .. "b")
say(late.act(id .. "a", "fail", "broke down"))
say(a:wait())
say(late.act(id .. "b", "status", "half of it"), b:wait(0))
say(late.act(id .. "b", "respond", "half"))
say(b:wait())
--- response_body
0
nil runtime error: broke down -9 broke down
0 nil timeout
0
half nil 206 half of it



=== TEST 4: completed inside call; and a call that returns an error
--- lua
local nbffi = require "resty.nonblocking_ffi"
local tp = require "test_plugins"
local say, late = tp.say, tp.late()
local id = ngx.var.request_id:sub(1, 8)
local rt = assert(nbffi.load { language = "c", library = "late" })
say(rt:call("!" .. id))
say(rt:call("?" .. id))
say(late.act("!" .. id, "respond", "x"), late.act("?" .. id, "fail", "x"))
--- response_body
at once
nil runtime error: code 7 7 code 7
-1 -1



=== TEST 5: the first response counts; later ones are stale
--- lua
local nbffi = require "resty.nonblocking_ffi"
local tp = require "test_plugins"
local say, late = tp.say, tp.late()
local key = ngx.var.request_id
local rt = assert(nbffi.load { language = "c", library = "late" })
local fut = rt:submit(key)
late.has(key)
local before = late.released()
say(late.act(key, "respond", "first"), late.act(key, "respond", "second"))
say(late.act(key, "fail", "x"), late.act(key, "status", "x"))
say(late.act(key, "alloc", "1234"), late.act(key, "deadline"))
say(late.act(key, "owned", "third"), late.released() - before)
say(fut:wait())
-- And when the task is gone.
say(late.act(key, "respond", "second"), late.act(key, "cancelled"),
    late.act(key, "deadline"), late.act(key, "alloc", "1234"))
say(late.act(key, "owned", "fourth"), late.released() - before)
say(fut:wait())
--- response_body
0 -1
-1 -1
0 0
-1 1
first
-1 1 0 0
-1 2
first



=== TEST 6: a response after the caller has timed out, or has cancelled
--- lua
local nbffi = require "resty.nonblocking_ffi"
local tp = require "test_plugins"
local say, late = tp.say, tp.late()
local id = ngx.var.request_id:sub(1, 8)
local rt = assert(nbffi.load { language = "c", library = "late",
                               name = ngx.var.request_id })
local before = late.released()
local a, b, c = id .. "a", id .. "b", id .. "c"
-- Every one of them is released, read or not.
local fut = rt:submit(b)
late.has(b)
say(late.act(b, "cancelled"))
local res, err
tp.until_begun(rt, function()
    res, err = rt:call(a, { timeout = 0.2 })
end, function() return rt:stats().running end)
say(res, err)
say(fut:cancel())
say(late.act(a, "cancelled"), late.act(b, "cancelled"))
late.act(a, "owned", "too late")
late.act(b, "owned", "too late")
ngx.say(tp.poll(function() return late.released() - before == 2 end))
fut = rt:submit(c)
late.has(c)
say(late.act(c, "owned", "in time"))
say(fut:wait())
say(late.released() - before, rt:stats().in_flight, rt:stats().ok)
say(late.act(a, "respond", "again"), late.act(b, "respond", "again"))
--- response_body
0
nil timeout
true
1 1
true
0
in time
3 0 1
-1 -1



=== TEST 13: on_cancel: told once, if the caller gives up before the task ends
--- http_config eval: $::HttpConfig
--- config
location = /t {
    content_by_lua_block {
        local nbffi = require "resty.nonblocking_ffi"
        local tp = require "test_plugins"
        local say, late = tp.say, tp.late()
        local id = ngx.var.request_id:sub(1, 8)
        local rt = assert(nbffi.load { language = "c", library = "late" })
        local function begin(key, timeout)
            local fut
            tp.until_begun(rt, function()
                fut = rt:submit(id .. key, { timeout = timeout })
            end, function() return rt:stats().running end)
            late.has(id .. key)
            return fut
        end
        local function told(key, n)
            return tp.poll(function() return late.told(id .. key) == n end)
        end
        local cancelled, ended = begin("cancelled"), begin("ended")
        local early, twice = begin("early"), begin("twice")
        say(late.act(id .. "cancelled", "watch"), late.act(id .. "ended", "watch"),
            late.act(id .. "twice", "watch"), late.act(id .. "twice", "watch"))
        say(late.act(id .. "ended", "watch", "without a function"))
        cancelled:cancel()
        twice:cancel()
        say("cancelled:", told("cancelled", 1), told("twice", 1))
        early:cancel()
        say("watched too late:", late.act(id .. "early", "watch"), told("early", 1))
        say(late.act(id .. "ended", "respond", "in time"))
        say(ended:wait())
        say("stale:", late.act(id .. "ended", "watch"))
        local late_one = begin("deadline", 0.2)
        say(late.act(id .. "deadline", "watch"), late_one:wait())
        say("deadline:", told("deadline", 1))
        -- Whatever the timer has been told since, it has told by now.
        local last = begin("last")
        late.act(id .. "last", "watch")
        last:cancel()
        say(told("last", 1))
        for _, key in ipairs { "cancelled", "twice", "early", "ended", "deadline" } do
            say(key, late.told(id .. key))
            late.act(id .. key, "respond", "")
        end
        late.act(id .. "last", "respond", "")
        say(rt:close())
    }
}
--- request
GET /t
--- response_body
0 0 0 0
-4
cancelled: true true
watched too late: 0 true
0
in time
stale: -1
0 nil timeout
deadline: true
true
cancelled 1
twice 1
early 1
ended 0
deadline 1
true
--- no_error_log
[error]



=== TEST 7: a stale handle does not reach the next task in its place
--- lua
local nbffi = require "resty.nonblocking_ffi"
local tp = require "test_plugins"
local late = tp.late()
local id = ngx.var.request_id:sub(1, 8)
local rt = assert(nbffi.load { language = "c", library = "late" })
local old = {}
for i = 1, 10 do
    local key = id .. "old" .. i
    local fut = rt:submit(key)
    late.has(key)
    late.act(key, "respond", "x")
    fut:wait()
    old[i] = key
end
-- These have the same slots.
local futures = {}
for i = 1, 10 do
    futures[i] = rt:submit(id .. "new" .. i)
    late.has(id .. "new" .. i)
end
local fresh = 0
for i = 1, 10 do
    if late.act(old[i], "respond", "stale") ~= -1
       or late.act(old[i], "fail", "stale") ~= -1
       or late.act(old[i], "status", "stale") ~= -1
       or late.act(old[i], "alloc", "stale") ~= 0
    then
        fresh = fresh + 1
    end
end
ngx.say("not stale: ", fresh)
for i = 1, 10 do late.act(id .. "new" .. i, "respond", i .. " ") end
ngx.say(table.concat((nbffi.wait_all(futures))))
--- response_body eval
"not stale: 0\n1 2 3 4 5 6 7 8 9 10 \n"



=== TEST 8: more tasks are pending than the pool has threads; responses in any order
--- lua
local nbffi = require "resty.nonblocking_ffi"
local tp = require "test_plugins"
local late = tp.late()
local id = ngx.var.request_id:sub(1, 8)
nbffi.pool("one", { threads = 1 })
local rt = assert(nbffi.load { language = "c", library = "late",
                               pool = "one" })
local futures = {}
for i = 1, 30 do futures[i] = rt:submit(id .. i) end
for i = 1, 30 do late.has(id .. i) end
-- The pool's thread is free meanwhile.
ngx.say(rt:call("!" .. id))
for i = 30, 1, -1 do late.act(id .. i, "respond", i .. " ") end
ngx.say(table.concat((nbffi.wait_all(futures))))
--- response_body eval
"at once\n" . CORE::join("", map { "$_ " } 1 .. 30) . "\n"



=== TEST 9: max_response: the task ends with the error, whatever comes later
--- lua
local nbffi = require "resty.nonblocking_ffi"
local tp = require "test_plugins"
local say, late = tp.say, tp.late()
local id = ngx.var.request_id:sub(1, 8)
local rt = assert(nbffi.load { language = "c", library = "late",
                               max_response = 10 })
for _, action in ipairs { "respond", "owned" } do
    local before = late.released()
    local key = id .. action
    local fut = rt:submit(key)
    late.has(key)
    say(late.act(key, action, "eleven chars"), late.act(key, action, "x"))
    say(fut:wait())
    say("released:", late.released() - before)
end
-- No buffer: the task is still pending, and it is for the plugin to end it.
local fut = rt:submit(id)
late.has(id)
say(late.act(id, "alloc", "eleven chars"), fut:wait(0))
say(late.act(id, "respond", "sorry"))
say(fut:wait())
--- response_body
-2 -1
nil response too large
released: 0
-2 -1
nil response too large
released: 2
0 nil timeout
0
sorry



=== TEST 10: close waits for pending tasks; init and close in pairs
--- lua
local nbffi = require "resty.nonblocking_ffi"
local tp = require "test_plugins"
local say, late = tp.say, tp.late()
local key = ngx.var.request_id
local rt = assert(nbffi.load { language = "c", library = "late" })
local fut = rt:submit(key)
late.has(key)
say("users:", late.users())
say(rt:close(0.02))
say(rt:call("x"))
say("users:", late.users())
late.act(key, "respond", "the last")
say(fut:wait())
say(rt:close())
say("users:", late.users(), late.act(key, "respond", "x"))
rt = assert(nbffi.load { language = "c", library = "late" })
say(rt:call("!again"), late.users())
say(rt:close(), late.users())
--- response_body
users: 1
nil timeout
nil closed
users: 1
the last
true
users: 0 -100
at once 1
true 0



=== TEST 11: the example with a thread of its own: delays, order, cancelling
--- lua
local nbffi = require "resty.nonblocking_ffi"
local tp = require "test_plugins"
local say = tp.say
local rt = assert(nbffi.load { language = "c", library = "async_timer" })
say(rt:call("0 at once"))
local futures = {
    rt:submit("60 third"), rt:submit("20 first"), rt:submit("40 second"),
}
local order = {}
while #futures > 0 do
    local i, res = nbffi.wait_any(futures)
    order[#order + 1] = res
    table.remove(futures, i)
end
say(table.concat(order, " "))
local err, code = select(2, rt:call("soon"))
say(err:match("^runtime error: expected"), code)
-- At the deadline the plugin gives up, too: who is first wins.
err = select(2, rt:call("100000 x", { timeout = 0.02 }))
say(err == "timeout" or err == "runtime error: cancelled")
ngx.say(tp.poll(function() return rt:stats().in_flight == 0 end))
--- response_body
at once
first second third
runtime error: expected 400
true
true



=== TEST 12: a worker exits although tasks are pending for ever
--- lua
local nbffi = require "resty.nonblocking_ffi"
local late = require("test_plugins").late()
local rt = assert(nbffi.load { language = "c", library = "late" })
rt:cast("never 1")
rt:submit("never 2", { timeout = 100 })
ngx.say(late.has("never 1"), " ", late.has("never 2"))
--- response_body
true true
