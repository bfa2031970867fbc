# language = "python": functions, objects and coroutines in Python.

use lib '.';
use t::TestNbffi;

our $HttpConfig = q{
    init_by_lua_block {
        -- A runtime of t/plugins/py_verbs.py.
        function py(entry, given)
            local nbffi = require "resty.nonblocking_ffi"
            local options = {
                language = "python", entry = "py_verbs:" .. entry,
                path = "$TEST_NGINX_PWD/t/plugins",
            }
            for key, value in pairs(given or {}) do
                options[key] = value
            end
            return nbffi.load(options)
        end
    }
};

log_level('info');
repeat_each(2);
plan tests => repeat_each() * (blocks() * 3 + 20);
run_tests();

__DATA__

=== TEST 1: requests and responses of every size come through
--- lua
local random = {}
for i = 1, 4096 do random[i] = string.char(math.random(0, 255)) end
random = table.concat(random)
for _, entry in ipairs { "echo", "aecho" } do
    local rt = assert(py(entry))
    local wrong = 0
    for _, size in ipairs { 0, 1, 7, 64, 65, 1024, 65536, 65537,
                            1000000, 10485760 } do
        local text = random:rep(math.ceil(size / #random))
        text = text:sub(1, size)
        for i = 1, size < 10000 and 50 or 2 do
            local res, err = rt:call(text)
            if res ~= text then
                ngx.say(size, " ", err)
                wrong = wrong + 1
            end
        end
    end
    ngx.say(entry, ": ", wrong, " wrong")
end
--- response_body
echo: 0 wrong
aecho: 0 wrong



=== TEST 2: what an entry may be
--- lua
for _, entry in ipairs { "echo", "Namespace.upper", "functor",
                         "ready_made", "Greeter", "AsyncGreeter" } do
    local rt, err = py(entry, { config = "hello" })
    ngx.say(entry, ": ", err or rt:call("you"))
    if rt then rt:close() end
end
--- response_body
echo: you
Namespace.upper: YOU
functor: functor you
ready_made: hello you 1
Greeter: hello you 1
AsyncGreeter: hello you
--- error_log eval
[qr/\[warn\].*\[py_verbs:Greeter\] hello ends after 1/,
 qr/\[warn\].*\[py_verbs:AsyncGreeter\] hello ends/]
--- no_error_log
[error]



=== TEST 3: what a response may be made of
--- lua
local say = require("test_plugins").say
local rt = assert(py "give")
for _, what in ipairs { "bytes", "str", "none", "empty", "bytearray",
                        "memoryview", "numbers" } do
    local res, err = rt:call(what)
    say(what, #res, (res:gsub("%z", "0")), err)
end
for _, what in ipairs { "strided", "int", "list", "surrogate" } do
    local res, err, code = rt:call(what)
    say(what, res, code, err:match("^[^\n]*"))
end
--- response_body
bytes 3 a0b
str 6 grüß
none 0 
empty 0 
bytearray 5 array
memoryview 4 view
numbers 4 abcd
strided nil 0 runtime error: TypeError: memoryview was returned: BufferError: memoryview: underlying buffer is not C-contiguous
int nil 0 runtime error: TypeError: int was returned, but a response is bytes (or bytearray, memoryview, str, None)
list nil 0 runtime error: TypeError: list was returned, but a response is bytes (or bytearray, memoryview, str, None)
surrogate nil 0 runtime error: UnicodeEncodeError: 'utf-8' codec can't encode character '\udc80' in position 0: surrogates not allowed
--- error_log
TypeError: int was returned
--- no_error_log
[warn]



=== TEST 4: exceptions: the first line says what, the rest where
--- lua
for _, entry in ipairs { "fail", "afail" } do
    local rt = assert(py(entry))
    for _, kind in ipairs { "value", "own", "bare", "lines",
                            "unprintable", "exit", "interrupt",
                            "code", "cause", "deep", "fine" } do
        local res, err, code, msg = rt:call(kind)
        if res then
            ngx.say(kind, ": ", res)
        else
            local first = err:match("^[^\n]*")
            local said = err == "runtime error: " .. msg
            local where = msg:find("\nTraceback", 1, true)
            ngx.say(kind, ": ", first, ", ", code, ", ", said, " ",
                    where and "traced" or "bare")
            if kind == "value" then
                ngx.say((msg:match("\n.*$"):gsub("line %d+", "line")
                            :gsub('"[^"]*/t/', '"t/')))
            end
        end
    end
end
--- response_body
value: runtime error: ValueError: seven is wrong, 0, true traced

Traceback (most recent call last):
  File "t/plugins/py_verbs.py", line, in fail
    raise ValueError("seven is wrong")
own: runtime error: py_verbs.Own: mine, 0, true traced
bare: runtime error: KeyError, 0, true traced
lines: runtime error: ValueError: one, 0, true traced
unprintable: runtime error: py_verbs.Unprintable: <exception whose str() fails>, 0, true traced
exit: runtime error: SystemExit: 3, 0, true traced
interrupt: runtime error: KeyboardInterrupt, 0, true traced
code: runtime error: no such thing, 404, true bare
cause: runtime error: LookupError: outer, 0, true traced
deep: runtime error: RecursionError: maximum recursion depth exceeded, 0, true traced
fine: fine
value: runtime error: ValueError: seven is wrong, 0, true traced

Traceback (most recent call last):
  File "t/plugins/py_verbs.py", line, in afail
    return fail(request)
           ^^^^^^^^^^^^^
  File "t/plugins/py_verbs.py", line, in fail
    raise ValueError("seven is wrong")
own: runtime error: py_verbs.Own: mine, 0, true traced
bare: runtime error: KeyError, 0, true traced
lines: runtime error: ValueError: one, 0, true traced
unprintable: runtime error: py_verbs.Unprintable: <exception whose str() fails>, 0, true traced
exit: runtime error: SystemExit: 3, 0, true traced
interrupt: runtime error: KeyboardInterrupt, 0, true traced
code: runtime error: no such thing, 404, true bare
cause: runtime error: LookupError: outer, 0, true traced
deep: runtime error: RecursionError: maximum recursion depth exceeded, 0, true traced
fine: fine
--- error_log eval
[qr/\[error\].*\[py_verbs:fail\] ValueError: seven is wrong/,
 qr/\]   File ".*py_verbs\.py", line \d+, in fail/,
 qr/\] The above exception was the direct cause/]
--- no_error_log
no such thing



=== TEST 5: an entry that is none
--- lua
local nbffi = require "resty.nonblocking_ffi"
local function try(entry, given)
    local options = { language = "python", entry = entry,
                      path = "html" }
    for key, value in pairs(given or {}) do
        options[key] = value
    end
    local rt, err = nbffi.load(options)
    err = err and err:gsub('^plugin "[^"]*": ', ""):gsub('".-/html', '"html')
                     :gsub("%(/.-/html", "(html"):gsub("/.-/html", "html")
                     :gsub("'/[^']*'", "'...'")
    ngx.say(rt, " ", err)
end
try "good:nothing"
try "good:Class.nothing"
try "good:number"
try "good:Class"
try "good:generate"
try "good:agenerate"
try "good:HalfAsync"
try "good:Refuses"
try "missing:call"
try "good.missing:call"
try "1x:call"
try "broken:call"
try "dies:call"
try "leaves:call"
try "lacks:call"
try("good:call", { path = "html/nowhere" })
try("good:call", { path = { "html", "/nonexistent" } })
ngx.say(nbffi.load({ language = "python", entry = "good:call",
                     path = "html" }):call("alive"))
--- user_files
>>> good.py
number = 7
def call(request): return request
def generate(request): yield request
async def agenerate(request): yield request
class Class: pass
class HalfAsync:
    async def init(self, config): pass
    def call(self, request): return request
class Refuses:
    def init(self, config): raise LookupError("not with me")
    def call(self, request): return request
>>> broken.py
def call(request)
    return request
>>> dies.py
import good
good.number.nothing
>>> leaves.py
import sys
sys.exit(5)
>>> lacks.py
import no_such_module_anywhere
--- response_body
nil AttributeError: module "good" has no "nothing"
nil AttributeError: module "good" has no "Class.nothing"
nil TypeError: "good:number" is of type int: neither a function, nor an object or a class with a method "call"
nil TypeError: "good:Class" is a class: neither a function, nor an object or a class with a method "call"
nil TypeError: "good:generate" is a generator, not a function
nil TypeError: "good:agenerate" is a generator, not a function
nil TypeError: "good:HalfAsync": init is async, but call is not
nil LookupError: not with me (html/good.py, line 10)
nil ModuleNotFoundError: No module named 'missing'
nil ModuleNotFoundError: No module named 'good.missing'; 'good' is not a package
nil ValueError: entry must be "package.module:function", got "1x:call"
nil SyntaxError: expected ':' (broken.py, line 1)
nil AttributeError: 'int' object has no attribute 'nothing' (html/dies.py, line 2)
nil SystemExit: 5 (html/leaves.py, line 2)
nil ModuleNotFoundError: No module named 'no_such_module_anywhere' (html/lacks.py, line 1)
nil NotADirectoryError: path: no such folder: html/nowhere
nil NotADirectoryError: path: no such folder: /nonexistent
alive
--- error_log eval
[qr/\[error\].*AttributeError: 'int' object has no attribute 'nothing'/,
 qr/\]   File ".*dies\.py", line 2, in <module>/]
