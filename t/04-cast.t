# cast: from every phase, and what happens to what nobody waits for.

use lib '.';
use t::TestNbffi;

repeat_each(1);
plan tests => repeat_each() * (blocks() * 3 + 8);
run_tests();

__DATA__

=== TEST 1: cast returns true at once, and the task runs
--- lua
local say = require("test_plugins").say
local nbffi = require "resty.nonblocking_ffi"
local gate = require("test_plugins").gate()
gate.reset()
local rt = assert(nbffi.load { language = "c", library = "gate" })
say(rt:cast("hold x"))
ngx.say(gate.has("started", 1), " ", gate.ended())
gate.open()
ngx.say(gate.has("ended", 1))
say(rt:cast({ "note ", "a", { "b" } }, { priority = "high",
                                             timeout = 5 }))
ngx.say(gate.has("ended", 2), " ", gate.order())
--- response_body
true
true 0
true
true
true ab



=== TEST 2: every phase of a request
--- http_config
    init_worker_by_lua_block {
        local nbffi = require "resty.nonblocking_ffi"
        local rt = assert(nbffi.load { language = "c", library = "gate" })
        package.loaded.cast = function(what)
            local ok, err = rt:cast("note " .. what .. " ")
            if not ok then
                ngx.log(ngx.ERR, what, ": ", err)
            end
        end
        require("cast")("init_worker")
        assert(ngx.timer.at(0, function() require("cast")("timer") end))
    }
    upstream backend {
        server 0.0.0.1;
        balancer_by_lua_block {
            require("cast")("balancer")
            local port = tonumber(ngx.var.server_port)
            assert(require("ngx.balancer").set_current_peer("127.0.0.1",
                                                            port))
        }
    }
