# The host functions, used well and badly by a blocking plugin.

use lib '.';
use t::TestNbffi;

repeat_each(2);
plan tests => repeat_each() * (blocks() * 3);
run_tests();

__DATA__

=== TEST 1: responses in the host's buffer
--- lua
local nbffi = require "resty.nonblocking_ffi"
local rt = assert(nbffi.load { language = "c", library = "verbs" })
local bad = 0
for _, n in ipairs { 0, 1, 64, 65, 100, 4096, 100000, 1048576, 3000000 } do
    for verb, letter in pairs { buffer = "b", shorter = "s", again = "a" } do
        local res, err = rt:call(verb .. " " .. n)
        if res ~= letter:rep(n) then
            bad = bad + 1
            ngx.say(verb, " ", n, ": ", err or #res)
        end
    end
end
ngx.say("bad: ", bad)
ngx.say(rt:call("alignment"))
--- response_body
bad: 0
aligned



=== TEST 2: responses in the plugin's own memory are released exactly once
--- lua
local nbffi = require "resty.nonblocking_ffi"
local verbs = require("test_plugins").verbs()
local rt = assert(nbffi.load { language = "c", library = "verbs" })
local before = verbs.released()
for _, n in ipairs { 0, 1, 64, 65, 100000, 5000000 } do
    local res, err = rt:call("owned " .. n)
    if res ~= ("o"):rep(n) then ngx.say(n, ": ", err or #res) end
    verbs.last()
end
ngx.say("released: ", verbs.released() - before)
-- Too late: released at once, and the response is the first one.
ngx.say(rt:call("owned-late 10"), " ", verbs.last())
ngx.say("released: ", verbs.released() - before)
ngx.say(rt:call("static 1"), " ", rt:call("static 1"))
--- response_body
released: 6
first -1
released: 7
for ever for ever



=== TEST 3: max_response
--- lua
local nbffi = require "resty.nonblocking_ffi"
local verbs = require("test_plugins").verbs()
local rt = assert(nbffi.load { language = "c", library = "verbs",
                               max_response = 1000 })
local before = verbs.released()
for _, verb in ipairs { "buffer", "size", "owned", "unless" } do
    for _, n in ipairs { 1000, 1001, 1048576 } do
        local res, err, code, message = rt:call(verb .. " " .. n)
        local last = verb ~= "unless" and verbs.last()
        ngx.say(verb, " ", n, ": ", res and #res, " ", err, " ", code, " ",
                message, " ", last)
    end
end
ngx.say("released: ", verbs.released() - before)
local stats = rt:stats()
ngx.say(stats.errors["response too large"] >= 5)
--- response_body
buffer 1000: 1000 nil nil nil 0
buffer 1001: nil response too large nil nil -2
buffer 1048576: nil response too large nil nil -2
size 1000: 1000 nil nil nil 0
size 1001: nil response too large nil nil -2
size 1048576: nil response too large nil nil -2
owned 1000: 1000 nil nil nil 0
owned 1001: nil response too large nil nil -2
owned 1048576: nil response too large nil nil -2
unless 1000: 8 nil nil nil false
unless 1001: 9 nil nil nil false
unless 1048576: 9 nil nil nil false
released: 3
true



=== TEST 4: what the host refuses leaves the task pending
--- lua
local nbffi = require "resty.nonblocking_ffi"
local verbs = require("test_plugins").verbs()
local rt = assert(nbffi.load { language = "c", library = "verbs" })
local before = verbs.released()
-- respond, fail, set_status, respond_owned with NULL and a length; task 0
ngx.say(rt:call("invalid"))
ngx.say("released: ", verbs.released() - before)
for _, n in ipairs { 0, 8, 64, 100, 5000 } do
    ngx.say("beyond ", n, ": ", rt:call("beyond " .. n))
end
--- response_body
-4 -4 -4 -4 -1
released: 1
beyond 0: -4 -4
beyond 8: -4 -4
beyond 64: -4 -4
beyond 100: -4 -4
beyond 5000: -4 -4



=== TEST 5: respond_buffer without alloc gives nobody else's bytes
--- lua
local nbffi = require "resty.nonblocking_ffi"
local rt = assert(nbffi.load { language = "c", library = "verbs" })
local echo = assert(nbffi.load { language = "c", library = "echo" })
for _ = 1, 100 do echo:call("a secret, but not a long one") end
ngx.say(rt:call("unallocated 28"))
ngx.say(rt:call("unallocated 1"))
--- response_body
-4
-4



=== TEST 6: the first of several responses counts, and the handle is stale then
--- lua
local nbffi = require "resty.nonblocking_ffi"
local verbs = require("test_plugins").verbs()
local rt = assert(nbffi.load { language = "c", library = "verbs" })
ngx.say(rt:call("twice"))
ngx.say(rt:call("name"))
ngx.say("not stale: ", verbs.last())
--- response_body
first
verbs
not stale: 0



=== TEST 7: what a plugin can ask the host
--- lua
local nbffi = require "resty.nonblocking_ffi"
local rt = assert(nbffi.load { language = "c", library = "verbs",
                               name = "asker", config = "a = 1\nb = 2" })
ngx.say(rt:call("name"))
ngx.say(rt:call("config"))
ngx.say(rt:call("host"))
ngx.say(rt:call("signals"))
local _, err = rt:call("nonsense")
ngx.say(err)
--- response_body
asker
a = 1
b = 2
as the header has it
none blocked
runtime error: unknown verb
