# The same for all languages: `language` in load, `with`, and pcall and pwait,
# which tell errors from results.

use lib '.';
use t::TestNbffi;

repeat_each(2);
plan tests => repeat_each() * (blocks() * 3);
run_tests();

__DATA__

=== TEST 1: language, and runtime as its old name
--- lua
local nbffi = require "resty.nonblocking_ffi"
local blame = require("test_plugins").blame
local rt = assert(nbffi.load { language = "c", library = "echo" })
ngx.say(rt == nbffi.load { runtime = "c", library = "echo" })
ngx.say(rt == nbffi.load { language = "c", runtime = "c", library = "echo" })
for _, options in ipairs { "language = 'c', runtime = 'lua'", "runtime = 7",
                           "language = false", "lang = 'c'",
                           "language = 'c', library = 'echo', lang = 'c'" } do
    ngx.say(blame("require('resty.nonblocking_ffi').load {\n" .. options
                  .. " }\nreturn"))
end
--- response_body
true
true
caller:1: load: language is "c", but runtime, its old name, is "lua"
caller:1: load: language must be "c", "lua", "python", "java" or "go", got 7
caller:1: load: language must be "c", "lua", "python", "java" or "go", got false
caller:1: load: language is missing: it must be "c", "lua", "python", "java" or "go"
caller:1: load: unknown option "lang" (there are: config, entry, language, library, max_response, name, on_full, pool, runtime, timeout)



=== TEST 2: with: options for a plugin's calls; what a call is given goes first
--- lua
local nbffi = require "resty.nonblocking_ffi"
local rt = assert(nbffi.load { language = "c", library = "verbs",
                               timeout = 1000 })
local function left(handle, opts)
    local n = tonumber((handle:call("deadline", opts)))
    for _, timeout in ipairs { 10, 100, 1000 } do
        if n > timeout / 2 and n <= timeout then
            return timeout
        end
    end
    return n
end
local short = rt:with { timeout = 10 }
local low = short:with { priority = "low" }
ngx.say(left(rt), " ", left(short), " ", left(low))
ngx.say(left(short, { timeout = 100 }), " ", left(short, { priority = "high" }))
ngx.say(left(low:with { timeout = 100 }), " ", left(low:with {}))
ngx.say((low:submit("deadline"):wait() + 0) <= 10)
ngx.say(select(2, low:pcall("deadline")) + 0 <= 10)
--- response_body
1000 10 10
100 10
100 10
true
true



=== TEST 3: with: priorities
--- lua
local nbffi = require "resty.nonblocking_ffi"
local gate = require("test_plugins").gate()
gate.reset()
nbffi.pool("one", { threads = 1 })
local rt = assert(nbffi.load { language = "c", library = "gate",
                               pool = "one" })
local low, high = rt:with { priority = "low" }, rt:with { priority = "high" }
local first = rt:submit("hold x")
gate.has("started", 1)
local futures = {}
for i = 1, 60, 6 do
    futures[i] = low:submit("note l")
    futures[i + 1] = high:submit("note l", { priority = "low" })
    futures[i + 2] = high:with({ priority = "low" }):submit("note l")
    futures[i + 3] = high:submit("note h")
    futures[i + 4] = low:submit("note h", { priority = "high" })
    futures[i + 5] = low:with({ priority = "high" }):submit("note h")
