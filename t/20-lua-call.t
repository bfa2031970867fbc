# Lua runtimes: call, submit, cast, call_fn, run; what travels, and what not.

use lib '.';
use t::TestNbffi;

repeat_each(1);
plan tests => repeat_each() * (blocks() * 3 + 4);
run_tests();

__DATA__

=== TEST 1: any number of arguments and results, with nils at every place
--- lua
local nbffi = require "resty.nonblocking_ffi"
local rt = assert(nbffi.load { language = "lua", module = "vm_jobs" })
local describe = require("vm_jobs").describe
local function try(...)
    local sent = describe(...)
    local there = rt:call("describe", ...)
    local back = describe(rt:call("echo", ...))
    local future = describe(assert(rt:submit("echo", ...)):wait())
    local fn = describe(rt:call_fn(function(...) return ... end, ...))
    if there == sent and back == sent and future == sent
       and fn == sent
    then
        ngx.say(#sent < 60 and sent or select("#", ...))
    else
        ngx.say("sent ", sent, ", there ", there, ", back ", back,
                ", future ", future, ", function ", fn)
    end
end
try()
try(nil)
try(nil, nil)
try(1)
try("one")
try(1, nil)
try(nil, 2)
try(1, 2)
try("one", "two")
try(nil, nil, nil)
try(1, nil, 3)
try(nil, 2, nil)
try(1, 2, 3, 4)
try(nil, false, nil, true, nil)
for count = 6, 250, 61 do
    local values = {}
    for i = 1, count do
        if i % 3 > 0 then values[i] = i end
    end
    try(unpack(values, 1, count))
end
--- response_body eval
my $one = 0; $one = ($one * 31 + ord) % 0x7fffffff for split //, "one";
my $two = 0; $two = ($two * 31 + ord) % 0x7fffffff for split //, "two";
"0: 
1: nil
2: nil; nil
1: 1
1: 3 bytes of sum $one
2: 1; nil
2: nil; 2
2: 1; 2
2: 3 bytes of sum $one; 3 bytes of sum $two
3: nil; nil; nil
3: 1; nil; 3
3: nil; 2; nil
4: 1; 2; 3; 4
5: nil; false; nil; true; nil
6: 1; 2; nil; 4; 5; nil
67
128
189
250
"



=== TEST 2: every type, both ways
--- lua
local nbffi = require "resty.nonblocking_ffi"
local rt = assert(nbffi.load { language = "lua", module = "vm_jobs" })
local describe = require("vm_jobs").describe
local function try(value)
    local sent = describe(value)
    local there = rt:call("describe", value)
    local back = describe(rt:call("echo", value))
    local beside = describe((select(2, rt:call("echo", 1, value, 2))))
    ngx.say(sent, there == sent and back == sent and beside == sent
                  and "" or " there: " .. tostring(there) .. " back: "
                            .. back .. " beside: " .. beside)
end
for _, number in ipairs {
    0, -1 / math.huge, 1, -1, 0.1, 2^31, -2^31, 2^53, 2^53 + 2, 1.5e300, 5e-324,
    1/0, -1/0, 0/0, 123456789.125,
} do
    try(number)
end
try(-(0/0))
for _, value in ipairs {
    true, false, ngx.null, 0LL, -1LL, 1LL, 9223372036854775807LL,
    -9223372036854775807LL - 1, 0ULL, 18446744073709551615ULL,
    -- Numbers and strings stay apart.
    "1", "", "nil",
} do
    try(value)
end
try({})
try({ 1, 2, 3 })
try({ 1, nil, 3, [10] = 4 })
try({ a = 1, [2.5] = "x", [-1] = false, [true] = ngx.null,
      [false] = 5LL, [1/0] = 6, [""] = 0 })
try({ { { {} } }, { a = { b = { c = "d" } } } })
try({ [{ 1 }] = { [{ 2 }] = 3 }, [4LL] = 5 })
--- response_body
1: 0
1: -0
1: 1
1: -1
1: 0.10000000000000001
1: 2147483648
1: -2147483648
1: 9007199254740992
1: 9007199254740994
1: 1.5000000000000001e+300
1: 4.9406564584124654e-324
1: inf
1: -inf
1: nan
1: 123456789.125
1: nan
1: true
1: false
1: null
1: 0LL
1: -1LL
1: 1LL
1: 9223372036854775807LL
1: -9223372036854775808LL
1: 0ULL
1: 18446744073709551615ULL
1: 1 bytes of sum 49
1: 0 bytes of sum 0
1: 3 bytes of sum 109073
1: {  }
1: { 1 = 1, 2 = 2, 3 = 3 }
1: { 1 = 1, 10 = 4, 3 = 3 }
1: { -1 = false, 0 bytes of sum 0 = 0, 1 bytes of sum 97 = 1, 2.5 = 1 bytes of sum 120, false = 5LL, inf = 6, true = null }
1: { 1 = { 1 = { 1 = {  } } }, 2 = { 1 bytes of sum 97 = { 1 bytes of sum 98 = { 1 bytes of sum 99 = 1 bytes of sum 100 } } } }
1: { 4LL = 5, { 1 = 1 } = { { 1 = 2 } = 3 } }



=== TEST 3: strings: all bytes, from nothing to 10 MB
--- lua
local nbffi = require "resty.nonblocking_ffi"
local rt = assert(nbffi.load { language = "lua", module = "vm_jobs" })
local describe = require("vm_jobs").describe
local bytes = {}
for i = 0, 255 do bytes[i + 1] = string.char(i) end
bytes = table.concat(bytes)
for _, size in ipairs {
    0, 1, 15, 16, 17, 255, 256, 4095, 4096, 65535, 65536, 1048577,
    10485760,
} do
    local text = bytes:rep(math.ceil(size / 256)):sub(1, size)
    local right = rt:call("echo", text) == text
                  and rt:call("describe", text) == describe(text)
    local first, second, third = rt:call("echo", text, nil, { text })
    right = right and first == text and second == nil
            and third[1] == text
    local fut = assert(rt:submit("echo", text))
    ngx.say(size, " ", right and fut:wait() == text)
end
--- response_body
0 true
1 true
15 true
16 true
17 true
255 true
256 true
4095 true
4096 true
65535 true
65536 true
1048577 true
10485760 true



=== TEST 4: tables: copies without metatables; one that is there twice is two
--- lua
local say = require("test_plugins").say
local nbffi = require "resty.nonblocking_ffi"
local rt = assert(nbffi.load { language = "lua", module = "jobs" })
local strange = setmetatable({ 1, 2 }, {
    __index = function() return "made up" end,
    __newindex = function() error("written") end,
    __pairs = function() error("asked") end,
    __ipairs = function() error("asked") end,
    __len = function() return 7 end,
    __tostring = function() error("asked") end,
    __serialize = function() error("asked") end,
    __metatable = "hidden",
})
say(rt:call("look", strange))
say(getmetatable(rt:call("echo", strange)), rt:call("echo", strange)[2])
local twin = { "twin" }
say(rt:call("same", twin, twin))
local both = rt:call("echo", { twin, twin, { twin } })
say(both[1] ~= both[2], both[1] ~= twin, both[3][1][1])
-- What is changed over there is not changed here.
local mine = { n = 1, inner = { n = 2 } }
rt:call_fn(function(t) t.n, t.inner.n = 3, 4 end, mine)
say(mine.n, mine.inner.n)
local big = {}
for i = 1, 50000 do
    big[i] = { id = i, name = "name " .. i, list = { i, tostring(i) } }
end
local back = rt:call("echo", big)
local wrong = 0
for i = 1, 50000 do
    local item = back[i]
    if item.id ~= i or item.name ~= "name " .. i or item.list[1] ~= i
       or item.list[2] ~= tostring(i) or #item.list ~= 2
    then
        wrong = wrong + 1
    end
end
say(#back, wrong)
--- response_body
true 2
nil 2
false twin twin
true true twin
1 2
50000 0



=== TEST 5: large results of every shape
--- config
location = /t {
    content_by_lua_block {
        local jobs = require "vm_jobs"
        local nbffi = require "resty.nonblocking_ffi"
        local rt = assert(nbffi.load { language = "lua", module = "vm_jobs" })
        local same = jobs.same
        -- Where it cannot be decoded bit by bit, it is at once.
        ngx.ctx.fut = rt:submit("build", "list of maps", 30000)
        ngx.ctx.fut:wait()
        for _, shape in ipairs(jobs.SHAPES) do
            local wrong = {}
            for _, size in ipairs { 0, 1, 2, 499, 500, 501, 1000, 30000 } do
                local results = { rt:call("build", shape, size) }
                if not same(results, { jobs.build(shape, size) }) then
                    wrong[#wrong + 1] = size
                end
            end
            -- Two at a time: neither gets anything of the other.
            local one = rt:submit("build", shape, 20000)
            local other = rt:submit("build", shape, 21000)
            local results = {}
            local threads = {
                ngx.thread.spawn(function() results[1] = { one:wait() } end),
                ngx.thread.spawn(function() results[2] = { other:wait() } end),
                ngx.thread.spawn(function()
                    results[3] = { rt:call("build", shape, 22000) }
                end),
            }
            for i = 1, 3 do ngx.thread.wait(threads[i]) end
            ngx.say(shape, ": ", #wrong == 0 or table.concat(wrong, " "), " ",
                    same(results[1], { jobs.build(shape, 20000) }), " ",
                    same(results[2], { jobs.build(shape, 21000) }), " ",
                    same(results[3], { jobs.build(shape, 22000) }))
        end
        -- Light threads that are killed while they decode leave nothing behind.
        -- Now and then one is done before it is killed.
        local allocated, killed = nbffi.stats().slots.allocated, 0
        while killed <= allocated do
            local before = rt:stats().ok
            local decodes = ngx.thread.spawn(function()
                rt:call("build", "list of maps", 3000)
            end)
            while rt:stats().ok == before do ngx.sleep(0.001) end
            killed = killed + (ngx.thread.kill(decodes) and 1 or 0)
        end
        ngx.say("slots: ", nbffi.stats().slots.allocated - allocated)
    }
    header_filter_by_lua_block {
        local jobs = require "vm_jobs"
        ngx.header["X-Same"] = tostring(
            jobs.same(ngx.ctx.fut:wait(), jobs.build("list of maps", 30000)))
    }
}
--- response_body eval
join("", map { "$_: true true true true\n" } "list", "list of maps", "map",
    "map of lists", "holes", "nested", "deep", "strings", "one string",
    "falses", "nils", "many results", "keys", "shared") . "slots: 0\n"
--- response_headers
X-Same: true



=== TEST 6: what cannot be passed: the error names the place and blames the caller
--- lua
local blame = require("test_plugins").blame
local nbffi = require "resty.nonblocking_ffi"
local rt = assert(nbffi.load { language = "lua", module = "vm_jobs" })
local function try(...)
    local said = blame("local rt = ...\n"
                       .. "local a = rt:call('echo', select(2, ...))\n"
                       .. "return a", rt, ...)
    ngx.say((said:gsub("0x%x+", "ADDRESS")))
    for _, method in ipairs { "submit", "cast" } do
        local other = blame("local rt = ...\nlocal a = rt:" .. method
                            .. "('echo', select(2, ...))\nreturn a",
                            rt, ...)
        if other ~= said:gsub("call:", method .. ":") then
            ngx.say(other)
        end
    end
    local fn = blame("local rt = ...\nlocal a = rt:call_fn("
                     .. "function() end, select(2, ...))\nreturn a",
                     rt, ...)
    if fn ~= said:gsub("call:", "call_fn:") then ngx.say(fn) end
end
local co = coroutine.create(function() end)
try(print)
try(1, "x", co)
try(nil, io.stdout)
try({ x = { y = print } })
try(1, { x = { y = co } })
try({ 1, { 2, { 3, print } } })
try({ ["a b"] = { ["0"] = { ['"'] = print } } })
try({ [1.5] = { [true] = { [ngx.null] = print } } })
try({ a = { [print] = 1 } })
try({ [{ x = print }] = 1 })
try({ [{}] = 1, f = print })
try({ a = require("ffi").new("int[2]") })
try(1, 2, 3, require("ffi").new("char[8]"))
try({ newproxy() })
local cycle = { a = { b = {} } }
cycle.a.b.c = cycle.a
try(0, cycle)
local me = {}
me[1] = me
try(me)
local one, other = {}, {}
one.other, other.one = other, one
try(one)
local deep = {}
for _ = 1, 100 do deep = { deep } end
try({ deep = deep })
--- response_body_like eval
my $at = qr/\Acaller:2: call: /;
my @lines = map { qr/caller:2: call: \Q$_\E\n/ } (
    "args[1] is a function, which cannot be passed to another Lua VM",
    "args[3] is a thread, which cannot be passed to another Lua VM",
    "args[2] is a userdata, which cannot be passed to another Lua VM",
    "args[1].x.y is a function, which cannot be passed to another Lua VM",
    "args[2].x.y is a thread, which cannot be passed to another Lua VM",
    "args[1][2][2][2] is a function, which cannot be passed to another Lua VM",
    'args[1]["a b"]["0"]["\\""] is a function, which cannot be passed to another Lua VM',
    "args[1][1.5][true][userdata: NULL] is a function, which cannot be passed to another Lua VM",
    "a key of args[1].a is a function, which cannot be passed to another Lua VM",
    "a key of args[1].x is a function, which cannot be passed to another Lua VM",
    "args[1].f is a function, which cannot be passed to another Lua VM",
    "args[1].a is a cdata, which cannot be passed to another Lua VM",
    "args[4] is a cdata, which cannot be passed to another Lua VM",
    "args[1][1] is a userdata, which cannot be passed to another Lua VM",
    "args[2].a.b.c is a table that contains itself: it is args[2].a",
    "args[1][1] is a table that contains itself: it is args[1]",
    "args[1].other.one is a table that contains itself: it is args[1]",
);
my $all = join "", @lines;
my $deep = qr/caller:2: call: args\[1\]\.deep(?:\[1\])+ is nested deeper than 100 tables\n/;
qr/\A$all$deep\z/



=== TEST 7: results that cannot be passed are the call's error
--- lua
local nbffi = require "resty.nonblocking_ffi"
local rt = assert(nbffi.load { language = "lua", module = "jobs" })
for _, name in ipairs { "function", "builtin", "thread", "userdata",
                        "proxy", "cdata", "key", "nested", "cycle",
                        "mutual" } do
    local res, err, code, message = rt:call("give", name)
    local line = err:match("^[^\n]*")
    ngx.say(res, " ", line, " ", code, " ",
            err == "runtime error: " .. message)
end
-- One that is as deep as it may be, and one that is deeper.
ngx.say(rt:call("depth", rt:call("deep", 100)))
local res, err = rt:call("deep", 101)
ngx.say(res, " ", #err:match("results%[1%](%S+) is nested") / #".x")
-- VMs go on.
ngx.say(rt:call("echo", "well"))
ngx.say(rt:stats().vm.made == rt:stats().vm.vms)
--- response_body
nil runtime error: results[2] is a function, which cannot be passed to another Lua VM 0 true
nil runtime error: results[2] is a function, which cannot be passed to another Lua VM 0 true
nil runtime error: results[2] is a thread, which cannot be passed to another Lua VM 0 true
nil runtime error: results[2] is a userdata, which cannot be passed to another Lua VM 0 true
nil runtime error: results[2] is a userdata, which cannot be passed to another Lua VM 0 true
nil runtime error: results[2] is a cdata, which cannot be passed to another Lua VM 0 true
nil runtime error: a key of results[2] is a function, which cannot be passed to another Lua VM 0 true
nil runtime error: results[2].a.b[3] is a thread, which cannot be passed to another Lua VM 0 true
nil runtime error: results[2].me is a table that contains itself: it is results[2] 0 true
nil runtime error: results[2][1].back is a table that contains itself: it is results[2] 0 true
100
nil 100
well
true



=== TEST 8: misuse blames the caller's line
--- lua
local blame = require("test_plugins").blame
local nbffi = require "resty.nonblocking_ffi"
local rt = assert(nbffi.load { language = "lua", module = "vm_jobs" })
local bare = assert(nbffi.load { language = "lua" })
local function try(expression)
    ngx.say((blame("local rt, bare, nbffi = ...\nlocal a = "
                   .. expression .. "\nreturn a", rt, bare, nbffi)))
end
for _, method in ipairs { "call", "submit", "cast" } do
    try("rt." .. method .. "('echo', 1)")
    try("rt." .. method .. "({}, 'echo')")
    try("rt:" .. method .. "()")
    try("rt:" .. method .. "(5)")
    try("rt:" .. method .. "({})")
    try("rt:" .. method .. "({ 5 }, 1)")
    try("rt:" .. method .. "({ timeout = 1 }, 1)")
    try("rt:" .. method .. "({ 'echo', timeout = 0 }, 1)")
    try("rt:" .. method .. "({ 'echo', timeout = '1' }, 1)")
    try("rt:" .. method .. "({ 'echo', timeout = 0/0 }, 1)")
    try("rt:" .. method .. "({ 'echo', priority = 'urgent' }, 1)")
    try("rt:" .. method .. "({ 'echo', key = 5 }, 1)")
    try("rt:" .. method .. "({ 'echo', key = '' }, 1)")
    try("rt:" .. method .. "({ 'echo', tiemout = 1 }, 1)")
    try("rt:" .. method .. "({ 'echo', 'describe' }, 1)")
    try("bare:" .. method .. "('echo', 1)")
end
try("rt.call_fn(function() end)")
try("rt:call_fn()")
try("rt:call_fn('echo')")
try("rt:call_fn({ 'echo' })")
try("rt:call_fn({ function() end, timeout = -1 })")
try("rt:call_fn(print)")
try("rt:call_fn(string.rep, 'x', 2)")
try("rt:call_fn(function() return rt end)")
try("rt.reload('vm_jobs')")
try("rt:reload('vm_jobs')")
try("rt:reload({ 5 })")
try("rt:reload({ 'a', '' })")
try("bare:reload()")
try("rt.stats()")
try("rt.close()")
try("rt:close(0)")
--- response_body eval
my $each = join "", map { "caller:2: $_\n" } (
    "not a runtime: call its methods with a colon",
    "not a runtime: call its methods with a colon",
    "METHOD: a function's name expected, or a table of that and options, got nil",
    "METHOD: a function's name expected, or a table of that and options, got number",
    "METHOD: the table's first item must be the function's name, got nil",
    "METHOD: the table's first item must be the function's name, got number",
    "METHOD: the table's first item must be the function's name, got nil",
    "METHOD: timeout must be a positive number of seconds, got 0",
    'METHOD: timeout must be a positive number of seconds, got "1"',
    "METHOD: timeout must be a positive number of seconds, got nan",
    'METHOD: priority must be "high", "normal" or "low", got "urgent"',
    "METHOD: key must be a non-empty string, got 5",
    'METHOD: key must be a non-empty string, got ""',
    'METHOD: unknown option "tiemout" (there are: key, priority, timeout)',
    "METHOD: unknown option 2 (there are: key, priority, timeout)",
    'METHOD: runtime "lua" was loaded without a module, so it has call_fn only',
);
join("", map { my $text = $each; $text =~ s/METHOD/$_/g; $text } qw( call submit cast ))
. 'caller:2: not a runtime: call its methods with a colon
caller:2: call_fn: a function expected, or a table of that and options, got nil
caller:2: call_fn: a function expected, or a table of that and options, got string
caller:2: call_fn: the table\'s first item must be the function, got string
caller:2: call_fn: timeout must be a positive number of seconds, got -1
caller:2: call_fn: a function that is written in C cannot be sent to another Lua VM
caller:2: call_fn: a function that is written in C cannot be sent to another Lua VM
caller:2: call_fn: the function has an upvalue "rt": pass it as an argument, or require it inside
caller:2: not a runtime: call its methods with a colon
caller:2: reload: a list of modules\' names expected, got string
caller:2: reload: number 1 of the list is no module\'s name
caller:2: reload: number 2 of the list is no module\'s name
caller:2: reload: runtime "lua" was loaded without a module, so it has call_fn only
caller:2: not a runtime: call its methods with a colon
caller:2: not a runtime: call its methods with a colon
caller:2: close: timeout must be a positive number of seconds
'



=== TEST 9: options of a call: timeout, priority, key; the table stays as it is
--- lua
local say = require("test_plugins").say
local nbffi = require "resty.nonblocking_ffi"
local board = require("board").new()
nbffi.pool("one", { threads = 1 })
local rt = assert(nbffi.load { language = "lua", module = "vm_jobs",
                               pool = "one" })
local target = { "echo", timeout = 5, priority = "high", key = "k" }
say(rt:call(target, 1, nil, 3))
say(rt:call(target, "again"))
say(target[1], target.timeout, target.priority, target.key)
-- One thread is busy; then the rest comes in the order of priorities.
local hold = rt:submit("hold", board.address, "held")
board:has(0, 1)
local futures, kinds = {}, { "low", "normal", "high" }
for i = 1, 45 do
    futures[i] = rt:submit({ "note", priority = kinds[i % 3 + 1] },
                           board.address, i)
end
say(rt:call({ "note", timeout = 0.02 }, board.address, 99))
local late = rt:submit({ "note", timeout = 0.02 }, board.address, 98)
say(late:wait())
board:set(1, 1)
say(hold:wait())
nbffi.wait_all(futures)
-- Those that timed out before they began never ran. Of the others, the
-- more urgent ones ran earlier, by and large: none starves.
say(board:get(9))
local sums = { 0, 0, 0 }
for place = 1, 45 do
    local kind = board:get(9 + place) % 3 + 1
    sums[kind] = sums[kind] + place
end
say(sums[3] < sums[2], sums[2] < sums[1])
--- response_body
1 nil 3
again
echo 5 high k
nil timeout
nil timeout
held
45
true true



=== TEST 10: submit: several results, again and again; wait_all, wait_any
--- lua
local describe = require("vm_jobs").describe
local say = require("test_plugins").say
local nbffi = require "resty.nonblocking_ffi"
local board = require("board").new()
nbffi.pool("two", { threads = 2 })
local rt = assert(nbffi.load { language = "lua", module = "vm_jobs",
                               pool = "two" })
local jobs = assert(nbffi.load { language = "lua", module = "jobs",
                                 pool = "two" })
local fut = rt:submit("echo", 1, nil, { 3 }, nil)
ngx.say(describe(fut:wait()))
ngx.say(describe(fut:wait()))
ngx.say(describe(fut:wait(0)))
ngx.say(fut:cancel())
-- A second result is not an error.
local results, errors = nbffi.wait_all {
    rt:submit("echo", "a", "b"), rt:submit("echo"),
    rt:submit("echo", nil, "c"), rt:submit("echo", false, 1),
    jobs:submit("raise", "oops"),
}
say(results[1], results[2], results[3], results[4], results[5])
say(errors[1], errors[2], errors[3], errors[4],
    errors[5]:match("^runtime error: .*jobs.lua:%d+: (oops)\n"))
local held = rt:submit("hold", board.address, "held")
board:has(0, 1)
say(nbffi.wait_any { held, rt:submit("echo", 1, nil, 3) })
ngx.say(describe(nbffi.wait_any { held, rt:submit("echo", nil, nil) }))
say(nbffi.wait_any({ held }, 0.01))
say(held:wait(0.01))
board:set(1, 1)
say(held:wait())
say(nbffi.wait_any { held })
--- response_body
4: 1; nil; { 1 = 3 }; nil
4: 1; nil; { 1 = 3 }; nil
4: 1; nil; { 1 = 3 }; nil
false
a nil nil false
nil nil nil nil oops
2 1 nil 3
3: 2; nil; nil
nil timeout
nil timeout
held
1 held



=== TEST 11: cancel: what has not begun never does; what runs may ask
--- lua
local tp = require "test_plugins"
local say = tp.say
local nbffi = require "resty.nonblocking_ffi"
local board = require("board").new()
nbffi.pool("one", { threads = 1 })
local rt = assert(nbffi.load { language = "lua", module = "vm_jobs",
                               pool = "one" })
local held = rt:submit("hold", board.address, "held")
board:has(0, 1)
local notes = {}
for i = 1, 5 do notes[i] = rt:submit("note", board.address, i) end
say(notes[2]:cancel(), notes[4]:cancel(), notes[4]:cancel())
say(notes[2]:wait())
board:set(1, 1)
say(held:wait())
nbffi.wait_all(notes)
say(board:get(9), board:get(10), board:get(11), board:get(12))
local watching = rt:submit("watch", board.address)
board:has(2, 1)
say(watching:cancel(), watching:wait())
say(board:has(3, 1))
say(rt:call("echo", "next"))
say(rt:stats().errors.cancelled)
--- response_body
true true false
nil cancelled
held
3 1 3 5
true nil cancelled
true
next
3



=== TEST 12: every phase: cast works in all, the rest says what it cannot
--- http_config
    init_worker_by_lua_block {
        local nbffi = require "resty.nonblocking_ffi"
        local board = require("board").new()
        local rt = assert(nbffi.load { language = "lua", module = "vm_jobs" })
        package.loaded.seen = {}
        package.loaded.the_board = board
        local function second(_, value) return tostring(value) end
        package.loaded.try = function()
            local where = ngx.get_phase()
            local seen = package.loaded.seen
            if seen[where] then return end
            local fut = assert(rt:submit("echo", 1, 2))
            seen[where] = table.concat({
                second(rt:call("echo", 1, 2)),
                second(rt:call_fn(function() return 1, 2 end)),
                second(nbffi.run("vm_jobs", "echo", 1, 2)),
                second(fut:wait()),
                tostring(rt:cast("mark", board.address, where, { 1 })),
            }, "|")
        end
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
        rewrite_by_lua_block { require("try")() }
        access_by_lua_block { require("try")() }
        proxy_pass http://backend/content;
        header_filter_by_lua_block { require("try")() }
        body_filter_by_lua_block { require("try")() }
        log_by_lua_block { require("try")() }
    }
    location = /content {
        content_by_lua_block { require("try")() ngx.say("content") }
    }
    location = /seen {
        content_by_lua_block {
            local seen = require "seen"
            local tp = require "test_plugins"
            assert(ngx.timer.at(0, function() require("try")() end))
            tp.poll(function() return seen.log and seen.timer end)
            local marked = require("vm_jobs").PHASES
            for i, where in ipairs(marked) do
                ngx.say(where, ": ", seen[where], " ",
                        require("the_board"):has(i, 1))
            end
        }
    }
--- request eval
["GET /t", "GET /seen"]
--- response_body eval
my $no = "cannot yield in this phase";
["content\n", "init_worker: $no|$no|$no|$no|true true
set: $no|$no|$no|$no|true true
rewrite: 2|2|2|2|true true
access: 2|2|2|2|true true
content: 2|2|2|2|true true
balancer: $no|$no|$no|$no|true true
header_filter: $no|$no|$no|$no|true true
body_filter: $no|$no|$no|$no|true true
log: $no|$no|$no|$no|true true
timer: 2|2|2|2|true true
"]



=== TEST 13: cast: runs once, and its error is nobody's
--- lua
local tp = require "test_plugins"
local say = tp.say
local nbffi = require "resty.nonblocking_ffi"
local board = require("board").new()
nbffi.pool("one", { threads = 1, max_queue = 3 })
local rt = assert(nbffi.load { language = "lua", module = "vm_jobs",
                               pool = "one" })
local function settled()
    tp.poll(function() return rt:stats().in_flight == 0 end)
end
say(rt:cast("note", board.address, 7))
settled()
say(rt:cast({ "note", priority = "low", timeout = 5 }, board.address, 8))
settled()
say(rt:cast("fail"))
say(rt:cast("missing"))
settled()
say(board:get(9), board:get(10), board:get(11))
say(rt:stats().ok, rt:stats().errors["runtime error"])
local held = rt:submit("hold", board.address, "held")
board:has(0, 1)
for _ = 1, 4 do say(rt:cast("note", board.address, 9)) end
-- Too late before it begins.
board:set(1, 1)
held:wait()
settled()
say(board:get(9))
rt:close()
say(rt:cast("note", board.address, 10))
say(rt:call("echo", 1))
say(rt:submit("echo", 1))
say(rt:call_fn(function() end))
say(rt:reload())
--- response_body
true
true
true
true
2 7 8
2 2
true
true
true
nil queue overflow
5
nil closed
nil closed
nil closed
nil closed
nil closed



=== TEST 14: call_fn
--- lua
local describe = require("vm_jobs").describe
local say = require("test_plugins").say
local nbffi = require "resty.nonblocking_ffi"
nbffi.pool("one", { threads = 1 })
-- Without a module of its own.
local rt = assert(nbffi.load { language = "lua", pool = "one" })
say(rt:call_fn(function(a, b) return a + b, a * b end, 6, 7))
say(rt:call_fn({ function(...) return select("#", ...) end,
                 timeout = 5, priority = "high", key = "k" },
               nil, nil))
ngx.say(describe(rt:call_fn(function() end)))
say(rt:call_fn(function(text) return text end, "one string"))
-- It sees the VM's globals, and its modules.
say(rt:call_fn(function() counter = (counter or 0) + 1 end))
say(rt:call_fn(function() counter = counter + 1 return counter end))
say(counter)
say(rt:call_fn(function() return (require("vm_jobs").count()) end))
say(rt:call_fn(function() return (require("vm_jobs").count()) end))
-- Functions, loops and 64-bit constants in it; recursion by a local.
say(rt:call_fn(function(n)
    local function fib(i)
        return i < 2 and i or fib(i - 1) + fib(i - 2)
    end
    local list = {}
    for i = 1, n do list[i] = fib(i) end
    return table.concat(list, ","), 5LL
end, 10))
-- Errors have the place and a traceback.
local res, err, code, message = rt:call_fn(function()
    local nothing
    return nothing.field
end)
say(res, code, err == "runtime error: " .. message)
say(err:match("attempt to index local 'nothing' %(a nil value%)"))
say(err:match("stack traceback:"))
res, err = rt:call_fn(function(t) return t.f end, { 1 })
say(res, err)
res, err = rt:call_fn(function() return print end)
say(res, err:match("^[^\n]*"))
-- More of them than are kept.
local sum = 0
for i = 1, 150 do
    sum = sum + rt:call_fn(assert(loadstring("return " .. i)))
end
say(sum)
-- A string of bytes is not taken for a function.
say(rt:call_fn(function(f) return type(f), #f end,
               string.dump(function() end)) )
--- response_body_like
\A13 42
2
0: 
one string

2

1
2
1,1,2,3,5,8,13,21,34,55 5LL
nil 0 true
attempt to index local 'nothing' \(a nil value\)
stack traceback:

nil runtime error: results\[1\] is a function, which cannot be passed to another Lua VM
11325
string \d+



=== TEST 15: nbffi.run: as load and call do
--- lua
local describe = require("vm_jobs").describe
local tp = require "test_plugins"
local say = tp.say
local nbffi = require "resty.nonblocking_ffi"
ngx.say(describe(nbffi.run("vm_jobs", "echo", 1, nil, "x", nil)))
ngx.say(describe(nbffi.run("vm_jobs", "echo")))
say(nbffi.run({ "vm_jobs", timeout = 5, priority = "low", key = "k" },
              "echo", "with options"))
nbffi.pool("other", { threads = 1 })
say(nbffi.run({ "vm_jobs", pool = "other" }, "whoami"))
-- One runtime for each module and pool.
local names = {}
for name in pairs(nbffi.stats().runtimes) do
    names[#names + 1] = name
end
table.sort(names)
say(unpack(names))
say(nbffi.load { language = "lua", module = "vm_jobs" }
    == nbffi.load { language = "lua", module = "vm_jobs" })
say(nbffi.stats().runtimes.vm_jobs.ok)
local res, err = nbffi.run("no.such.module", "f")
say(res, err:match("boot.lua:%d+: ([^\n]*)"))
res, err = nbffi.run("vm_jobs", "no_such_function")
say(res, err:match("^[^\n]*"))
say(nbffi.run({ "vm_jobs", pool = "nowhere" }, "echo"))
local held = require("board").new()
say(nbffi.run({ "vm_jobs", timeout = 0.02 }, "hold", held.address))
held:set(1, 1)
local function try(expression)
    say(tp.blame("local nbffi = ...\nlocal a = nbffi.run("
                 .. expression .. ")\nreturn a", nbffi))
end
try("")
try("5, 'echo'")
try("'', 'echo'")
try("{}, 'echo'")
try("'vm_jobs'")
try("'vm_jobs', 5")
try("{ 'vm_jobs', timeout = 0 }, 'echo'")
try("{ 'vm_jobs', vm = 'x' }, 'echo'")
try("{ 'vm_jobs', pool = 5 }, 'echo'")
try("'vm_jobs', 'echo', { f = print }")
--- response_body
4: 1; nil; 1 bytes of sum 120; nil
0: 
with options
nbffi/other/0 0 other
vm_jobs vm_jobs-2
true
3
nil module 'no.such.module' not found:
nil runtime error: module "vm_jobs" has no function "no_such_function"
nil no pool "nowhere": declare it with pool()
nil timeout
caller:2: run: the name of a module expected, got nil
caller:2: run: the name of a module expected, got 5
caller:2: run: the name of a module expected, got ""
caller:2: run: the name of a module expected, got nil
caller:2: run: the name of a function expected, got nil
caller:2: run: the name of a function expected, got 5
caller:2: run: timeout must be a positive number of seconds, got 0
caller:2: run: unknown option "vm" (there are: key, pool, priority, timeout)
caller:2: run: pool must be a non-empty string, got 5
caller:2: call: args[1].f is a function, which cannot be passed to another Lua VM



=== TEST 16: what a module may be, and what of it can be called
--- user_files
>>> nothing.lua
loaded_times = (loaded_times or 0) + 1
>>> a_function.lua
return function() return "called" end
>>> a_string.lua
return "text"
>>> indexed.lua
local made = setmetatable({}, { __index = function(_, name)
    return function(...) return name, ... end
end })
return made
--- lua
local say = require("test_plugins").say
local nbffi = require "resty.nonblocking_ffi"
local function try(module, ...)
    local rt = assert(nbffi.load { language = "lua", module = module })
    local res, err, more = rt:call(...)
    say(res, err and tostring(err):match("^[^\n]*")
                                  :gsub("/.*boot.lua:%d+", "boot.lua"),
        res and more or nil)
end
try("nothing", "f")
try("a_function", "f")
try("a_string", "len")
try("indexed", "any_name", 1)
try("jobs", "not_a_function")
try("jobs", "callable")
try("jobs", "5")
try("jobs", "missing")
try("jobs", "", 1)
try("jobs", "a\nb \255\"", 1)
--- response_body eval
qq{nil runtime error: module "nothing" has no function "f"
nil runtime error: module "a_function" has no function "f"
nil runtime error: module "a_string" has no function "len"
any_name 1
nil runtime error: boot.lua: attempt to call local 'func' (a number value)
1
by string
nil runtime error: module "jobs" has no function "missing"
nil runtime error: module "jobs" has no function ""
nil runtime error: module "jobs" has no function "a
}



=== TEST 17: responses have a limit; requests have none
--- lua
local say = require("test_plugins").say
local nbffi = require "resty.nonblocking_ffi"
local rt = assert(nbffi.load { language = "lua", module = "jobs",
                               max_response = 1000 })
say(#rt:call("echo", ("x"):rep(1000)))
say(rt:call("echo", ("x"):rep(1001)))
say(#rt:call("echo", { ("x"):rep(900) })[1])
say(rt:call("echo", { ("x"):rep(1000) }))
say(rt:submit("echo", ("x"):rep(1001)):wait())
say(rt:call_fn(function() return ("x"):rep(1001) end))
say(rt:call("kinds", ("x"):rep(3000000), { ("x"):rep(3000000) }))
say(rt:stats().errors["response too large"], rt:stats().vm.made
    <= rt:stats().vm.vms)
--- response_body
1000
nil response too large
900
nil response too large
nil response too large
nil response too large
string table
4 true



=== TEST 18: many at a time: each its own results
--- lua
local nbffi = require "resty.nonblocking_ffi"
nbffi.pool("four", { threads = 4 })
local rt = assert(nbffi.load { language = "lua", module = "vm_jobs",
                               pool = "four" })
local wrong, threads = 0, {}
local function work(number)
    for i = 1, 100 do
        local a, b, c, d = rt:call({ "echo", key = i % 7 == 0
                                                   and "k" .. i or nil },
                                   number, nil, { i, number .. ":" .. i },
                                   ("x"):rep(i * 10))
        if a ~= number or b ~= nil or c[1] ~= i
           or c[2] ~= number .. ":" .. i or d ~= ("x"):rep(i * 10)
        then
            wrong = wrong + 1
        end
        local text = number .. "/" .. i
        if rt:call("echo", text) ~= text then wrong = wrong + 1 end
    end
end
for i = 1, 64 do threads[i] = ngx.thread.spawn(work, i) end
for i = 1, 64 do assert(ngx.thread.wait(threads[i])) end
local stats = rt:stats()
ngx.say(wrong, " wrong; ok ", stats.ok, ", made ", stats.vm.made)
--- response_body
0 wrong; ok 12800, made 4



=== TEST 19: a LuaJIT without string.buffer: every type travels just the same
--- user_files
>>> resty/nonblocking_ffi/lua/codec.lua
-- In front of the real one, here and in VMs.
package.preload["string.buffer"] = nil
package.loaded["string.buffer"] = nil
without_buffer = not pcall(require, "string.buffer")
return dofile("$TEST_NGINX_PWD/lua/resty/nonblocking_ffi/lua/codec.lua")
--- lua
local nbffi = require "resty.nonblocking_ffi"
local rt = assert(nbffi.load { language = "lua", module = "vm_jobs" })
ngx.say(without_buffer, " ",
        rt:call_fn(function() return without_buffer end))
local describe = require("vm_jobs").describe
local bytes = {}
for i = 0, 255 do bytes[i + 1] = string.char(i) end
bytes = table.concat(bytes)
local wrong = 0
local function try(...)
    local sent = describe(...)
    if rt:call("describe", ...) ~= sent
       or describe(rt:call("echo", ...)) ~= sent
    then
        ngx.say(sent)
        wrong = wrong + 1
    end
end
try()
try(nil)
try(1, nil, 3, nil)
try(0, -0, 0.1, 1/0, -1/0, 0/0, 2^53, 5e-324)
try(true, false, ngx.null, 5LL, -5LL, 18446744073709551615ULL)
try("", "x", bytes, bytes:rep(4000))
try({}, { 1, 2, nil, 4 }, { a = { b = { ngx.null } }, [1.5] = 1LL })
local deep = {}
for _ = 1, 99 do deep = { deep } end
try(deep)
local jobs = require "vm_jobs"
for _, shape in ipairs(jobs.SHAPES) do
    if not jobs.same({ rt:call("build", shape, 3000) },
                     { jobs.build(shape, 3000) })
    then
        ngx.say(shape)
        wrong = wrong + 1
    end
end
ngx.say(wrong, " wrong")
ngx.say(select(2, pcall(rt.call, rt, "echo", { x = { y = print } })))
ngx.say(select(2, pcall(rt.call, rt, "echo", { { deep } }))
        :match("is nested deeper than .*"))
ngx.say(select(2, rt:call_fn(function() return { print } end))
        :match("^[^\n]*"))
--- response_body
true true
0 wrong
call: args[1].x.y is a function, which cannot be passed to another Lua VM
is nested deeper than 100 tables
runtime error: results[1][1] is a function, which cannot be passed to another Lua VM



=== TEST 20: load: options that are wrong blame the caller; the same options: the same runtime
--- lua
local tp = require "test_plugins"
local say = tp.say
local nbffi = require "resty.nonblocking_ffi"
local function try(options)
    say(tp.blame("local nbffi = ...\nlocal a = nbffi.load({ "
                 .. "language = 'lua', " .. options .. " })\nreturn a",
                 nbffi):gsub("0x%x+", "ADDRESS"), nil)
end
try("module = 5")
try("module = ''")
try("init = 5")
try("init = function() end")
try("vm = ''")
try("vm = true")
try("vm_max_memory = '1'")
try("vm_max_memory = 1024")
try("vm_recycle_memory = 0")
try("vm_recycle_tasks = 0")
try("vm_recycle_tasks = 0/0")
try("library = 'x'")
try("config = 'x'")
try("on_full = 'later'")
local function load(given)
    given.runtime, given.module = "lua", "jobs"
    return assert(nbffi.load(given))
end
local rt = load {}
say(load {} == rt, load { timeout = 5 } == rt, load { vm = "x" } == rt,
    load { on_full = "inline" } == rt)
say(rt:stats().name, load({ timeout = 5 }):stats().name,
    nbffi.load({ language = "lua" }):stats().name)
say(load({ name = "mine" }):stats().name)
say(nbffi.load { language = "lua", module = "vm_jobs", name = "mine" })
say(nbffi.load { language = "lua", module = "jobs", pool = "none" })
--- response_body
caller:2: load: module must be the name of a module, got 5
caller:2: load: module must be the name of a module, got ""
caller:2: load: init must be Lua code, or a module's name, got 5
caller:2: load: init must be Lua code, or a module's name, got function: ADDRESS
caller:2: load: vm must be a non-empty string, got ""
caller:2: load: vm must be a non-empty string, got true
caller:2: load: vm_max_memory must be a number of bytes, at least 1 MiB, got "1"
caller:2: load: vm_max_memory must be a number of bytes, at least 1 MiB, got 1024
caller:2: load: vm_recycle_memory must be a positive number of bytes, got 0
caller:2: load: vm_recycle_tasks must be a positive number of tasks, got 0
caller:2: load: vm_recycle_tasks must be a positive number of tasks, got nan
caller:2: load: unknown option "library" (there are: init, language, max_response, module, name, on_full, pool, runtime, timeout, vm, vm_max_memory, vm_recycle_memory, vm_recycle_tasks)
caller:2: load: unknown option "config" (there are: init, language, max_response, module, name, on_full, pool, runtime, timeout, vm, vm_max_memory, vm_recycle_memory, vm_recycle_tasks)
caller:2: load: on_full must be "error", "wait" or "inline", got "later"
true false false false
jobs jobs-2 lua
mine
nil a runtime named "mine" is loaded already, with other arguments
nil no pool "none": declare it with pool()