--- no_error_log
[alert]



=== TEST 6: misuse of load is blamed on its caller
--- lua
local blame = require("test_plugins").blame
for _, options in ipairs {
    "", "entry = 'nocolon'", "entry = 7", "entry = 'a:b', path = {}",
    "entry = 'a:b', path = { 7 }", "entry = 'a:b', threads = 0",
    "entry = 'a:b', threads = 2, pool = 'x'",
    "entry = 'a:b', library = 'x'", "entry = 'a:b', venv = ''",
    "entry = 'a:b', config = 'a\\0b'", "entry = 'a:b', python = 3.11",
    "entry = 'a:b', on_full = 'inline'",
} do
    local said = blame("require('resty.nonblocking_ffi').load {"
                       .. " language = 'python', " .. options .. "}")
    ngx.say(said)
end
--- response_body
caller:1: load: entry is missing: "package.module:function"
caller:1: load: entry must be "package.module:function", got "nocolon"
caller:1: load: entry must be "package.module:function", got 7
caller:1: load: path must be a folder, or a list of folders, got table
caller:1: load: path must be a folder, or a list of folders, got table
caller:1: load: threads must be an integer from 1 to 1024, got 0
caller:1: load: threads and pool exclude each other: a pool has its own number of threads
caller:1: load: unknown option "library" (there are: config, entry, language, max_response, name, on_full, path, pool, python, runtime, threads, timeout, venv)
caller:1: load: venv must be the folder of an environment, got ""
caller:1: load: config must be a string without NUL, got "a\0b"
caller:1: load: python must be the path of an interpreter or of a libpython, got 3.11
caller:1: load: on_full = "inline" is for Lua functions: the event loop can run nothing else