end
gate.open()
first:wait()
nbffi.wait_all(futures)
-- Now and then one of low priority has its turn.
local _, earlier = gate.order():sub(1, 30):gsub("h", "")
ngx.say(#gate.order(), " ", earlier > 20)
--- response_body
60 true



=== TEST 4: with: the runtime is one, its statistics and its end too
--- lua
local nbffi = require "resty.nonblocking_ffi"
local say = require("test_plugins").say
local rt = assert(nbffi.load { language = "c", library = "echo",
                               name = ngx.var.request_id })
local handle = rt:with { timeout = 5 }
handle:call("a")
rt:call("b")
say(handle:stats().ok, rt:stats().ok, handle:stats().name == rt:stats().name)
say(handle:close())
say(rt:call("c"))
say(handle:call("c"))
say(handle:pcall("c"))
say(handle:with { timeout = 1 }:cast("c"))
say(handle:stats().ok, rt:close(), handle:close())
--- response_body
2 2 true
true
nil closed
nil closed
false closed
nil closed
2 true true



=== TEST 5: misuse blames the caller's line
--- lua
local nbffi = require "resty.nonblocking_ffi"
local blame = require("test_plugins").blame
local echo = assert(nbffi.load { language = "c", library = "echo" })
local lua = assert(nbffi.load { language = "lua", module = "vm_jobs" })
for _, rt in ipairs { echo, lua, echo:with {}, lua:with {} } do
    for _, call in ipairs {
        "rt:with()", "rt:with(5)", "rt:with { timeout = 0 }",
        "rt:with { priority = 'urgent' }", "rt:with { timeuot = 1 }",
        "rt:with { 'echo' }", "rt.with({}, {})", "rt.pcall({}, 'x')",
    } do
        ngx.say(blame("local rt = ...\nlocal res = " .. call .. "\nreturn res",
                      rt))
    end
end
for rt, calls in pairs { [echo] = { "rt:with { key = 'k' }", "rt:pcall()" } } do
    for _, call in ipairs(calls) do
        ngx.say(blame("local rt = ...\nlocal res = " .. call .. "\nreturn res",
                      rt))
    end
end
for _, call in ipairs { "rt:with { key = '' }", "rt:pcall()",
                        "rt:pcall('echo', print)",
                        "rt:pcall { 'echo', timeout = 0 }" } do
    ngx.say(blame("local rt = ...\nlocal res = " .. call .. "\nreturn res",
                  lua))
end
ngx.say(blame("local fut = ...\nreturn (fut.pwait({}))", echo:submit("x")))
ngx.say(blame("local fut = ...\nreturn (fut:pwait(-1))", echo:submit("x")))
--- response_body eval
(join "", map { qq{caller:2: with: a table of options expected, got nil
caller:2: with: a table of options expected, got number
caller:2: with: timeout must be a positive number of seconds, got 0
caller:2: with: priority must be "high", "normal" or "low", got "urgent"
caller:2: with: unknown option "timeuot" (there are: $_)
caller:2: with: unknown option 1 (there are: $_)
caller:2: not a runtime: call its methods with a colon
caller:2: not a runtime: call its methods with a colon
} } ("priority, timeout", "key, priority, timeout") x 2) . q{caller:2: with: unknown option "key" (there are: priority, timeout)
caller:2: request must be a string, or a table of strings, got nil
caller:2: with: key must be a non-empty string, got ""
caller:2: pcall: a function's name expected, or a table of that and options, got nil
caller:2: pcall: args[1] is a function, which cannot be passed to another Lua VM
caller:2: pcall: timeout must be a positive number of seconds, got 0
caller:2: not a future: call its methods with a colon
caller:2: pwait: timeout must be a non-negative number of seconds
}



=== TEST 6: pcall and pwait of a plugin: a response, a status, an error
--- lua
local nbffi = require "resty.nonblocking_ffi"
local rt = assert(nbffi.load { language = "c", library = "verbs" })
local function show(...)
    local values = { ... }
    for i = 1, select("#", ...) do values[i] = tostring(values[i]) end
    ngx.say(table.concat(values, " | "))
end
for _, req in ipairs { "none", "status 206 partial content", "status 304",
                       "fail 42 out of cheese", "fail 0 zero" } do
    show(rt:pcall(req))
    show(rt:submit(req):pwait())
end
local fut = rt:submit("none")
show(fut:pwait())
show(fut:pwait(0))
--- response_body eval
q{true | 
true | 
true | with a status | 206 | partial content
true | with a status | 206 | partial content
true | with a status | 304 | 
true | with a status | 304 | 
false | runtime error: out of cheese | 42 | out of cheese
false | runtime error: out of cheese | 42 | out of cheese
false | runtime error: zero | 0 | zero
false | runtime error: zero | 0 | zero
true | 
true | 
}



=== TEST 7: with, for Lua functions; the table of a call goes first
--- lua
local nbffi = require "resty.nonblocking_ffi"
local rt = assert(nbffi.load { language = "lua", module = "vm_jobs",
                               timeout = 1000 })
local function deadline()
    return require("resty.nonblocking_ffi.worker").deadline()
end
local function about(n)
    for _, timeout in ipairs { 10, 100, 1000 } do
        if n > timeout / 2 and n <= timeout then
            return timeout
        end
    end
    return n
end
local short = rt:with { timeout = 10, priority = "low", key = "k" }
ngx.say(about(rt:call_fn(deadline)), " ", about(short:call_fn(deadline)), " ",
        about(short:call_fn { deadline, timeout = 100 }), " ",
        about(short:with { timeout = 100 }:call_fn(deadline)))
ngx.say(short:call("echo", 1, nil, 3))
ngx.say(short:call({ "echo", priority = "high" }, "x"))
ngx.say(short:submit("echo", "y"):wait())
ngx.say(short:cast("echo", "z"))
ngx.say(short:reload())
--- response_body
1000 10 100 100
1nil3
x
y
true
true



=== TEST 8: with: a key chooses the thread
--- lua
local nbffi = require "resty.nonblocking_ffi"
nbffi.pool("keys", { threads = 8 })
local rt = assert(nbffi.load { language = "lua", module = "vm_jobs",
                               pool = "keys" })
local function index()
    return require("resty.nonblocking_ffi.worker").index()
end
-- A thread that has just ended a task may not be free yet.
local function mostly(handle, func)
    local counts, best = {}, 0
    for _ = 1, 200 do
        local i = handle:call_fn(func)
        counts[i] = (counts[i] or 0) + 1
        best = (counts[i] > (counts[best] or 0)) and i or best
    end
    return best
end
local same = 0
for i = 1, 8 do
    local key = "key " .. i
    if mostly(rt:with { key = key }, index)
       == mostly(rt, { index, key = key })
    then
        same = same + 1
    end
end
ngx.say(same)
--- response_body
8



=== TEST 9: pcall and pwait of a Lua function: its own nil and error are results
--- lua
local nbffi = require "resty.nonblocking_ffi"
local jobs = require "vm_jobs"
local describe = jobs.describe
local rt = assert(nbffi.load { language = "lua", module = "vm_jobs" })
local function both(func, ...)
    local first = describe(rt:pcall(func, ...))
    local fut = rt:submit(func, ...)
    local same = first == describe(fut:pwait())
                 and first == describe(fut:pwait())
    ngx.say(#first < 70 and first or #first, " ", same)
end
both("echo")
both("echo", nil, 1)
both("echo", true)
both("echo", 1, nil)
both("echo", 1, nil, 3, nil)
both("echo", 5)
both("echo", { 1, 2 })
for _, size in ipairs { 10, 30000 } do
    local results = { rt:pcall("build", "list of maps", size) }
    local waited = { rt:submit("build", "list of maps", size):pwait() }
    ngx.say(jobs.same(results, { true, jobs.build("list of maps", size) }), " ",
            jobs.same(waited, { true, jobs.build("list of maps", size) }))
end
local ok, err, code, message = rt:pcall("fail", "so")
ngx.say(ok, " ", (err:match("^runtime error: [^\n]*")), " ", code, " ",
        err == "runtime error: " .. message)
local later = { rt:submit("fail", "so"):pwait() }
ngx.say(later[1], " ", later[2] == err, " ", later[3], " ", later[4] == message)
ngx.say(select("#", rt:pcall("missing")), " ",
        (select(2, rt:pcall("missing")):match("^.-\n")))
--- response_body_like
^1: true true
3: true; nil; 1 true
2: true; true true
3: true; 1; nil true
5: true; 1; nil; 3; nil true
2: true; 5 true
2: true; \{ 1 = 1, 2 = 2 \} true
true true
true true
false runtime error: .*: so 0 true
false true 0 true
4 runtime error: module "vm_jobs" has no function "missing"
$



=== TEST 10: errors of the library: false and a text
--- http_config
init_worker_by_lua_block {
    local nbffi = require "resty.nonblocking_ffi"
    package.loaded.runtimes = {
        assert(nbffi.load { language = "c", library = "echo" }),
        assert(nbffi.load { language = "lua", module = "vm_jobs" }),
    }
}
--- config
location = /t {
    set_by_lua_block $said {
        local said = {}
        for _, rt in ipairs(require "runtimes") do
            for _, results in ipairs { { rt:pcall("echo") },
                                       { rt:submit("echo"):pwait(1) } } do
                said[#said + 1] = tostring(results[1]) .. " " .. results[2]
            end
        end
        return table.concat(said, "\n")
    }
    content_by_lua_block {
        ngx.say(ngx.var.said)
        local nbffi = require "resty.nonblocking_ffi"
        local tp = require "test_plugins"
        local gate = tp.gate()
        gate.reset()
        local rt = assert(nbffi.load { language = "c", library = "gate" })
        local ok, err
        tp.until_begun(rt, function()
            ok, err = rt:with({ timeout = 0.05 }):pcall("hold x")
        end, gate.started)
        ngx.say(ok, " ", err)
        local fut = rt:submit("hold y")
        ngx.say(fut:pwait(0))
        gate.open()
        ngx.say(fut:pwait())
    }
}
--- response_body
false cannot yield in this phase
false cannot yield in this phase
false cannot yield in this phase
false cannot yield in this phase
false timeout
falsetimeout
truey



=== TEST 11: in the event loop: with on_full = "inline"
--- lua
local describe = require("vm_jobs").describe
local nbffi = require "resty.nonblocking_ffi"
local board = require("board").new()
nbffi.pool("full", { threads = 1, max_queue = 0 })
local function load(on_full)
    return assert(nbffi.load { language = "lua", module = "vm_jobs",
                               pool = "full", on_full = on_full })
end
local holder, rt = load(), load("inline")
local held
require("test_plugins").poll(function()
    held = holder:submit("hold", board.address)
    return held
end)
board:has(0, 1)
local before = rt:stats().inline
local handle = rt:with { priority = "high" }
ngx.say(describe(handle:pcall("echo", nil, "x")))
ngx.say(describe(handle:call("echo", nil, "x")))
ngx.say(describe(handle:submit("echo", nil, "x"):pwait()))
local ok, err, code, message = rt:pcall("fail", "so")
ngx.say(ok, " ", (err:match("^runtime error: [^\n]*so")) ~= nil, " ", code,
        " ", err == "runtime error: " .. message)
local fut = handle:submit("fail", "so")
ok, err, code, message = fut:pwait()
ngx.say(ok, " ", (err:match("^runtime error: [^\n]*so")) ~= nil, " ", code,
        " ", err == "runtime error: " .. message)
ngx.say(select("#", fut:wait()), " ", (fut:wait()))
ngx.say(handle:stats().inline - before)
board:set(1, 1)
held:wait()
--- response_body
3: true; nil; 1 bytes of sum 120
2: nil; 1 bytes of sum 120
3: true; nil; 1 bytes of sum 120
false true 0 true
false true 0 true
4 nil
5
