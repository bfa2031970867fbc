# language = "java": methods of Java classes in the worker's JVM.

BEGIN {
    my @built = ('target/release/libnonblocking_ffi_java.so',
                 'target/test-plugins/java/verbs.jar');
    if (grep { !-e } @built) {
        print "1..0 # SKIP built without a JDK (see runtimes/java/build.sh)\n";
        exit 0;
    }
}

use lib '.';
use t::TestNbffi;

our $HttpConfig = q{
    init_by_lua_block {
        -- A runtime of the test classes.
        function java(entry, given)
            local nbffi = require "resty.nonblocking_ffi"
            local options = {
                language = "java", entry = "verbs." .. entry,
                class_path = "$TEST_NGINX_PWD/target/test-plugins/java/verbs.jar",
            }
            for key, value in pairs(given or {}) do
                options[key] = value
            end
            return nbffi.load(options)
        end

        -- The first line of an error, and how many there are.
        function head(err)
            local lines = select(2, err:gsub("\\n", "\\n"))
            return err:match("^[^\\n]*"), lines
        end
    }
};

log_level('info');
repeat_each(2);
plan tests => repeat_each() * (blocks() * 3 + 17);
run_tests();

__DATA__

=== TEST 1: requests and responses of every size come through
--- lua
local random = {}
for i = 1, 4096 do random[i] = string.char(math.random(0, 255)) end
random = table.concat(random)
local entries = {
    "Buffers#echo", "Buffers#heap", "Buffers#readOnlyHeap",
    "Buffers#fromBytes", "Futures#how",
}
for _, entry in ipairs(entries) do
    local rt = assert(java(entry, {
        name = entry, jvm_args = { "-Xmx256m" },
    }))
    local wrong = 0
    for _, size in ipairs { 0, 1, 7, 64, 65, 512, 513, 4096, 4097,
                            65536, 1000000, 10485760 } do
        local text = random:rep(math.ceil(size / #random)):sub(1, size)
        for i = 1, size < 10000 and 50 or 2 do
            local res, err = rt:call(text)
            if res ~= text then
                ngx.say(size, " ", err)
                wrong = wrong + 1
            end
        end
    end
    ngx.say(entry, " wrong: ", wrong)
end
--- response_body
Buffers#echo wrong: 0
Buffers#heap wrong: 0
Buffers#readOnlyHeap wrong: 0
Buffers#fromBytes wrong: 0
Futures#how wrong: 0



=== TEST 2: buffers: read-only, in place if large, slices of them, nothing
--- lua
local describe = assert(java("Buffers#describe", { name = "a" }))
ngx.say(describe:call("tiny"))
ngx.say(describe:call(("x"):rep(100000)))
local inner = assert(java("Buffers#inner", { name = "b" }))
ngx.say(inner:call("<inside>"))
for _, size in ipairs { 600, 5000, 1000000 } do
    local text = ("y"):rep(size)
    ngx.say(inner:call { "<", text, ">" } == text)
end
local own = assert(java("Buffers#own", { name = "c" }))
ngx.say(#own:call("1"), " ", #own:call("600"), " ", #own:call("500000"))
ngx.say("'", java("Buffers#nothing", { name = "d" }):call("x"), "'")
ngx.say("'", java("Buffers#nil", { name = "e" }):call("x"), "'")
ngx.say("'", java("Verbs", { name = "f" }):call("nothing"), "'")
--- response_body
direct=true readonly=true order=BIG_ENDIAN remaining=4 refused
direct=true readonly=true order=BIG_ENDIAN remaining=100000 refused
inside
true
true
true
1 600 500000
''
''
''



=== TEST 3: exceptions, with their stack traces, for the caller and in the log
--- lua
local rt = assert(java("Verbs", { name = "thrower" }))
local res, err, code, message = rt:call("throw text of it")
ngx.say(res, " ", code, " ", (err:gsub("Verbs.java:%d+", "line")))
ngx.say(err == "runtime error: " .. message)
res, err = rt:call("caused inner")
ngx.say((err:gsub("Verbs.java:%d+", "line")))
ngx.say(rt:call("echo still there"))
--- response_body eval
"nil 1 runtime error: java.lang.IllegalStateException: text of it
\tat verbs.Verbs.run(line)
\tat verbs.Verbs.call(line)
true
runtime error: java.lang.Exception: outer
\tat verbs.Verbs.run(line)
\tat verbs.Verbs.call(line)
Caused by: java.lang.RuntimeException: inner
\tat verbs.Verbs.run(line)
\tat verbs.Verbs.call(line)
still there
"
--- error_log eval
[
    qr/\[error\] .*\[thrower\] java.lang.IllegalStateException: text of it/,
    qr/\]     at verbs\.Verbs\.run\(Verbs\.java:\d+\)/,
]



=== TEST 4: errors of the machine are errors of the call
--- lua
local rt = assert(java("Verbs"))
for _, request in ipairs {
    "error assertion", "recurse", "exhaust", "npe", "divide 0", "recurse",
    "exhaust", "npe",
} do
    local res, err, code = rt:call(request)
    ngx.say(res, " ", code, " ", (head(err)))
end
-- The first implicit null checks run in the interpreter, later ones in
-- compiled code, where they are a SIGSEGV.
local others = 0
local function fail_often()
    for i = 1, 1000 do
        local _, err = rt:call(i % 2 == 0 and "npe" or "divide 0")
        if not err:find(i % 2 == 0 and "NullPointerException: Cannot"
                        or "ArithmeticException: / by zero") then
            others = others + 1
        end
    end
end
local threads = {}
for n = 1, 20 do
    threads[n] = ngx.thread.spawn(fail_often)
end
for n = 1, 20 do
    assert(ngx.thread.wait(threads[n]))
end
ngx.say("others: ", others, " ", rt:call("echo alive"))
--- response_body
nil 1 runtime error: java.lang.AssertionError: assertion
nil 1 runtime error: java.lang.StackOverflowError
nil 1 runtime error: java.lang.OutOfMemoryError: Java heap space
nil 1 runtime error: java.lang.NullPointerException: Cannot invoke "String.length()" because "text" is null
nil 1 runtime error: java.lang.ArithmeticException: / by zero
nil 1 runtime error: java.lang.StackOverflowError
nil 1 runtime error: java.lang.OutOfMemoryError: Java heap space
nil 1 runtime error: java.lang.NullPointerException: Cannot invoke "String.length()" because "text" is null
others: 0 alive
--- no_error_log
[alert]



=== TEST 5: failures and statuses of the author's own: no trace, nothing in the log
--- lua
local rt = assert(java("Verbs"))
ngx.say(table.concat({ select(2, rt:call("fail 404 missing")) }, ", "))
ngx.say(table.concat({ select(2, rt:call("fail -9 minus")) }, ", "))
local res, err, code, message = rt:call("status half of it")
ngx.say(res, " ", err, " ", code, " ", message)
ngx.say(select(4, rt:call("who")))
--- response_body
runtime error: missing, 404, missing
runtime error: minus, -9, minus
done nil 206 half of it
what is who?



=== TEST 6: futures: from other threads, failing, of any type, twice
--- lua
local nbffi = require "resty.nonblocking_ffi"
local rt = assert(java("Futures#later", { name = "later" }))
local futures = {}
for i = 1, 1000 do futures[i] = rt:submit(i % 50 .. " " .. i) end
local results = nbffi.wait_all(futures)
local wrong = 0
for i = 1, 1000 do
    if results[i] ~= tostring(i) then wrong = wrong + 1 end
end
ngx.say("wrong: ", wrong)
rt = assert(java("Futures#how", { name = "how" }))
for _, how in ipairs {
    "nothing", "direct", "twice", "status", "code", "echo this", "null",
    "string", "later string", "throw", "fail",
} do
    local res, err, code, message = rt:call(how)
    ngx.say(how, ": ", res and "'" .. res .. "'" or head(err), " ", code,
            " ", res and message)
end
--- response_body
wrong: 0
nothing: '' nil nil
direct: 'direc' nil nil
twice: '1' nil nil
status: 'ok' 206 partly
code: runtime error: seven 7 nil
echo this: 'echo this' nil nil
null: runtime error: java.lang.NullPointerException: the method returned null instead of a future 1 nil
string: runtime error: java.lang.ClassCastException: the future's value is of class java.lang.String, neither byte[] nor ByteBuffer 1 nil
later string: runtime error: java.lang.ClassCastException: the future's value is of class java.lang.String, neither byte[] nor ByteBuffer 1 nil
throw: runtime error: java.lang.IllegalStateException: at once 1 nil
fail: runtime error: java.lang.IllegalStateException: failed 1 nil
--- no_error_log
[alert]



=== TEST 7: futures that nobody waits for any more are cancelled, and their tasks end
--- lua
local tp = require "test_plugins"
local rt = assert(java("Futures#never", { name = ngx.var.request_id }))
local futures = {}
for i = 1, 20 do
    futures[i] = rt:submit("future", { timeout = 3600 })
end
local function given()
    return tonumber(rt:call("counts"):match("given=(%d+)"))
end
tp.poll(function() return given() == 20 end)
-- On a busy machine a task may be too late to start at all: until one
-- was not.
local function until_given(start)
    local before = given()
    return tp.poll(function()
        start()
        return given() > before
    end)
end
local err
until_given(function()
    err = select(2, rt:call("future", { timeout = 0.05 }))
end)
ngx.say(err)
-- A stage that cannot be cancelled; one that nobody waits for at all.
until_given(function()
    err = select(2, rt:call("stage", { timeout = 0.05 }))
end)
ngx.say(err)
until_given(function() rt:cast("future", { timeout = 0.05 }) end)
for i = 1, 20 do futures[i]:cancel() end
ngx.say(tp.poll(function() return rt:stats().in_flight == 0 end))
-- All but the stage; of the last ones a few may be late.
ngx.say(tp.poll(function()
    local all, cancelled = rt:call("counts")
                             :match("given=(%d+) cancelled=(%d+)")
    return all - cancelled == 1
end))
--- response_body
timeout
timeout
true
true



=== TEST 8: a method sees that its caller is gone; a thread that waits is woken
--- lua
local nbffi = require "resty.nonblocking_ffi"
local tp = require "test_plugins"
nbffi.pool("pair", { threads = 2 })
local id = ngx.var.request_id
local rt = assert(java("Verbs", { name = id, pool = "pair" }))
local quiet = assert(java("Verbs", { name = "quiet" .. id, pool = "pair",
                                     interrupt = false }))
local function count(rt, key)
    return tonumber(rt:call("counts"):match(key .. "=(%d+)"))
end
-- On a busy machine a task may be too late to start at all: until one
-- was not.
local function until_one_more(rt, key, start)
    local before = count(rt, key)
    return tp.poll(function()
        start()
        return count(rt, key) > before
    end)
end
ngx.say(rt:call("remaining", { timeout = 3600 }):match("^359%d%d%d%d ms"))
local err
-- Computing: asks.
ngx.say(until_one_more(quiet, "cancelled", function()
    err = select(2, quiet:call("spin", { timeout = 0.05 }))
end), " ", err, " ", count(quiet, "interrupted"))
-- Waiting: is interrupted when its time is over, when it is cancelled,
-- and when there is nobody to tell but the deadline.
ngx.say(until_one_more(rt, "interrupted", function()
    local res
    res, err = rt:call("doze 3600000", { timeout = 0.05 })
    -- The thread may be faster than nginx's timer.
    err = res == "woken" and "timeout" or err
end), " ", err)
local future = rt:submit("doze 3600000", { timeout = 3600 })
ngx.say(tp.poll(function() return count(rt, "dozing") == 1 end))
ngx.say(future:cancel(), " ",
        tp.poll(function() return count(rt, "dozing") == 0 end))
ngx.say(until_one_more(rt, "interrupted", function()
    rt:cast("doze 3600000", { timeout = 0.05 })
end))
ngx.say(tp.poll(function() return count(rt, "dozing") == 0 end))
-- And the next task on that thread knows nothing of it.
rt:call("interrupt")
for i = 1, 100 do
    local is = rt:call("is_interrupted")
    if is ~= "false" then ngx.say(is) end
end
-- What it throws then is of no interest to anybody.
rt:call("sleep 3600000", { timeout = 0.2 })
ngx.say(tp.poll(function() return rt:stats().in_flight == 0 end))
--- response_body_like eval
qr/^359\d+ ms
true timeout 0
true timeout
true
true true
true
true
true
$/



=== TEST 9: without interrupts a thread goes on
--- lua
local tp = require "test_plugins"
local rt = assert(java("Verbs", { name = ngx.var.request_id,
                                  interrupt = false }))
local err
tp.until_begun(rt, function()
    err = select(2, rt:call("doze 1000", { timeout = 0.02 }))
end)
ngx.say(err)
ngx.say(tp.poll(function() return rt:stats().in_flight == 0 end))
ngx.say(rt:call("counts"):match("interrupted=%d"))
-- It looks at the deadline itself.
local res, err = rt:call("block 3600000", { timeout = 0.02 })
ngx.say(res or err)
ngx.say(tp.poll(function() return rt:stats().in_flight == 0 end))
--- response_body_like eval
qr/^timeout
true
interrupted=0
(timeout|blocked)
true
$/



=== TEST 10: ten thousand in flight
--- lua
local nbffi = require "resty.nonblocking_ffi"
for _, entry in ipairs { "Futures#later", "Verbs" } do
    local rt = assert(java(entry, { name = entry }))
    local futures = {}
    for i = 1, 10000 do
        futures[i] = assert(rt:submit(
            entry == "Verbs" and "echo " .. i or "300 " .. i))
    end
    local in_flight = rt:stats().in_flight
    local results, errors = nbffi.wait_all(futures)
    local wrong = 0
    for i = 1, 10000 do
        if results[i] ~= tostring(i) then wrong = wrong + 1 end
    end
    ngx.say(in_flight == 10000, " wrong: ", wrong, " ", next(errors))
end
--- response_body
true wrong: 0 nil
true wrong: 0 nil



=== TEST 11: two runtimes: configurations, classes and statics of their own
--- lua
local nbffi = require "resty.nonblocking_ffi"
local a = assert(java("Verbs", { config = "tea, grüße", name = "a" }))
local b = assert(java("Verbs", { name = "b" }))
ngx.say(a:call("config"))
ngx.say("'", b:call("config"), "'")
local base = "$TEST_NGINX_PWD/target/test-plugins/java/"
local one = assert(nbffi.load{ language = "java", entry = "Greeter",
                               class_path = base .. "v1" })
local two = assert(nbffi.load{ language = "java", entry = "Greeter",
                               class_path = { base .. "v2" } })
ngx.say(one:stats().name, " ", two:stats().name)
for i = 1, 2 do ngx.say(one:call(""), "; ", two:call("")) end
for _, rt in ipairs { one, two } do assert(rt:close()) end
local string = assert(java("Wrong$Child#call", { config = "given" }))
ngx.say(string:call("x"))
string = assert(java("Wrong$Child#inherited", { config = "given" }))
ngx.say(string:call("x"))
--- response_body
a: tea, grüße
'b: '
Greeter Greeter-2
version 1, call 1; version 2, call 1
version 1, call 2; version 2, call 2
given!
given!



=== TEST 12: close and load again: the class as it is now
--- lua
local nbffi = require "resty.nonblocking_ffi"
local sh = require("test_plugins").sh
local base = "$TEST_NGINX_PWD/target/test-plugins/java/"
local folder = os.tmpname()
os.remove(folder)
assert(sh("mkdir " .. folder))
for round = 1, 4 do
    local version = round % 2 + 1
    local from = io.open(base .. "v" .. version .. "/Greeter.class",
                         "rb")
    local to = io.open(folder .. "/Greeter.class", "wb")
    to:write(from:read("*a"))
    to:close()
    local rt = assert(nbffi.load{ language = "java", entry = "Greeter",
                                  class_path = folder })
    ngx.say(rt:call(""))
    assert(rt:close())
end
assert(sh("rm -r " .. folder))
--- response_body
version 2, call 1
version 1, call 1
version 2, call 1
version 1, call 1



=== TEST 13: close is called once, after the last call
--- lua
local rt = assert(java("Verbs", { name = "first" }))
for i = 1, 7 do rt:call("echo") end
ngx.say(rt:close())
rt = assert(java("Verbs", { name = "second", config = "bad close" }))
ngx.say(rt:close())
rt = assert(java("Futures#never", { name = "third" }))
ngx.say(rt:close())
--- response_body
true
true
true
--- error_log
[first] closed after 7 calls
[second] closed after 0 calls
[second] close: java.lang.IllegalStateException: cannot close
[third] futures closed



=== TEST 14: what cannot be loaded says why
--- lua
local nbffi = require "resty.nonblocking_ffi"
local function try(entry, given)
    local rt, err = java(entry, given)
    ngx.say((head(rt and "loaded" or err):gsub('plugin ".-": ', "")
             :gsub("%S+/test%-plugins", "...")))
end
try("Nowhere")
try("Verbs#nothing")
try("Wrong$Parameters")
try("Wrong$Result")
try("Wrong$Several")
try("Wrong$Constructor")
try("Wrong$Unfinished")
try("Wrong$Initializer")
try("Verbs", { config = "throw in the constructor" })
try("Verbs", { class_path = "/no/such.jar" })
try("Verbs", { class_path = "/no/such/*" })
try("Verbs", { class_path = "/etc/*" })
try("Futures#later", { virtual_threads = true })
-- And nothing of all that is left.
try("Verbs")
--- response_body
there is no class verbs.Nowhere in class_path .../java/verbs.jar
class verbs.Verbs has no method nothing: it must take byte[] or ByteBuffer, and Context behind it if it likes, and return byte[], ByteBuffer, void or a CompletionStage
class verbs.Wrong$Parameters has no call that can be called, only byte[] call(String), byte[] call(byte[], int): it must take byte[] or ByteBuffer, and Context behind it if it likes, and return byte[], ByteBuffer, void or a CompletionStage
class verbs.Wrong$Result has no call that can be called, only String call(byte[]): it must take byte[] or ByteBuffer, and Context behind it if it likes, and return byte[], ByteBuffer, void or a CompletionStage
class verbs.Wrong$Several has several methods byte[] call(byte[]), void call(ByteBuffer): give the one to be called a name of its own
class verbs.Wrong$Constructor has no constructor that takes a Host, a String or nothing
class verbs.Wrong$Unfinished is abstract
java.lang.ExceptionInInitializerError
java.lang.IllegalStateException: in the constructor
class_path: there is no /no/such.jar (or nginx's user may not see it)
class_path: /no/such/*: cannot list the folder (java.nio.file.NoSuchFileException: /no/such)
class_path: /etc/*: there are no jars
virtual_threads is for methods that return the response itself, not a future of it
loaded
--- error_log
Caused by: java.lang.NumberFormatException: For input string: "ten"



=== TEST 15: misuse is blamed on the caller
--- lua
local nbffi = require "resty.nonblocking_ffi"
for _, options in ipairs {
    {},
    { class_path = "/a.jar" },
    { class_path = "/a.jar", entry = "" },
    { class_path = "/a.jar", entry = "a b" },
    { class_path = "/a.jar", entry = "a.B#" },
    { class_path = "/a.jar", entry = "a.B#c#d" },
    { class_path = {}, entry = "a.B" },
    { class_path = ":", entry = "a.B" },
    { class_path = "/a.jar", entry = "a.B", jvm_args = "-Xmx1g" },
    { class_path = "/a.jar", entry = "a.B", interrupt = "no" },
    { class_path = "/a.jar", entry = "a.B", config = "a\0b" },
    { class_path = "/a.jar", entry = "a.B", library = "x" },
} do
    options.language = "java"
    local ok, err = pcall(nbffi.load, options)
    ngx.say(ok, " ", err)
end
-- No argument is as good as none.
ngx.say(assert(java("Verbs", { name = "same", jvm_args = {} }))
        == java("Verbs", { name = "same" }))
--- response_body eval
q{false load: class_path is missing: jars and folders with classes
false load: entry is missing: "package.Class#method"
false load: entry must be "package.Class#method", got ""
false load: entry must be "package.Class#method", got "a b"
false load: entry must be "package.Class#method", got "a.B#"
false load: entry must be "package.Class#method", got "a.B#c#d"
false load: class_path must be jars and folders, with ":" between them or as a list, got table
false load: class_path must be jars and folders, with ":" between them or as a list, got ":"
false load: jvm_args must be a list of the JVM's arguments, got "-Xmx1g"
false load: interrupt must be a boolean, got "no"
false load: config must be a string without NUL, got "a\0b"
false load: unknown option "library" (there are: class_path, config, entry, interrupt, java_home, jvm_args, language, max_response, name, on_full, pool, runtime, timeout, virtual_threads)
true
}



=== TEST 16: what Java code prints and logs is in nginx's log, with its runtime
--- lua
local rt = assert(java("Verbs", { name = "talker" }))
local other = assert(java("Verbs", { name = "other" }))
other:call("echo")
rt:call("out printed, grüße")
rt:call("err first|second|unfinished")
rt:call("trace of the stack")
rt:call("thread of its own")
rt:call("log WARNING a warning")
rt:call("log INFO for information")
rt:call("log OFF never")
rt:call("logger a value")
rt:call("jul severe")
other:call("out by another")
-- A line of nginx's ends somewhere; the next one goes on.
rt:call("log ERROR " .. ("long "):rep(1000) .. "end")
ngx.say("done")
--- response_body
done
--- error_log eval
[
    qr/\[notice\] .*\[talker\] printed, grüße/,
    qr/\[error\] .*\[talker\] first/,
    qr/\[error\] .*\[talker\] second/,
    qr/\[error\] .*\[talker\] unfinished/,
    qr/\[error\] .*\[talker\] java.lang.RuntimeException: of the stack/,
    qr/\[notice\] .*\[talker\] from a thread: of its own/,
    qr/\[warn\] .*\[talker\] a warning/,
    qr/\[info\] .*\[talker\] for information/,
    qr/\[warn\] .*\[talker\] my.logger: via System: a value/,
    qr/\[error\] .*\[talker\] my.jul: severe: java.lang.RuntimeException: thrown/,
    qr/\[notice\] .*\[other\] by another/,
    qr/\[error\] .*\[talker\] (long ){300}/,
    qr/\[error\] .*\[talker\] .*long end/,
]
--- no_error_log
never



=== TEST 17: the threads of the pool are Java's, as daemons, with its class loader
--- lua
local nbffi = require "resty.nonblocking_ffi"
nbffi.pool("wide", { threads = 64 })
local rt = assert(java("Verbs", { name = "mine", pool = "wide" }))
ngx.say((rt:call("where"):gsub("%d+", "n")))
local futures = {}
for i = 1, 64 do
    futures[i] = rt:submit({ "meet ", "64" })
end
nbffi.wait_all(futures)
-- All 64, and the JVM's own.
local threads = tonumber(rt:call("threads"))
ngx.say(threads >= 64, " ", threads < 80)
ngx.say(rt:call("property file.encoding"), " ",
        rt:call("property java.awt.headless"))
--- response_body
nbffi/wide/n daemon=true loader=classes of mine
true true
UTF-8 true



=== TEST 18: System.exit ends neither the worker nor other calls
--- lua
local nbffi = require "resty.nonblocking_ffi"
local id = ngx.var.request_id
nbffi.pool(id, { threads = 2 })
local rt = assert(java("Verbs", { pool = id, name = id }))
ngx.say((select(2, rt:call("exit"))))
ngx.say(rt:call("echo still here"), " ", ngx.worker.pid() > 0)
ngx.say((select(2, rt:call("exit"))))
--- response_body
runtime error: System.exit was called
still here true
runtime error: System.exit was called
--- error_log
System.exit was called: that does not end nginx's worker



=== TEST 19: relative paths start at nginx's prefix
--- lua
local nbffi = require "resty.nonblocking_ffi"
local up = ("../"):rep(30) .. "$TEST_NGINX_PWD/target/test-plugins/java"
for _, class_path in ipairs {
    up .. "/verbs.jar", up .. "/*", up .. "/v1:" .. up .. "/verbs",
} do
    local rt = assert(nbffi.load{ language = "java", name = class_path,
                                  class_path = class_path,
                                  entry = "verbs.Verbs#call" })
    ngx.say(rt:call("echo found"))
end
--- response_body
found
found
found



=== TEST 20: the JVM's arguments: ours, the user's, and those of a second runtime
--- lua
local base = { name = "a", jvm_args = { "-Xmx100m", "-Dtea=green" } }
local rt, err = java("Verbs", {
    jvm_args = { "-cp", "/a.jar" } })
if not rt then ngx.say((err:gsub('plugin ".-": ', ""))) end
rt = assert(java("Verbs", base))
ngx.say(rt:call("property tea"))
ngx.say(tonumber(rt:call("memory"):match("max=(%d+)")) > 90e6)
base.name = "b"
ngx.say(assert(java("Verbs", base)):call("echo the same"))
ngx.say(assert(java("Verbs", { name = "c" })):call("echo none"))
rt, err = java("Verbs", { name = "d", jvm_args = { "-Xmx1g" } })
ngx.say((err:gsub('plugin ".-": ', "")))
--- response_body_like eval
qr/^jvm_args: "-cp": the classes of a runtime are in class_path
green
true
the same
none
jvm_args: a worker has one JVM, and this one was made with "-Xmx100m -Dtea=green", not with "-Xmx1g": give all Java runtimes the same, or only the one that is loaded first
$/



=== TEST 21: an interrupt hits the call that nobody waits for, and no other
--- lua
local nbffi = require "resty.nonblocking_ffi"
nbffi.pool("crowd", { threads = 4 })
local rt = assert(java("Verbs", { name = ngx.var.request_id, pool = "crowd" }))
local slept, err = 0, nil
for _ = 1, 100 do
    local waited = {}
    for i = 1, 8 do
        -- One waits; the other leaves the interrupt for the runtime to clear.
        local verb = i % 2 == 0 and "doze 3600000" or "spin"
        assert(rt:cast(verb, { timeout = 0.001 * (i % 4 + 1) }))
        waited[i] = assert(rt:submit("sleep 1", { timeout = 3600 }))
    end
    local results, errors = nbffi.wait_all(waited)
    for i = 1, 8 do
        if results[i] == "slept" then slept = slept + 1 end
        err = err or errors[i]
    end
end
-- Most began, and were interrupted.
local woken = tonumber(rt:call("counts"):match("interrupted=(%d+)"))
ngx.say(slept, " ", err, " ", woken > 0)
--- response_body
800 nil true
