# Where calls may wait and where they may not; coroutines of every kind.

use lib '.';
use t::TestNbffi;

repeat_each(1);
plan tests => repeat_each() * (blocks() * 3 + 6);
run_tests();

__DATA__

=== TEST 1: call, wait and load in phases that cannot yield say so
--- http_config
    init_worker_by_lua_block {
        local nbffi = require "resty.nonblocking_ffi"
        local rt = assert(nbffi.load { language = "c", library = "echo" })
        package.loaded.try = function()
            local where = ngx.get_phase()
            local seen = package.loaded.seen
            if seen[where] then return end
            local res, err = rt:call("x")
            local fut = rt:submit("x")
            local waited, why = fut:wait(1)
            local any, why_any = nbffi.wait_any({ fut }, 1)
            local list, errors = nbffi.wait_all({ fut }, 1)
            seen[where] = table.concat({
                tostring(res), tostring(err), tostring(waited),
                tostring(why), tostring(any), tostring(why_any),
                tostring(list[1]), tostring(errors[1]),
            }, "|")
        end
        package.loaded.seen = {}
        require("try")()
    }
    upstream backend {
        server 0.0.0.1;
        balancer_by_lua_block {
            require("try")()
            local port = tonumber(ngx.var.server_port)
            assert(require("ngx.balancer").set_current_peer("127.0.0.1",
                                                            port))
        }
    }
--- config
    location = /t {
        set_by_lua_block $x { require("try")() }
        proxy_pass http://backend/content;
        header_filter_by_lua_block { require("try")() }
        body_filter_by_lua_block { require("try")() }
        log_by_lua_block { require("try")() }
    }
    location = /content {
        content_by_lua_block { ngx.say("content") }
    }
    location = /seen {
        content_by_lua_block {
            local seen = require "seen"
            require("test_plugins").poll(function() return seen.log end)
            local no = "nil|cannot yield in this phase"
            for _, where in ipairs { "init_worker", "set", "balancer",
                                     "header_filter", "body_filter",
                                     "log" } do
                local all = no .. "|" .. no .. "|" .. no .. "|" .. no
                ngx.say(where, ": ", seen[where] == all and "as expected"
                                     or seen[where])
            end
        }
    }