=== TEST 7: no libpython: the error lists where it looked; another one works
--- lua
local function try(given)
    local rt, err = py("echo", given)
    ngx.say(rt and rt:call("found") or err:gsub('^plugin "[^"]*": ', ""))
end
-- In the first round there is no Python yet, then there is one.
for round = 1, 2 do
    try { python = "/nonexistent/bin/python3" }
    try { python = "python3.999" }
    try { venv = "/nonexistent" }
    try {}
end
try { python = "html/libpython3.11.so" }
--- user_files
>>> libpython3.11.so
no library
--- response_body_like
^(?:cannot find a libpython .* python and venv .*tried:
  /nonexistent/bin/python3: No such file or directory .*
cannot find a libpython .*
  python3\.999: is not in PATH \(.*
cannot find a libpython .*
  /nonexistent/pyvenv\.cfg: No such file.*
found
){2}this worker runs Python 3\.\d+\.\d+ \(.*libpython3.*\) already, .*/html/libpython3\.11\.so was asked for$



=== TEST 8: the context: configuration, name, deadline, status
--- lua
local say = require("test_plugins").say
local rt = assert(py("context", { config = "gr\195\188n: 1\n2",
                                  name = "asked", timeout = 30 }))
say(rt:call("config"))
say(rt:call("name"))
say(rt:call("remaining"))
say(rt:call("remaining", { timeout = 500 }))
say(rt:call("cancelled"))
say(rt:call("status of a part"))
say(rt:call("thread", { timeout = 90 }))
local async = assert(py("acontext", { config = "child",
                                      name = "async" }))
say(async:call("gathered", { timeout = 70 }))
local keep = assert(py "keep")
keep:call("x")
say(keep:call("x"))
say("[" .. assert(py("context")):call("config") .. "]")
--- response_body
grün: 1
2
asked
30
500
False
of a part nil 206 partial
this thread runs no task, 90 False
child 70 child 70 nil 1 gathered
True 0.0
[]



=== TEST 9: a task sees that it is cancelled: timeout, and future:cancel
--- lua
local poll = require("test_plugins").poll
for _, case in ipairs { { "verbs", "poll", "report" },
                        { "averbs", "doze", "areport" } } do
    local rt = assert(py(case[1], { threads = 2 }))
    local verb, report = case[2], case[3]
    local function seen(text)
        return poll(function() return rt:call(report) == text end)
    end
    -- On a busy machine it may be too late to begin: until it was not.
    local err
    ngx.say(poll(function()
        rt:call(report .. " forget")
        err = select(2, rt:call(verb, { timeout = 0.05 }))
        poll(function() return rt:stats().in_flight == 0 end)
        return rt:call(report) == "begun cancelled"
    end), " ", err)
    rt:call(report .. " forget")
    local future = rt:submit(verb, { timeout = 60 })
    ngx.say(seen "begun")
    future:cancel()
    ngx.say(select(2, future:wait()), " ", seen "begun cancelled")
end
--- response_body
true timeout
true
cancelled true
true timeout
true
cancelled true



=== TEST 10: what runs on and on is stopped: deadline, cancel, cast
--- lua
local poll = require("test_plugins").poll
-- With one thread, nothing else would ever run again.
local rt = assert(py("verbs", { threads = 1 }))
-- On a busy machine it may be too late to begin: until it was not.
local res, err
local function until_seen(text, start)
    return poll(function()
        rt:call("report forget")
        start()
        poll(function() return rt:stats().in_flight == 0 end)
        return rt:call("report") == text
    end)
end
ngx.say(until_seen("begun Stopped finally", function()
    err = select(2, rt:call("spin", { timeout = 0.05 }))
end), " ", err)
ngx.say(until_seen("begun Stopped finally", function()
    res = rt:cast("spin", { timeout = 0.05 })
end), " ", res)
ngx.say(until_seen("begun Stopped finally", function()
    local future = rt:submit("spin")
    ngx.sleep(0.02)
    future:cancel()
end))
ngx.say(until_seen("Stopped Stopped Stopped", function()
    err = select(2, rt:call("stubborn", { timeout = 0.05 }))
end), " ", err)
--- response_body
true timeout
true true
true
true timeout
--- error_log eval
[qr/\[warn\].*\[py_verbs:verbs\] nonblocking_ffi\.Stopped: the deadline has/,
 qr/\]   File ".*py_verbs\.py", line \d+, in spin/]
