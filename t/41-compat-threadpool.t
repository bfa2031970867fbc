# compat/threadpool.lua: pools with init and process code of their own, as
# resty.threadpool has them.

use lib '.';
use t::TestNbffi;

our $HttpConfig = q{
    lua_shared_dict state 1m;
};

repeat_each(1);
plan tests => repeat_each() * (blocks() * 3 + 3);
run_tests();

__DATA__

=== TEST 1: the example of the talk: code that gets its argument as `...`
--- http_config eval
$::HttpConfig . q{
    init_by_lua_block {
        local tp = require "resty.nonblocking_ffi.compat.threadpool"
        assert(tp.define("upper_pool", {
            threads = 1,
            init = [[
                ngx.log(ngx.WARN, "started ", ngx.shared.state:incr("n", 1, 0))
            ]],
            process = [[
                local arg = ...
                ngx.log(ngx.WARN, 'got a request to uppercase "', arg, '"')
                return arg:upper()
            ]],
        }))
        assert(tp.install())
    }
}
--- lua
local tp = require "resty.threadpool"
ngx.say(assert(tp.upper_pool:push_task("foo")))
ngx.say(assert(tp.upper_pool:push_task("bar")))
ngx.say(ngx.shared.state:get("n"))
--- response_body
FOO
BAR
1
--- error_log
got a request to uppercase "foo"
got a request to uppercase "bar"
started 1
--- no_error_log
[error]



=== TEST 2: code that returns the function to call
--- http_config eval
$::HttpConfig . q{
    init_by_lua_block {
        local tp = require "resty.nonblocking_ffi.compat.threadpool"
        assert(tp.define("resize", {
            threads = 1,
            process = [[
                -- Runs once, with the first task's argument.
                local first = ...
                local made = ngx.shared.state:incr("made", 1, 0)
                return function(path, ...)
                    return first, made, path, select("#", ...), ...
                end
            ]],
        }))
        tp.install()
    }
}
--- lua
local list = require("both").list
local tp = require "resty.threadpool"
for i = 1, 3 do
    ngx.say(list(tp.resize:push_task("a" .. i, nil, i, nil)))
end
ngx.say(ngx.shared.state:get("made"))
--- response_body
a1 1 a1 3 nil 1 nil
a1 1 a2 3 nil 2 nil
a1 1 a3 3 nil 3 nil
1



=== TEST 3: what code may return
--- http_config eval
$::HttpConfig . q{
    init_by_lua_block {
        local tp = require "resty.nonblocking_ffi.compat.threadpool"
        assert(tp.define("nothing", { threads = 1, process = "" }))
        assert(tp.define("several", { threads = 1,
                                      process = "return nil, 1, ..., nil" }))
        assert(tp.define("tables", { threads = 1,
                                     process = "return { ..., n = 1 }" }))
        assert(tp.define("refuses", { threads = 1,
                                      process = "return nil, 'not today'" }))
        assert(tp.define("module", { threads = 1,
                                     process = "return require('jobs').kinds",
                                   }))
        assert(tp.define("made", { threads = 1, process = [[
            return function() return "made" end
        ]] }))
        -- Functions that are not to be called: one that comes later, and one
        -- that is not alone. They cannot be results either.
        assert(tp.define("later", { threads = 1, process = [[
            calls = (calls or 0) + 1
            return calls < 2 and calls or function() return "called" end
        ]] }))
        assert(tp.define("pair", { threads = 1, process = [[
            return function() return "called" end, 1
        ]] }))
        -- Strange bytes in the code
        assert(tp.define("bytes", { threads = 1,
            process = "\n--%q\r\nreturn (...) .. '\0\255'" }))
        tp.install()
    }
}
--- lua
local tp = require "resty.threadpool"
local function say(name, ...)
    local list = require("both").list
    for _ = 1, 2 do
        local text = list(tp[name]:push_task(...))
        ngx.say(name, ": ", text:match("is a function") or text)
    end
end
say("nothing", 1)
say("several", "x")
say("refuses")
say("module", 1, nil, "x", {})
say("made")
say("later")
say("pair")
local res = tp.tables:push_task({ 5, { a = ngx.null } })
ngx.say(res.n, " ", res[1][1], " ", res[1][2].a == ngx.null)
ngx.say(tp.bytes:push_task("x") == "x\0\255")
--- response_body
nothing: 
nothing: 
several: nil 1 x nil
several: nil 1 x nil
refuses: nil not today
refuses: nil not today
module: number nil string table
module: number nil string table
made: made
made: made
later: 1
later: is a function
pair: is a function
pair: is a function
1 5 true
true



