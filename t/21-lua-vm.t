# Lua runtimes: their VMs. Which calls share one, how long it lives, what is in
# it, what code in it can ask, and what its errors say.

use lib '.';
use t::TestNbffi;

# A module with a version, which is in cell 40 of the board whose address init
# has left; version 0 cannot be loaded.
our $Versioned = q{
>>> versioned.lua
local board = require("board").at(address)
local version = board:get(40)
if version == 0 then
    error("this version is broken")
end
local sub = require "versioned.sub"
local deep = require "versioned.sub.deep"
local other = require "versioned_other"
return {
    version = function() return version, sub.version, deep.version, other.version end,
    slow = function(value)
        board:add(0)
        board:await(1, 1)
        return version, sub.version, value
    end,
}
>>> versioned/sub.lua
return { version = require("board").at(address):get(40) }
>>> versioned/sub/deep.lua
return { version = require("board").at(address):get(40) }
>>> versioned_other.lua
local version = require("board").at(address):get(41)
if version == 0 then
    error("the other one is broken")
end
return { version = version }
};

repeat_each(1);
plan tests => repeat_each() * (blocks() * 3 + 4);
run_tests();

__DATA__

=== TEST 1: a VM keeps its state between calls; each thread has its own
--- lua
local tp = require "test_plugins"
local nbffi = require "resty.nonblocking_ffi"
nbffi.pool("one", { threads = 1 })
nbffi.pool("three", { threads = 3 })
local one = assert(nbffi.load { language = "lua", module = "vm_jobs",
                                pool = "one" })
for i = 1, 3 do ngx.say((one:call("count"))) end
local three = assert(nbffi.load { language = "lua", module = "vm_jobs",
                                  pool = "three" })
-- VMs are there on every thread, before they are needed.
ngx.say(tp.poll(function() return three:stats().vm.vms == 3 end))
local counts, total = {}, 0
local function work()
    for _ = 1, 50 do
        local count, index = three:call("count")
        counts[index] = math.max(counts[index] or 0, count)
    end
end
local threads = {}
for i = 1, 4 do threads[i] = ngx.thread.spawn(work) end
for i = 1, 4 do ngx.thread.wait(threads[i]) end
for _, count in pairs(counts) do total = total + count end
ngx.say(total)
ngx.say(three:stats().vm.made, " ", one:stats().vm.made)
-- Nor does the event loop's VM see any of it.
ngx.say((require("vm_jobs").count()))
--- response_body
1
2
3
true
200
3 1
1



=== TEST 2: equal options share VMs; vm, init, limits and pools keep them apart
--- lua
local nbffi = require "resty.nonblocking_ffi"
nbffi.pool("a", { threads = 1 })
nbffi.pool("b", { threads = 1 })
local function count(options)
    options.runtime, options.module = "lua", "vm_jobs"
    options.pool = options.pool or "a"
    local rt = assert(nbffi.load(options))
    return (rt:call("count"))
end
local init = "initialised = true"
ngx.say("first: ", count {})
ngx.say("the same: ", count {})
ngx.say("another runtime: ", count { name = "other", timeout = 7 })
ngx.say("on_full: ", count { on_full = "wait" })
ngx.say("no module: ", (nbffi.load { language = "lua", pool = "a" }
    :call_fn(function() return require("vm_jobs").count() end)))
ngx.say("pool: ", count { pool = "b" })
ngx.say("vm: ", count { vm = "mine" }, " ",
        count { vm = "mine", name = "my other" }, " ",
        count { vm = "yours" })
ngx.say("init: ", count { init = init }, " ",
        count { init = init, name = "initialised" }, " ",
        count { init = init .. " " })
ngx.say("limits: ", count { vm_max_memory = 2^26 }, " ",
        count { vm_recycle_memory = 2^25 }, " ",
        count { vm_recycle_tasks = 1000 }, " ",
        count { vm_recycle_tasks = 1000, name = "limited" })
ngx.say("first: ", count {})
--- response_body
first: 1
the same: 2
another runtime: 3
on_full: 4
no module: 5
pool: 1
vm: 1 2 1
init: 1 2 1
limits: 1 1 1 2
first: 6



=== TEST 3: a group's VMs are closed with its last runtime, finalizers and all
--- lua
local tp = require "test_plugins"
local nbffi = require "resty.nonblocking_ffi"
local board = require("board").new()
nbffi.pool("one", { threads = 1 })
local function load(name)
    return assert(nbffi.load { language = "lua", module = "vm_jobs",
                               pool = "one", name = name })
end
local first, second = load("first"), load("second")
first:call("at_end", board.address)
ngx.say((first:call("count")), " ", (second:call("count")))
ngx.say(first:close(), " ", (second:call("count")), " ", board:get(5))
ngx.say((select(2, first:call("count"))))
ngx.say(second:close(), " ", board:has(5, 1))
local third = load("third")
ngx.say((third:call("count")), " ", third:stats().vm.made, " ",
        board:get(5))
-- What a closed runtime has counted stays.
ngx.say(first:stats().ok, " ", second:stats().vm.made)
--- response_body
1 2
true 3 0
closed
true true
1 1 1
2 1



=== TEST 4: key: equal keys go to one thread while it is free
--- lua
local tp = require "test_plugins"
local nbffi = require "resty.nonblocking_ffi"
local board = require("board").new()
nbffi.pool("four", { threads = 4 })
local rt = assert(nbffi.load { language = "lua", module = "vm_jobs",
                               pool = "four" })
tp.poll(function() return rt:stats().vm.vms == 4 end)
local home, used, moved = {}, {}, 0
for round = 1, 20 do
    for key = 1, 16 do
        local _, index = rt:call({ "count", key = "key " .. key })
        if home[key] and home[key] ~= index then moved = moved + 1 end
        home[key] = home[key] or index
        used[index] = true
    end