--- no_error_log
[error]



=== TEST 11: a coroutine that keeps the loop for itself is stopped, the others go on
--- lua
local rt = assert(py("averbs"))
local futures = {}
for i = 1, 20 do
    futures[i] = rt:submit("aecho " .. i)
end
local other = rt:submit("aspin", { timeout = 0.05 })
for i = 21, 40 do
    futures[i] = rt:submit("aecho " .. i)
end
ngx.say((select(2, other:wait())))
local right = 0
for i = 1, 40 do
    if futures[i]:wait() == tostring(i) then right = right + 1 end
end
ngx.say(right)
--- response_body
timeout
40
--- error_log eval
[qr/\[warn\].*\[py_verbs:averbs\] nonblocking_ffi\.Stopped: /,
 qr/\]   File ".*py_verbs\.py", line \d+, in aspin/]
--- no_error_log
[error]



=== TEST 12: each runtime has a module of its own, and its own folders first
--- lua
local nbffi = require "resty.nonblocking_ffi"
local function load(path, config, name)
    return assert(nbffi.load {
        language = "python", entry = "pack.main:call", path = path,
        config = config, name = name,
    })
end
local a1 = load("html/a", "one", "a1")
local a2 = load("html/a", "two", "a2")
local b = load({ "html/b", "html/a" }, "three", "b")
for round = 1, 2 do
    ngx.say(a1:call(""), ", ", a2:call(""), ", ", b:call(""))
