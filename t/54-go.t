# language = "go": functions in Go.

use lib '.';
use t::TestNbffi;

our $HttpConfig = q{
    init_by_lua_block {
        function go(entry, given)
            local nbffi = require "resty.nonblocking_ffi"
            local options = {
                language = "go", library = "go_verbs", entry = entry,
            }
            for key, value in pairs(given or {}) do
                options[key] = value
            end
            return nbffi.load(options)
        end

        -- What the library has counted.
        function count(key)
            local counts = assert(assert(go("do inline")):call("counts"))
            return tonumber(counts:match(key .. "=(%d+)"))
        end
    }
};

log_level('info');
repeat_each(2);
plan tests => repeat_each() * (blocks() * 3 + 2);
run_tests();

__DATA__

=== TEST 1: requests and responses of every size come through
--- lua
local random = {}
for i = 1, 4096 do random[i] = string.char(math.random(0, 255)) end
random = table.concat(random)
for _, entry in ipairs { "echo", "echo zero copy", "do", "do inline",
                         "do goroutines" } do
    local rt = assert(go(entry))
    local verb = entry:find("^do") and "echo " or ""
    local bad = 0
    for _, n in ipairs { 0, 1, 7, 64, 65, 4095, 4096, 65536, 1000000,
                         10485760 } do
        local text = random:rep(math.ceil(n / #random)):sub(1, n)
        for i = 1, n < 10000 and 50 or 2 do
            local res, err = rt:call({ verb, text })
            if res ~= text then
                bad = bad + 1
                ngx.say(n, ": ", err or #res)
            end
        end
    end
    ngx.say(entry, ": ", bad)
end
local half = assert(go("half"))
for _, n in ipairs { 0, 1, 100, 1000001 } do
    local text = random:rep(math.ceil(n / #random)):sub(1, n)
    ngx.say(half:call(text) == text:sub(math.floor(n / 2) + 1))
end
--- response_body
echo: 0
echo zero copy: 0
do: 0
do inline: 0
do goroutines: 0
true
true
true
true



=== TEST 2: errors, codes and statuses
--- lua
local say = require("test_plugins").say
for _, entry in ipairs { "do inline", "do goroutines" } do
    local rt = assert(go(entry))
    say(rt:call("error out of luck"))
    say(rt:call("code 418 a teapot"))
    say(rt:call("code -9000000000 below"))
    say(rt:call("nonsense 1"))
    say(rt:call("empty"))
    say(rt:call("status fine"))
    ngx.say("<", select(2, rt:call("error ")))
end
--- response_body eval
<<'END' x 2
nil runtime error: out of luck 1 out of luck
nil runtime error: wrapped: a teapot 418 wrapped: a teapot
nil runtime error: wrapped: below -9000000000 wrapped: below
nil runtime error: no verb "nonsense" 404 no verb "nonsense"

with a status nil 203 fine
<runtime error: 1
END



=== TEST 3: a panic is an error, with its stack in the log
--- lua
local say = require("test_plugins").say
for _, entry in ipairs { "do inline", "do goroutines" } do
    local rt = assert(go(entry))
    say(rt:call("panic on purpose"))
    say(rt:call("dereference"))
    say(rt:call("divide "))
    say(rt:call("index x"))
    say(rt:call("typed nil"))
    say(rt:call("echo still here"))
end
--- response_body eval
<<'END' x 2
nil runtime error: panic: on purpose -1 panic: on purpose
nil runtime error: panic: runtime error: invalid memory address or nil pointer dereference -1 panic: runtime error: invalid memory address or nil pointer dereference
nil runtime error: panic: runtime error: integer divide by zero -1 panic: runtime error: integer divide by zero
nil runtime error: panic: runtime error: slice bounds out of range [:1] with length 0 -1 panic: runtime error: slice bounds out of range [:1] with length 0
nil runtime error: panic: runtime error: invalid memory address or nil pointer dereference -1 panic: runtime error: invalid memory address or nil pointer dereference
still here
END
--- error_log
panic in a handler: on purpose
panic in a handler: runtime error: invalid memory address
plugins/go/main.go:



=== TEST 4: a handler that ends its goroutine has failed
--- lua
local rt = assert(go("do goroutines"))
for i = 1, 100 do
    local res, err, code = rt:call("exit")
    if err ~= "runtime error: the handler has neither returned nor "
              .. "panicked" or code ~= -1
    then
        ngx.say(res, " ", err, " ", code)
    end
end
ngx.say((rt:call("echo still here")))
--- response_body
still here



=== TEST 5: a caller that gives up is seen inside
--- lua
local poll = require("test_plugins").poll
local rt = assert(go("do"))
assert(rt:call("reset"))
local function becomes(key, n)
    ngx.say(key, " ", n, " ",
            poll(function() return count(key) == n end))
end
for _, verb in ipairs { "wait", "poll" } do
    -- Its deadline.
    local before, err = count("expired")
    poll(function()
        err = select(2, rt:call(verb .. " 60000", { timeout = 0.05 }))
        poll(function() return rt:stats().in_flight == 0 end)
        return count("expired") > before
    end)
    ngx.say(err)
end
becomes("expired", 2)
local futures = {}
for i, verb in ipairs { "wait", "poll" } do
    futures[i] = rt:submit(verb .. " 60000")
end
becomes("running", 2)
for i = 1, 2 do futures[i]:cancel() end
becomes("cancelled", 2)
becomes("running", 0)
-- Nobody waits, and nobody can give up: the deadline is all there is.
for _, verb in ipairs { "wait", "poll" } do
    local before = count("expired")
    poll(function()
        rt:cast(verb .. " 60000", { timeout = 0.05 })
        poll(function() return rt:stats().in_flight == 0 end)
        return count("expired") > before
    end)
end
becomes("expired", 4)
ngx.say("cancelled ", count("cancelled"))
--- response_body
timeout
timeout
expired 2 true
running 2 true
cancelled 2 true
running 0 true
expired 4 true
cancelled 2



=== TEST 6: the deadline is in the context
--- lua
for _, entry in ipairs { "do inline", "do goroutines" } do
    local rt = assert(go(entry))
    local left = tonumber(rt:call("deadline", { timeout = 20 }))
    ngx.say(left > 10000 and left <= 20000 or left)
    ngx.say((rt:call("deadline", { timeout = 1e9 })))
end
--- response_body
true
none
true
none



=== TEST 7: 10,000 requests are handled at a time
--- lua
local nbffi = require "resty.nonblocking_ffi"
local rt = assert(go("do goroutines"))
local futures = {}
for i = 1, 10000 do
    futures[i] = assert(rt:submit("hold " .. i))
end
ngx.say(require("test_plugins").poll(function()
    return count("running") == 10000
end))
assert(rt:call("open"))
local results, errors = nbffi.wait_all(futures)
local right = 0
for i = 1, 10000 do
    if results[i] == tostring(i) then right = right + 1 end
end
ngx.say(right, " ", next(errors))
ngx.say(count("running"), " ", rt:stats().in_flight)
--- response_body
true
10000 nil
0 0



=== TEST 8: a handler that has been quick may block; requests still get in
--- lua
local nbffi = require "resty.nonblocking_ffi"
assert(nbffi.pool("two", { threads = 2 }))
assert(nbffi.pool("one", { threads = 1 }))
for _, pool in ipairs { "two", "one" } do
    local rt = assert(go("do", { pool = pool, name = pool }))
    for i = 1, 2000 do
        assert(rt:call("echo " .. i) == tostring(i))
    end
    local futures = {}
    for i = 1, 100 do
        futures[i] = assert(rt:submit("wait 60000"))
    end
    -- With as many threads as there are, a blocked one would be seen.
    ngx.say(pool, " ", require("test_plugins").poll(function()
        return count("running") == 100
    end))
    for i = 1, 100 do futures[i]:cancel() end
    ngx.say(require("test_plugins").poll(function()
        return count("running") == 0
    end))
end
--- response_body
two true
true
one true
true



=== TEST 9: runtimes of one library have configurations of their own
--- lua
assert(assert(go("do inline")):call("reset"))
local a = assert(go("counter", { config = "10" }))
local b = assert(go("counter", { config = "900" }))
local say = require("test_plugins").say
say(a:call(""), b:call(""), a:call(""), b:call(""))
say(a:stats().name, b:stats().name)
ngx.say(go("counter", { config = "10" }) == a)
local c = assert(go("do", { config = "x:1:y\n:", name = "speaker" }))
say(c:call("config"))
ngx.say(a:close(), " ", b:close(), " ", count("closed"))
local again = assert(go("counter", { config = "10" }))
say(again:call(""), again:stats().name)
again:close()
-- It says so when its config does not please it.
say(go("counter", { config = "fail", name = "f" }))
say(go("counter", { config = "panic", name = "p" }))
say((select(2, go("counter", { config = "many" })):gsub("^.-: ", "")))
--- response_body_like eval
qr{\A10 900 11 901
counter counter-2
true
speaker: x:1:y
:
true true 2
10 counter
nil plugin "\S+/libgo_verbs\.so": told to fail
nil plugin "\S+/libgo_verbs\.so": panic: told to panic
strconv.Atoi: parsing "many": invalid syntax
\z}
--- error_log
panic in Init: told to panic



=== TEST 10: load says what is wrong
--- lua
local blame = require("test_plugins").blame
local load = require("resty.nonblocking_ffi").load
for _, given in ipairs {
    "", "library = 5", "library = 'go_verbs', entry = ''",
    "library = 'go_verbs', config = 5", "library = 'x', module = 'y'",
    "library = 'go_verbs', on_full = 'inline'",
} do
    ngx.say(blame("(...) { language = 'go', " .. given .. " }", load))
end
for _, given in ipairs {
    { entry = "nothing" }, {}, { library = "echo" },
} do
    ngx.say((select(2, go(given.entry, given)):gsub("/%S+/", "")))
end
ngx.say((select(2, go("do", { library = "/none.so" }))
         :match("^cannot load library \"/none.so\"")))
--- response_body
caller:1: load: library is missing: the path of a shared object that go build -buildmode=c-shared made
caller:1: load: library must be a non-empty string, got 5
caller:1: load: entry must be the name of a function, got ""
caller:1: load: config must be a string, got 5
caller:1: load: unknown option "module" (there are: config, entry, language, library, max_response, name, on_full, pool, runtime, timeout)
caller:1: load: on_full = "inline" is for Lua functions: the event loop can run nothing else
plugin "libgo_verbs.so": no function "nothing" is registered in this library, only "counter", "do", "do goroutines", "do inline", "echo", "echo zero copy", "half", "keep"
plugin "libgo_verbs.so": this library has several functions; entry must be one of "counter", "do", "do goroutines", "do inline", "echo", "echo zero copy", "half", "keep"
library "libecho.so" has no plugin entry "nbffi_go_entry": libecho.so: undefined symbol: nbffi_go_entry
cannot load library "/none.so"



=== TEST 11: several libraries in Go: each is interrupted, and recovers from faults
--- http_config eval
my $copies = q{
        local lib = ngx.config.prefix() .. "logs/lib"
        os.execute("mkdir -p " .. lib)
        for i = 1, 3 do
            -- A file of its own is a library of its own, with a Go runtime.
            os.execute("cp } . Cwd::cwd() . q{/target/test-plugins/libgo_verbs.so "
                       .. lib .. "/libgo_" .. i .. ".so")
        end
};
$::HttpConfig =~ s/init_by_lua_block \{/$&$copies/r
--- lua
local nbffi = require "resty.nonblocking_ffi"
local lib = ngx.config.prefix() .. "logs/lib/"
nbffi.pool("many", { threads = 6 })
local inline, rts, echoes = {}, {}, {}
local function load(i)
    local given = { library = lib .. "libgo_" .. i .. ".so",
                    pool = "many" }
    inline[i] = assert(go("do inline", given))
    rts[i] = assert(go("do goroutines", given))
    echoes[i] = assert(go("echo", given))
end
-- The third comes while loops of the first and the second run.
load(1)
load(2)
local futures = {}
local function turn(i)
    futures[#futures + 1] = inline[i]:submit("turn " .. i)
    futures[#futures + 1] = rts[i]:submit("turn " .. i)
end
turn(1)
turn(2)
load(3)
turn(3)
-- Loops that only a signal interrupts: a collection waits for it, and
-- with it all else of that runtime.
local collectors = {}
for i = 1, 3 do
    collectors[i] = assert(rts[i]:submit("gc 3", { timeout = 20 }))
end
for i = 1, 300 do
    local text = ("x"):rep(i)
    local echo = echoes[i % 3 + 1]
    assert(assert(echo:call(text, { timeout = 20 })) == text)
end
for i = 1, 3 do
    ngx.say((assert(collectors[i]:wait())))
end
for i = 1, 3 do
    local _, err = rts[i]:call("divide")
    ngx.say(err:match("panic: [^\n]*"))
    _, err = inline[i]:call("typed nil")
    ngx.say(err:match("panic: [^\n]*"))
end
for i = 1, 3 do
    assert(rts[i]:call("open"))
end
local results, errors = nbffi.wait_all(futures)
ngx.say(table.concat(results, " "), " ", next(errors))
local log = io.open(ngx.config.prefix() .. "logs/error.log"):read("*a")
for number in log:gmatch("brings Go runtime number %d") do
    ngx.say(number)
end
--- response_body eval
("collected\n" x 3)
. ("panic: runtime error: integer divide by zero\n"
   . "panic: runtime error: invalid memory address or nil pointer dereference\n") x 3
. "1 1 2 2 3 3 nil\n"
. "brings Go runtime number 2\nbrings Go runtime number 3\n"
--- no_error_log
libgo_1.so" brings Go runtime



=== TEST 12: garbage is collected while every thread computes
--- lua
local nbffi = require "resty.nonblocking_ffi"
local inline = assert(go("do inline"))
local rt = assert(go("do goroutines"))
local echo = assert(go("echo"))
-- Loops that only a signal interrupts, on a pool thread and on Go's:
-- were it blocked, the first collection would wait for ever.
local futures = {
    inline:submit("turn 1"), rt:submit("turn 2"), rt:submit("turn 3"),
}
local collector = assert(rt:submit("gc 20"))
local bad = 0
local function feed()
    for i = 1, 50 do
        local text = ("x"):rep(i * 10)
        if echo:call(text) ~= text then bad = bad + 1 end
    end
end
local threads = {}
for i = 1, 8 do threads[i] = ngx.thread.spawn(feed) end
for i = 1, 8 do ngx.thread.wait(threads[i]) end
ngx.say("bad: ", bad, ", ", assert(collector:wait()))
assert(rt:call("open"))
local results, errors = nbffi.wait_all(futures)
ngx.say(table.concat(results, " "), " ", next(errors))
--- response_body
bad: 0, collected
1 2 3 nil



=== TEST 13: logging
--- lua
local rt = assert(go("do", { name = "talker" }))
ngx.say((rt:call("log of wood")))
-- Lines may come behind the response.
local log = ngx.config.prefix() .. "logs/error.log"
require("test_plugins").poll(function()
    return io.open(log):read("*a"):find("Writer of wood", 1, true)
end)
--- response_body
logged
--- grep_error_log eval: qr/\[\w+\] \S+ (?:\*\d+ )?nonblocking_ffi: \[talker\] [^,\n]*/
--- grep_error_log_out eval
qr/\A\[warn\] .*\[talker\] Log of wood1 2\n\[notice\] .*\[talker\] Logf <of wood>\n\[error\] .*\[talker\] Writer of wood\n/



=== TEST 14: a request that was copied may be kept
--- lua
local keep, rt = assert(go("keep")), assert(go("do"))
for i = 1, 20 do
    local text = ("secret" .. i):rep(1000)
    assert(keep:call(text) == "")
    text = nil
    collectgarbage()
    for j = 1, 50 do rt:call("echo " .. ("other"):rep(j * 50)) end
    if rt:call("kept") ~= ("secret" .. i):rep(1000) then
        ngx.say("changed")
    end
end
ngx.say((rt:call("pipe")))
--- response_body
true



=== TEST 15: the library of the template, as any plugin and with its one function
--- lua
local nbffi = require "resty.nonblocking_ffi"
local say = require("test_plugins").say
for _, runtime in ipairs { "c", "go" } do
    local rt = assert(nbffi.load { runtime = runtime,
                                   library = "go_template" })
    say(rt:call("hello"))
    say(rt:call(""))
    say(rt:stats().name)
end
--- response_body
HELLO
nil runtime error: nothing to do 400 nothing to do
go_template
HELLO
nil runtime error: nothing to do 400 nothing to do
go_template-2



=== TEST 16: the example markdown
--- lua
local nbffi = require "resty.nonblocking_ffi"
local cjson = require "cjson"
local function load(entry)
    return assert(nbffi.load { language = "go", entry = entry,
                               library = "go_markdown" })
end
local page, pages = load("page"), load("pages")
ngx.print(page:call("# Tea\n\n~~Milk~~ <b>first</b>"))
local many = {}
for i = 1, 300 do many[i] = "## " .. i end
many = cjson.decode((assert(pages:call(cjson.encode(many)))))
ngx.print(#many, " ", many[1], many[300])
require("test_plugins").say((select(3, pages:call("no JSON"))))
--- response_body
<h1>Tea</h1>
<p><del>Milk</del> <!-- raw HTML omitted -->first<!-- raw HTML omitted --></p>
300 <h2>1</h2>
<h2>300</h2>
400
