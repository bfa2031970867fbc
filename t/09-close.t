# close: what is in flight ends, the rest is refused, the state goes once.

use lib '.';
use t::TestNbffi;

repeat_each(1);
plan tests => repeat_each() * (blocks() * 3 + 6);
run_tests();

__DATA__

=== TEST 1: close lets what is queued and running end, and then closes the state
--- lua
local nbffi = require "resty.nonblocking_ffi"
local tp = require "test_plugins"
local say, gate = tp.say, tp.gate()
gate.reset()
nbffi.pool("one", { threads = 1 })
local rt = assert(nbffi.load { language = "c", library = "gate",
                               pool = "one" })
local futures = { rt:submit("hold 1"), rt:submit("hold 2"),
                  rt:submit("note 3") }
gate.has("started", 1)
local closing = ngx.thread.spawn(function()
    return rt:close(), gate.ended(), gate.closes()
end)
say("call:", rt:call("note x"))
say("submit:", rt:submit("note x"))
say("cast:", rt:cast("note x"))
say(gate.ended(), gate.closes())
gate.open()
say(select(2, ngx.thread.wait(closing)))
local results = nbffi.wait_all(futures)
say(table.concat(results))
say(gate.inits(), gate.closes(), gate.order())
--- response_body
call: nil closed
submit: nil closed
cast: nil closed
0 0
true 3 1
123
1 1 3



=== TEST 2: closed: every method says so or goes on; close again is fine
--- lua
local nbffi = require "resty.nonblocking_ffi"
local tp = require "test_plugins"
local say, gate = tp.say, tp.gate()
gate.reset()
local rt = assert(nbffi.load { language = "c", library = "gate" })
say(rt:call("note x"))
say(rt:close())
say(rt:call("note y"))
say(rt:submit("note y"))
say(rt:cast("note y"))
say(rt:close())
say(rt:close(0.01))
say(rt:stats().ok, gate.closes(), gate.order())
--- response_body
x
true
nil closed
nil closed
nil closed
true
true
1 1 x



=== TEST 3: load after close: a new runtime with a new state
--- lua
local nbffi = require "resty.nonblocking_ffi"
local tp = require "test_plugins"
local say, gate = tp.say, tp.gate()
gate.reset()
local function load()
    return assert(nbffi.load { language = "c", library = "gate",
                               name = "same" })
end
local first = load()
for i = 1, 5 do
    local rt = load()
    say(rt:call("note " .. i), rt == first, gate.inits(), gate.closes())
    say(rt:close())
end
say(first:call("note x"))
say(gate.inits(), gate.closes())
--- response_body
1 true 1 0
true
2 false 2 1
true
3 false 3 2
true
4 false 4 3
true
5 false 5 4
true
nil closed
5 5



=== TEST 4: load while the old one closes: both live, each with its state
--- lua
local nbffi = require "resty.nonblocking_ffi"
local tp = require "test_plugins"
local say, gate = tp.say, tp.gate()
gate.reset()
nbffi.pool("two", { threads = 2 })
local function load()
    return assert(nbffi.load { language = "c", library = "gate",
                               pool = "two" })
end
local old = load()
local fut = old:submit("hold x")
gate.has("started", 1)
say(old:close(0.01))
local new = load()
say(new ~= old, new:call("note y"), gate.closes())
gate.open()
say(fut:wait(), old:close())
say(new:call("note z"), gate.inits(), gate.closes())
say(new:close(), gate.closes())
--- response_body
nil timeout
true y 0
x true
z 2 1
true 2



=== TEST 5: close with a timeout: it goes on nevertheless
--- lua
local nbffi = require "resty.nonblocking_ffi"
local tp = require "test_plugins"
local say, gate = tp.say, tp.gate()
gate.reset()
local rt = assert(nbffi.load { language = "c", library = "gate",
                               timeout = 0.3 })
local fut = rt:submit("hold x", { timeout = 20 })
gate.has("started", 1)
say(rt:close(0.01))
say("the runtime's timeout:", rt:close())
gate.open()
say(fut:wait())
say(rt:close(20), gate.closes())
--- response_body
nil timeout
the runtime's timeout: nil timeout
x
true 1



