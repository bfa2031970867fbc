# on_full = "inline": when the queue is full, Lua functions run in the event loop.

use lib '.';
use t::TestNbffi;

# full(options): a runtime whose only thread is busy until the board's cell 1 is
# set, and whose queue holds nothing; and the board.
our $Full = q{
>>> full.lua
return function(options)
    local nbffi = require "resty.nonblocking_ffi"
    local board = require("board").new()
    nbffi.pool("full", { threads = 1, max_queue = 0 })
    local holder = assert(nbffi.load { language = "lua", module = "vm_jobs",
                                       pool = "full", timeout = 60 })
    options.language, options.pool = "lua", "full"
    options.module = options.module or "vm_jobs"
    options.on_full = "inline"
    local rt = assert(nbffi.load(options))
    local tp = require "test_plugins"
    local function busy()
        board:set(0, 0)
        board:set(1, 0)
        -- Its thread may be on its way out of the last task.
        local held
        tp.poll(function()
            held = holder:submit("hold", board.address)
            return held
        end)
        board:has(0, 1)
        return held
    end
    local held = busy()
    return rt, board, {
        busy = function() held = busy() end,
        free = function()
            board:set(1, 1)
            held:wait()
            tp.poll(function()
                return nbffi.stats().pools.full.in_flight == 0
            end)
        end,
    }
end
};

repeat_each(1);
plan tests => repeat_each() * (blocks() * 3 + 2);
run_tests();

__DATA__

=== TEST 1: call: in the pool while there is room, else here
--- user_files eval: $::Full
--- lua
local describe = require("vm_jobs").describe
local rt, _, pool = require("full") {}
ngx.say(rt:call("whoami"))
ngx.say(describe(rt:call("echo", 1, nil, { x = ngx.null }, nil)))
ngx.say(describe(rt:call("echo", "one string")))
ngx.say(describe(rt:call("echo")))
ngx.say(describe(rt:call({ "echo", timeout = 1, key = "k",
                           priority = "high" }, 2)))
local stats = rt:stats()
ngx.say(stats.inline, " ", stats.calls, " ",
        stats.errors["queue overflow"])
pool.free()
ngx.say((rt:call("whoami")))
pool.busy()
ngx.say((rt:call("whoami")))
stats = rt:stats()
ngx.say(stats.inline, " ", stats.ok)
pool.free()
--- response_body
nginx-1nil
4: 1; nil; { 1 bytes of sum 120 = null }; nil
1: 10 bytes of sum 80266541
0: 
1: 2
5 0 0
nbffi/full/0
nginx
6 1



=== TEST 2: submit: a future that is done
--- user_files eval: $::Full
--- lua
local describe = require("vm_jobs").describe
local say = require("test_plugins").say
local nbffi = require "resty.nonblocking_ffi"
local rt, _, pool = require("full") {}
local fut = rt:submit("echo", 1, nil, "x", nil)
ngx.say(describe(fut:wait()))
ngx.say(describe(fut:wait()))
ngx.say(describe(fut:wait(0)))
say(fut:cancel())
local futures = { rt:submit("echo", "a", "b"), rt:submit("fail"),
                  rt:submit("echo", nil, "c"), rt:submit("echo") }
local results, errors = nbffi.wait_all(futures)
say(results[1], results[2], results[3], results[4])
say(errors[1], errors[2]:match("^runtime error: .*(failed)\n"),
    errors[3], errors[4])
say(nbffi.wait_any(futures))
local res, err, code, message = futures[2]:wait()
say(res, code, err == "runtime error: " .. message)
say(rt:stats().inline)
pool.free()
--- response_body
4: 1; nil; 1 bytes of sum 120; nil
4: 1; nil; 1 bytes of sum 120; nil
4: 1; nil; 1 bytes of sum 120; nil
false
a
nil failed
1 a b
nil 0 true
5



=== TEST 3: init is run once here, when it is first needed
--- user_files eval
$::Full . q{
>>> my_init.lua
package.loaded.inits = (package.loaded.inits or 0) + 1
}
--- lua
local say = require("test_plugins").say
local nbffi = require "resty.nonblocking_ffi"
local function inits()
    return package.loaded.inits
