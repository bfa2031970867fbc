# call: requests, options, timeouts, and what comes back of failures and
# statuses.

use lib '.';
use t::TestNbffi;

repeat_each(2);
plan tests => repeat_each() * (blocks() * 3);
run_tests();

__DATA__

=== TEST 1: bytes come back as they were sent, of every length and value
--- lua
local nbffi = require "resty.nonblocking_ffi"
local rt = assert(nbffi.load { language = "c", library = "echo" })
local all = {}
for i = 0, 255 do all[i + 1] = string.char(i) end
all = table.concat(all)
local wrong = 0
local function check(req)
    local res, err = rt:call(req)
    if res ~= req or err then
        wrong = wrong + 1
        ngx.say(#req, " bytes: ", err or "other bytes")
    end
end
check ""
check "\0"
check "a\0\0b\0"
check(all)
for _, size in ipairs { 1, 63, 64, 65, 255, 511, 512, 513, 4095, 4096,
                        4097, 65535, 65536, 65537, 1048575, 1048577 } do
    check(all:rep(math.ceil(size / 256)):sub(1, size))
end
ngx.say("wrong: ", wrong)
--- response_body
wrong: 0



=== TEST 2: a table is sent as one request, as a cosocket's send does
--- lua
local say = require("test_plugins").say
local nbffi = require "resty.nonblocking_ffi"
local rt = assert(nbffi.load { language = "c", library = "echo" })
ngx.say("[", rt:call {}, "]")
ngx.say("[", rt:call { "" }, "]")
ngx.say(rt:call { "a", "b", "c" })
ngx.say(rt:call { "a", { 1, { "b" }, {}, -2.5 }, 10000000 })
say(rt:call { "a", "b", n = "c", [5] = "e" })
say(rt:call(42))
ngx.say(#rt:call { ("x"):rep(100000), "\0", { ("y"):rep(100000) } })
--- response_body
[]
[]
abc
a1b-2.510000000
ab
42
200001



=== TEST 3: other types of requests raise an error that blames the caller's line
--- lua
local nbffi = require "resty.nonblocking_ffi"
local blame = require("test_plugins").blame
local rt = assert(nbffi.load { language = "c", library = "echo" })
local itself = {}
itself[1] = itself
for _, method in ipairs { "call", "submit", "cast" } do
    for _, request in ipairs { "", "true", "print", "{ 'a', true }",
                               "{ 'a', { 'b', { nil, {}, print } } }",
                               "itself" } do
        ngx.say(blame("local rt, itself = ...\nlocal res = rt:" .. method
                      .. "(" .. request .. ")\nreturn res", rt, itself))
    end
end
--- response_body eval
q{caller:2: request must be a string, or a table of strings, got nil
caller:2: request must be a string, or a table of strings, got boolean
caller:2: request must be a string, or a table of strings, got function
caller:2: request[2] must be a string, or a table of strings, got boolean
caller:2: request[2][2][1] must be a string, or a table of strings, got nil
caller:2: request must not have tables more than 100 deep, or in themselves
} x 3



=== TEST 4: options that are wrong raise an error that blames the caller's line
--- lua
local nbffi = require "resty.nonblocking_ffi"
local blame = require("test_plugins").blame
local rt = assert(nbffi.load { language = "c", library = "echo" })
for _, method in ipairs { "call", "submit", "cast" } do
    for _, options in ipairs { "5", "{ timeuot = 1 }", "{ timeout = 0 }",
                               "{ timeout = -1 }", "{ timeout = '1' }",
                               "{ priority = 'urgent' }",
                               "{ priority = 1 }", "{ on_full = 'wait' }" }
    do
        ngx.say(blame("local rt = ...\nlocal res = rt:" .. method
                      .. "('x', " .. options .. ")\nreturn res", rt))
    end
end
--- response_body eval
q{caller:2: options: a table of options expected, got number
caller:2: options: unknown option "timeuot" (there are: priority, timeout)
caller:2: options: timeout must be a positive number of seconds, got 0
caller:2: options: timeout must be a positive number of seconds, got -1
caller:2: options: timeout must be a positive number of seconds, got "1"
caller:2: options: priority must be "high", "normal" or "low", got "urgent"
caller:2: options: priority must be "high", "normal" or "low", got 1
caller:2: options: unknown option "on_full" (there are: priority, timeout)
} x 3



=== TEST 5: methods that are called without a colon, or on something else
--- lua
local nbffi = require "resty.nonblocking_ffi"
local blame = require("test_plugins").blame
local rt = assert(nbffi.load { language = "c", library = "echo" })
for _, code in ipairs { "rt.call('x')", "rt.submit('x')", "rt.cast('x')",
                        "rt.stats()", "rt.close()", "rt.call({}, 'x')" } do
    ngx.say(blame("local rt = ...\n\nlocal res = " .. code
                  .. "\nreturn res", rt))
end
ngx.say(rt.misspelt)
--- response_body eval
qq{caller:3: not a runtime: call its methods with a colon\n} x 6 . "nil\n"



=== TEST 6: timeout: the caller stops waiting, and the next call is not concerned
--- lua
local say = require("test_plugins").say
local nbffi = require "resty.nonblocking_ffi"
local tp = require "test_plugins"
local gate = tp.gate()
gate.reset()
local rt = assert(nbffi.load { language = "c", library = "gate" })
local res, err
tp.until_begun(rt, function()
    res, err = rt:call("hold x", { timeout = 0.2 })
end, gate.started)
say(res, err)
ngx.say(gate.has("started", 1), " ", gate.ended())
say(rt:call("note y"))
gate.open()
ngx.say(gate.has("ended", 2))
say(rt:call("hold z"))
--- response_body
nil timeout
true 0
y
true
z



=== TEST 7: the timeout that load was given; a call's own goes first
--- lua
local say = require("test_plugins").say
local nbffi = require "resty.nonblocking_ffi"
local tp = require "test_plugins"
local gate = tp.gate()
gate.reset()
local rt = assert(nbffi.load { language = "c", library = "gate",
                               timeout = 0.2 })
local err
tp.until_begun(rt, function()
    err = select(2, rt:call("hold x"))
end, gate.started)
ngx.say(err)
local fut = rt:submit("hold y", { timeout = 10 })
ngx.say(gate.has("started", 2))
gate.open()
say(fut:wait())
say(rt:call("hold z", { timeout = 10 }))
--- response_body
timeout
true
y
z



=== TEST 8: what the plugin sees of the timeout
--- lua
local nbffi = require "resty.nonblocking_ffi"
local rt = assert(nbffi.load { language = "c", library = "verbs" })
local function left(timeout)
    local text = rt:call("deadline", { timeout = timeout })
    local n = tonumber(text)
    return n and n > timeout / 2 and n <= timeout and "about " .. timeout
           or text
end
ngx.say(left(4))
ngx.say(left(4000))
ngx.say(left(math.huge))
local n = tonumber((rt:call("deadline")))
ngx.say("default: ", n > 30 and n <= 60)
--- response_body
about 4
about 4000
none
default: true



=== TEST 9: the three priorities are accepted
--- lua
local say = require("test_plugins").say
local nbffi = require "resty.nonblocking_ffi"
local rt = assert(nbffi.load { language = "c", library = "echo" })
for _, priority in ipairs { "high", "normal", "low" } do
    say(rt:call(priority, { priority = priority, timeout = 1.5 }))
end
--- response_body
high
normal
low



=== TEST 10: a plugin's failure: text, code and message
--- lua
local nbffi = require "resty.nonblocking_ffi"
local rt = assert(nbffi.load { language = "c", library = "verbs" })
local function try(req)
    local res, err, code, message = rt:call(req)
    ngx.say(tostring(res), " | ", err, " | ", code, " | ",
            tostring(message))
end
try "fail 42 out of cheese"
try "fail -1 redo from start"
try "fail 0 zero is a failure, too"
try "fail 98765432101234 large"
try "fail 5"
try("fail 7 " .. ("long "):rep(150) .. "end")
try "status-fail 3 the later one counts"
--- response_body eval
qq{nil | runtime error: out of cheese | 42 | out of cheese
nil | runtime error: redo from start | -1 | redo from start
nil | runtime error: zero is a failure, too | 0 | zero is a failure, too
nil | runtime error: large | 98765432101234 | large
nil | runtime error:  | 5 | 
nil | runtime error: } . "long " x 150 . "end | 7 | " . "long " x 150 . qq{end
nil | runtime error: the later one counts | 3 | the later one counts
}



=== TEST 11: call functions that return non-zero
--- lua
local nbffi = require "resty.nonblocking_ffi"
local rt = assert(nbffi.load { language = "c", library = "verbs" })
for _, req in ipairs { "return 7", "return -3", "respond-return 7",
                       "return 0" } do
    local res, err = rt:call(req)
    ngx.say(req, ": ", res, ", ", err)
end
--- response_body
return 7: nil, runtime error: code 7
return -3: nil, runtime error: code -3
respond-return 7: responded, nil
return 0: , nil



=== TEST 12: a plugin's status with a response
--- lua
local nbffi = require "resty.nonblocking_ffi"
local rt = assert(nbffi.load { language = "c", library = "verbs" })
local function try(req)
    local res, err, code, message = rt:call(req)
    ngx.say(res, " | ", err, " | ", code, " | ", message)
end
try "status 206 partial content"
try "status -7 negative"
try "status 304"
try "status-none 204 nothing to say"
-- Nothing of it is left for the next task.
try "none"
--- response_body eval
qq{with a status | nil | 206 | partial content
with a status | nil | -7 | negative
with a status | nil | 304 | 
 | nil | 204 | nothing to say
 | nil | nil | nil
}



=== TEST 13: many calls at a time: everybody gets what is his
--- lua
local nbffi = require "resty.nonblocking_ffi"
local rt = assert(nbffi.load { language = "c", library = "echo" })
local threads, wrong = {}, 0
for i = 1, 100 do
    threads[i] = ngx.thread.spawn(function()
        for j = 1, 50 do
            local req = (i .. "/" .. j .. " "):rep(i % 7 * 40 + 1)
            if rt:call(req) ~= req then wrong = wrong + 1 end
        end
    end)
end
for i = 1, 100 do ngx.thread.wait(threads[i]) end
local stats = rt:stats()
ngx.say("wrong: ", wrong, ", in flight: ", stats.in_flight)
--- response_body
wrong: 0, in flight: 0