=== TEST 4: init code that is there for each thread, and errors in either
--- http_config eval
$::HttpConfig . q{
    init_by_lua_block {
        local tp = require "resty.nonblocking_ffi.compat.threadpool"
        assert(tp.define("threads", { threads = 4,
            init = [[
                thread_state = ngx.shared.state:incr("n", 1, 0)
            ]],
            process = [[
                require("jobs").hold("open")
                return thread_state
            ]],
        }))
        assert(tp.define("no_init", { threads = 1,
            init = [[error("no rules")]],
            process = "return 1",
        }))
        assert(tp.define("no_process", { threads = 1,
            process = [[
                local what = ...
                if what == "fail" then
                    error("no such task")
                end
                return function() return what end
            ]],
        }))
        tp.install()
    }
}
--- lua
local poll = require("test_plugins").poll
local tp = require "resty.threadpool"
local state = ngx.shared.state
local seen, threads = {}, {}
for i = 1, 4 do
    threads[i] = ngx.thread.spawn(function()
        local n = assert(tp.threads:push_task())
        seen[n] = (seen[n] or 0) + 1
    end)
end
poll(function() return state:get("started") == 4 end)
state:set("open", true)
for i = 1, 4 do ngx.thread.wait(threads[i]) end
ngx.say("threads: ", table.concat(seen, " "))

local res, err = tp.no_init:push_task()
ngx.say(res, " ", err:match(
    "thread_pool_init_by_lua%(no_init%):1: no rules"))
res, err = tp.no_process:push_task("fail")
ngx.say(res, " ", err:match("^runtime error: "), err:match(
    "thread_pool_process_by_lua%(no_process%):3: no such task"))
-- It did not get as far as the function; now it does.
ngx.say((tp.no_process:push_task("work")))
ngx.say((tp.no_process:push_task("fail")))
--- response_body
threads: 1 1 1 1
nil thread_pool_init_by_lua(no_init):1: no rules
nil runtime error: thread_pool_process_by_lua(no_process):3: no such task
work
work
--- no_error_log
[crit]



=== TEST 5: a full queue: an error, or inline in the event loop
--- http_config eval
$::HttpConfig . q{
    init_by_lua_block {
        local tp = require "resty.nonblocking_ffi.compat.threadpool"
        local process = [[
            if (...) == "hold" then
                return require("jobs").hold("open")
            end
            where = where or "nowhere"
            return where .. " " .. (...)
        ]]
        -- A global is the VM's own: nginx's, or the thread's.
        local init = [[
            local ok, worker = pcall(require, "resty.nonblocking_ffi.worker")
            rawset(_G, "where", ok and worker.name() or "event loop")
        ]]
        assert(tp.define("strict", { threads = 1, max_queue = 0, init = init,
                                     process = process }))
        assert(tp.define("inline", { threads = 1, max_queue = 0, init = init,
                                     process = process, on_full = "inline" }))
        tp.install()
    }
}
--- lua
local poll = require("test_plugins").poll
local list = require("both").list
local tp = require "resty.threadpool"
local state = ngx.shared.state
for i, name in ipairs { "strict", "inline" } do
    ngx.say(list(tp[name]:push_task("idle")))
    state:flush_all()
    local holder = ngx.thread.spawn(function()
        return tp[name]:push_task("hold")
    end)
    poll(function() return state:get("started") == 1 end)
    for _ = 1, 2 do
        local res, err = tp[name]:push_task("busy")
        ngx.say(res and res:match("nbffi/") or res and "event loop",
                " ", err or res:match("busy"))
    end
    state:set("open", true)
    ngx.say(select(2, ngx.thread.wait(holder)))
end
--- response_body
nbffi/strict/0 idle
nil queue overflow
nil queue overflow
held
nbffi/inline/0 idle
event loop busy
event loop busy
held



=== TEST 6: timeouts, arguments that cannot be sent, phases
--- http_config eval
$::HttpConfig . q{
    init_worker_by_lua_block {
        local tp = require "resty.nonblocking_ffi.compat.threadpool"
        local nbffi = require "resty.nonblocking_ffi"
        assert(tp.define("early", { threads = 2,
            init = [[ngx.shared.state:set("ready", true)]],
            process = "return ...",
        }))
        -- On a busy machine the threads may be later than that: until they
        -- are not.
        local state = ngx.shared.state
        for i = 1, 100 do
            state:set("short", "short" .. i)
            if tp.define("short" .. i, { threads = 1, timeout = 0.05,
                process = [[return require("jobs").hold("open")]],
            }) then break end
        end
        tp.install()
        -- Its threads are there, the first has run init.
        state:set("in_init_worker", nbffi.stats().pools.early.threads
                                    .. " " .. tostring(state:get("ready")))
        state:set("phase", (select(2, tp.early:push_task(1))))
        -- Threads that cannot be are the callers' trouble, not the worker's.
        local ok, err = tp.define("broken", { threads = 1,
            init = [[error("no rules", 0)]], process = "return 1" })
        state:set("broken", tostring(ok) .. " "
                            .. tostring(err:match("no rules")))
    }
}
--- lua
local list = require("both").list
local tp = require "resty.threadpool"
local state = ngx.shared.state
ngx.say(state:get("in_init_worker"))
ngx.say(state:get("phase"))
ngx.say(state:get("broken"))
ngx.say(list(tp.early:push_task(1, 2)))
local late, why = tp[state:get("short")]:push_task()
ngx.say(list(late, why))
state:set("open", true)
local ok, err = pcall(tp.early.push_task, tp.early, { x = print })
ngx.say(tostring(ok and select(2, tp.early:push_task({ x = print }))
                 or err):match("function") ~= nil)