end
local rt, _, pool = require("full") { init = "my_init" }
ngx.say(tostring(inits()))
say(rt:call("echo", 1), inits())
say(rt:submit("echo", 2):wait(), inits())
pool.free()
say((rt:call_fn(function() return package.loaded.inits end)))
pool.busy()
say(rt:call("echo", 3), inits())
-- Another runtime with the same init shares it.
pool.free()
local other = assert(nbffi.load { language = "lua", module = "vm_jobs",
                                  pool = "full", init = "my_init",
                                  on_full = "inline", name = "other" })
local code = assert(nbffi.load { language = "lua", module = "vm_jobs",
    pool = "full", on_full = "inline", name = "code",
    init = "package.loaded.inits = (package.loaded.inits or 0) + 100" })
pool.busy()
say(other:call("echo", 4), inits())
say(code:call("echo", 5), inits())
say(code:call("echo", 6), inits())
pool.free()
--- response_body
nil
1 1
2 1
1
3 1
4 1
5 101
6 101



=== TEST 4: errors are what they are in a VM
--- user_files eval
$::Full . q{
>>> only_off_the_loop.lua
if require("resty.nonblocking_ffi.worker").index() < 0 then
    error("not in the event loop")
end
}
--- lua
local nbffi = require "resty.nonblocking_ffi"
local rt, _, pool = require("full") { module = "jobs" }
pool.free()
local init = "assert(require('resty.nonblocking_ffi.worker').index() "
             .. "== 0, 'only in the pool')"
local picky = assert(nbffi.load { language = "lua", module = "jobs",
                                  pool = "full", on_full = "inline",
                                  init = init, name = "picky" })
local module = assert(nbffi.load { language = "lua", pool = "full",
                                   module = "only_off_the_loop",
                                   on_full = "inline" })
local function first(res, err, code, message)
    if not message then return tostring(res) .. tostring(err) end
    return table.concat({
        tostring(res), tostring(err):match("^[^\n]*"), code,
        tostring(err == "runtime error: " .. message),
        tostring(err:match("\nstack traceback:\n") ~= nil),
    }, " ")
end
local function both(...)
    pool.busy()
    local here = first(rt:call(...))
    pool.free()
    local there = first(rt:call(...)):gsub("vm/boot.lua:%d+: ", "")
    here = here:gsub("inline.lua:%d+: ", "")
    ngx.say(here == there and here:gsub("%S*/", "") or here .. " but "
            .. there)
end
both("raise", "oops")
both("raise", "oops", 0)
both("raise")
both("raise", { 5 }, 0)
both("raise_one", "speaking")
both("missing")
both("not_a_function")
both("callable")
pool.busy()
ngx.say((first(picky:call("echo", 1)):gsub("%S*/", "")))
ngx.say((first(picky:call("echo", 1)):gsub("%S*/", "")))
ngx.say((first(module:call("f")):gsub("%S*/", "")))
-- What cannot be passed is refused here as there.
ngx.say(select(2, pcall(rt.call, rt, "echo", { x = print })))
ngx.say(select(2, pcall(rt.submit, rt, "echo", 1, print)))
pool.free()
--- response_body_like chomp
\Anil runtime error: jobs.lua:\d+: oops 0 true true
nil runtime error: oops 0 true true
nil runtime error: nil 0 true true
nil runtime error: table: 0x\w+ 0 true true but nil runtime error: table: 0x\w+ 0 true true
nil runtime error: me 0 true true
nil runtime error: module "jobs" has no function "missing" 0 true true
.*attempt to call .*a number value.*
1nil
nil runtime error: init:1: only in the pool 0 true true
nil runtime error: init:1: only in the pool 0 true true
nil runtime error: only_off_the_loop.lua:2: not in the event loop 0 true true
call: args\[1\].x is a function, which cannot be passed to another Lua VM
submit: args\[2\] is a function, which cannot be passed to another Lua VM
\z



=== TEST 5: call_fn and run; cast never runs here
--- http_config
    init_by_lua_block {
        require("resty.nonblocking_ffi").setup { on_full = "inline" }
    }