--- config
    location = /t {
        set_by_lua_block $x { require("cast")("set") }
        rewrite_by_lua_block { require("cast")("rewrite") }
        access_by_lua_block { require("cast")("access") }
        proxy_pass http://backend/content;
        header_filter_by_lua_block { require("cast")("header_filter") }
        body_filter_by_lua_block {
            if not ngx.ctx.seen then
                ngx.ctx.seen = true
                require("cast")("body_filter")
            end
        }
        log_by_lua_block { require("cast")("log") }
    }
    location = /content {
        content_by_lua_block {
            require("cast")("content")
            ngx.say("content")
        }
    }
    location = /seen {
        content_by_lua_block {
            local gate = require("test_plugins").gate()
            ngx.say(gate.has("ended", 10))
            -- Threads run them in any order.
            local seen = {}
            for what in gate.order():gmatch("%S+") do
                seen[#seen + 1] = what
            end
            table.sort(seen)
            ngx.say(table.concat(seen, " "))
        }
    }
--- request eval
["GET /t", "GET /seen"]
--- response_body eval
["content\n", "true
access balancer body_filter content header_filter init_worker log rewrite set timer
"]



=== TEST 3: the exit of a worker: what was cast in exit_worker_by_lua still runs
--- http_config
    exit_worker_by_lua_block {
        local rt = require "kept"
        local ok, err = rt:cast("log 6 cast at the end")
        ngx.log(ngx.NOTICE, "exit_worker: ", ok, " ", err)
    }
--- lua
local nbffi = require "resty.nonblocking_ffi"
package.loaded.kept = assert(nbffi.load { language = "c",
                                          library = "verbs" })
ngx.say("loaded")
--- response_body
loaded
--- shutdown_error_log eval
[qr/exit_worker: true nil/, "[verbs] cast at the end"]



=== TEST 4: init_by_lua has no runtime to cast to
--- http_config
    init_by_lua_block {
        local nbffi = require "resty.nonblocking_ffi"
        local rt = nbffi.load { language = "c", library = "echo" }
        package.loaded.seen = tostring(rt)
    }
--- lua
ngx.say(require "seen")
--- response_body
nil



=== TEST 5: a cast whose timeout passes in the queue is dropped
--- lua
local say = require("test_plugins").say
local nbffi = require "resty.nonblocking_ffi"
local tp = require "test_plugins"
local gate = tp.gate()
gate.reset()
nbffi.pool("one", { threads = 1 })
local rt = assert(nbffi.load { language = "c", library = "gate",
                               name = ngx.var.request_id, pool = "one" })
local first = rt:submit("hold x")
ngx.say(gate.has("started", 1))
say(rt:cast("note lost", { timeout = 0.01 }))
say(rt:cast("note kept"))
ngx.sleep(0.02)
gate.open()
say(first:wait())
ngx.say(tp.poll(function() return rt:stats().in_flight == 0 end))
ngx.say(gate.order())
local stats = rt:stats()
ngx.say("expired: ", stats.expired, ", ok: ", stats.ok)
--- response_body
true
true
true
x
true
kept
expired: 1, ok: 2



=== TEST 6: errors: a full queue, whatever on_full says, and a closed runtime
--- lua
local say = require("test_plugins").say
local nbffi = require "resty.nonblocking_ffi"
local tp = require "test_plugins"
local gate = tp.gate()
gate.reset()
nbffi.pool("tiny", { threads = 1, max_queue = 2 })
for _, on_full in ipairs { "error", "wait" } do
    local rt = assert(nbffi.load { language = "c", library = "gate",
                                   pool = "tiny", on_full = on_full })
    local before = gate.started()
    say(rt:cast("hold x"))
    ngx.say(gate.has("started", before + 1))
    ngx.say(rt:cast("note a"), " ", rt:cast("note b"))
    say(rt:cast("note c"))
    gate.let(1)
    ngx.say(tp.poll(function() return rt:stats().in_flight == 0 end))
    ngx.say(rt:stats().errors["queue overflow"])
    say(rt:close(), rt:cast("note d"))
end
ngx.say(gate.order())
--- response_body
true
true
true true
nil queue overflow
true
1
true nil closed
true
true
true true
nil queue overflow
true
1
true nil closed
abab



=== TEST 7: many casts in one go, all of them run, once
--- lua
local nbffi = require "resty.nonblocking_ffi"
local tp = require "test_plugins"
local gate = tp.gate()
gate.reset()
local rt = assert(nbffi.load { language = "c", library = "gate",
                               name = ngx.var.request_id })
local refused = 0
for i = 1, 5000 do
    if not rt:cast("note x", { priority = i % 3 == 0 and "low"
                                          or nil }) then
        refused = refused + 1
    end
end
ngx.say("refused: ", refused)
ngx.say(tp.poll(function() return rt:stats().in_flight == 0 end))
ngx.say(gate.ended(), " ", rt:stats().ok)
--- response_body
refused: 0
true
5000 5000



=== TEST 8: the request's bytes are kept for a cast whose request is gone
--- config
    location = /cast {
        content_by_lua_block {
            local nbffi = require "resty.nonblocking_ffi"
            local gate = require("test_plugins").gate()
            gate.reset()
            nbffi.pool("one", { threads = 1 })
            local rt = assert(nbffi.load { language = "c", pool = "one",
                                           library = "gate" })
            rt:cast("hold x")
            for i = 1, 50 do
                -- Nothing but the queue refers to these strings.
                rt:cast("note " .. i .. "/" .. ngx.var.arg_n .. " ")
            end
            ngx.say("cast")
        }
    }
    location = /check {
        content_by_lua_block {
            local gate = require("test_plugins").gate()
            local junk = {}
            for i = 1, 20000 do junk[i] = "junk " .. i end
            junk = nil
            collectgarbage()
            collectgarbage()
            gate.open()
            ngx.say(gate.has("ended", 51))
            local expected = {}
            for i = 1, 50 do expected[i] = i .. "/7 " end
            ngx.say(gate.order() == table.concat(expected))
        }
    }
--- request eval
["GET /cast?n=7", "GET /check"]
--- response_body eval
["cast\n", "true\ntrue\n"]