end
a2:close()
ngx.say(a1:call(""))
-- Another configuration is another runtime; the same is the same.
ngx.say(load("html/a", "one", "a1") == a1)
a1:close()
b:close()
--- user_files
>>> a/pack/__init__.py
>>> a/pack/main.py
import nonblocking_ffi
from . import part
import helper
count = 0
def call(request):
    global count
    count += 1
    return f"{helper.name} {part.name} {nonblocking_ffi.config()} {count}"
>>> a/pack/part.py
name = "part-of-a"
>>> a/helper.py
name = "a"
>>> b/pack/__init__.py
>>> b/pack/main.py
import nonblocking_ffi
import helper
count = 0
def call(request):
    global count
    count += 1
    return f"{helper.name} {nonblocking_ffi.config()} {count}"
>>> b/helper.py
name = "b"
--- response_body
a part-of-a one 1, a part-of-a two 1, b three 1
a part-of-a one 2, a part-of-a two 2, b three 2
a part-of-a one 3
true



=== TEST 13: what is logged and printed has its level and the runtime's name
--- lua
assert(py("say", { name = "speaker" })):call("it")
-- A thread belongs to no runtime; the oldest speaks for it.
assert(py("say_in_thread")):call("")
ngx.say("said")
--- response_body
said
--- grep_error_log eval: qr/\[\w+\] [^\[]*\[speaker\] [^,\n]*/
--- grep_error_log_out eval
qr/(?-s)^\[info\] .*\[speaker\] it at info
\[warn\] .*\[speaker\] it at warning
\[error\] .*\[speaker\] it at error
\[crit\] .*\[speaker\] it at critical
\[notice\] .*\[speaker\] it at notice
\[warn\] .*\[speaker\] some\.module: it of a module
\[notice\] .*\[speaker\] it printed
\[notice\] .*\[speaker\] it in parts printed
\[warn\] .*\[speaker\] it to stderr
\[notice\] .*\[speaker\] it of its own
\[error\] .*\[speaker\] it with a traceback
\[error\] .*\[speaker\] Traceback \(most recent call last\):
(?:\[error\] .*\[speaker\]  +.*
)+\[error\] .*\[speaker\] ZeroDivisionError: division by zero
\[notice\] .*\[speaker\] from a thread
$/
--- error_log eval
[qr/\[crit\].*it at critical/, qr/\[speaker\] ZeroDivisionError: division by zero/,
 qr/\[notice\].*from a thread/]
--- no_error_log
it at debug



=== TEST 14: each line is an entry; a long one becomes several; none can be forged
--- lua
assert(py("say_long")):call("")
assert(py("say_forged", { name = "forger" })):call("")
ngx.say("said")
--- response_body
said
--- grep_error_log eval: qr/\] (?:line \d+ x{60}(?=, context)|x{1000,})|^.*forged.*(?=, context)/m
--- grep_error_log_out eval
my $lines = CORE::join "", map { "] line $_ " . "x" x 60 . "\n" } 0 .. 99;
my $head = '\d{4}/\S+ \S+ \[notice\] \d+#\d+: (?:\*\d+ )?nonblocking_ffi: \[forger\] ';
qr{^$lines\] x{1900}
\] x{1100}
${head}2026/01/01 00:00:00 \[warn\] 1#1: forged \\x1b\[31mred\\x00 and more \xc3\xa4
$}
--- no_error_log
[error]



