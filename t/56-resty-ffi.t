# Plugins written for lua-resty-ffi: calls, their results, their queue.

use lib '.';
use t::TestNbffi;

repeat_each(2);
plan tests => repeat_each() * (blocks() * 3);
log_level('info');
run_tests();

__DATA__

=== TEST 1: a response; any name is a method, and so is the runtime itself
--- lua
require "resty_ffi"
local rt = ngx.load_ffi("rffi")
ngx.say(rt:echo("echo me"))
ngx.say(rt:close("echo close"))
ngx.say(rt:stats("cstr a C string"))
ngx.say(rt("echo called"))
ngx.say(rt.echo == rt.anything, " ", rawget(rt, "anything") ~= nil)
--- response_body
trueecho me
trueecho close
truea C string
trueecho called
true true



=== TEST 2: responses: none, empty, of any bytes, not terminated, large
--- lua
require "resty_ffi"
local rt = ngx.load_ffi("rffi")
local say = require("test_plugins").say
ngx.say(select("#", rt:call("nothing 0")), " ", (rt:call("nothing 0")))
say(rt:call("cstr"))
local bytes = "echo "
for i = 0, 255 do bytes = bytes .. string.char(i) end
say(select(2, rt:call(bytes)) == bytes)
local ok, res = rt:call("unterminated 100")
say(ok, #res >= 100, res:sub(1, 100) == ("x"):rep(100))
for _, size in ipairs { 1, 64, 65, 1024, 1025, 100000, 10000000 } do
    ok, res = rt:call("big " .. size)
    if not ok or res ~= ("b"):rep(size) then say(size, ok, res) end
end
--- response_body
1 true
true 
true
true true true



=== TEST 3: failures: the code, and what the plugin says to it
--- lua
require "resty_ffi"
local rt = ngx.load_ffi("rffi")
local function show(ok, rc, err)
    ngx.say(tostring(ok), " ", type(rc), " ", rc, " ",
            err and #err .. " " .. err or "nil")
end
show(rt:call("fail 7 seven"))
show(rt:call("fail -3 minus three"))
show(rt:call("fail 1"))
show(rt:call("nothing 9"))
local ok, rc, err = rt:call("fail_bytes 2")
ngx.say(ok, " ", rc, " ", err == "a\0b")
show(rt:call("unknown"))
show(rt:call("negative 5"))
ngx.say(rt:call("echo on we go"))
--- response_body
false number 7 5 seven
false number -3 11 minus three
false number 1 0 
false number 9 nil
false 2 true
false number 400 12 no such verb
false number 5 29 a response of negative length
trueecho on we go



=== TEST 4: requests: none, empty, large, changed in place
--- lua
require "resty_ffi"
local rt = ngx.load_ffi("rffi")
local say = require("test_plugins").say
say(rt:call())
say(rt:call(nil))
say(rt:call(false))
say(rt:call(""))
for _, size in ipairs { 0, 1, 56, 57, 1000, 5000000 } do
    local ok, res = rt:call("length " .. ("x"):rep(size))
    if tonumber(res) ~= size + 7 then say(size, ok, res) end
end
-- The plugin writes to its copy, not to Lua's string.
local request = "upper " .. ngx.var.request_id:sub(1, 0) .. "some text"
say(rt:call(request))
say(request)
--- response_body
true no request
true no request
true no request
false 400 no such verb
true SOME TEXT
upper some text



=== TEST 5: misuse of requests and options
--- lua
require "resty_ffi"
local blame = require("test_plugins").blame
local rt = ngx.load_ffi("rffi")
ngx.say(blame("local rt = ...; rt:call(7)", rt))
ngx.say(blame("local rt = ...; rt:call {}", rt))
ngx.say(blame("ngx.load_ffi()"))
ngx.say(blame("ngx.load_ffi('rffi', 7)"))
ngx.say(blame("ngx.load_ffi('rffi', nil, { max_queue = 'x' })"))
ngx.say(ngx.load_ffi("rffi", nil, { what = "ever" }) == rt)
--- response_body
caller:1: request must be a string or nil, got number
caller:1: request must be a string or nil, got table
caller:1: load_ffi: lib must be the name of a library
caller:1: load_ffi: cfg must be a string, got number
caller:1: load_ffi: max_queue must be a non-negative number
true



=== TEST 6: max_queue bounds what waits for a poller, not what it has
--- lua
require "resty_ffi"
local say = require("test_plugins").say
local lib = require("test_plugins").rffi()
local rt = ngx.load_ffi("rffi", "label=" .. ngx.var.request_id:sub(1, 8),
                        { max_queue = 2 })
local polled = lib.polled()
local held = {}
for i = 1, 50 do
    held[i] = ngx.thread.spawn(rt.call, rt, "hold")
    lib.has("polled", polled + i)
end
-- The poller takes one more, and then waits for the test.
lib.has("asking", 1)
lib.stop(1)
local threads = {}
for i = 1, 3 do
    threads[i] = ngx.thread.spawn(rt.call, rt, "echo " .. i)
    if i == 1 then lib.has("polled", polled + 51) end
end
say(rt:call("echo 4"))
say(rt:call("echo 5"))
lib.stop(0)
for i = 1, 3 do
    local _, ok, res = ngx.thread.wait(threads[i])
    say(ok, res)
end
say(rt:call("echo again"))
say(lib.release("x"))
for i = 1, 50 do ngx.thread.wait(held[i]) end
rt:__unload()
--- response_body
false post failed, queue full
false post failed, queue full
true echo 1
true echo 2
true echo 3
true echo again
50



=== TEST 7: tasks come in the order in which they were posted
--- lua
require "resty_ffi"
local lib = require("test_plugins").rffi()
local rt = ngx.load_ffi("rffi")
local order, threads = {}, {}
rt:call("echo")
lib.stop(1)
for i = 1, 300 do
    threads[i] = ngx.thread.spawn(function()
        rt:call("echo " .. i)
        order[#order + 1] = i
    end)
end
lib.stop(0)
for i = 1, 300 do ngx.thread.wait(threads[i]) end
local wrong = 0
for i = 1, 300 do
    if order[i] ~= i then wrong = wrong + 1 end
end
ngx.say(#order, " ", wrong)
--- response_body
300 0



=== TEST 8: mistakes with handles harm nobody
--- lua
require "resty_ffi"
local say = require("test_plugins").say
local rt = ngx.load_ffi("rffi", "pollers=4 label=mistakes")
say(rt:call("twice"))
local threads = {}
for i = 1, 8 do
    threads[i] = ngx.thread.spawn(rt.call, rt, "later 20")
end
-- These get the places that those before were in.
local wrong = 0
for i = 1, 400 do
    local ok, res = rt:call("echo " .. i)
    if not ok or res ~= "echo " .. i then wrong = wrong + 1 end
    ok, res = rt:call("twice")
    if not ok or res ~= "first" then wrong = wrong + 1 end
end
for i = 1, 8 do
    local _, ok, res = ngx.thread.wait(threads[i])
    if not ok or res ~= "first" then wrong = wrong + 1 end
end
say(wrong)
say(rt:call("misuse"))
say(rt:call("echo fine"))
--- response_body
true first
0
true survived
true echo fine



=== TEST 9: several pollers serve several tasks at a time
--- lua
require "resty_ffi"
local say = require("test_plugins").say
local lib = require("test_plugins").rffi()
local rt = ngx.load_ffi("rffi", "pollers=8 label=several")
local threads = {}
for i = 1, 8 do
    threads[i] = ngx.thread.spawn(rt.call, rt, "meet 8")
end
for i = 1, 8 do
    local _, ok, res = ngx.thread.wait(threads[i])
    if not ok or res ~= "met" then say(ok, res) end
end
-- More threads than can be woken by name.
local nulls = lib.nulls()
local many = ngx.load_ffi("rffi", "pollers=300 label=many")
local right = 0
for round = 1, 5 do
    for i = 1, 400 do
        threads[i] = ngx.thread.spawn(many.call, many, "echo " .. i)
    end
    for i = 1, 400 do
        local _, ok, res = ngx.thread.wait(threads[i])
        right = right + (ok and res == "echo " .. i and 1 or 0)
    end
end
say(right)
many:__unload()
say(lib.has("nulls", nulls + 300))
--- response_body
2000
true



=== TEST 10: calls have no timeout unless load_ffi is given one
--- lua
local nbffi = require "resty.nonblocking_ffi"
require "resty_ffi"
local say = require("test_plugins").say
local lib = require("test_plugins").rffi()
local rt = ngx.load_ffi("rffi", "label=" .. ngx.var.request_id)
local limited = ngx.load_ffi("rffi", "label=limited " .. ngx.var.request_id,
                             { timeout = 0.05 })
local thread = ngx.thread.spawn(rt.call, rt, "sleep 200")
-- Until the poller has taken it before its deadline.
local poll = require("test_plugins").poll
local ok, res
poll(function()
    ok, res = limited:call("hold")
    return lib.holding() == 1
end)
say(ok, res)
say(lib.holding() == 1, lib.release("late"))
poll(function()
    ok, res = limited:call("echo in time")
    return ok
end)
say(ok, res)
local _
_, ok, res = ngx.thread.wait(thread)
say(ok, res)
rt:__unload()
limited:__unload()
--- response_body
false timeout
true 1
true echo in time
true slept



=== TEST 11: a caller that is gone
--- lua
require "resty_ffi"
local nbffi = require "resty.nonblocking_ffi"
local tp = require "test_plugins"
local lib = tp.rffi()
local rt = ngx.load_ffi("rffi")
for i = 1, 10 do
    local thread = ngx.thread.spawn(rt.call, rt, "hold")
    lib.has("holding", i)
    ngx.thread.kill(thread)
end
collectgarbage()
collectgarbage()
tp.say(lib.release("nobody hears that"))
tp.say(rt:call("echo still there"))
tp.say(tp.poll(function()
    return nbffi.stats().slots.used == 0
end))
--- response_body
10
true echo still there
true