--- user_files eval: $::Full
--- lua
local say = require("test_plugins").say
local nbffi = require "resty.nonblocking_ffi"
local rt, board, pool = require("full") {}
say(rt:call_fn(function(a, ...)
    return require("vm_jobs").whoami(), a, select("#", ...)
end, 1, nil, nil))
say(rt:call_fn(function() error("oops", 0) end) == nil)
pool.free()
say((nbffi.run({ "vm_jobs", pool = "full" }, "whoami")))
pool.busy()
say((nbffi.run({ "vm_jobs", pool = "full" }, "whoami")))
say(rt:cast("note", board.address, 1))
pool.free()
say(board:get(9))
say(rt:cast("note", board.address, 2))
say(board:has(9, 1), board:get(10))
say(rt:stats().inline, rt:stats().errors["queue overflow"])
-- A plugin in C cannot run here.
say(nbffi.load { language = "c", library = "echo", pool = "full" }
        :call("x"))
pool.busy()
say(nbffi.load { language = "c", library = "echo", pool = "full" }
        :call("x"))
pool.free()
--- response_body
nginx 1 2
true
nbffi/full/0
nginx
nil queue overflow
0
true
true 2
2 1
x
nil queue overflow



=== TEST 6: phases: what can wait may yield here; what cannot may submit
--- user_files eval
$::Full . q{
>>> yielding.lua
return {
    sleep = function(value)
        ngx.sleep(0.001)
        return value, ngx.get_phase()
    end,
    phase = function() return ngx.get_phase() end,
}
}
--- config
location = /t {
    content_by_lua_block {
        local rt, board, pool = require("full") { module = "yielding" }
        ngx.ctx.rt, ngx.ctx.board, ngx.ctx.pool = rt, board, pool
        ngx.say(rt:call("sleep", "slept"))
        ngx.say(rt:call_fn(function() ngx.sleep(0.001) return "too" end))
    }
    header_filter_by_lua_block {
        local rt = ngx.ctx.rt
        local fut = rt:submit("phase")
        ngx.header["X-Submit"] = fut:wait()
        ngx.header["X-Call"] = select(2, rt:call("phase"))
    }
    log_by_lua_block { ngx.ctx.board:set(1, 1) }
}
--- response_body
sleptcontent
too
--- response_headers
X-Submit: header_filter
X-Call: cannot yield in this phase



=== TEST 7: reload concerns the event loop's copy of the module, too
--- user_files eval
$::Full . q{
>>> counted.lua
loads = (rawget(_G, "loads") or 0) + 1
local number = loads
local sub = require "counted.sub"
return { number = function() return number, sub.number, _G.loads end }
>>> counted/sub.lua
sub_loads = (rawget(_G, "sub_loads") or 0) + 1
return { number = sub_loads }
}
--- lua
local say = require("test_plugins").say
local rt, _, pool = require("full") { module = "counted" }
pool.free()
say("there", rt:call("number"))
-- It is not loaded here for that.
say(rt:reload(), package.loaded.counted)
say("there", rt:call("number"))
pool.busy()
say("here", rt:call("number"))
say("here", rt:call("number"))
pool.free()
say(rt:reload(), package.loaded.counted, package.loaded["counted.sub"])
pool.busy()
say("here", rt:call("number"))
say(rt:reload())
say("here", rt:call("number"))
pool.free()
say("there", rt:call("number"))
--- response_body
there 1 1 1
true
there 2 2 2
here 1 1 1
here 1 1 1
true
here 2 2 2
nil queue overflow
here 2 2 2
there 3 3 3



=== TEST 8: under load every call ends, here or there
--- lua
local nbffi = require "resty.nonblocking_ffi"
nbffi.pool("two", { threads = 2, max_queue = 3 })
local rt = assert(nbffi.load { language = "lua", module = "vm_jobs",
                               pool = "two", on_full = "inline" })
local wrong, here, threads = 0, 0, {}
local function work(number)
    for i = 1, 100 do
        local a, b, where = rt:call("spin", number, i)
        if a ~= number or b ~= i then wrong = wrong + 1 end
        if where == "nginx" then here = here + 1 end
        local fut = rt:submit("echo", number .. ":" .. i)
        if fut:wait() ~= number .. ":" .. i then wrong = wrong + 1 end
    end
end
for i = 1, 20 do threads[i] = ngx.thread.spawn(work, i) end
for i = 1, 20 do assert(ngx.thread.wait(threads[i])) end
local stats = rt:stats()
ngx.say(wrong, " ", stats.inline + stats.ok, " ", here > 0, " ",
        stats.inline >= here, " ", stats.ok > 0)
--- response_body
0 4000 true true true
