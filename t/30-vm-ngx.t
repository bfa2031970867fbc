# The table `ngx` in the VMs of Lua runtimes: what is in it does what nginx's
# does, what is not says so.

use lib '.';
use t::TestNbffi;

our $HttpConfig = q{
    lua_shared_dict cats 1m;

    init_by_lua_block {
        -- A runtime of t/plugins/vm_ngx.lua, and that module.
        function vm_ngx()
            local nbffi = require "resty.nonblocking_ffi"
            math.randomseed(30)
            return assert(nbffi.load {
                language = "lua", module = "vm_ngx",
            }), require "vm_ngx"
        end
    }
};

repeat_each(1);
plan tests => repeat_each() * (blocks() * 3 + 9);
log_level('info');
run_tests();

__DATA__

=== TEST 1: base64
--- lua
local rt, t = vm_ngx()
ngx.say(t.compare(rt, t.cases("ngx.encode_base64", 2000, function()
    local kind = math.random(6)
    return t.any(), kind == 1 and true or kind == 2 and "x" or nil
end)))
ngx.say(t.compare(rt, t.cases("ngx.decode_base64", 2000, function()
    local kind = math.random(3)
    if kind == 1 then
        return t.any()
    elseif kind == 2 then
        return ngx.encode_base64(t.bytes(50))
    end
    return t.bytes(20, "abcAB012+/=-_")
end)))
local library = "ngx.base64:"
ngx.say(t.compare(rt, t.cases(library .. "encode_base64url", 500,
                              t.any)))
ngx.say(t.compare(rt, t.cases(library .. "decode_base64url", 500,
    function() return t.bytes(20, "abcAB012-_=") end)))
--- response_body
equal
equal
equal
equal



=== TEST 2: hashes
--- lua
local rt, t = vm_ngx()
for _, name in ipairs { "md5", "md5_bin", "sha1_bin", "crc32_short",
                        "crc32_long" }
do
    ngx.say(t.compare(rt, t.cases("ngx." .. name, 1000, t.any)))
end
-- Keys shorter and longer than a block of SHA-1.
ngx.say(t.compare(rt, t.cases("ngx.hmac_sha1", 2000, function()
    return math.random(10) == 1 and t.any() or t.bytes(130), t.any()
end)))
ngx.say(rt:call("call", "ngx.md5", "hello"))
--- response_body
equal
equal
equal
equal
equal
equal
5d41402abc4b2a76b9719d911017c592



=== TEST 3: URIs, arguments, SQL
--- lua
local rt, t = vm_ngx()
local random = math.random
ngx.say(t.compare(rt, t.cases("ngx.escape_uri", 2000, function()
    return t.any(), random(3) == 1 and random(-1, 8) or nil
end)))
ngx.say(t.compare(rt, t.cases("ngx.unescape_uri", 2000, function()
    return random(2) == 1 and t.any() or t.bytes(30, "%%%0aAfF+g&=")
end)))
ngx.say(t.compare(rt, t.cases("ngx.quote_sql_str", 2000, function()
    return random(9) == 1 and t.any()
           or t.bytes(30, "\0\b\n\r\t\26\\'\"a$%_")
end)))
ngx.say(t.compare(rt, t.cases("ngx.decode_args", 3000, function()
    local text = random(8) == 1 and t.any() or t.bytes(40, "aab&&==%2b+")
    if random(2) == 1 then
        return text
    end
    return text, random(5) == 1 and t.any() or random(-2, 6)
end)))
--- response_body
equal
equal
equal
equal



