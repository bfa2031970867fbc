# Lua code whose caller has given up is stopped, whatever it does; its VM is
# replaced, and nobody else is concerned.

use lib '.';
use t::TestNbffi;

log_level('info');
repeat_each(1);
plan tests => repeat_each() * (blocks() * 4);
run_tests();

__DATA__

=== TEST 1: every kind of loop is stopped when its deadline has passed
--- lua
local tp = require "test_plugins"
local nbffi = require "resty.nonblocking_ffi"
local names = require("runaways").names
nbffi.pool("four", { threads = 4 })
local rt = assert(nbffi.load { language = "lua", module = "runaways",
                               pool = "four" })
local jobs = assert(nbffi.load { language = "lua", module = "vm_jobs",
                                 pool = "four" })
tp.poll(function() return rt:stats().vm.vms == 4 end)
local next_one, boards, attempts = 0, {}, 0
local function begun()
    local count = 0
    for i = 1, #boards do count = count + boards[i]:get(0) end
    return count
end
-- A task that never begins, since its deadline passes before that on a
-- busy machine, is not what this is about: then there is another one.
local function run(name)
    local board = require("board").new()
    boards[#boards + 1] = board
    return tp.poll(function()
        attempts = attempts + 1
        local res, err = rt:call({ "run", timeout = 0.2 },
                                 board.address, name)
        if res or err ~= "timeout" then
            ngx.say(name, ": ", res, " ", err)
        end
        return board:get(0) > 0
    end)
end
local function work()
    while next_one < #names do
        next_one = next_one + 1
        local name = names[next_one]
        if not run(name) then ngx.say(name, ": never begun") end
    end
end
local threads = {}
for i = 1, 4 do threads[i] = ngx.thread.spawn(work) end
for i = 1, 4 do ngx.thread.wait(threads[i]) end
ngx.say(tp.poll(function()
    local stats = rt:stats()
    return stats.in_flight == 0 and stats.vm.vms == 4
           and stats.vm.replaced.stopped >= begun()
           and stats.vm.made == stats.vm.replaced.stopped + 4
end))
-- Each of them cost one VM, and the new ones work.
local vm = rt:stats().vm
ngx.say(begun() >= #names, " ", #names > 30, " ",
        vm.replaced.stopped <= attempts, " ",
        vm.made - vm.replaced.stopped, " ",
        vm.stuck, " ", vm.replaced.memory)
ngx.say(vm.memory > 4e5 and vm.memory < 4e7)
for i = 1, 40 do
    if jobs:call({ "echo", key = "k" .. i }, i) ~= i then
        ngx.say("not well: ", i)
    end
end
--- response_body
true
true true true 4 0 0
true
--- error_log
a VM is replaced: its code had to be stopped
--- no_error_log
[error]



=== TEST 2: cancel stops them, too
--- lua
local tp = require "test_plugins"
local nbffi = require "resty.nonblocking_ffi"
local board = require("board").new()
nbffi.pool("one", { threads = 1 })
local rt = assert(nbffi.load { language = "lua", module = "runaways",
                               pool = "one", timeout = 3600 })
for i, name in ipairs { "while", "counting", "pcall of a loop",
                        "interpreted", "in a coroutine", "tables",
                        "gsub", "sort" } do
    local fut = rt:submit("run", board.address, name)
    board:has(0, i)
    local waiting = rt:submit("run", board.address, name)
    ngx.say(name, ": ", fut:cancel(), " ", waiting:cancel(), " ",
            select(2, fut:wait()), " ",
            tp.poll(function() return rt:stats().in_flight == 0 end))
end
tp.poll(function()
    return rt:stats().vm.made == 9 and rt:stats().vm.vms == 1
end)
local stats = rt:stats()
ngx.say(stats.vm.replaced.stopped, " ", stats.vm.made, " ",
        stats.errors.cancelled, " ", board:get(0))
ngx.say((rt:call_fn(function() return "well" end)))
--- response_body
while: true true cancelled true
counting: true true cancelled true
pcall of a loop: true true cancelled true
interpreted: true true cancelled true
in a coroutine: true true cancelled true
tables: true true cancelled true
gsub: true true cancelled true
sort: true true cancelled true
8 9 16 8
well
--- error_log
a VM is replaced: its code had to be stopped
--- no_error_log
[error]



=== TEST 3: so does the deadline of a cast, and of a future that nobody has
--- lua
local tp = require "test_plugins"
local nbffi = require "resty.nonblocking_ffi"
local board = require("board").new()
nbffi.pool("one", { threads = 1 })
local rt = assert(nbffi.load { language = "lua", module = "runaways",
                               pool = "one" })
-- Again if its deadline has passed before it began: a busy machine.
local function stops(count, run)
    return tp.poll(function()
        run()
        if rt:call_fn(function() return "well" end) ~= "well" then
            ngx.say("not well")
        end
        return rt:stats().vm.replaced.stopped == count
    end)
end
ngx.say(stops(1, function()
    assert(rt:cast({ "run", timeout = 0.5 }, board.address, "while"))
end))
ngx.say(rt:stats().errors.timeout >= 1)
ngx.say(stops(2, function()
    assert(rt:submit({ "run", timeout = 0.5 }, board.address, "pcall"))
end))
-- A task without any code of ours on the way: call_fn.
ngx.say(stops(3, function()
    local res, err = rt:call_fn { function()
        while true do end
    end, timeout = 0.5 }
    if res or err ~= "timeout" then ngx.say(res, " ", err) end
end))
--- response_body
true
true
true
true
--- error_log
a VM is replaced: its code had to be stopped
--- no_error_log
[error]



=== TEST 4: nobody else is concerned: other threads, groups, pools, languages
--- lua
local tp = require "test_plugins"
local nbffi = require "resty.nonblocking_ffi"
local board = require("board").new()
nbffi.pool("two", { threads = 2 })
nbffi.pool("other", { threads = 1 })
local function load(options)
    options.language = options.language or "lua"
    options.module = options.language == "lua"
                     and (options.module or "vm_jobs") or nil
    return assert(nbffi.load(options))
end
local rt = load { module = "runaways", pool = "two" }
local group = load { pool = "two", vm = "another" }
local pool = load { pool = "other" }
local echo = load { language = "c", library = "echo", pool = "other" }
local timer = load { language = "c", library = "async_timer" }
tp.poll(function()
    return rt:stats().vm.vms == 2 and group:stats().vm.vms == 2
end)
local kept = {}
for i = 1, 20 do
    local _, index = group:call({ "count", key = "k" .. i })
    kept[index] = true
end
-- One thread of two, then both.
local futures = {}
for i = 1, 2 do
    futures[i] = rt:submit({ "run", timeout = 1 }, board.address,
                           "counting")
    board:has(0, i)
    for n = 1, 50 do
        if i == 1 and group:call("echo", n) ~= n
           or pool:call("echo", n) ~= n or echo:call("e") ~= "e"
           or timer:call("1 t") ~= "t"
        then
            ngx.say("not well")
        end
    end
end
for i = 1, 2 do
    ngx.say((select(2, futures[i]:wait())))
end
tp.poll(function() return rt:stats().vm.made == 4 end)
-- The other group's VMs on these threads are the same as before.
local count = 0
for i = 1, 20 do
    local number, index = group:call({ "count", key = "k" .. i })
    count = count + (number > 1 and kept[index] and 1 or 0)
end
ngx.say(count, " ", group:stats().vm.made, " ", pool:stats().vm.made,
        " ", rt:stats().vm.replaced.stopped)
--- response_body
timeout
timeout
20 2 1 2
--- error_log
a VM is replaced: its code had to be stopped
--- no_error_log
[error]



=== TEST 5: code that asks and ends in time keeps its VM, compiled or not
--- lua
local tp = require "test_plugins"
local nbffi = require "resty.nonblocking_ffi"
local board = require("board").new()
nbffi.pool("one", { threads = 1 })
local rt = assert(nbffi.load { language = "lua", module = "vm_jobs",
                               pool = "one" })
local function ended()
    return tp.poll(function() return rt:stats().in_flight == 0 end)
end
-- On a machine that is very busy it may come too late, so it has
-- many attempts.
local function succeeds(attempt)
    return tp.poll(attempt) or tp.poll(attempt) or tp.poll(attempt)
end
for _, how in ipairs { "cooperate", "cooperate_interpreted" } do
    for _, way in ipairs { "timeout", "cancel" } do
        ngx.say(how, " ", way, ": ", succeeds(function()
            local before = rt:stats().vm.replaced.stopped
            board:set(2, 0)
            board:set(3, 0)
            local fut = rt:submit({ how, timeout = way == "timeout"
                                                   and 0.1 or 30 },
                                  board.address)
            board:has(2, 1)
            if way == "cancel" then
                -- Long enough to be compiled.
                ngx.sleep(0.02)
                fut:cancel()
            end
            fut:wait()
            ended()
            -- Its VM has been replaced by now, if it is to be.
            rt:call_fn(function() end)
            return board:get(3) == 1
                   and rt:stats().vm.replaced.stopped == before
        end))
    end
end
--- timeout: 150
--- response_body
cooperate timeout: true
cooperate cancel: true
cooperate_interpreted timeout: true
cooperate_interpreted cancel: true
--- no_error_log
[error]
[alert]



=== TEST 6: a blocking C call is reported as stuck, and what comes after it is stopped
--- lua
local tp = require "test_plugins"
local nbffi = require "resty.nonblocking_ffi"
local runaways = require "runaways"
local board = require("board").new()
nbffi.pool("one", { threads = 1 })
nbffi.pool("other", { threads = 1 })
local rt = assert(nbffi.load { language = "lua", module = "runaways",
                               pool = "one" })
local other = assert(nbffi.load { language = "lua", module = "vm_jobs",
                                  pool = "other" })
local pipe = runaways.pipe()
local fut = rt:submit({ "read", timeout = 0.5 }, board.address,
                      pipe.reading)
board:has(0, 1)
ngx.say(rt:stats().vm.stuck, " ", (select(2, fut:wait())))
ngx.say(tp.poll(function() return rt:stats().vm.stuck == 1 end))
local stats = rt:stats()
ngx.say(stats.running, " ", stats.vm.vms, " ", stats.vm.made, " ",
        stats.vm.replaced.stopped)
-- What waits for that thread waits; others do not.
ngx.say((select(2, rt:call_fn({ function() end, timeout = 0.02 }))))
ngx.say((other:call("echo", "well")), " ", other:stats().vm.stuck)
pipe.write("x")
ngx.say(tp.poll(function() return rt:stats().vm.stuck == 0 end))
ngx.say((rt:call_fn(function() return "well" end)))
tp.poll(function() return rt:stats().vm.vms == 1 end)
ngx.say(rt:stats().vm.replaced.stopped, " ", rt:stats().vm.made)
pipe.close()
--- response_body
0 timeout
true
1 1 1 0
timeout
well 0
true
well
1 2
--- error_log
a VM is replaced: its code had to be stopped
--- no_error_log
[error]



=== TEST 7: what catches the error, again and again, does not live on
--- lua
local tp = require "test_plugins"
local nbffi = require "resty.nonblocking_ffi"
local board = require("board").new()
nbffi.pool("one", { threads = 1 })
local rt = assert(nbffi.load { language = "lua", module = "runaways",
                               pool = "one" })
-- Again if its deadline has passed before it began: a busy machine.
for i = 1, 3 do
    ngx.say(tp.poll(function()
        local res, err = rt:call({ "stubborn", timeout = 0.5 },
                                 board.address)
        if res or err ~= "timeout" then ngx.say(res, " ", err) end
        return tp.poll(function() return rt:stats().in_flight == 0 end)
               and board:get(0) >= i
    end))
end
ngx.say((rt:call_fn(function() return "well" end)))
ngx.say(rt:stats().vm.replaced.stopped >= board:get(0))
--- response_body
true
true
true
well
true
--- error_log
a VM is replaced: its code had to be stopped
--- no_error_log
[error]



=== TEST 8: loops that wait in a C function all the time
--- lua
local runaways = require "runaways"
local names = runaways.waiting_names
require("stops").all(names)
ngx.say(#names > 10)
--- response_body
true
well
true
true
--- error_log
a VM is replaced: its code had to be stopped
--- no_error_log
[error]



=== TEST 9: whatever lies on the stack; and C functions come to their end
--- lua
local runaways = require "runaways"
local names = runaways.deep_names
local boards = require("stops").all(names)
for i, board in ipairs(boards) do
    -- As often left as entered, and no word of theirs was changed.
    local entered, left, changed = board:get(2), board:get(3),
                                   board:get(4)
    if entered < 300 or left ~= entered or changed ~= 0 then
        ngx.say(names[i], ": ", entered, " ", left, " ", changed)
    end
end
--- response_body
true
well
true
--- error_log
a VM is replaced: its code had to be stopped
--- no_error_log
[error]
