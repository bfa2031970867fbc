# What plugins log arrives in the log of nginx.

use lib '.';
use t::TestNbffi;

repeat_each(1);
plan tests => repeat_each() * (blocks() * 3 + 21);
run_tests();

__DATA__

=== TEST 1: a plugin's line has nginx's level and the runtime's name
--- lua
local nbffi = require "resty.nonblocking_ffi"
local rt = assert(nbffi.load { language = "c", library = "verbs",
                               name = "talker" })
ngx.say(rt:call("log 6 for your notice"))
--- response_body
logged
--- error_log eval
qr/\[notice\] .*\btalker\b.* for your notice/
--- no_error_log
[error]



=== TEST 2: every level
--- lua
local nbffi = require "resty.nonblocking_ffi"
local rt = assert(nbffi.load { language = "c", library = "verbs" })
for level = 1, 8 do rt:call("log " .. level .. " at level " .. level) end
ngx.say("logged")
--- response_body
logged
--- grep_error_log eval: qr/\[\w+\] .*at level \d/
--- grep_error_log_out eval
qr/^\[emerg\] .*at level 1
\[alert\] .*at level 2
\[crit\] .*at level 3
\[error\] .*at level 4
\[warn\] .*at level 5
\[notice\] .*at level 6
\[info\] .*at level 7
\[debug\] .*at level 8
$/
--- error_log
[emerg]
[alert]
[crit]
--- no_error_log
never said



=== TEST 3: levels that nginx does not log are dropped
--- log_level: warn
--- lua
local nbffi = require "resty.nonblocking_ffi"
local rt = assert(nbffi.load { language = "c", library = "verbs" })
for _, level in ipairs { 8, 7, 6, 5, 8 } do
    rt:call("log " .. level .. " at level " .. level)
end
ngx.say(nbffi.stats().log_dropped)
--- response_body
0
--- error_log
at level 5
--- no_error_log
at level 6
at level 7
at level 8



=== TEST 4: levels beyond those there are
--- lua
local nbffi = require "resty.nonblocking_ffi"
local rt = assert(nbffi.load { language = "c", library = "verbs" })
rt:call("log 99 too verbose")
ngx.say(rt:call("log -5 too loud"))
--- response_body
logged
--- error_log eval
[qr/\[emerg\] .*too loud/, qr/\[debug\] .*too verbose/]
--- no_error_log
[error]



=== TEST 5: empty, long, and many lines; lines from before the response
--- lua
local nbffi = require "resty.nonblocking_ffi"
local rt = assert(nbffi.load { language = "c", library = "verbs",
                               name = "v" })
rt:call("log 5 ")
rt:call("log 5 long " .. ("x"):rep(900) .. " end")
for i = 1, 200 do rt:call("log 5 line " .. i .. ".") end
ngx.say(nbffi.stats().log_dropped)
--- response_body
0
--- grep_error_log eval: qr/line \d+\.|long x{900} end/
--- grep_error_log_out eval
"long " . "x" x 900 . " end\n" . CORE::join("", map { "line $_.\n" } 1 .. 200)
--- no_error_log
[error]



=== TEST 6: from init, in init_worker_by_lua, and from a plugin's own thread
--- http_config
    init_worker_by_lua_block {
        local nbffi = require "resty.nonblocking_ffi"
        local rt = assert(nbffi.load { language = "c", library = "verbs",
                                       name = "early" })
        assert(rt:cast("log 5 before any request"))
    }
--- lua
local nbffi = require "resty.nonblocking_ffi"
local tp = require "test_plugins"
local late = tp.late()
local rt = assert(nbffi.load { language = "c", library = "late",
                               name = "other" })
local fut = rt:submit("key")
late.has("key")
late.act("key", "log", "from another thread")
-- Not even a response is needed for it to be written.
local path = ngx.config.prefix() .. "logs/error.log"
ngx.say(tp.poll(function()
    local log = io.open(path):read("*a")
    return log:find("[other] from another thread", 1, true)
end))
late.act("key", "respond", "x")
ngx.say(fut:wait())
--- response_body
true
x
--- error_log
[early] before any request
[other] from another thread
--- no_error_log
[error]



=== TEST 7: messages that would break a format string or a line
--- lua
local nbffi = require "resty.nonblocking_ffi"
local rt = assert(nbffi.load { language = "c", library = "verbs" })
rt:call("log 5 100%s %n %V done")
rt:call("log 5 one\ntwo")
rt:call("log 5 \255\254 bytes")
ngx.say("logged")
--- response_body
logged
--- error_log
100%s %n %V done
one\x0atwo
\xff\xfe bytes
--- no_error_log
[error]



=== TEST 8: more lines than there is room for are counted, not waited for
--- lua
local nbffi = require "resty.nonblocking_ffi"
local tp = require "test_plugins"
local late = tp.late()
local rt = assert(nbffi.load { language = "c", library = "late" })
local fut = rt:submit("key")
late.has("key")
-- nginx is busy with this loop, so nothing is written meanwhile.
local n = 0
while nbffi.stats().log_dropped < 10 and n < 200000 do
    n = n + 1
    late.act("key", "log", "flood")
end
ngx.say(n > 1000, " ", n < 200000)
late.act("key", "respond", "x")
ngx.say(fut:wait())
late.act("key", "log", "after the flood")
ngx.say(nbffi.stats().log_dropped == 10)
--- response_body
true true
x
true
--- error_log
after the flood
--- no_error_log
[error]



=== TEST 9: what a plugin logs is one line, whatever is in it
--- lua
local nbffi = require "resty.nonblocking_ffi"
local forged = "harmless\n2026/01/01 00:00:00 [warn] 1#1: forged\r\n"
               .. "\27[2Jred\27[0m\127 \194\155 and\0 behind \195\164 end"
local rt = assert(nbffi.load { language = "c", library = "verbs",
                               name = "from C" })
rt:call("log 5 " .. forged)
rt = assert(nbffi.load { language = "c", library = "verbs",
                         name = "2\n2026/01/01 [warn] \27[1m" })
rt:call("log 5 named")
rt = assert(nbffi.load { language = "lua", module = "logging" })
rt:call("log", forged)
-- Errors that are values are not changed, but for a NUL in C strings.
local _, err = nbffi.load { language = "c", library = "./no\nsuch.so" }
ngx.say((err:gsub("\n", "|")))
_, err = nbffi.load { language = "c", library = "verbs",
                      entry = "a\0b" }
ngx.say(err)
--- user_files
>>> logging.lua
return { log = function(text) ngx.log(ngx.WARN, text) end }
--- response_body_like
(?s)^cannot load library "\./no\|such\.so": .*No such file or directory.*
entry must not contain a NUL byte$
--- grep_error_log eval: qr/nonblocking_ffi: .*?(?:end|named)/
--- grep_error_log_out eval
my $line = 'harmless\x0a2026/01/01 00:00:00 [warn] 1#1: forged\x0d\x0a'
           . '\x1b[2Jred\x1b[0m\x7f \xc2\x9b and\x00 behind ' . "\xc3\xa4 end\n";
"nonblocking_ffi: [from C] $line"
. 'nonblocking_ffi: [2\x0a2026/01/01 [warn] \x1b[1m] named' . "\n"
. "nonblocking_ffi: [lua] logging.lua:1: func(): $line"
--- no_error_log eval
["[error]", "\e", "\0", qr/^2026.01.01/]