=== TEST 6: a task that timed out but runs yet keeps the runtime open
--- lua
local nbffi = require "resty.nonblocking_ffi"
local tp = require "test_plugins"
local say, gate = tp.say, tp.gate()
gate.reset()
local rt = assert(nbffi.load { language = "c", library = "gate" })
local res, err
tp.until_begun(rt, function()
    res, err = rt:call("hold x", { timeout = 0.2 })
end, gate.started)
say(res, err)
say(rt:close(0.02), gate.closes())
gate.open()
say(rt:close(20), gate.ended(), gate.closes())
--- response_body
nil timeout
nil 0
true 1 1



=== TEST 7: several light threads close one runtime: one close of the state
--- lua
local nbffi = require "resty.nonblocking_ffi"
local tp = require "test_plugins"
local say, gate = tp.say, tp.gate()
gate.reset()
local rt = assert(nbffi.load { language = "c", library = "gate" })
local fut = rt:submit("hold x")
gate.has("started", 1)
local threads = {}
for i = 1, 5 do
    threads[i] = ngx.thread.spawn(function() return rt:close() end)
end
gate.open()
for i = 1, 5 do say(ngx.thread.wait(threads[i])) end
say(fut:wait(), gate.closes())
--- response_body
true true
true true
true true
true true
true true
x 1



=== TEST 8: close in phases that cannot yield does not wait, and happens
--- config
    location = /t {
        content_by_lua_block {
            local nbffi = require "resty.nonblocking_ffi"
            local gate = require("test_plugins").gate()
            gate.reset()
            local rt = assert(nbffi.load { language = "c",
                                           library = "gate" })
            ngx.ctx.rt = rt
            package.loaded.kept = rt:submit("hold x")
            gate.has("started", 1)
            ngx.say(gate.closes())
        }
        header_filter_by_lua_block {
            ngx.header["X-Close"] = tostring(ngx.ctx.rt:close())
        }
        log_by_lua_block {
            assert(ngx.ctx.rt:close() == true)
        }
    }
    location = /after {
        content_by_lua_block {
            local gate = require("test_plugins").gate()
            ngx.say(gate.closes())
            gate.open()
            ngx.say(require("kept"):wait())
            ngx.say(gate.has("closes", 1), " ", gate.closes())
        }
    }
--- request eval
["GET /t", "GET /after"]
--- response_body eval
["0\n", "0\nx\ntrue 1\n"]
--- response_headers eval
["X-Close: true", "! X-Close"]



=== TEST 9: other runtimes of the same library and pool are not concerned
--- lua
local nbffi = require "resty.nonblocking_ffi"
local tp = require "test_plugins"
local say, gate = tp.say, tp.gate()
gate.reset()
local a = assert(nbffi.load { language = "c", library = "gate",
                              config = "a" })
local b = assert(nbffi.load { language = "c", library = "gate",
                              config = "b" })
local fut = b:submit("hold x")
gate.has("started", 1)
say(a:close(), gate.inits(), gate.closes())
gate.open()
say(fut:wait(), b:call("note y"))
say(b:close(), gate.closes())
--- response_body
true 2 1
x y
true 2



=== TEST 10: misuse
--- lua
local nbffi = require "resty.nonblocking_ffi"
local blame = require("test_plugins").blame
local rt = assert(nbffi.load { language = "c", library = "echo" })
for _, timeout in ipairs { "0", "-1", "'1'", "{}", "0/0" } do
    ngx.say(blame("local rt = ...\nlocal ok = rt:close(" .. timeout
                  .. ")\nreturn ok", rt))
end
ngx.say(rt:call("still open"))
--- response_body eval
"caller:2: close: timeout must be a positive number of seconds\n" x 5
. "still open\n"



=== TEST 11: the worker's exit closes what is idle
--- lua
local nbffi = require "resty.nonblocking_ffi"
local rt = assert(nbffi.load { language = "c", library = "farewell",
                               name = "bye" })
ngx.say(rt:call("x"))
--- response_body
x
--- shutdown_error_log
[bye] closed