=== TEST 15: which pool runs it
--- lua
local nbffi = require "resty.nonblocking_ffi"
assert(nbffi.pool("mine", { threads = 2 }))
local function pool(given)
    local rt, err = py("echo", given)
    if not rt then
        return ngx.say(err)
    end
    assert(rt:call("x") == "x")
    local name = rt:stats().pool
    ngx.say(rt:stats().name, ": ", name, " ",
            given and nbffi.stats().pools[name].threads)
end
pool()
pool { threads = 3 }
pool { threads = 3, config = "again" }
pool { pool = "mine" }
pool { pool = "nobody's" }
nbffi.pool("python-5", { threads = 4 })
pool { threads = 5 }
--- response_body
py_verbs:echo: python nil
py_verbs:echo-2: python-3 3
py_verbs:echo-3: python-3 3
py_verbs:echo-4: mine 2
no pool "nobody's": declare it with pool()
pool "python-5" exists already, with threads = 4



=== TEST 16: ten thousand in flight, blocking and not
--- lua
local nbffi = require "resty.nonblocking_ffi"
for _, entry in ipairs { "echo", "aecho" } do
    local rt = assert(py(entry))
    local futures = {}
    for i = 1, 10000 do
        futures[i] = assert(rt:submit("request " .. i))
    end
    local most = rt:stats().in_flight
    local right = 0
    for i = 1, 10000 do
        if futures[i]:wait() == "request " .. i then
            right = right + 1
        end
    end
    ngx.say(entry, ": ", most > 1000, " ", right, " ",
            rt:stats().in_flight)
end
--- response_body
echo: true 10000 0
aecho: true 10000 0



=== TEST 17: what sleeps does not hold the others, on other threads or on a loop
--- lua
local nbffi = require "resty.nonblocking_ffi"
local rt = assert(py("verbs", { threads = 2 }))
local sleeper = rt:submit("sleep 30", { timeout = 60 })
local right = 0
for i = 1, 1000 do
    if rt:call("echo " .. i) == tostring(i) then right = right + 1 end
end
sleeper:cancel()
ngx.say(right)
local loop = assert(py "averbs")
local futures = {}
for i = 1, 100 do futures[i] = loop:submit("doze") end
for i = 1, 1000 do
    if loop:call("aecho " .. i) == tostring(i) then
        right = right + 1
    end
end
for i = 1, 100 do futures[i]:cancel() end
ngx.say(right, " ", loop:close())
--- response_body
1000
2000 true