--- request eval
["GET /t", "GET /seen"]
--- response_body eval
["content\n", "init_worker: as expected
set: as expected
balancer: as expected
header_filter: as expected
body_filter: as expected
log: as expected
"]



=== TEST 2: every phase that can yield
--- http_config
    init_worker_by_lua_block {
        package.loaded.seen = {}
        package.loaded.try = function()
            local nbffi = require "resty.nonblocking_ffi"
            local seen = require "seen"
            local where = ngx.get_phase()
            local rt, err = nbffi.load { language = "c", library = "echo",
                                         name = where }
            if not rt then
                seen[#seen + 1] = where .. " load: " .. err
                return
            end
            local fut = rt:submit(" submitted")
            local results = rt:call(" called") .. fut:wait()
            seen[#seen + 1] = where .. results
        end
        assert(ngx.timer.at(0, function() require("try")() end))
    }
--- config
    location = /t {
        rewrite_by_lua_block { require("try")() }
        access_by_lua_block { require("try")() }
        content_by_lua_block {
            require("try")()
            local seen = require "seen"
            require("test_plugins").poll(function() return #seen == 4 end)
            table.sort(seen)
            ngx.say(table.concat(seen, "\n"))
        }
    }
--- response_body
access called submitted
content called submitted
rewrite called submitted
timer called submitted



=== TEST 3: init_worker: submit and cast, with their results later
--- http_config
    init_worker_by_lua_block {
        local nbffi = require "resty.nonblocking_ffi"
        local rt = assert(nbffi.load { language = "c", library = "gate" })
        package.loaded.kept = assert(rt:submit("note early "))
        assert(rt:cast("note too "))
    }
--- lua
ngx.say(require("kept"):wait())
local gate = require("test_plugins").gate()
ngx.say(gate.has("ended", 2), " ", #gate.order())
--- response_body eval
"early \ntrue 10\n"



=== TEST 4: timers
--- lua
local nbffi = require "resty.nonblocking_ffi"
local tp = require "test_plugins"
local results = {}
local rt = assert(nbffi.load { language = "c", library = "echo" })
for i = 1, 20 do
    assert(ngx.timer.at(0, function()
        local res = rt:call("x")
        results[#results + 1] = res
    end))
end
ngx.say(tp.poll(function() return #results == 20 end))
ngx.say(table.concat(results))
--- response_body eval
"true\n" . "x" x 20 . "\n"



=== TEST 5: light threads: the entry thread goes on meanwhile
--- lua
local nbffi = require "resty.nonblocking_ffi"
local gate = require("test_plugins").gate()
gate.reset()
local rt = assert(nbffi.load { language = "c", library = "gate" })
local threads, steps = {}, {}
for i = 1, 2 do
    threads[i] = ngx.thread.spawn(function()
        steps[#steps + 1] = "before"
        local res = rt:call("hold " .. i)
        steps[#steps + 1] = "after"
        return res
    end)
end
steps[#steps + 1] = "entry"
gate.has("started", 2)
gate.open()
for i = 1, 2 do
    local ok, res = ngx.thread.wait(threads[i])
    ngx.say(ok, " ", res)
end
ngx.say(table.concat(steps, " "))
--- response_body
true 1
true 2
before before entry after after



=== TEST 6: ngx.thread.wait for any of several calls
--- lua
local nbffi = require "resty.nonblocking_ffi"
local gate = require("test_plugins").gate()
gate.reset()
local slow = assert(nbffi.load { language = "c", library = "gate" })
local fast = assert(nbffi.load { language = "c", library = "echo" })
local a = ngx.thread.spawn(function() return slow:call("hold slow") end)
local b = ngx.thread.spawn(function() return fast:call("fast") end)
local _, res = ngx.thread.wait(a, b)
ngx.say(res)
gate.open()
_, res = ngx.thread.wait(a)
ngx.say(res)
--- response_body
fast
slow



=== TEST 7: a light thread that is killed while it waits
--- lua
local nbffi = require "resty.nonblocking_ffi"
local tp = require "test_plugins"
local gate = tp.gate()
gate.reset()
local rt = assert(nbffi.load { language = "c", library = "gate" })
local killed = {}
for i = 1, 10 do
    killed[i] = ngx.thread.spawn(function() rt:call("hold x") end)
end
ngx.say(gate.has("started", 1))
for i = 1, 10 do
    assert(ngx.thread.kill(killed[i]))
end
gate.open()
-- Their responses arrive all the same, and go to nobody.
ngx.say(tp.poll(function() return rt:stats().in_flight == 0 end))
ngx.say(gate.ended())
for i = 1, 20 do
    if rt:call("note " .. i) ~= tostring(i) then ngx.say("wrong") end
end
ngx.say(nbffi.stats().slots.used)
--- response_body
true
true
10
0



=== TEST 8: pcall and xpcall around a call, and errors after it
--- lua
local nbffi = require "resty.nonblocking_ffi"
local gate = require("test_plugins").gate()
gate.reset()
local rt = assert(nbffi.load { language = "c", library = "gate" })
local function later()
    ngx.sleep(0)
    gate.open()
end
ngx.thread.spawn(later)
ngx.say(pcall(rt.call, rt, "hold x"))
gate.reset()
ngx.thread.spawn(later)
ngx.say(xpcall(function() return rt:call("hold y") end,
               function() return "handled" end))
ngx.say(xpcall(function()
    gate.reset()
    ngx.thread.spawn(later)
    local res = rt:call("hold z")
    error(res, 0)
end, function(err) return "handled " .. err end))
--- response_body
truex
truey
falsehandled z



=== TEST 9: coroutines: create, wrap, nested
--- lua
local nbffi = require "resty.nonblocking_ffi"
local gate = require("test_plugins").gate()
gate.reset()
local rt = assert(nbffi.load { language = "c", library = "gate" })
ngx.thread.spawn(function()
    gate.has("started", 1)
    gate.open()
end)
local each = coroutine.wrap(function()
    for i = 1, 3 do
        -- Yields to nginx in the middle, and then to who resumed.
        coroutine.yield(rt:call("hold " .. i))
    end
    local inner = coroutine.create(function()
        coroutine.yield(rt:call("hold inner"))
        return rt:submit("hold last"):wait()
    end)
    local _, res = coroutine.resume(inner)
    coroutine.yield(res)
    _, res = coroutine.resume(inner)
    return res
end)
for _ = 1, 5 do ngx.say(each()) end
--- response_body
1
2
3
inner
last



=== TEST 10: subrequests, one after another and at a time
--- config
    location = /sub {
        content_by_lua_block {
            local nbffi = require "resty.nonblocking_ffi"
            local rt = assert(nbffi.load { language = "c",
                                           library = "echo" })
            ngx.print(rt:call(ngx.var.arg_x), " ")
        }
    }
    location = /t {
        content_by_lua_block {
            local nbffi = require "resty.nonblocking_ffi"
            local rt = assert(nbffi.load { language = "c",
                                           library = "echo" })
            ngx.print(rt:call("first "))
            ngx.print(ngx.location.capture("/sub?x=second").body)
            local list = {}
            for i = 1, 10 do list[i] = { "/sub?x=" .. i } end
            for _, res in ipairs { ngx.location.capture_multi(list) } do
                ngx.print(res.body)
            end
            ngx.say(rt:call("last"))
        }
    }
--- response_body
first second 1 2 3 4 5 6 7 8 9 10 last



=== TEST 11: a request that ends while a call is in flight
--- config
    location = /t {
        content_by_lua_block {
            local nbffi = require "resty.nonblocking_ffi"
            local gate = require("test_plugins").gate()
            gate.reset()
            local rt = assert(nbffi.load { language = "c",
                                           library = "gate" })
            ngx.thread.spawn(function() rt:call("hold x") end)
            gate.has("started", 1)
            ngx.say("done")
            ngx.exit(200)
        }
    }
    location = /after {
        content_by_lua_block {
            local nbffi = require "resty.nonblocking_ffi"
            local tp = require "test_plugins"
            local rt = nbffi.load { language = "c", library = "gate" }
            ngx.say(rt:stats().in_flight)
            tp.gate().open()
            ngx.say(tp.poll(function()
                return rt:stats().in_flight == 0
            end))
            ngx.say(rt:call("note y"))
        }
    }
--- request eval
["GET /t", "GET /after"]
--- response_body eval
["done\n", "1\ntrue\ny\n"]



=== TEST 12: the event loop goes on while a plugin blocks
--- config
    location = /t {
        content_by_lua_block {
            local nbffi = require "resty.nonblocking_ffi"
            local gate = require("test_plugins").gate()
            gate.reset()
            local rt = assert(nbffi.load { language = "c",
                                           library = "gate" })
            local fut = rt:submit("hold x")
            gate.has("started", 1)
            -- Served by this worker, which is the only one.
            local sock = ngx.socket.tcp()
            assert(sock:connect("127.0.0.1", ngx.var.server_port))
            sock:send("GET /other HTTP/1.0\r\n\r\n")
            local answer = sock:receive("*a")
            ngx.say(answer:match("\r\n\r\n(.*)"), " ", gate.ended())
            gate.open()
            ngx.say(fut:wait())
        }
    }
    location = /other {
        content_by_lua_block { ngx.print("served") }
    }
--- response_body
served 0
x