=== TEST 4: encode_args
--- lua
local rt, t = vm_ngx()
local random = math.random
-- A table that went to another VM may have another order.
local function sorted(result)
    if result[1] and type(result[2]) == "string" then
        local parts = {}
        for part in result[2]:gmatch("[^&]+") do
            parts[#parts + 1] = part
        end
        table.sort(parts)
        result[2] = table.concat(parts, "&")
    end
end
ngx.say(t.compare(rt, t.cases("ngx.encode_args", 2000, function()
    if random(30) == 1 then
        return t.any()
    end
    local args = {}
    for _ = 1, random(0, 5) do
        -- nginx counts the bytes of false wrongly.
        local value = t.any() or nil
        if random(4) == 1 then
            value = { t.bytes(5), true, 1.5, t.bytes(5) }
        end
        args[t.bytes(5)] = value
    end
    return args
end), sorted))
ngx.say(t.compare(rt, {
    { "ngx.encode_args", n = 1, { 1 } },
    { "ngx.encode_args", n = 1, { a = { {} } } },
    { "ngx.encode_args", n = 1, { a = ngx.null } },
    { "ngx.encode_args", n = 1, { a = false } },
    { "ngx.encode_args", n = 1, nil },
}))
--- response_body
equal
equal



=== TEST 5: constants, ngx.null and ngx.config
--- lua
local rt, t = vm_ngx()
local cases = {}
for name, value in pairs(ngx) do
    if type(value) == "number" then
        cases[#cases + 1] = { "vm_ngx:value", n = 1, "ngx." .. name }
    end
end
ngx.say(#cases > 60, " ", t.compare(rt, cases))
cases = {}
for _, name in ipairs { "null", "OK", "HTTP_NOT_FOUND", "ERR",
    "config.debug", "config.subsystem", "config.nginx_version",
    "config.ngx_lua_version", "config.prefix()",
    "config.nginx_configure()", "NO_SUCH", "no_such",
    "worker.pid()", "worker.id()", "worker.count()",
    "worker.exiting()" }
do
    cases[#cases + 1] = { "vm_ngx:value", n = 1, "ngx." .. name }
end
ngx.say(t.compare(rt, cases))
ngx.say(rt:call("value", "ngx.get_phase()"))
local pids = rt:call("value", "ngx.worker.pids()")
ngx.say(#pids, " ", pids[1] == ngx.worker.pid())
--- response_body
true equal
equal
worker_thread
1 true



=== TEST 6: formatting and parsing of times
--- lua
local rt, t = vm_ngx()
local random = math.random
for _, name in ipairs { "http_time", "cookie_time" } do
    ngx.say(t.compare(rt, t.cases("ngx." .. name, 1000, function()
        return random(9) == 1 and t.any() or random(-1e9, 5e9)
    end)))
end
ngx.say(t.compare(rt, t.cases("ngx.parse_http_time", 1000, function()
    return random(9) == 1 and t.any() or ngx.http_time(random(0, 4e9))
end)))
--- response_body
equal
equal
equal



=== TEST 7: the clock is the system's, not that of the event loop's last turn
--- lua
local rt = vm_ngx()
-- Both clocks are read by one thread after the other, so one lies
-- between the other's.
local function between(expression)
    local nbffi = require "resty.nonblocking_ffi"
    ngx.update_time()
    local before = loadstring("return " .. expression)()
    local value = rt:call("value", expression)
    ngx.update_time()
    local after = loadstring("return " .. expression)()
    return before <= value and value <= after
end
for _, name in ipairs { "now", "time", "today", "localtime",
                        "utctime" }
do
    ngx.say(name, ": ", between("ngx." .. name .. "()"))
end
ngx.say(between("require('resty.core.time').monotonic_msec()"))
-- In a VM it goes on by itself; update_time is there, and not needed.
ngx.say(rt:call("value", [[(function()
    local start = ngx.now()
    ngx.update_time()
    while ngx.now() == start do end
    return ngx.now() > start and ngx.now() * 1000 % 1 < 1e-3
end)()]]))
--- response_body
now: true
time: true
today: true
localtime: true
utctime: true
true
true



=== TEST 8: sleep blocks its own thread only
--- lua
local rt, t = vm_ngx()
local future = rt:submit("value", [[(function()
    local start = ngx.now()
    ngx.sleep(0.1)
    return ngx.now() - start >= 0.099
end)()]])
local turns = 0
local thread = ngx.thread.spawn(function()
    while future do
        turns = turns + 1
        ngx.sleep(0.002)
    end
end)
ngx.say(future:wait())
future = nil
ngx.thread.wait(thread)
ngx.say("the event loop went on: ", turns >= 5)
ngx.say(t.compare(rt, {
    { "ngx.sleep", n = 1, -1 }, { "ngx.sleep", n = 1, "x" },
    { "ngx.sleep", n = 1, {} }, { "ngx.sleep", n = 1, 0 },
    { "ngx.sleep", n = 1, "0.001" },
}))
--- response_body
true
the event loop went on: true
equal



=== TEST 9: who sleeps can be stopped
--- lua
local nbffi = require "resty.nonblocking_ffi"
assert(nbffi.pool("bed", { threads = 1 }))
local rt = assert(nbffi.load { language = "lua", module = "vm_ngx",
                               pool = "bed" })
local err
require("test_plugins").until_begun(rt, function()
    err = select(2, rt:call({ "call", timeout = 0.1 }, "ngx.sleep",
                            1000))
end)
ngx.say(err)
-- The only thread has to come back for this.
ngx.say(rt:call("call", "ngx.md5", ""))
ngx.say(rt:stats().vm.replaced.stopped)
--- response_body
timeout
d41d8cd98f00b204e9800998ecf8427e
1



=== TEST 10: log lines have nginx's form
--- lua
local rt = vm_ngx()
rt:call("value", [[(function()
    local function helper()
        ngx.log(ngx.NOTICE, "a number ", 42, ", ", nil, ", ", true,
                ", ", 1.5, ", ", ngx.null, ", ",
                setmetatable({}, { __tostring = function()
                    return "a table"
                end }))
    end
    helper()
    print("printed ", 1)
    ngx.log(ngx.DEBUG, "too verbose")
    require("ngx.errlog").raw_log(ngx.WARN, "a raw line")
end)()]])
ngx.say("logged")
--- response_body
logged
--- error_log eval
[
qr/\[notice\] .*\[lua\] value:3: helper\(\): a number 42, nil, true, 1\.5, null, a table/,
qr/\[notice\] .*\[lua\] value:10: value\(\): printed 1|\[notice\] .*\[lua\] value:10: (?:\w+\(\): )?printed 1/,
qr/\[warn\] .*\[lua\] a raw line/,
]
--- no_error_log
[error]
too verbose



=== TEST 11: every level; misuse of ngx.log
--- lua
local rt, t = vm_ngx()
rt:call("value", [[(function()
    for level = ngx.EMERG, ngx.DEBUG do
        ngx.log(level, "at level ", level)
    end
end)()]])
ngx.say(t.compare(rt, {
    { "ngx.log", n = 2, 9, "x" }, { "ngx.log", n = 2, -1, "x" },
    { "ngx.log", n = 2, "x", "x" }, { "ngx.log", n = 2, {}, "x" },
    { "ngx.log", n = 3, 6, "x", {} },
    { "print", n = 2, "x", {} },
}))
ngx.say(rt:call("value", "pcall(ngx.log, ngx.ERR, print)"))
ngx.say(rt:call("value",
                "require('ngx.errlog').get_sys_filter_level()"))
--- response_body
equal
falsebad argument #1 to 'log' (string, number, boolean, or nil expected, got function)
7
--- error_log eval
[
qr/\[emerg\] .*at level 1/,
qr/\[alert\] .*at level 2/,
qr/\[crit\] .*at level 3/,
qr/\[error\] .*at level 4/,
qr/\[info\] .*at level 7/,
]
--- no_error_log
at level 8



=== TEST 12: what needs a request or the event loop says that it is not there
--- lua
local rt = vm_ngx()
-- A module may keep such functions in locals: only using them fails.
ngx.say(rt:call("value", [[(function()
    local kept = { ngx.say, ngx.req.get_headers, ngx.timer.at,
                   ngx.socket.tcp, ngx.thread.spawn, ngx.var, ngx.ctx,
                   ngx.header, ngx.location.capture }
    return #kept
end)()]]))
for _, expression in ipairs {
    "ngx.say('x')", "ngx.print('x')", "ngx.exit(200)",
    "ngx.req.get_headers()", "ngx.req.get_uri_args()",
    "ngx.req.read_body()", "ngx.timer.at(0, print)",
    "ngx.timer.every(1, print)", "ngx.thread.spawn(print)",
    "ngx.socket.tcp()", "ngx.socket.udp()",
    "ngx.location.capture('/')", "ngx.redirect('/')", "ngx.exec('/')",
    "ngx.flush()", "ngx.eof()", "ngx.on_abort(print)",
    "ngx.run_worker_thread('a', 'b', 'c')",
    "ngx.var.uri", "ngx.ctx.x", "ngx.header.x", "ngx.arg[1]",
    "ngx.status", "ngx.is_subrequest", "ngx.headers_sent",
    "ndk.set_var.set_escape_uri('x')",
    "require 'ngx.semaphore'", "require 'ngx.ssl'",
} do
    local _, err = rt:call("value",
        "pcall(function() local _ = " .. expression .. " end)")
    ngx.say(expression, ": ", (err:gsub("^value:1: ", "at 1: ")))
end
for _, statement in ipairs { "ngx.ctx.x = 1", "ngx.status = 404",
                             "ngx.header['a'] = 'b'" }
do
    local _, err = rt:call("value",
                           "pcall(function() " .. statement .. " end)")
    ngx.say(statement, ": ", err)
end
-- Names of nobody are nil, and may be set, as in nginx.
ngx.say(rt:call("value", [[(function()
    local before = ngx.my_own
    ngx.my_own = 1
    return before == nil and ngx.my_own
end)()]]))
--- response_body
9
ngx.say('x'): at 1: ngx.say is not available in a pool thread's VM
ngx.print('x'): at 1: ngx.print is not available in a pool thread's VM
ngx.exit(200): at 1: ngx.exit is not available in a pool thread's VM
ngx.req.get_headers(): at 1: ngx.req.get_headers is not available in a pool thread's VM
ngx.req.get_uri_args(): at 1: ngx.req.get_uri_args is not available in a pool thread's VM
ngx.req.read_body(): at 1: ngx.req.read_body is not available in a pool thread's VM
ngx.timer.at(0, print): at 1: ngx.timer.at is not available in a pool thread's VM
ngx.timer.every(1, print): at 1: ngx.timer.every is not available in a pool thread's VM
ngx.thread.spawn(print): at 1: ngx.thread.spawn is not available in a pool thread's VM
ngx.socket.tcp(): at 1: ngx.socket.tcp is not available in a pool thread's VM
ngx.socket.udp(): at 1: ngx.socket.udp is not available in a pool thread's VM
ngx.location.capture('/'): at 1: ngx.location.capture is not available in a pool thread's VM
ngx.redirect('/'): at 1: ngx.redirect is not available in a pool thread's VM
ngx.exec('/'): at 1: ngx.exec is not available in a pool thread's VM
ngx.flush(): at 1: ngx.flush is not available in a pool thread's VM
ngx.eof(): at 1: ngx.eof is not available in a pool thread's VM
ngx.on_abort(print): at 1: ngx.on_abort is not available in a pool thread's VM
ngx.run_worker_thread('a', 'b', 'c'): at 1: ngx.run_worker_thread is not available in a pool thread's VM
ngx.var.uri: at 1: ngx.var is not available in a pool thread's VM
ngx.ctx.x: at 1: ngx.ctx is not available in a pool thread's VM
ngx.header.x: at 1: ngx.header is not available in a pool thread's VM
ngx.arg[1]: at 1: ngx.arg is not available in a pool thread's VM
ngx.status: at 1: ngx.status is not available in a pool thread's VM
ngx.is_subrequest: at 1: ngx.is_subrequest is not available in a pool thread's VM
ngx.headers_sent: at 1: ngx.headers_sent is not available in a pool thread's VM
ndk.set_var.set_escape_uri('x'): at 1: ndk.set_var is not available in a pool thread's VM
require 'ngx.semaphore': module 'ngx.semaphore' is not available in a pool thread's VM
require 'ngx.ssl': module 'ngx.ssl' is not available in a pool thread's VM
ngx.ctx.x = 1: value:1: ngx.ctx is not available in a pool thread's VM
ngx.status = 404: value:1: ngx.status is not available in a pool thread's VM
ngx.header['a'] = 'b': value:1: ngx.header is not available in a pool thread's VM
1



=== TEST 13: nothing that a request can do is a function that works by chance
--- lua
local rt = vm_ngx()
-- All functions of nginx's own table, three tables deep.
local names = {}
local function collect(value, path, depth)
    for name, item in pairs(value) do
        local here = path .. "." .. tostring(name)
        if type(item) == "function" then
            names[#names + 1] = here
        elseif type(item) == "table" and depth < 3
               and name ~= "shared" and name ~= "ctx"
        then
            collect(item, here, depth + 1)
        end
    end
end
collect(ngx, "ngx", 1)
table.sort(names)
-- What is in the VM by nature; everything else must raise our error.
local works = {}
for name in ([[ngx.cookie_time ngx.config.prefix
    ngx.config.nginx_configure ngx.crc32_long ngx.crc32_short
    ngx.decode_args ngx.decode_base64 ngx.decode_base64mime
    ngx.encode_args ngx.encode_base64 ngx.escape_uri ngx.get_phase
    ngx.hmac_sha1 ngx.http_time ngx.localtime ngx.log ngx.md5
    ngx.md5_bin ngx.now ngx.parse_http_time ngx.quote_sql_str
    ngx.re.find ngx.re.gmatch ngx.re.gsub ngx.re.match ngx.re.sub
    ngx.sha1_bin ngx.sleep ngx.time ngx.today ngx.unescape_uri
    ngx.update_time ngx.utctime ngx.worker.count ngx.worker.exiting
    ngx.worker.id ngx.worker.pid ngx.worker.pids]]):gmatch("%S+")
do
    works[name] = true
end
local missing = 0
for _, name in ipairs(names) do
    local kind = rt:call("value", "type(" .. name .. ")")
    if works[name] then
        if kind ~= "function" then
            ngx.say(name, " is missing")
            missing = missing + 1
        end
    elseif kind == "function" then
        local _, err = rt:call("value", name .. "()")
        if not (err or ""):find("is not available in a pool", 1, true)
        then
            ngx.say(name, " does something: ", err)
        end
    end
end
ngx.say(#names > 70, " ", missing)
--- response_body
true 0



=== TEST 14: libraries load, and work
--- lua
local rt = vm_ngx()
local function say(text)
    ngx.say(rt:call("value", "(function() " .. text .. " end)()"))
end
say [[
    local cache = require("resty.lrucache").new(2)
    cache:set("a", 1)
    cache:set("b", 2, 0.001)
    cache:set("c", 3, 10)
    ngx.sleep(0.002)
    local a, b, c = cache:get("a"), cache:get("b"), cache:get("c")
    return tostring(a) .. tostring(b) .. tostring(c)
]]
say [[
    local sum = 0
    for _, name in ipairs { "resty.core", "resty.core.base",
        "resty.core.regex", "resty.core.shdict", "resty.core.request",
        "resty.core.time", "resty.core.hash", "resty.core.base64" }
    do
        sum = sum + (require(name).version and 1 or 0)
    end
    return sum, ngx.re.match("x1", "\\d", "jo")[0], ngx.md5("")
]]
say [[
    return require("ngx") == ngx, pcall(require, "no.such.module")
           and "found" or "not found"
]]
--- response_body
nilnil3
81d41d8cd98f00b204e9800998ecf8427e
truenot found



=== TEST 15: libraries for digests
--- lua
local rt, t = vm_ngx()
-- OpenResty has them as resty.*, Debian's lua-nginx-string as nginx.*.
local function installed(name)
    for _, folder in ipairs { "resty.", "nginx." } do
        if pcall(require, folder .. name) then
            return folder .. name
        end
    end
    error("no library for " .. name)
end
local to_hex = installed "string"
for _, name in ipairs { installed "sha256", installed "md5" } do
    local code = string.format([[(function()
        local digest = require("%s"):new()
        digest:update("hel")
        digest:update("lo")
        return require("%s").to_hex(digest:final())
    end)()]], name, to_hex)
    local here, there = t.value(code), rt:call("value", code)
    ngx.say(here == there and #here >= 32 and "same" or there)
end
--- response_body
same
same



=== TEST 16: cjson
--- lua
local rt = vm_ngx()
ngx.say(rt:call("value", [[(function()
    local cjson = require "cjson"
    local text = cjson.encode { a = { 1, ngx.null, "x" } }
    return text .. " " .. tostring(cjson.decode("[null]")[1] == ngx.null
                                   and cjson.null == ngx.null)
end)()]]))
--- response_body
{"a":[1,null,"x"]} true