late, why = tp.broken:push_task(1)
ngx.say(late, " ", why:match("no rules"))
--- response_body
2 true
cannot yield in this phase
nil no rules
1 2
nil timeout
true
nil no rules
--- no_error_log
[crit]



=== TEST 7: define and install: mistakes, and doing it twice
--- lua
local nbffi = require "resty.nonblocking_ffi"
local tp = require "resty.nonblocking_ffi.compat.threadpool"
local list = require("both").list
local function try(...)
    local ok, err = pcall(tp.define, ...)
    ngx.say(list(ok, err))
end
try()
try("", { process = "" })
try("install", { process = "" })
try("x")
try("x", {})
try("x", { process = print })
try("x", { process = "", init = print })
try("x", { process = "", thraeds = 1 })
try("x", { process = "", threads = 0 })
try("x", { process = "", on_full = "maybe" })
try("x", { process = "", pool = "y" })
local _, err = pcall(function() tp.define("x", 5) end)
ngx.say(err:match("^content_by_lua"), " ", err:match("define: .*"))
ngx.say("x: ", tp.x)

-- Code that is none
ngx.say(list(tp.define("x", { process = "return +" })))
ngx.say(list(tp.define("x", { process = "", init = "= 1" })))
ngx.say("x: ", tp.x)

ngx.say(list(tp.define("a", { process = "return 1" })))
ngx.say(list(tp.define("a", { process = "return 1" })))
ngx.say(list(tp.define("a", { process = "return 2" })))
ngx.say(list(tp.define("a", { process = "return 1",
                              timeout = 3 })))
ngx.say(list(tp.a:push_task()))
assert(nbffi.pool("taken", { threads = 3 }))
ngx.say(list(tp.define("taken", { threads = 2, process = "" })))
ngx.say("taken: ", tp.taken)
ngx.say((select(2, pcall(tp.a.push_task, "a", 1))))

ngx.say((pcall(require, "resty.threadpool")))
ngx.say(list(tp.install()))
ngx.say(list(tp.install()))
ngx.say(require("resty.threadpool") == tp)
package.loaded["resty.threadpool"] = {}
ngx.say(list(tp.install()))
package.loaded["resty.threadpool"] = nil
--- response_body
false define: name must be a non-empty string
false define: name must be a non-empty string
false define: no pool can be named "install"
false define: a table of options expected, got nil
false define: process must be Lua code, got nil
false define: process must be Lua code, got function
false define: init must be Lua code, got function
false define: unknown option "thraeds" (there are: init, max_queue, max_response, nice, on_full, process, threads, timeout, vm_max_memory, vm_recycle_memory, vm_recycle_tasks)
false define: threads must be an integer from 1 to 1024, got 0
false define: on_full must be "error", "wait" or "inline", got "maybe"
false define: unknown option "pool" (there are: init, max_queue, max_response, nice, on_full, process, threads, timeout, vm_max_memory, vm_recycle_memory, vm_recycle_tasks)
content_by_lua define: a table of options expected, got number
x: nil
nil thread_pool_process_by_lua(x):1: unexpected symbol near '+'
nil thread_pool_init_by_lua(x):1: unexpected symbol near '='
x: nil
true
true
nil thread pool "a" is defined already, with other options
nil thread pool "a" is defined already, with other options
1
nil pool "taken" exists already, with threads = 3
taken: nil
not a thread pool: call push_task with a colon
false
true
true
true
nil another resty.threadpool is loaded already



=== TEST 8: many tasks at once, from several handlers, on the first call too
--- http_config eval
$::HttpConfig . q{
    init_by_lua_block {
        local tp = require "resty.nonblocking_ffi.compat.threadpool"
        assert(tp.define("squares", { threads = 3,
            init = [[ngx.shared.state:incr("n", 1, 0)]],
            process = [[return function(x) return x * x end]] }))
        tp.install()
    }
}
--- lua
local tp = require "resty.threadpool"
local threads = {}
for i = 1, 200 do
    threads[i] = ngx.thread.spawn(function()
        return assert(tp.squares:push_task(i))
    end)
end
local sum = 0
for i = 1, 200 do
    local _, square = ngx.thread.wait(threads[i])
    sum = sum + square
end
ngx.say(sum)
ngx.say(ngx.shared.state:get("n") <= 3)
--- response_body
2686700
true