=== TEST 18: loaded in init_worker, used in every phase that may
--- http_config eval
"$::HttpConfig
init_worker_by_lua_block {
    rt, err = py('echo', { name = 'early' })
    greeter = assert(py('AsyncGreeter', { config = 'hello' }))
    refused, why = py('Greeter', { config = 'refuse' })
}"
--- config
location = /t {
    access_by_lua_block { ngx.ctx.access = greeter:call("access") }
    content_by_lua_block {
        ngx.say(ngx.ctx.access, ", ", rt:call("content"), " ", err)
        ngx.say(refused, " ", why:match("ValueError: no greeting"))
    }
    log_by_lua_block { rt:cast("log") }
}
--- response_body
hello access, content nil
nil ValueError: no greeting
--- grep_error_log eval: qr/ValueError: no greeting/
--- grep_error_log_out eval
["ValueError: no greeting\n", ""]
--- no_error_log
[alert]



=== TEST 19: an end that fails ends nevertheless
--- lua
for i = 1, 3 do
    local rt = assert(py "Stiff")
    ngx.say(rt:call("works"), " ", rt:close(), " ", rt:call("x"))
end
--- response_body
works true nilclosed
works true nilclosed
works true nilclosed
--- error_log eval
qr/\[error\].*\[py_verbs:Stiff\] RuntimeError: will not end/
--- no_error_log
[alert]



=== TEST 20: every call is counted where it belongs
--- lua
local rt = assert(py "fail")
for i = 1, 5 do rt:call("fine") end
for i = 1, 3 do rt:call("code") end
local stats = rt:stats()
ngx.say(stats.name, " ", stats.calls, " ", stats.ok, " ",
        stats.errors["runtime error"], " ", stats.in_flight)
rt:close()
--- response_body
py_verbs:fail 8 5 3 0



=== TEST 21: the examples: template, and coroutines
--- lua
local say = require("test_plugins").say
local function load(entry, config)
    return assert(py("", {
        entry = entry, config = config,
        path = "$TEST_NGINX_PWD/examples/python",
    }))
end
local words = load("template:Words", "2")
say(words:call("to be or not\nto be or To say"))
say(load("template:Words"):call(""))
local clock = load("clock:Clock")
local futures = {}
for i = 1, 1000 do futures[i] = clock:submit("0.3") end
local most = 0
for i = 1, 1000 do
    most = math.max(most, tonumber((assert(futures[i]:wait()))))
end
say(most == 1000, clock:call("0"))
say((select(2, clock:call("60", { timeout = 0.02 }))))
say(clock:call("soon"))
--- response_body
{"to": 3, "be": 2}
{}
true 1
timeout
nil runtime error: a number of seconds is expected 400 a number of seconds is expected