end
ngx.say("moved: ", moved, ", threads: ", #used + (used[0] and 1 or 0))
-- The same key by the other ways of calling.
local _, a = rt:submit({ "count", key = "key 1" }):wait()
local b = rt:call_fn({ function()
    return require("resty.nonblocking_ffi.worker").index()
end, key = "key 1" })
local _, c = nbffi.run({ "vm_jobs", pool = "four", key = "key 1" },
                       "count")
ngx.say(a == home[1], " ", b == home[1], " ", c == home[1])
-- While its thread is busy, another one serves.
local held = rt:submit({ "hold", key = "key 1" }, board.address)
board:has(0, 1)
local _, index = rt:call({ "count", key = "key 1" })
ngx.say(index ~= home[1])
board:set(1, 1)
held:wait()
local back = tp.poll(function()
    local _, again = rt:call({ "count", key = "key 1" })
    return again == home[1]
end)
ngx.say(back)
--- response_body
moved: 0, threads: 4
true true true
true
true



=== TEST 5: init: code or a module, once per VM, before all else
--- user_files
>>> my_init.lua
local worker = require "resty.nonblocking_ffi.worker"
by_init = worker.name() .. " " .. worker.pool() .. " " .. worker.index()
--- lua
local tp = require "test_plugins"
local nbffi = require "resty.nonblocking_ffi"
local board = require("board").new()
nbffi.pool("two", { threads = 2 })
local rt = assert(nbffi.load { language = "lua", module = "jobs",
    pool = "two", init = ([[
        -- A comment, and several lines.
        local worker = require "resty.nonblocking_ffi.worker"
        require("board").at(%.0f):add(worker.index())
        greeting = "hello from " .. worker.index()
        deadline = worker.deadline()
        cancelled = worker.is_cancelled()
    ]]):format(board.address) })
ngx.say(tp.poll(function() return rt:stats().vm.vms == 2 end))
for i = 1, 20 do rt:call("count") end
ngx.say(board:get(0), " ", board:get(1))
ngx.say((rt:call_fn(function()
    return greeting:match("^hello from [01]$") ~= nil
end)))
ngx.say(rt:call_fn(function()
    return tostring(deadline), cancelled
end))
ngx.say(greeting)
local by_module = assert(nbffi.load { language = "lua", pool = "two",
                                      init = "my_init" })
ngx.say(tp.poll(function() return by_module:stats().vm.vms == 2 end))
ngx.say((by_module:call_fn(function()
    return by_init:match("^nbffi/two/[01] two [01]$") ~= nil
end)))
--- response_body
true
1 1
true
nilfalse
nil
true
true



=== TEST 6: init or module that fails: load says what, and can be tried again
--- user_files
>>> init_fails.lua
error("oops")
>>> no_lua.lua
local x = = 1
>>> fails.lua
error("not in the mood")
>>> fails_odd.lua
error({})
>>> fails_below.lua
return require "fails"
--- lua
local nbffi = require "resty.nonblocking_ffi"
nbffi.pool("one", { threads = 1 })
local function try(options)
    options.runtime, options.pool = "lua", "one"
    for _ = 1, 2 do
        local rt, err = nbffi.load(options)
        ngx.say(rt, " ", (err:gsub("'?%S*/", ""):gsub("\n.*", "")))
    end
end
try { init = "error('oops')" }
try { init = "local x = = 1" }
try { init = "error()" }
try { init = "error({})" }
try { init = "error(setmetatable({}, { __tostring = function() "
             .. "return 'me' end }))" }
try { init = "error('no place', 0)" }
try { init = "no.such.init" }
try { init = "init_fails" }
try { init = "no_lua" }
try { module = "no.such.module" }
try { module = "fails" }
try { module = "fails_odd" }
try { module = "fails_below" }
try { module = "no_lua" }
-- None of these is left.
ngx.say(next(nbffi.stats().runtimes))
ngx.say(nbffi.stats().slots.used)
--- response_body_like chomp
\Anil init:1: oops
nil init:1: oops
nil init:1: unexpected symbol near '='
nil init:1: unexpected symbol near '='
nil \(an error that is no string\)
nil \(an error that is no string\)
nil \(an error that is no string\)
nil \(an error that is no string\)
nil \(an error that is no string\)
nil \(an error that is no string\)
nil no place
nil no place
nil startup.lua:\d+: module 'no.such.init' not found:
nil startup.lua:\d+: module 'no.such.init' not found:
nil init_fails.lua:1: oops
nil init_fails.lua:1: oops
nil error loading module 'no_lua' from file no_lua.lua':
nil error loading module 'no_lua' from file no_lua.lua':
nil boot.lua:\d+: module 'no.such.module' not found:
nil boot.lua:\d+: module 'no.such.module' not found:
nil fails.lua:1: not in the mood
nil fails.lua:1: not in the mood
nil table: 0x\w+
nil table: 0x\w+
nil fails.lua:1: not in the mood
nil fails.lua:1: not in the mood
nil error loading module 'no_lua' from file no_lua.lua':
nil error loading module 'no_lua' from file no_lua.lua':
nil
0
\z
--- no_error_log
[alert]



=== TEST 7: a module that failed once is loaded when it is there, in VMs that others use
--- user_files eval: $::Versioned
--- lua
local nbffi = require "resty.nonblocking_ffi"
local board = require("board").new()
nbffi.pool("one", { threads = 1 })
local init = ("address = %.0f"):format(board.address)
-- Keeps the group's VM alive.
assert(nbffi.load { language = "lua", pool = "one", init = init })
local function try(version, other)
    board:set(40, version)
    board:set(41, other)
    local rt, err = nbffi.load { language = "lua", module = "versioned",
                                 pool = "one", init = init }
    ngx.say(rt and table.concat({ rt:call("version") }, " ")
            or err:gsub("%S*/", ""):gsub("\n.*", ""))
end
try(0, 0)
try(0, 0)
try(1, 0)
try(1, 0)
try(2, 1)
--- response_body_like
versioned.lua:\d+: this version is broken.*
versioned.lua:\d+: this version is broken.*
versioned_other.lua:\d+: the other one is broken.*
versioned_other.lua:\d+: the other one is broken.*
2 1 1 1



=== TEST 8: a VM that cannot start on one thread: its calls say why, others work
--- lua
local tp = require "test_plugins"
local nbffi = require "resty.nonblocking_ffi"
local board = require("board").new()
nbffi.pool("two", { threads = 2 })
local helper = assert(nbffi.load { language = "lua", module = "vm_jobs",
                                   pool = "two", timeout = 20 })
tp.poll(function() return helper:stats().vm.vms == 2 end)
-- Keeps one thread busy, from `start` + thread to `go` + thread: both
-- are held, as only then no thread can take the other one's task.
local function busy(index, start, go)
    for _ = 1, 2 do
        helper:cast("occupy", board.address, start, go)
    end
    tp.poll(function()
        return board:get(start) == 1 and board:get(start + 1) == 1
    end)
    board:set(go + 1 - index, 1)
end
busy(1, 20, 22)
local rt = assert(nbffi.load { language = "lua", module = "vm_jobs",
    pool = "two", vm = "picky", init = ([[
        local board = require("board").at(%.0f)
        if require("resty.nonblocking_ffi.worker").index() == 1
           and board:get(30) == 0
        then
            error("not here")
        end
    ]]):format(board.address) })
ngx.say(select(2, rt:call("count")))
-- The other thread tries when it pauses; then a call has to go there.
board:set(23, 1)
tp.poll(function()
    return nbffi.stats().pools.two.running == 0
end)
busy(0, 24, 26)
local res, err = rt:call("count")
ngx.say(res, " ", (err:gsub("\n.*", "")))
-- Once it can start, it does.
board:set(30, 1)
ngx.say(select(2, rt:call("count")))
board:set(26, 1)
ngx.say(rt:stats().vm.vms)
--- response_body
0
nil runtime error: init:5: not here
1
2
--- error_log
cannot start a VM: init:5: not here
--- no_error_log
[alert]



=== TEST 9: errors: what was raised, and the VM's traceback
--- lua
local nbffi = require "resty.nonblocking_ffi"
nbffi.pool("one", { threads = 1 })
local rt = assert(nbffi.load { language = "lua", module = "jobs",
                               pool = "one" })
local function try(...)
    local res, err, code, message = rt:call(...)
    local first, rest = message:match("^([^\n]*)\n(.*)$")
    if not first then return ngx.say(message) end
    ngx.say(res, " ", code, " ", err == "runtime error: " .. message,
            " ", (first:gsub("%S*/", "")), " ",
            rest:match("^stack traceback:\n") ~= nil)
    return rest
end
local trace = try("raise", "oops")
ngx.say(trace:match("\n%s+%S+jobs.lua:%d+: in function 'func'\n")
        ~= nil)
try("raise", "oops", 0)
try("raise", "oops", 2)
try("raise")
try("raise", 42)
try("raise", true)
try("raise", "")
try("raise", { code = 5 })
try("raise_one", "speaking")
try("raise_one", "userdata")
try("raise_one", "function")
try("recurse")
try("yield")
-- Any bytes, and long ones.
local _, err = rt:call("raise", "a\0b\tc", 0)
ngx.say(#err:match("^runtime error: (.-)\nstack"))
_, err = rt:call("raise", ("x"):rep(100000), 0)
ngx.say(#err > 100000)
-- The same of a future, and in the event loop nothing is left of it.
local fut = rt:submit("raise", "later", 0)
ngx.say((select(2, fut:wait()):gsub("\n.*", "")))
ngx.say(rt:call("echo", "goes on"), " ", rt:stats().vm.made)
--- response_body_like chomp
\Anil 0 true jobs.lua:\d+: oops true
true
nil 0 true oops true
nil 0 true boot.lua:\d+: oops true
nil 0 true nil true
nil 0 true jobs.lua:\d+: 42 true
nil 0 true true true
nil 0 true jobs.lua:\d+:  true
nil 0 true table: 0x\w+ true
nil 0 true me true
nil 0 true file \(0x\w+\) true
nil 0 true function: (?:builtin: )?0x\w+ true
(?:nil 0 true jobs.lua:\d+: stack overflow true|error in error handling)
nil 0 true (?:boot.lua:\d+: )?attempt to yield across C-call boundary true
5
true
runtime error: later
goes on 1
\z



=== TEST 10: errors that are hard to tell
--- lua
local nbffi = require "resty.nonblocking_ffi"
nbffi.pool("one", { threads = 1 })
local rt = assert(nbffi.load { language = "lua", pool = "one" })
local function try(func)
    local res, err = rt:call_fn(func)
    ngx.say(res, " ", (err:gsub("\n.*", "")))
end
try(function()
    error(setmetatable({}, { __tostring = function() error("no") end }))
end)
try(function()
    error(setmetatable({}, { __tostring = function() return 5 end }))
end)
try(function()
    error(setmetatable({}, { __tostring = function()
        error(setmetatable({}, { __tostring = error }))
    end }))
end)
try(function()
    local ffi = require "ffi"
    local type = ffi.metatype("struct { int x; }",
                              { __tostring = function() error("no") end })
    error(type())
end)
try(function() return { [{}] = coroutine.create(print) } end)
try(function() error("x", 1e9) end)
try(function() xpcall(error, error, 1) error("after") end)
ngx.say((rt:call_fn(function()
    return select("#", pcall(error)), (pcall(error, {}))
end)))
ngx.say(rt:stats().vm.made)
--- response_body_like chomp
\Anil runtime error: \(an error that is a table\)
nil runtime error: 5
nil runtime error: \(an error that is a table\)
nil runtime error: error in error handling
nil runtime error: results\[1\]\[table: 0x\w+\] is a thread, which cannot be passed to another Lua VM
nil runtime error: x
nil runtime error: content_by_lua\S+: after
2
1
\z



=== TEST 11: recycling after so many tasks
--- lua
local tp = require "test_plugins"
local nbffi = require "resty.nonblocking_ffi"
nbffi.pool("one", { threads = 1 })
local rt = assert(nbffi.load { language = "lua", module = "vm_jobs",
                               pool = "one", vm_recycle_tasks = 10 })
local counts = {}
for i = 1, 40 do counts[i] = rt:call("count") end
local longest, restarts = 0, 0
for i = 1, 40 do
    longest = math.max(longest, counts[i])
    if i > 1 and counts[i] == 1 then restarts = restarts + 1 end
end
ngx.say(longest, " ", restarts)
tp.poll(function() return rt:stats().vm.vms == 1 end)
local vm = rt:stats().vm
ngx.say(vm.made - 1 == vm.replaced.recycled, " ",
        vm.replaced.recycled, " ", vm.replaced.memory, " ",
        vm.replaced.stopped)
-- After each.
local each = assert(nbffi.load { language = "lua", module = "vm_jobs",
                                 pool = "one", vm_recycle_tasks = 1 })
local sum = 0
for i = 1, 25 do sum = sum + each:call("count") end
ngx.say(sum)
for i = 1, 25 do sum = sum + each:submit("count"):wait() end
ngx.say(sum)
--- response_body
10 4
true 4 0 0
25
50



=== TEST 12: recycling by memory: after a task, not in the middle of one
--- lua
local tp = require "test_plugins"
local nbffi = require "resty.nonblocking_ffi"
nbffi.pool("one", { threads = 1 })
local MB = 1048576
local rt = assert(nbffi.load { language = "lua", module = "vm_jobs",
                               pool = "one",
                               vm_recycle_memory = 10 * MB })
local kept = {}
for i = 1, 25 do kept[i] = rt:call("keep", MB) end
ngx.say(table.concat(kept, " "))
local vm = rt:stats().vm
ngx.say(vm.replaced.recycled, " ", vm.made, " ", vm.replaced.memory)
ngx.say(vm.memory > MB and vm.memory < 11 * MB)
-- One task may have more than that.
ngx.say(#rt:call("echo", ("x"):rep(20 * MB)))
--- response_body_like
\A(1 2 3 4 (5 )?(6 )?(7 )?(8 )?(9 )?)+(1 )?(2 )?(3 )?4?
[2-6] [3-7] 0
true
20971520



=== TEST 13: the memory limit: an error for the call, and a new VM
--- lua
local tp = require "test_plugins"
local nbffi = require "resty.nonblocking_ffi"
nbffi.pool("one", { threads = 1 })
local MB = 1048576
local rt = assert(nbffi.load { language = "lua", module = "vm_jobs",
                               pool = "one", vm_max_memory = 16 * MB })
local function try(...)
    local res, err = rt:call(...)
    ngx.say(res or err:gsub("\n.*", ""), "")
end
for round = 1, 3 do
    try("count")
    try("keep", 30 * MB)
    try("count")
    try("hoard_tables")
    try("hoard_strings")
end
-- A function that catches the error loses its VM nevertheless.
try("survive")
try("count")
-- Arguments and results that do not fit.
try("echo", ("x"):rep(20 * MB))
try("count")
tp.poll(function() return rt:stats().vm.vms == 1 end)
local vm = rt:stats().vm
ngx.say(vm.replaced.memory, " ", vm.made, " ", vm.memory < 16 * MB)
-- A limit that nothing fits in.
local _, why = nbffi.load { language = "lua", module = "vm_jobs",
                            pool = "one", vm_max_memory = MB,
                            init = "x = ('y'):rep(2e6)" }
ngx.say((why:gsub("\n.*", "")))
--- response_body
1
runtime error: not enough memory
1
runtime error: not enough memory
runtime error: not enough memory
1
runtime error: not enough memory
1
runtime error: not enough memory
runtime error: not enough memory
1
runtime error: not enough memory
1
runtime error: not enough memory
runtime error: not enough memory
survived
1
runtime error: not enough memory
1
11 12 true
not enough memory
--- error_log
a VM is replaced: it hit its memory limit
--- no_error_log
[error]



=== TEST 14: reload: new code everywhere, old code for calls that run
--- user_files eval: $::Versioned
--- lua
local tp = require "test_plugins"
local nbffi = require "resty.nonblocking_ffi"
local board = require("board").new()
nbffi.pool("two", { threads = 2 })
board:set(40, 1)
board:set(41, 1)
local rt = assert(nbffi.load { language = "lua", module = "versioned",
    pool = "two",
    init = ("address = %.0f"):format(board.address) })
tp.poll(function() return rt:stats().vm.vms == 2 end)
local function show(what)
    local seen = {}
    for i = 1, 40 do
        -- By keys they go to both threads.
        local a, b, c, d = rt:call({ "version", key = "k" .. i })
        seen[a and table.concat({ a, b, c, d }, " ") or b] = true
    end
    local all = {}
    for text in pairs(seen) do all[#all + 1] = text end
    table.sort(all)
    ngx.say(what, ": ", table.concat(all, " | "))
end
show("at first")
board:set(40, 2)
show("not reloaded")
-- Both threads know the old code; one of them runs it.
local slow = rt:submit("slow", "kept")
board:has(0, 1)
ngx.say(rt:reload())
show("reloaded")
board:set(1, 1)
tp.say("in flight:", slow:wait())
show("on both")
-- Modules beside the runtime's own are named.
board:set(41, 2)
ngx.say(rt:reload())
show("beside, not named")
ngx.say(rt:reload { "versioned_other", "not.loaded" })
show("beside, named")
ngx.say(rt:stats().vm.made)
-- The VM's other state stays.
for i = 1, 40 do
    rt:call_fn({ function() stays = 5 end, key = "k" .. i })
end
ngx.say(rt:reload())
local calls = 0
ngx.say(tp.poll(function()
    calls = calls + 1
    return rt:call_fn({ function() return stays end,
                        key = "k" .. calls }) == 5
end))
--- response_body
at first: 1 1 1 1
not reloaded: 1 1 1 1
true
reloaded: 2 2 2 1
in flight: 1 1 kept
on both: 2 2 2 1
true
beside, not named: 2 2 2 1
true
beside, named: 2 2 2 2
2
true
true



=== TEST 15: reload of code that is broken: an error, and the old code stays
--- user_files eval: $::Versioned
--- lua
local tp = require "test_plugins"
local nbffi = require "resty.nonblocking_ffi"
local board = require("board").new()
nbffi.pool("two", { threads = 2 })
board:set(40, 1)
board:set(41, 1)
local rt = assert(nbffi.load { language = "lua", module = "versioned",
    pool = "two",
    init = ("address = %.0f"):format(board.address) })
tp.poll(function() return rt:stats().vm.vms == 2 end)
local function show(what)
    local seen = {}
    for i = 1, 40 do
        -- By keys they go to both threads.
        local a, b, c, d = rt:call({ "version", key = "k" .. i })
        seen[a and table.concat({ a, b, c, d }, " ") or b] = true
    end
    local all = {}
    for text in pairs(seen) do all[#all + 1] = text end
    table.sort(all)
    ngx.say(what, ": ", table.concat(all, " | "))
end
local function reload(...)
    local ok, err = rt:reload(...)
    ngx.say(ok, " ", err and err:gsub("%S*/", ""):gsub("\n.*", ""))
end
show("at first")
board:set(40, 0)
reload()
reload()
show("broken")
-- It is what is below that is broken.
board:set(40, 2)
board:set(41, 0)
reload { "versioned_other" }
show("broken beside")
board:set(41, 3)
reload { "versioned_other" }
show("mended")
-- One VM loads it, another does not any more: that is in the log.
local slow = rt:submit("slow", "kept")
board:has(0, 1)
board:set(40, 4)
reload()
board:set(40, 0)
board:set(1, 1)
slow:wait()
show("differing")
--- response_body_like
at first: 1 1 1 1
nil runtime error: versioned.lua:\d+: this version is broken
nil runtime error: versioned.lua:\d+: this version is broken
broken: 1 1 1 1
nil runtime error: versioned_other.lua:\d+: the other one is broken
broken beside: 1 1 1 1
true nil
mended: 2 2 2 3
true nil
differing: 2 2 2 3 \| 4 4 4 3
--- error_log
the old code of module "versioned" stays
--- no_error_log
[alert]



=== TEST 16: worker: who and where
--- lua
local tp = require "test_plugins"
local say = tp.say
local nbffi = require "resty.nonblocking_ffi"
local long = "a pool with a very long name"
nbffi.pool("three", { threads = 3 })
nbffi.pool(long, { threads = 1 })
local rt = assert(nbffi.load { language = "lua", module = "vm_jobs",
                               pool = "three" })
tp.poll(function() return rt:stats().vm.vms == 3 end)
local found = {}
for i = 1, 300 do
    local name, index, pool = rt:call({ "whoami", key = "k" .. i })
    found[name .. " " .. index .. " " .. pool] = true
end
local all = {}
for text in pairs(found) do all[#all + 1] = text end
table.sort(all)
for _, text in ipairs(all) do say(text) end
local other = assert(nbffi.load { language = "lua", module = "vm_jobs",
                                  pool = long })
local name, index, pool = other:call("whoami")
say(#name, name:match("^nbffi/"), index, pool)
-- The kernel knows it by that name.
say(other:call("comm") == name)
-- Here it answers for the event loop.
say(require("vm_jobs").whoami())
local worker = require "resty.nonblocking_ffi.worker"
say(worker.is_cancelled(), worker.deadline())
say(worker.call("x", "y"))
--- response_body
nbffi/three/0 0 three
nbffi/three/1 1 three
nbffi/three/2 2 three
15 nbffi/ 0 a pool with a very long name
true
nginx -1
false
nil worker.call works on pool threads only: in the event loop, use the runtime's own call



=== TEST 17: worker: the deadline, and whether anybody waits
--- lua
local tp = require "test_plugins"
local say = tp.say
local nbffi = require "resty.nonblocking_ffi"
local board = require("board").new()
nbffi.pool("one", { threads = 1 })
local rt = assert(nbffi.load { language = "lua", module = "vm_jobs",
                               pool = "one", timeout = 50 })
local left = rt:call("deadline")
say(left <= 50 and left > 25)
left = rt:call({ "deadline", timeout = 7 })
say(left <= 7 and left > 0)
left = rt:submit({ "deadline", timeout = 9 }):wait()
say(left <= 9 and left > 0)
left = rt:call_fn({ function()
    return require("resty.nonblocking_ffi.worker").deadline()
end, timeout = 11 })
say(left <= 11 and left > 0)
say(rt:cast({ "cast_deadline", timeout = 13 }, board.address))
board:has(6, 1)
say(board:get(7) <= 13 and board:get(7) >= 6)
-- Given up: by a timeout, by cancel; a task that looks ends by itself.
local res, err
tp.until_begun(rt, function()
    res, err = rt:call({ "watch", timeout = 0.3 }, board.address)
end)
say(res, err)
say(board:has(3, 1))
board:set(2, 0)
board:set(3, 0)
local fut = rt:submit("watch", board.address)
board:has(2, 1)
fut:cancel()
say(board:has(3, 1), fut:wait())
-- Past the deadline it is less than nothing.
tp.until_begun(rt, function()
    rt:call({ "overstay", timeout = 0.3 }, board.address)
end)
say(board:has(8, 1))
-- Whoever ends in time keeps the VM. (On a machine that is very busy
-- the thread may not come to it in time.)
say(tp.poll(function()
    local before = rt:stats().vm.replaced.stopped
    board:set(2, 0)
    board:set(3, 0)
    local given_up = rt:submit("watch", board.address)
    board:has(2, 1)
    given_up:cancel()
    board:has(3, 1)
    tp.poll(function() return rt:stats().in_flight == 0 end)
    rt:call("deadline")
    return rt:stats().vm.replaced.stopped == before
end))
--- response_body
true
true
true
true
true
true
nil timeout
true
true nil cancelled
true
true



=== TEST 18: worker.call: another runtime's task, on this thread
--- lua
local tp = require "test_plugins"
local say = tp.say
local nbffi = require "resty.nonblocking_ffi"
nbffi.pool("one", { threads = 1 })
local rt = assert(nbffi.load { language = "lua", module = "vm_jobs",
                               pool = "one" })
local function load(options)
    options.language = "c"
    return assert(nbffi.load(options))
end
local echo = load { library = "echo" }
load { library = "async_timer", name = "timer" }
local verbs = load { library = "verbs", max_response = 1000 }
-- In the pool of the VM, whose only thread makes the call, too.
load { library = "echo", name = "near", pool = "one" }
say(rt:call("ask", "echo", "hello"))
say(rt:call("ask", "near", "hello"))
say(rt:call("ask", "timer", "1 tea"))
local big = ("x"):rep(3000000)
say(rt:call("ask", "echo", big) == big, rt:call("ask", "echo", "") == "")
-- What the runtime's own call would return.
for _, request in ipairs { "name", "fail 42 out of cheese", "return 7",
                           "status 206 partial", "size 1001" } do
    local here = { verbs:call(request) }
    local there = { rt:call("ask", "verbs", request) }
    for i = 1, 4 do
        if here[i] ~= there[i] then
            say("not equal:", request, i, here[i], there[i])
        end
    end
    say(unpack(there, 1, 4))
end
say(rt:call("ask", "timer", "nonsense"))
-- Several in one call; the last answer is not the former's.
say(rt:call("ask_many", "echo", 1000), rt:call("ask_many", "timer", 20))
say(rt:call("ask", "nobody", "x"))
say(rt:call("ask", "vm_jobs", "x"))
-- They were not queued, and have ended.
local pool = nbffi.stats().pools.default
say(pool.queued, pool.running, echo:stats().in_flight,
    echo:stats().run_time.count)
say(echo:close(), rt:call("ask", "echo", "x"))
--- response_body
hello
hello
tea
true true
verbs
nil runtime error: out of cheese 42 out of cheese
nil runtime error: code 7 7 code 7
with a status nil 206 partial
nil response too large
nil runtime error: expected "<milliseconds> <payload>", at most a day 400 expected "<milliseconds> <payload>", at most a day
1000 20
nil no runtime is named "nobody"
nil "vm_jobs" is a Lua runtime: require its module instead
0 0 0 1003
true nil no runtime is named "echo"



=== TEST 19: worker.call: timeouts, its own and the task's; misuse
--- lua
local tp = require "test_plugins"
local say = tp.say
local nbffi = require "resty.nonblocking_ffi"
nbffi.pool("one", { threads = 1 })
local rt = assert(nbffi.load { language = "lua", module = "vm_jobs",
                               pool = "one" })
local timer = assert(nbffi.load { language = "c",
                                  library = "async_timer" })
local late = assert(nbffi.load { language = "c", library = "late" })
say(rt:call("ask", "async_timer", "60000 tea", 0.02))
say(rt:call("ask", "late", "x", 0.02))
-- An answer that comes too late is nobody's.
local lib = tp.late()
lib.has("x")
lib.act("x", "respond", "late")
say(rt:call("ask", "async_timer", "1 coffee", 5))
say(rt:call({ "ask", timeout = 0.05 }, "async_timer", "60000 tea"))
say(rt:call("ask", "async_timer", "1 milk"))
-- Whoever cancels the task frees its thread.
local function running()
    return nbffi.stats().pools.default.running
end
local before = running()
local given_up = rt:submit({ "ask", timeout = 3600 }, "async_timer",
                           "3600000 tea", 3600)
tp.poll(function() return running() > before end)
say(given_up:cancel())
say(rt:call({ "ask", timeout = 20 }, "async_timer", "1 sugar"))
-- The runtime closes when its nested tasks have ended.
say(late:close(), timer:close())
for _, arguments in ipairs { "", "5, 'x'", "'x'", "'x', 5", "'x', {}",
                             "'x', 'y', 0", "'x', 'y', '1'",
                             "'x', 'y', 0/0", "'x', 'y', -1" } do
    say(rt:call("blame", arguments))
end
--- response_body
nil timeout
nil timeout
coffee
nil timeout
milk
true
sugar
true true
caller:2: worker.call: a runtime's name expected, got nil
caller:2: worker.call: a runtime's name expected, got number
caller:2: worker.call: request must be a string, got nil
caller:2: worker.call: request must be a string, got number
caller:2: worker.call: request must be a string, got table
caller:2: worker.call: timeout must be a positive number of seconds
caller:2: worker.call: timeout must be a positive number of seconds
caller:2: worker.call: timeout must be a positive number of seconds
caller:2: worker.call: timeout must be a positive number of seconds



=== TEST 20: stats: the figures of VMs
--- lua
local tp = require "test_plugins"
local nbffi = require "resty.nonblocking_ffi"
nbffi.pool("two", { threads = 2 })
local rt = assert(nbffi.load { language = "lua", module = "vm_jobs",
                               pool = "two" })
tp.poll(function() return rt:stats().vm.vms == 2 end)
local function show()
    local vm = rt:stats().vm
    local lines = {}
    for name, value in pairs(vm) do
        if name == "memory" then
            value = value > 50000 and value < 5e6
        elseif name == "replaced" then
            local parts = {}
            for key, count in pairs(value) do
                parts[#parts + 1] = key .. " " .. count
            end
            table.sort(parts)
            value = table.concat(parts, ", ")
        end
        lines[#lines + 1] = name .. " " .. tostring(value)
    end
    table.sort(lines)
    ngx.say(table.concat(lines, "; "), "; inline ", rt:stats().inline)
end
show()
local before = rt:stats().vm.memory
for i = 1, 10 do rt:call("keep", 1048576) end
local grown = rt:stats().vm.memory - before
ngx.say(grown > 9e6 and grown < 2.5e7)
-- Those of a group are those of all its runtimes.
local other = assert(nbffi.load { language = "lua", module = "jobs",
                                  pool = "two" })
ngx.say(other:stats().vm.memory == rt:stats().vm.memory, " ",
        other:stats().vm.made)
local plugin = assert(nbffi.load { language = "c", library = "echo" })
ngx.say(plugin:stats().vm, " ", plugin:stats().inline)
ngx.say(nbffi.stats().runtimes.vm_jobs.vm.vms)
--- response_body
made 2; memory true; replaced memory 0, recycled 0, stopped 0; stuck 0; vms 2; inline 0
true
true 2
nil nil
2



=== TEST 21: what is in a VM: nginx's paths, C modules, the standard libraries
--- lua
local say = require("test_plugins").say
local nbffi = require "resty.nonblocking_ffi"
local rt = assert(nbffi.load { language = "lua", module = "jobs" })
local path, cpath = rt:call("path")
say(path == package.path, cpath == package.cpath)
say(rt:call_fn(function()
    local missing = {}
    for _, name in ipairs { "string", "table", "math", "os", "io",
                            "debug", "coroutine", "package", "bit",
                            "ffi", "jit" } do
        if not (_G[name] or package.loaded[name]
                or pcall(require, name))
        then
            missing[#missing + 1] = name
        end
    end
    return table.concat(missing, " ")
end))
say(rt:call_fn(function() return jit.status() end))
say(rt:call("in_coroutine", "x"))
-- Globals are of one VM, and stay there.
nbffi.pool("one", { threads = 1 })
local one = assert(nbffi.load { language = "lua", module = "jobs",
                                pool = "one" })
say(one:call("globals", "mine", 1))
say(one:call("globals", "mine", 2), mine)
-- nginx's own VM is another one, with another ngx.
say(one:call_fn(function() return rawget(_G, "ndk") ~= nil,
                                  type(ngx.null) end))
--- response_body_like chomp
\Atrue true

true.*
xa xb

1
true userdata
\z



=== TEST 22: load in init_worker; load and close again and again
--- http_config
    init_worker_by_lua_block {
        local nbffi = require "resty.nonblocking_ffi"
        nbffi.pool("two", { threads = 2 })
        early = assert(nbffi.load { language = "lua", module = "vm_jobs",
                                    pool = "two", init = "a = 1" })
        local none, why = nbffi.load { language = "lua", module = "none.such",
                                       pool = "two" }
        package.loaded.early = { early, tostring(none),
                                 (why:match("module '[^']*' not found")) }
    }
--- lua
local tp = require "test_plugins"
local nbffi = require "resty.nonblocking_ffi"
local rt = require("early")[1]
ngx.say(require("early")[2], " ", require("early")[3])
ngx.say(rt == nbffi.load { language = "lua", module = "vm_jobs",
                           pool = "two", init = "a = 1" })
ngx.say((rt:call("count")))
for i = 1, 50 do
    local again = assert(nbffi.load { language = "lua", pool = "two",
                                      module = "vm_jobs",
                                      vm = "again" })
    if again:call("echo", i) ~= i then ngx.say("wrong") end
    local fut = again:submit("echo", i)
    assert(again:close())
    if fut:wait() ~= i then ngx.say("lost") end
end
ngx.say(nbffi.stats().slots.used)
ngx.say(nbffi.stats().runtimes["vm_jobs"].vm.vms)

-- VMs that others still use forget those that were closed.
nbffi.pool("one", { threads = 1 })
local stays = assert(nbffi.load { language = "lua", pool = "one",
                                  module = "vm_jobs" })
local function memory_after(loads)
    for i = 1, loads do
        local name = ("shares %d"):format(i)
        assert(assert(nbffi.load { language = "lua", pool = "one",
                                   module = "vm_jobs",
                                   name = name }):close())
    end
    return (stays:call("settled_memory"))
end
local before = memory_after(100)
local grown = memory_after(400) - before
ngx.say(grown < 10000 and "all forgotten" or grown)
--- response_body
nil module 'none.such' not found
true
1
0
2
all forgotten



=== TEST 23: init_by_lua refuses, and says why
--- http_config eval
q{
    init_by_lua_block {
        local nbffi = require "resty.nonblocking_ffi"
        local rt, err = nbffi.load { language = "lua", module = "vm_jobs" }
        local res, why = nbffi.run("vm_jobs", "echo")
        package.loaded.said = tostring(rt) .. " " .. err .. "\n"
                              .. tostring(res) .. " " .. tostring(why == err)
        nbffi.setup { vm_recycle_tasks = 5, vm_max_memory = 2^24 }
    }
}
--- lua
local nbffi = require "resty.nonblocking_ffi"
ngx.say(require("said"))
nbffi.pool("one", { threads = 1 })
local rt = assert(nbffi.load { language = "lua", module = "vm_jobs",
                               pool = "one" })
-- What setup said holds.
local longest = 0
for i = 1, 20 do
    longest = math.max(longest, (rt:call("count")))
end
ngx.say(longest)
ngx.say((select(2, rt:call("keep", 2^25)):gsub("\n.*", "")))
--- response_body
nil load must not be called in init_by_lua: threads do not survive the fork of workers; call it in init_worker_by_lua or later
nil true
5
runtime error: not enough memory



=== TEST 24: a VM whose thread is idle gives back what calls have used
--- lua
local nbffi = require "resty.nonblocking_ffi"
local poll = require("test_plugins").poll
assert(nbffi.pool("idle", { threads = 1 }))
local rt = assert(nbffi.load { language = "lua", pool = "idle",
                               name = "idle" .. ngx.var.request_id,
                               vm = ngx.var.request_id,
                               timeout = 5 })
local function memory()
    return rt:stats().vm.memory / 2^20
end
local function idles_at(least, most)
    return poll(function()
        local used = memory()
        return used >= least and used < most
    end)
end
-- What it used is gone, what it keeps is not.
local function waste(keep)
    kept = kept or {}
    local used = {}
    for i = 1, 4000 do
        used[i] = ("x"):rep(10000) .. i
        if keep and i % 4 == 0 then
            kept[i] = used[i]
        end
    end
    local proxy = newproxy(true)
    getmetatable(proxy).__gc = function()
        finalized = (finalized or 0) + 1
        error("in a finalizer")
    end
    return #used
end
ngx.say(rt:call_fn(waste, false), " ", idles_at(0, 3))
ngx.say(rt:call_fn(waste, true), " ", idles_at(9.5, 16))
ngx.say(rt:call_fn(function()
    local count = 0
    for i, text in pairs(kept) do
        count = count + (text == ("x"):rep(10000) .. i and 1 or 0)
    end
    return count, finalized >= 2
end))
ngx.say(rt:stats().vm.replaced.stopped)
--- response_body
4000 true
4000 true
1000true
0



=== TEST 25: a finalizer that does not end does not hold an idle thread
--- lua
local nbffi = require "resty.nonblocking_ffi"
local poll = require("test_plugins").poll
assert(nbffi.pool("idle", { threads = 1 }))
local rt = assert(nbffi.load { language = "lua", pool = "idle",
                               name = "idle" .. ngx.var.request_id,
                               vm = ngx.var.request_id,
                               timeout = 1 })
rt:call_fn(function()
    -- Not before the call has ended.
    collectgarbage("stop")
    local proxy = newproxy(true)
    getmetatable(proxy).__gc = function() while true do end end
    local used = {}
    for i = 1, 100 do used[i] = ("x"):rep(10000) .. i end
end)
ngx.say(poll(function()
    return rt:stats().vm.replaced.stopped == 1
end))
ngx.say(rt:call_fn({ function() return "fresh" end, timeout = 10 }))
--- response_body
true
fresh



=== TEST 26: a stack overflow has a position and a traceback
--- user_files
>>> deep.lua
local _M = {}
local function deep(n)
    return 1 + deep(n + 1)
end
function _M.calls() return deep(1) end
function _M.index()
    local meta = {}
    local value = setmetatable({}, meta)
    meta.__index = function(of, key)
        return of[key + 1] .. ""
    end
    return value[1]
end
function _M.wide()
    local function wide(a, b, c, d, e, f, g)
        return wide(a, b, c, d, e, f, g) + a + b
    end
    return wide(1, 2, 3, 4, 5, 6, 7)
end
function _M.simple() error("simple") end
function _M.compiler(on)
    if on then jit.on() else jit.off() end
end
return _M
--- lua
local nbffi = require "resty.nonblocking_ffi"
assert(nbffi.pool("deep", { threads = 1 }))
local rt = assert(nbffi.load { language = "lua", module = "deep",
                               pool = "deep" })
local function try(name)
    local _, err = rt:call(name)
    local text = err:match("^[^\n]*stack overflow[^\n]*\n"
                           .. "stack traceback:\n")
                 and "overflow" or err:match("deep.lua:%d+: ([^\n]*)")
    local line = err:match("\n%s[^\n]-deep%.lua:(%d+): in function")
    ngx.print(name, ": ", text, " ", line, ";")
end
for i = 1, 4 do
    rt:call("compiler", i % 2 == 1)
    try "calls"
    try "index"
    try "wide"
    try "simple"
    ngx.say()
end
--- response_body_like eval
my $line = "calls: overflow [23];index: overflow (9|10);wide: overflow 1[56];"
           . "simple: simple 20;\n";
qr/\A($line){4}\z/



=== TEST 27: a task that changes the VM by the debug library is the last one of its VM
--- lua
local nbffi = require "resty.nonblocking_ffi"
nbffi.pool("changed", { threads = 1 })
local rt = assert(nbffi.load {
    language = "lua", module = "vm_changed", pool = "changed",
})
local function replaced()
    return rt:stats().vm.replaced.stopped
end
rt:call("echo", 0)
for _, name in ipairs {
    "hook", "hook_of_count", "joined", "upvalues", "locals", "envs",
    "env_of_thread", "types", "registry",
} do
    local before = replaced()
    rt:call(name)
    local wrong = ""
    for i = 1, 5 do
        local res, err = rt:call("echo", i)
        if res ~= i then
            wrong = wrong .. " " .. tostring(res or err)
        end
    end
    ngx.say(name, ": replaced ", replaced() - before, wrong)
end
-- What a task does to its own things, or takes back, changes nothing.
local before = replaced()
for _, name in ipairs {
    "hook_and_back", "own_upvalue", "own_local", "own_env", "own_metatable",
} do
    ngx.say(name, ": ", (rt:call(name)))
end
ngx.say("replaced ", replaced() - before)
-- A module may set a hook when it is loaded: it stays.
local hooked = assert(nbffi.load {
    language = "lua", module = "vm_hooked", pool = "changed", vm = "own",
})
ngx.say(hooked:call("count") > 0, " ", hooked:call("count") > 0)
ngx.say(hooked:call("off"), " ", hooked:call("count") > 0)
ngx.say(hooked:stats().vm.replaced.stopped)
--- user_files
>>> vm_changed.lua
local _M = {}

function _M.echo(value)
    return value
end

function _M.hook()
    debug.sethook(function() error("a hook") end, "l")
end

function _M.hook_of_count()
    pcall(debug.sethook, function() error("a hook") end, "", 1)
end

-- Functions on the stack that are not this module's.
local function others(work)
    for level = 2, 30 do
        local info = debug.getinfo(level, "f")
        if not info then
            return
        end
        work(info.func, level)
    end
end

function _M.joined()
    local function mine() return others end
    others(function(func)
        for i = 1, debug.getinfo(func, "u").nups do
            pcall(debug.upvaluejoin, func, i, mine, 1)
        end
    end)
end

function _M.upvalues()
    others(function(func)
        for i = 1, debug.getinfo(func, "u").nups do
            debug.setupvalue(func, i, nil)
        end
    end)
end

function _M.locals()
    for level = 2, 4 do
        for i = 1, 10 do
            pcall(debug.setlocal, level + 1, i, {})
        end
    end
end

function _M.envs()
    others(function(func)
        pcall(setfenv, func, {})
    end)
end

function _M.env_of_thread()
    setfenv(0, {})
end

function _M.types()
    debug.setmetatable("", nil)
    debug.setmetatable(1, { __lt = error })
end

function _M.registry()
    local registry = debug.getregistry()
    for key in pairs(registry) do
        if type(key) ~= "string" then
            registry[key] = nil
        end
    end
end

function _M.hook_and_back()
    local lines = 0
    debug.sethook(function() lines = lines + 1 end, "l")
    local _ = 1
    debug.sethook()
    return lines > 0
end

function _M.own_upvalue()
    local value = 1
    local function get() return value end
    debug.setupvalue(get, 1, 7)
    return get() == 7
end

function _M.own_local()
    local value = 1
    local function set()
        local name = debug.setlocal(2, 1, 7)
        return name
    end
    local name = set()
    return name == "value" and value == 7
end

function _M.own_env()
    local function get()
        return mine
    end
    setfenv(get, { mine = 7 })
    local function set()
        setfenv(2, { mine = 8 })
    end
    local function outer()
        set()
        return mine
    end
    return get() == 7 and outer() == 8 and getfenv(outer).mine == 8
end

function _M.own_metatable()
    local mine = {}
    debug.setmetatable(mine, { 7 })
    return debug.getmetatable(mine)[1] == 7
end

return _M
>>> vm_hooked.lua
local lines = 0
debug.sethook(function() lines = lines + 1 end, "l")
return {
    count = function()
        lines = 0
        local _ = 1
        _ = 2
        return lines
    end,
    off = function()
        debug.sethook()
        return "off"
    end,
}
--- response_body
hook: replaced 1
hook_of_count: replaced 1
joined: replaced 1
upvalues: replaced 1
locals: replaced 1
envs: replaced 1
env_of_thread: replaced 1
types: replaced 1
registry: replaced 1
hook_and_back: true
own_upvalue: true
own_local: true
own_env: true
own_metatable: true
replaced 0
true true
off true
1
--- error_log
a VM is replaced: a task has changed it by the debug library
--- no_error_log
[alert]



=== TEST 28: coroutines that are nested without end are an error; all else is as ever
--- lua
local nbffi = require "resty.nonblocking_ffi"
nbffi.pool("one", { threads = 1 })
local vm = assert(nbffi.load { language = "lua", module = "vm_nested",
                               pool = "one" })
for _, name in ipairs { "wrapped", "between", "resumed" } do
    local res, err = vm:call(name)
    ngx.say(name, ": ", res or err:match("^[^\n]*"))
end
-- Errors and yields leave no trace of how deep they were.
for _ = 1, 3 do
    ngx.say((vm:call("deep", 700)))
end
for _, line in ipairs(vm:call("ordinary")) do
    ngx.say(line)
end
--- user_files
>>> vm_nested.lua
local create, resume = coroutine.create, coroutine.resume
local wrap, yield = coroutine.wrap, coroutine.yield
local _M = {}

function _M.wrapped()
    local function nest()
        local value = wrap(nest)()
        return value
    end
    local _, err = pcall(nest)
    return err:match("C stack overflow")
end

function _M.between()
    local function nest()
        local text = ("x"):gsub("x", wrap(nest))
        return text
    end
    local _, err = pcall(nest)
    return err:match("C stack overflow")
end

function _M.resumed()
    local err
    local function nest()
        local ok, why = resume(create(nest))
        if not ok then
            err = why
        end
    end
    nest()
    return err
end

function _M.deep(levels)
    for _ = 1, 2000 do
        pcall(wrap(function() error("x") end))
        resume(create(error), "x")
        wrap(yield)()
    end
    local function nest(level)
        return level == levels and level or (wrap(nest)(level + 1))
    end
    return nest(1)
end

function _M.ordinary()
    local lines = {}
    local function say(...)
        local texts = { ... }
        for i = 1, select("#", ...) do
            texts[i] = tostring(texts[i]):gsub("^/.*/", "")
        end
        lines[#lines + 1] = table.concat(texts, " ")
    end
    local sums = wrap(function(sum)
        while true do
            sum = sum + yield(sum, nil)
        end
    end)
    say(sums(1))
    say(sums(2))
    say(pcall(sums, nil))
    say(pcall(sums))
    say(pcall(function()
        wrap(function() error("words", 0) end)()
    end))
    say(select(2, pcall(wrap(function() error({ 7 }) end)))[1])
    local thread
    thread = create(function() return resume(thread) end)
    say(resume(thread))
    say(resume(thread))
    say(pcall(wrap, 5))
    say(pcall(resume, 5))
    say(wrap(string.upper)("x"))
    return lines
end

return _M
--- response_body
wrapped: C stack overflow
between: C stack overflow
resumed: C stack overflow
700
700
700
1 nil
3 nil
false vm_nested.lua:58: attempt to perform arithmetic on a nil value
false cannot resume dead coroutine
false vm_nested.lua:66: words
7
true false cannot resume running coroutine
false cannot resume dead coroutine
false bad argument #1 to 'wrap' (function expected, got number)
false bad argument #1 to 'resume' (coroutine expected)
X
--- no_error_log
[alert]
