# Plugins that run several tasks in one call, by the host function `next`, or
# wait for them in it, by `await_next`.

use lib '.';
use t::TestNbffi;

our $HttpConfig = q{
    init_by_lua_block {
        local nbffi = require "resty.nonblocking_ffi"
        nbffi.pool("one", { threads = 1 })
        nbffi.pool("two", { threads = 2 })

        -- A plugin whose "hold" holds until open() is called.
        local function load_puller(name, pool, config)
            local path = os.tmpname()
            os.remove(path)
            local rt = assert(nbffi.load {
                language = "c", library = "puller", pool = pool, name = name,
                config = config .. path,
            })
            return rt, function()
                assert(io.open(path, "w")):close()
            end, path
        end

        function puller(name)
            return load_puller(name, "one", "")
        end

        function waiter(pool)
            return load_puller(nil, pool, "await ")
        end
    }
};

repeat_each(2);
plan tests => repeat_each() * (blocks() * 3);
run_tests();

__DATA__

=== TEST 1: what waits is run in one call, in order, each with its own response
--- lua
local nbffi = require "resty.nonblocking_ffi"
local rt, open, path = puller()
rt:call("counts")
local futures = { rt:submit("hold") }
for i = 1, 50 do
    futures[i + 1] = rt:submit("task " .. i)
end
open()
local results, errors = nbffi.wait_all(futures)
os.remove(path)
local right = 0
for i = 1, 50 do
    if results[i + 1] == "task " .. i then
        right = right + 1
    end
end
ngx.say(right, " ", next(errors))
ngx.say(rt:call("counts"))
rt:close()
--- response_body
50 nil
2 52



=== TEST 2: a task for somebody else comes in its turn
--- lua
local nbffi = require "resty.nonblocking_ffi"
local rt, open, path = puller()
local echo = assert(nbffi.load { language = "c", library = "echo",
                                 pool = "one" })
rt:call("counts")
local futures = {
    rt:submit("hold"), rt:submit("a"), echo:submit("b"),
    rt:submit("c"), rt:submit("d"),
}
open()
local results = nbffi.wait_all(futures)
os.remove(path)
ngx.say(table.concat(results, " "))
-- hold and a, then c and d, then this.
ngx.say(rt:call("counts"))
rt:close()
--- response_body
hold a b c d
3 5



=== TEST 3: what is left without a response is empty; what call returns is about the last
--- lua
local nbffi = require "resty.nonblocking_ffi"
local rt, open, path = puller()
rt:call("counts")
local futures = {
    rt:submit("hold"), rt:submit("leave"), rt:submit("x"),
    rt:submit("fail"), rt:submit("leave"),
}
open()
local results, errors = nbffi.wait_all(futures)
os.remove(path)
for i = 1, 5 do
    ngx.say(i, " \"", results[i], "\" ", errors[i])
end
rt:close()
--- response_body
1 "hold" nil
2 "" nil
3 "x" nil
4 "nil" runtime error: code 7
5 "" nil



=== TEST 4: cancelled and late tasks are not handed out
--- lua
local nbffi = require "resty.nonblocking_ffi"
local rt, open, path = puller()
rt:call("counts")
local held = rt:submit("hold")
local cancelled = rt:submit("cancelled")
local late = rt:submit("late", { timeout = 0.05 })
local last = rt:submit("last")
ngx.say(cancelled:cancel())
ngx.say((select(2, late:wait())))
open()
ngx.say(held:wait(), " ", last:wait())
os.remove(path)
ngx.say(rt:call("counts"))
rt:close()
--- response_body
true
timeout
hold last
2 3



=== TEST 5: closing waits for a call that pulls
--- lua
local rt, open, path = puller("closing")
local futures = { rt:submit("hold") }
for i = 2, 20 do
    futures[i] = rt:submit("task " .. i)
end
local closer = ngx.thread.spawn(function() return rt:close() end)
open()
local _, ok = ngx.thread.wait(closer)
os.remove(path)
ngx.say(ok, " ", futures[20]:wait())
--- response_body
true task 20



=== TEST 6: one call takes what comes, whether the thread spins or sleeps
--- lua
local rt = waiter("one")
rt:call("counts")
local right = 0
for i = 1, 50 do
    if rt:call("task " .. i) == "task " .. i then
        right = right + 1
    end
    if i % 10 == 0 then
        ngx.sleep(0.01)
    end
end
ngx.say(right)
-- Still in the call that counted before.
ngx.say(rt:call("counts"))
rt:close()
--- response_body
50
0 51



=== TEST 7: the thread leaves for what others want of it
--- lua
local nbffi = require "resty.nonblocking_ffi"
local rt = waiter("one")
local echo = assert(nbffi.load { language = "c", library = "echo",
                                 pool = "one" })
rt:call("counts")
ngx.say(rt:call("a"), " ", echo:call("b"), " ", rt:call("c"))
local lua = assert(nbffi.load { language = "lua", module = "vm_jobs",
                                pool = "one" })
ngx.say((lua:call("echo", "d")), " ", rt:call("e"))
ngx.say(lua:close(), " ", rt:call("f"))
ngx.say(echo:call("g"))
ngx.say(rt:close())
--- response_body
a b c
d e
true f
g
true



=== TEST 8: what is left without a response is empty
--- lua
local rt, open, path = waiter("one")
ngx.say("\"", rt:call("leave"), "\"")
local futures = { rt:submit("hold"), rt:submit("leave"), rt:submit("x") }
open()
local results = require("resty.nonblocking_ffi").wait_all(futures)
os.remove(path)
ngx.say(table.concat(results, ","))
ngx.say((select(2, rt:call("fail"))))
rt:close()
--- response_body
""
hold,,x
runtime error: code 7



=== TEST 9: closing recalls the threads that wait
--- lua
local nbffi = require "resty.nonblocking_ffi"
local rt, open, path = waiter("two")
local held = { rt:submit("hold"), rt:submit("hold") }
-- Both threads have come.
while nbffi.stats().pools.two.running < 2 do
    ngx.sleep(0.001)
end
open()
nbffi.wait_all(held)
os.remove(path)
ngx.say(rt:close())
local echo = assert(nbffi.load { language = "c", library = "echo",
                                 pool = "two" })
ngx.say(echo:call("open"))
--- response_body
true
open