=== TEST 22: the examples: thumbnails with Pillow
--- lua
local say = require("test_plugins").say
local thumbs = assert(py("", {
    entry = "thumbs:Thumbs", path = "$TEST_NGINX_PWD/examples/python",
    config = '{"width": 64, "height": 48, "max_pixels": 1000000}',
}))
local paint = assert(py "picture")
for _, what in ipairs { "RGB 640 480 JPEG", "RGB 300 600 PNG",
                        "RGBA 100 100 PNG", "L 10 10 PNG" } do
    local picture = assert(paint:call(what))
    local small, err, code, message = thumbs:call(picture)
    say(what, code, message, #small > 100 and #small < #picture + 1000)
    -- It is a picture itself, and fits the box.
    say((select(4, thumbs:call(small))))
end
say(thumbs:call("no picture at all"))
local whole = paint:call("RGB 640 480 JPEG")
say((select(3, thumbs:call(whole:sub(1, 2000)))))
say(thumbs:call(paint:call("RGB 1001 1000 PNG")))
say((select(2, py("", {
    entry = "thumbs:Thumbs", path = "$TEST_NGINX_PWD/examples/python",
    config = '{"with": 64}',
})):gsub("^.-: ", ""):gsub(" %(.*", "")))
--- response_body
RGB 640 480 JPEG 0 image/jpeg 64x48 of 640x480 true
image/jpeg 64x48 of 64x48
RGB 300 600 PNG 0 image/jpeg 24x48 of 300x600 true
image/jpeg 24x48 of 24x48
RGBA 100 100 PNG 0 image/png 48x48 of 100x100 true
image/png 48x48 of 48x48
L 10 10 PNG 0 image/jpeg 10x10 of 10x10 true
image/jpeg 10x10 of 10x10
nil runtime error: not a picture 415 not a picture
422
nil runtime error: 1001x1000 is more than 1000000 pixels 413 1001x1000 is more than 1000000 pixels
ValueError: unknown options: with
--- no_error_log
[alert]



=== TEST 23: the examples: similar vectors with numpy
--- lua
local say = require("test_plugins").say
local rt = assert(py("", {
    entry = "similar:Index", path = "$TEST_NGINX_PWD/examples/python",
    config = "random 10000x3", threads = 2,
}))
local row = '{"vectors": [[1, 2, 3], [-1, 0, 0]], "most": 2}'
local first = assert(rt:call(row))
say(first:gsub("%[%d+, [01]%.%d+%]", "[row, cosine]"))
-- All are similar to 0.99 and more; the best comes first.
local cosines = {}
for cosine in first:gmatch(", ([01]%.%d+)%]") do
    cosines[#cosines + 1] = tonumber(cosine)
end
say(cosines[1] >= cosines[2], cosines[2] > 0.99, cosines[4] > 0.99)
local futures = {}
for i = 1, 100 do futures[i] = rt:submit(row) end
for i = 1, 100 do assert(futures[i]:wait() == first) end
for _, wrong in ipairs { "", "[]", '{"vectors": [[1, 2]]}',
                         '{"vectors": [[1, 2, 3]], "most": 0}' } do
    say((select(3, rt:call(wrong))))
end
rt:close()
--- response_body
[[[row, cosine], [row, cosine]], [[row, cosine], [row, cosine]]] 4
true true true
400
400
400
400
--- error_log eval
qr/\[notice\].*\[similar:Index\] 10000 vectors of 3 numbers/
--- no_error_log
[error]



=== TEST 24: two runtimes of one module, and names that libraries have, too
--- lua
local nbffi = require "resty.nonblocking_ffi"
local function load(entry, path, name)
    return assert(nbffi.load {
        language = "python", entry = entry, path = path, name = name,
    })
end
local a = load("shop:call", "html/a", "a")
local b = load("shop:call", "html/a", "b")
local async = load("shop:acall", "html/a", "async")
local other = load("other:call", "html/b", "other")
for round = 1, 2 do
    for _, rt in ipairs { a, b, async, other } do
        ngx.say((rt:call("")))
    end
end
for _, rt in ipairs { a, b, async, other } do rt:close() end
--- user_files
>>> a/shop.py
import enum, pickle, threading, typing
class Color(enum.Enum):
    RED = 1
class Item:
    color: "Color"
def own():
    import uuid
    return (uuid.name, pickle.loads(pickle.dumps(Color.RED)) is Color.RED,
            type(pickle.loads(pickle.dumps(Item()))) is Item,
            typing.get_type_hints(Item)["color"] is Color)
def call(request):
    found = [own()]
    thread = threading.Thread(target=lambda: found.append(own()))
    thread.start()
    thread.join()
    return repr(found)
async def acall(request):
    return call(request)
>>> a/uuid.py
name = "own"
>>> b/other.py
def call(request):
    import uuid
    return str(uuid.UUID(int=7))
--- response_body
[('own', True, True, True), ('own', True, True, True)]
[('own', True, True, True), ('own', True, True, True)]
[('own', True, True, True), ('own', True, True, True)]
00000000-0000-0000-0000-000000000007
[('own', True, True, True), ('own', True, True, True)]
[('own', True, True, True), ('own', True, True, True)]
[('own', True, True, True), ('own', True, True, True)]
00000000-0000-0000-0000-000000000007
