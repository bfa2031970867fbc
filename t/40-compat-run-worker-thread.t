# compat/run_worker_thread.lua beside the ngx.run_worker_thread of nginx-lua:
# where `both` runs code it runs it with each of them, and says what they did,
# or how they differ. Then what is meant to differ.

use lib '.';
use t::TestNbffi;

our $Dict = q{
    lua_shared_dict state 1m;
};
our $HttpConfig = $Dict . q{
    init_by_lua_block { require "both" }
};

repeat_each(1);
plan tests => repeat_each() * (blocks() * 3 + 10);
run_tests();

__DATA__

=== TEST 1: plain arguments and results
--- main_config
    thread_pool testpool threads=4;
--- lua
local both = require "both"
local job = both.job
job("echo")
job("echo", nil)
job("echo", nil, nil)
job("echo", 1, nil, true, "x", nil, false, nil)
job("echo", 0.1, -1 / math.huge, 1e308, 2^53, 1/0, -1/0, 0/0)
job("echo", "", "\0a\255\0", ("x"):rep(3000000))
job("echo", ngx.null, ngx.null)
job("kinds", nil, 1, "1", true, ngx.null, {})
job("nothing")
local many = {}
for i = 1, 200 do many[i] = i % 3 > 0 and i or nil end
job("echo", unpack(many, 1, 200))
--- response_body eval
my $md5 = do { require Digest::MD5; Digest::MD5::md5_hex("x" x 3000000) };
my $many = join " ", map { $_ % 3 ? $_ : "nil" } 1 .. 200;
<<"_EOC_"
true
true nil
true nil nil
true 1 nil true x nil false nil
true 0.1 -0 1e+308 9.007199254741e+15 inf -inf nan
true  \\0a\\255\\0 3000000:$md5
true userdata: NULL userdata: NULL
true nil number string boolean userdata table
true
true $many
_EOC_



=== TEST 2: tables
--- main_config
    thread_pool testpool threads=4;
--- lua
local both = require "both"
local job = both.job
job("echo", {})
job("echo", { 1, 2, { 3, { 4 } } }, { a = { b = "c" }, [7.5] = 1 })
job("echo", { [true] = false, [false] = true, [-1] = "\0" })
job("echo", { [{ 1 }] = { 2 } })
job("echo", { 1, nil, 3 }, { n = ngx.null })
-- Metatables are left out, and not asked.
local strange = setmetatable({ 1, 2 }, {
    __index = function() return "made up" end,
    __pairs = function() error("asked") end,
    __len = function() return 7 end,
    __metatable = "hidden",
})
job("look", strange)
-- A table that is there twice is copied twice.
local twin = { "twin" }
job("same", twin, twin)
job("echo", { twin, twin })
local big = {}
for i = 1, 20000 do
    big[i] = { id = i, name = "name " .. i, list = { i, i } }
end
job("echo", big)
--- response_body
true {}
true {[1]=1,[2]=2,[3]={[1]=3,[2]={[1]=4}}} {[7.5]=1,[a]={[b]=c}}
true {[-1]=\0,[false]=true,[true]=false}
true {[{[1]=1}]={[1]=2}}
true {[1]=1,[3]=3} {[n]=userdata: NULL}
true true 2 nil
true false twin twin
true {[1]={[1]=twin},[2]={[1]=twin}}
much



=== TEST 3: pools, modules and functions that are not there, or are none
--- main_config
    thread_pool testpool threads=4;
--- user_files
>>> number.lua
return 5
>>> string.lua
return "a string"
>>> indexed.lua
return setmetatable({}, { __index = function(_, key)
    return function(...) return "made for " .. key, ... end
end })
>>> silent.lua
local x = 5
>>> syntax.lua
local x = = 5
>>> fails.lua
error("no data")
>>> fails_plain.lua
error("no data", 0)
>>> fails_table.lua
error({})
>>> fails_nil.lua
error()
>>> nested.lua
return require "missing"
>>> dir/deep.lua
return { hello = function(...) return ... end, name = ... }
--- lua
local say = require("both").say
say("nopool", "jobs", "echo")
say("", "jobs", "echo")
say("TESTPOOL", "jobs", "echo")
say("test\0pool", "jobs", "echo")
say("nopool", "nomodule", "nofunction", print)
say("testpool", "nomodule", "echo")
say("testpool", "", "echo")
say("testpool", "dir.nomodule", "echo")
say("testpool", "nested", "echo")
say("testpool", "jobs", "nofunction")
say("testpool", "jobs", "")
say("testpool", "jobs", "not_a_function")
say("testpool", "jobs", "callable")
say("testpool", "number", "echo")
say("testpool", "silent", "echo")
say("testpool", "syntax", "echo")
say("testpool", "fails", "echo")
say("testpool", "fails_plain", "echo")
say("testpool", "fails_table", "echo")
say("testpool", "fails_nil", "echo")
say("testpool", "indexed", "anything", 1)
say("testpool", "dir.deep", "hello", 1)
say("testpool", "dir/deep", "name")
say("testpool", "string", "rep", "ab", 3)
say("testpool", "table", "concat", { 1, 2 }, "-")
say("testpool", "math", "max", 1, 3, 2)
--- response_body eval
q{false thread pool nopool not found
false thread pool  not found
false thread pool TESTPOOL not found
false thread pool test not found
false thread pool nopool not found
false module 'nomodule' not found: ...
false module '' not found: ...
false module 'dir.nomodule' not found: ...
false module 'missing' not found: ...
false invalid function
false invalid function
false invalid function
false invalid function
false invalid lua module
false invalid lua module
false error loading module 'syntax' from file 'syntax.lua':\10\9syntax.lua: unexpected symbol near '='
false fails.lua: no data
false no data
false 
false 
true made for anything 1
true 1
false invalid function
true ababab
true 1-2
true 3
}



=== TEST 4: arguments of the wrong type, or too few
--- main_config
    thread_pool testpool threads=4;
    thread_pool 5 threads=1;
--- lua
local say = require("both").say
say()
say("testpool")
say("testpool", "jobs")
say(print, nil)
say(nil, nil, nil)
say(true, "jobs", "echo")
say({}, "jobs", "echo")
say(print, "jobs", "echo")
say(nil, "jobs", "echo", 1)
say("testpool", nil, "echo")
say("testpool", true, "echo")
say("testpool", print, "echo", print)
say("testpool", print, print)
say("nopool", print, print)
say("testpool", "jobs", nil)
say("testpool", "jobs", nil, 1)
say("testpool", "jobs", {})
say("testpool", "nomodule", {})
-- Numbers do as names.
say(5, "jobs", "echo", 1)
say(6, "jobs", "echo", 1)
say("testpool", "jobs", 5)
say("testpool", 17, "echo")
--- user_files
>>> 17.lua
return { echo = function(...) return "seventeen", ... end }
--- response_body
false expecting at least 3 arguments
false expecting at least 3 arguments
false expecting at least 3 arguments
false expecting at least 3 arguments
false threadpool should be a string
false threadpool should be a string
false threadpool should be a string
false threadpool should be a string
false threadpool should be a string
false module name should be a string
false module name should be a string
false module name should be a string
false module name should be a string
false thread pool nopool not found
false function name should be a string
false function name should be a string
false function name should be a string
false function name should be a string
true 1
false thread pool 6 not found
true by string
true seventeen



=== TEST 5: arguments and results that cannot be copied
--- main_config
    thread_pool testpool threads=4;
--- user_files
>>> fails.lua
error("no data", 0)
--- lua
local both = require "both"
local job, say = both.job, both.say
local co = coroutine.create(function() end)
job("echo", print)
job("echo", co)
job("echo", io.stdout)
job("echo", newproxy())
job("echo", require("ffi").new("int[2]"))
job("echo", 1, nil, "x", print, co)
job("echo", co, print)
job("echo", { a = { b = { 1, 2, co } } })
job("echo", { [print] = 1 })
job("echo", { [{ print }] = 1 })
job("echo", { { ngx.null, { io.stdout } } })
for _, name in ipairs { "function", "builtin", "thread",
                        "userdata", "proxy", "cdata", "key",
                        "nested" } do
    job("give", name)
end
-- What is looked at first.
job("nofunction", print)
say("testpool", "nomodule", "echo", { print }, 5)
say("testpool", "fails", "echo", co)
say("testpool", 5, "echo", co)
-- What was refused has not run.
job("count", print)
job("count")
--- response_body
false unsupported Lua type: LUA_TFUNCTION in the argument
false unsupported Lua type: LUA_TTHREAD in the argument
false unsupported Lua type: LUA_TUSERDATA in the argument
false unsupported Lua type: LUA_TUSERDATA in the argument
false unsupported Lua type in the argument
false unsupported Lua type: LUA_TFUNCTION in the argument
false unsupported Lua type: LUA_TTHREAD in the argument
false unsupported Lua type: LUA_TTHREAD in the argument
false unsupported Lua type: LUA_TFUNCTION in the argument
false unsupported Lua type: LUA_TFUNCTION in the argument
false unsupported Lua type: LUA_TUSERDATA in the argument
false unsupported Lua type: LUA_TFUNCTION in the return value
false unsupported Lua type: LUA_TFUNCTION in the return value
false unsupported Lua type: LUA_TTHREAD in the return value
false unsupported Lua type: LUA_TUSERDATA in the return value
false unsupported Lua type: LUA_TUSERDATA in the return value
false unsupported Lua type in the return value
false unsupported Lua type: LUA_TFUNCTION in the return value
false unsupported Lua type: LUA_TTHREAD in the return value
false invalid function
false module 'nomodule' not found: ...
false no data
false module '5' not found: ...
false unsupported Lua type: LUA_TFUNCTION in the argument
true 1



=== TEST 6: cycles, and tables that are nested too deep
--- main_config
    thread_pool testpool threads=4;
--- lua
local both = require "both"
local job, deep = both.job, require("jobs").deep
local own = {}
own.me = own
job("echo", own)
local a, b = {}, {}
a.b, b.a = b, a
job("echo", a)
job("echo", 1, { { { a } } })
local key = {}
key[key] = 1
job("echo", key)
job("give", "cycle")
job("give", "mutual")
for _, depth in ipairs { 1, 50, 99, 100, 101, 150, 1000 } do
    job("depth", deep(depth))
    job("depth", deep(depth), 1)
    ngx.say(both.compare(function(run)
        local ok, res = run("testpool", "jobs", "deep", depth)
        return ok, type(res) == "table"
                   and require("jobs").depth(res) or res
    end))
end
--- response_body eval
my $deep = "suspicious circular references, table depth exceed max depth: 100";
my ($arg, $res) = ("false $deep in the argument\n", "false $deep in the return value\n");
$arg x 4 . $res x 2 . join("", map { "true $_\n" x 3 } 1, 50, 99) . "$arg$arg$res" x 4



=== TEST 7: errors in the function
--- main_config
    thread_pool testpool threads=4;
--- lua
local both = require "both"
local job = both.job
job("raise", "oops", 0)
job("raise", "", 0)
job("raise", "a\0b", 0)
job("raise", 42.5, 0)
job("raise", nil)
job("raise", true)
job("raise", false)
job("raise", { "a table" })
job("raise", ngx.null)
job("raise_one", "table")
job("raise_one", "speaking")
job("raise_one", "userdata")
job("raise_one", "function")
job("yield")
job("in_coroutine", "x")
job("raise", "oops", 1)
-- Later versions of LuaJIT do not say where.
ngx.say(both.compare(function(run)
    local ok, err = run("testpool", "jobs", "recurse")
    return ok, err:match("stack overflow")
end))
--- response_body eval
q{false oops
false 
false a\0b
false 42.5
false 
false 
false 
false 
false 
false 
false 
false 
false 
false attempt to yield across C-call boundary
true xa xb
false jobs.lua: oops
false stack overflow
}



=== TEST 8: phases in which it raises an error
--- main_config
    thread_pool testpool threads=4;
--- http_config eval
$::Dict . q{
    init_by_lua_block {
        local both = require "both"
        package.loaded.seen = {}
        package.loaded.try = function()
            local seen = require "seen"
            local where = ngx.get_phase()
            if seen[where] then return end
            seen[where] = both.compare(function(run)
                -- Raised here, and without a place.
                local ok, err = pcall(run, "testpool", "jobs", "echo", 1)
                local no_args, why = pcall(run)
                local a, b = pcall(function() local x = run() return x end)
                return ok, err, no_args, why, a, b
            end)
        end
        require("try")()
    }
    init_worker_by_lua_block { require("try")() }
    exit_worker_by_lua_block {
        require("try")()
        ngx.log(ngx.WARN, "exit_worker: ", require("seen").exit_worker)
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
}
--- config
    location = /t {
        set_by_lua_block $x { require("try")() }
        proxy_pass http://backend/content;
        header_filter_by_lua_block { require("try")() }
        body_filter_by_lua_block { require("try")() }
        log_by_lua_block { require("try")() }
    }
    location = /content {
        content_by_lua_block { ngx.say("content") }
    }
    location = /seen {
        content_by_lua_block {
            local seen = require "seen"
            require("test_plugins").poll(function() return seen.log end)
            for _, where in ipairs { "init", "init_worker", "set", "balancer",
                                     "header_filter", "body_filter",
                                     "log" } do
                ngx.say(where, ": ", seen[where])
            end
        }
    }
--- request eval
["GET /t", "GET /seen"]
--- response_body eval
my $at = "init_by_lua(nginx.conf):";
["content\n", join "", map {
    my $text = /^init$/ ? "no request found"
             : "API disabled in the context of ${_}_by_lua*";
    "$_: false $text false $text false $at $text\n"
} qw( init init_worker set balancer header_filter body_filter log )]
--- shutdown_error_log
exit_worker: false API disabled in the context of exit_worker_by_lua* false API disabled



=== TEST 9: phases and coroutines in which it works
--- main_config
    thread_pool testpool threads=4;
--- http_config eval
$::Dict . q{
    init_by_lua_block {
        local both = require "both"
        package.loaded.seen = {}
        package.loaded.try = function()
            local seen = require "seen"
            local text = ngx.get_phase() .. " " .. both.compare(function(run)
                return run("testpool", "jobs", "echo", { 1 }, nil)
            end)
            seen[#seen + 1] = text
        end
    }
    init_worker_by_lua_block {
        assert(ngx.timer.at(0, function() require("try")() end))
    }
}
--- config
    server_rewrite_by_lua_block { require("try")() }
    location = /t {
        rewrite_by_lua_block { require("try")() }
        access_by_lua_block { require("try")() }
        content_by_lua_block {
            require("try")()
            local seen = require "seen"
            require("test_plugins").poll(function() return #seen == 5 end)
            table.sort(seen)
            ngx.say(table.concat(seen, "\n"))

            local both = require "both"
            local function try(run, value)
                return run("testpool", "jobs", "echo", value)
            end
            ngx.say(both.compare(function(run)
                return coroutine.wrap(try)(run, "in a coroutine")
            end))
            ngx.say(both.compare(function(run)
                return coroutine.wrap(function()
                    local ok, value = try(run, "a")
                    coroutine.yield()
                    return ok, value
                end)()
            end))
            ngx.say(both.compare(function(run)
                local all = {}
                for i = 1, 5 do
                    all[i] = ngx.thread.spawn(try, run, i)
                end
                local sum = 0
                for i = 1, 5 do
                    local _, _, value = ngx.thread.wait(all[i])
                    sum = sum + value
                end
                return sum
            end))
            ngx.say(both.compare(function(run)
                return xpcall(function() return try(run, "xpcall") end,
                              debug.traceback)
            end))
        }
    }
--- response_body
access true {[1]=1} nil
content true {[1]=1} nil
rewrite true {[1]=1} nil
server_rewrite true {[1]=1} nil
timer true {[1]=1} nil
true in a coroutine
true
15
true true xpcall



=== TEST 10: package.path, ngx.shared and other parts of ngx in the function
--- main_config
    thread_pool testpool threads=4;
--- user_files
>>> parts.lua
local M = {}
function M.strings()
    return ngx.encode_base64("hello"), ngx.decode_base64("aGVsbG8="),
           ngx.md5("hello"), ngx.encode_base64(ngx.md5_bin("hello")),
           ngx.encode_base64(ngx.sha1_bin("hello")),
           ngx.encode_base64(ngx.hmac_sha1("key", "text")),
           ngx.crc32_short("hello"), ngx.crc32_long("hello"),
           ngx.quote_sql_str("it's"), ngx.encode_args({ a = "b c" }),
           ngx.decode_args("a=1&b=%20")
end
function M.has_regex()
    return ngx.re ~= nil
end
function M.regex()
    local m = ngx.re.match("hello, 1234", "([0-9])[0-9]+", "jo")
    local from, to = ngx.re.find("hello, 1234", "[0-9]+")
    local sub, n = ngx.re.gsub("hello, world", "([a-z])[a-z]+", "[$0,$1]", "i")
    local words = {}
    for word in ngx.re.gmatch("a bc d", "[a-z]+") do
        words[#words + 1] = word[0]
    end
    return m[0], m[1], from, to, sub, n, words
end
function M.config()
    local config = ngx.config
    return config.subsystem, config.debug, config.prefix(),
           config.nginx_version, config.nginx_configure(),
           config.ngx_lua_version
end
return M
--- lua
local both = require "both"
local say = both.say
local path, cpath = package.path, package.cpath
ngx.say(both.compare(function(run)
    local ok, its_path, its_cpath = run("testpool", "jobs", "path")
    return ok, its_path == path, its_cpath == cpath
end))
local state = ngx.shared.state
ngx.say(both.compare(function(run)
    state:set("x", 5)
    local ok, before, done = run("testpool", "jobs", "shared",
                                 "x", "six")
    local now = state:get("x")
    run("testpool", "jobs", "shared", "x", nil)
    return ok, before, done, now, state:get("x")
end))
say("testpool", "parts", "strings")
-- Later versions of nginx-lua have no ngx.re there; ours has.
local _, has_regex = both.original("testpool", "parts", "has_regex")
local function regex(run)
    return run("testpool", "parts", "regex")
end
ngx.say(has_regex and both.compare(regex)
        or both.list(regex(both.ours)))
ngx.say(both.compare(function(run)
    local ok, subsystem, debug, prefix, version, configure, lua =
        run("testpool", "parts", "config")
    local config = ngx.config
    return ok, subsystem, debug == config.debug,
           prefix == config.prefix(),
           version == config.nginx_version,
           configure == config.nginx_configure(),
           lua == config.ngx_lua_version
end))
--- response_body
true true true
true 5 true six nil
true aGVsbG8= hello 5d41402abc4b2a76b9719d911017c592 XUFAKrxLKna5cZ2REBfFkg== qvTGHdzF6KLavt4PO0gs2a6pQ00= Np4pWetJRQM4shJ0j3fY3tdIR7s= 907060870 907060870 'it\'s' a=b%20c {[a]=1,[b]= }
true 1234 1 8 11 [hello,h], [world,w] 2 {[1]=a,[2]=bc,[3]=d}
true http true true true true true



=== TEST 11: what a VM remembers between calls
--- main_config
    thread_pool testpool threads=4;
--- http_config eval
$::Dict . q{
    init_by_lua_block {
        require("both").install { pools = { one = { threads = 1 } } }
    }
}
--- lua
-- One call at a time: the original has made one VM, ours has one
-- thread.
local both = require "both"
local pools = { [both.original] = "testpool", [both.ours] = "one" }
local function call(run, ...)
    return select(2, run(pools[run], "jobs", ...))
end
ngx.say(both.compare(function(run)
    return call(run, "count"), call(run, "count"),
           call(run, "count")
end))
ngx.say(both.compare(function(run)
    return call(run, "globals", "left", 1),
           call(run, "globals", "left", nil),
           call(run, "globals", "left", nil)
end))
--- response_body
1 2 3
nil 1 nil



=== TEST 12: light threads that are killed, and requests that end, meanwhile
--- main_config
    thread_pool testpool threads=8;
--- config
    location = /t {
        content_by_lua_block {
            local both = require "both"
            local poll = require("test_plugins").poll
            local state = ngx.shared.state
            ngx.say(both.compare(function(run)
                state:flush_all()
                local function wait()
                    run("testpool", "jobs", "hold", "open")
                    state:incr("returned", 1, 0)
                end
                local threads = {}
                for i = 1, 3 do
                    threads[i] = ngx.thread.spawn(wait)
                end
                poll(function() return state:get("started") == 3 end)
                local killed = ngx.thread.kill(threads[1])
                -- The function is not stopped, and ends by itself.
                state:set("open", true)
                poll(function() return state:get("ended") == 3 end)
                ngx.thread.wait(threads[2])
                ngx.thread.wait(threads[3])
                return killed, state:get("returned"),
                       run("testpool", "jobs", "echo", "afterwards")
            end))
        }
    }
    location = /exit {
        content_by_lua_block {
            local both = require "both"
            local poll = require("test_plugins").poll
            local state = ngx.shared.state
            state:flush_all()
            for i = 1, 2 do
                ngx.thread.spawn(function()
                    local run = i == 1 and both.original or both.ours
                    run("testpool", "jobs", "hold", "open")
                    state:incr("returned", 1, 0)
                end)
            end
            poll(function() return state:get("started") == 2 end)
            ngx.exit(204)
        }
    }
    location = /gone {
        content_by_lua_block {
            local both = require "both"
            local poll = require("test_plugins").poll
            local state = ngx.shared.state
            state:set("open", true)
            poll(function() return state:get("ended") == 2 end)
            ngx.say(both.compare(function(run)
                return state:get("returned"),
                       run("testpool", "jobs", "echo", "afterwards")
            end))
        }
    }
--- request eval
["GET /t", "GET /exit", "GET /gone"]
--- error_code eval
[200, 204, 200]
--- response_body eval
["1 2 true afterwards\n", "", "nil true afterwards\n"]



=== TEST 13: a client that closes its connection
--- main_config
    thread_pool testpool threads=8;
--- config
    lua_check_client_abort on;
    location = /t {
        content_by_lua_block {
            local poll = require("test_plugins").poll
            local state = ngx.shared.state
            for _, which in ipairs { "original", "ours" } do
                state:flush_all()
                local sock = ngx.socket.tcp()
                assert(sock:connect("127.0.0.1", ngx.var.server_port))
                assert(sock:send("GET /wait?" .. which .. " HTTP/1.0\r\n\r\n"))
                poll(function() return state:get("started") == 1 end)
                assert(sock:close())
                poll(function() return state:get("aborted") end)
                state:set("open", true)
                local ended = poll(function()
                    return state:get("ended") == 1
                end)
                ngx.say(which, ": ", ended, " ", state:get("returned"))
            end
        }
    }
    location = /wait {
        content_by_lua_block {
            local state = ngx.shared.state
            assert(ngx.on_abort(function()
                state:set("aborted", true)
                ngx.exit(499)
            end))
            local run = require("both")[ngx.var.args]
            run("testpool", "jobs", "hold", "open")
            state:incr("returned", 1, 0)
        }
    }
--- response_body
original: true nil
ours: true nil



=== TEST 14: as many at once as one likes: a VM is never missing
--- main_config
    thread_pool testpool threads=8;
--- http_config eval
$::HttpConfig . q{
    lua_worker_thread_vm_pool_size 2;
}
--- lua
local both = require "both"
local poll = require("test_plugins").poll
local state = ngx.shared.state
for _, which in ipairs { "original", "ours" } do
    state:flush_all()
    local threads, results = {}, {}
    for i = 1, 40 do
        threads[i] = ngx.thread.spawn(function()
            local _, res = both[which]("testpool", "jobs", "hold",
                                       "open")
            results[res] = (results[res] or 0) + 1
        end)
    end
    -- Two of the original, 32 of ours can run.
    local can = which == "ours" and 32 or 2
    poll(function() return state:get("started") == can end)
    state:set("open", true)
    for i = 1, 40 do ngx.thread.wait(threads[i]) end
    ngx.say(which, ": ", both.list(results))
end
--- response_body
original: {[held]=2,[no available Lua vm]=38}
ours: {[held]=40}



=== TEST 15: a full queue: the original's error (where it does not crash)
--- main_config
    thread_pool testpool threads=1 max_queue=2;
--- http_config eval
$::Dict . q{
    init_by_lua_block {
        assert(require("both").install {
            pools = { testpool = { threads = 1, max_queue = 2 } },
        })
    }
}
--- lua
local list = require("both").list
local poll = require("test_plugins").poll
local run = ngx.run_worker_thread
local state = ngx.shared.state
local function hold()
    return run("testpool", "jobs", "hold", "open")
end
local threads = { ngx.thread.spawn(hold) }
poll(function() return state:get("started") == 1 end)
threads[2] = ngx.thread.spawn(hold)
threads[3] = ngx.thread.spawn(hold)
ngx.say(list(run("testpool", "jobs", "echo", 1)))
ngx.say(list(run("testpool", "jobs", "echo", { 2 })))
state:set("open", true)
for i = 1, 3 do ngx.thread.wait(threads[i]) end
ngx.say(state:get("ended"))
ngx.say(list(run("testpool", "jobs", "echo", 3)))
--- response_body
false ngx_thread_task_post failed
false ngx_thread_task_post failed
3
true 3



=== TEST 16: what is meant to be better
--- main_config
    thread_pool testpool threads=4;
--- http_config eval
$::Dict . q{
    init_by_lua_block {
        require("both").install { pools = { testpool = { threads = 1 } } }
    }
}
--- user_files
>>> later.lua
if not ngx.shared.state:get("data") then
    error("no data yet", 0)
end
return { get = function() return ngx.shared.state:get("data") end }
>>> uses_later.lua
return require "later"
>>> waits.lua
return {
    sleep = function() ngx.sleep(0.001) return "slept" end,
    say = function() ngx.say("x") end,
}
--- lua
local both = require "both"
local run = ngx.run_worker_thread
local list = both.list
-- A module that failed to load is loaded again, and so is one that
-- needs it.
ngx.say(list(run("testpool", "later", "get")))
ngx.say(list(run("testpool", "uses_later", "get")))
ngx.say(list(run("testpool", "later", "get")))
ngx.shared.state:set("data", "here")
ngx.say(list(run("testpool", "uses_later", "get")))
ngx.say(list(run("testpool", "later", "get")))
-- 64-bit integers
ngx.say(list(run("testpool", "jobs", "echo", 2LL^62, { 5ULL })))
-- more of ngx, and a clear error where it cannot be
ngx.say(list(run("testpool", "waits", "sleep")))
ngx.say((select(2, run("testpool", "waits", "say")):match("ngx.say")))
--- response_body
false no data yet
false no data yet
false no data yet
true here
true here
true 4611686018427387904LL {[1]=5ULL}
true slept
ngx.say



=== TEST 17: install in init_by_lua starts nothing; pools of nbffi.pool
--- http_config eval
$::Dict . q{
    init_by_lua_block {
        local nbffi = require "resty.nonblocking_ffi"
        local compat = require "resty.nonblocking_ffi.compat.run_worker_thread"
        assert(nbffi.pool("mine", { threads = 3 }))
        assert(compat.install { pools = { theirs = { threads = 2, nice = 0 } } })
        assert(ngx.run_worker_thread == compat.run_worker_thread)
    }
}
--- lua
local list = require("both").list
local nbffi = require "resty.nonblocking_ffi"
local run = ngx.run_worker_thread
local function threads(pool)
    local figures = nbffi.stats().pools[pool]
    return figures and figures.threads
end
ngx.say(list(threads("mine"), threads("theirs")))
ngx.say(list(run("mine", "jobs", "echo", 1)))
ngx.say(list(threads("mine"), threads("theirs")))
ngx.say(list(run("theirs", "jobs", "echo", 2)))
ngx.say(list(threads("mine"), threads("theirs")))
ngx.say(list(run("nobodys", "jobs", "echo", 3)))
-- Declared later.
assert(nbffi.pool("nobodys"))
ngx.say(list(run("nobodys", "jobs", "echo", 4)))
--- response_body
nil nil
true 1
3 nil
true 2
3 2
false thread pool nobodys not found
true 4



=== TEST 18: install in init_worker_by_lua; sizes of pools
--- main_config
    thread_pool known threads=4 max_queue=7;
    thread_pool sized threads=4;
    thread_pool declared threads=4;
    thread_pool default threads=4;
--- http_config eval
$::Dict . q{
    init_worker_by_lua_block {
        local nbffi = require "resty.nonblocking_ffi"
        local compat = require "resty.nonblocking_ffi.compat.run_worker_thread"
        assert(nbffi.pool("declared", { threads = 3, max_queue = 8 }))
        assert(compat.install { pools = {
            sized = { threads = 2, max_queue = 9 },
        } })
        -- Once more is no harm.
        assert(compat.install())
    }
}
--- lua
local list = require("both").list
local nbffi = require "resty.nonblocking_ffi"
for _, pool in ipairs { "known", "sized", "declared", "default" } do
    local ok, res = ngx.run_worker_thread(pool, "jobs", "echo", 1)
    local figures = nbffi.stats().pools[pool]
    ngx.say(pool, ": ", list(ok, res, figures.threads,
                             figures.max_queue))
end
--- response_body
known: true 1 32 65536
sized: true 1 2 9
declared: true 1 3 8
default: true 1 32 65536



=== TEST 19: install in a request, and mistakes in its options
--- main_config
    thread_pool testpool threads=4;
--- lua
local both = require "both"
local nbffi = require "resty.nonblocking_ffi"
local compat = require
    "resty.nonblocking_ffi.compat.run_worker_thread"
local function try(...)
    local ok, err = pcall(compat.install, ...)
    ngx.say(both.list(ok, err))
end
try(5)
try({ pool = {} })
try({ pools = 5 })
try({ pools = { x = 5 } })
try({ pools = { x = { threads = 0 } } })
try({ pools = { x = { thraeds = 1 } } })
try({ pools = { [5] = {} } })
local _, err = pcall(function() compat.install(5) end)
ngx.say(err:match("^content_by_lua"), " ",
        err:match("install: .*"))
assert(nbffi.pool("taken", { threads = 3 }))
ngx.say(both.list(compat.install {
    pools = { taken = { threads = 4 } },
}))
-- Not installed by any of these ...
ngx.say(ngx.run_worker_thread == both.original)
-- ... nor needed for using it.
ngx.say(both.list(compat.run_worker_thread("testpool", "jobs",
                                           "echo", 1)))
ngx.say(both.list(compat.install()))
ngx.say(ngx.run_worker_thread == both.ours)
ngx.say(both.list(ngx.run_worker_thread("testpool", "jobs", "echo",
                                        2)))
--- response_body
false install: a table of options expected, got number
false install: unknown option pool (there are: pools)
false install: pools must be a table, got number
false install: pool: a table of options expected, got number
false install: pool: threads must be an integer from 1 to 1024, got 0
false install: pool: unknown option "thraeds" (there are: max_queue, nice, threads)
false install: pool: name must be a non-empty string
content_by_lua install: a table of options expected, got number
nil pool "taken" exists already, with threads = 3
true
true 1
true
true
true 2



=== TEST 20: calls do not leave in the VM what they have used
--- http_config eval: $::Dict
--- user_files
>>> big.lua
-- Not a constant: LuaJIT would keep the string in a trace.
local size = { 1000000 }
return {
    string = function() return ("helloworld"):rep(size[1]) end,
    tables = function()
        local all = {}
        for i = 1, 100000 do all[i] = { i, tostring(i) } end
        return #all
    end,
    -- In KB.
    used = function() return collectgarbage("count") end,
}
--- lua
local run = require(
    "resty.nonblocking_ffi.compat.run_worker_thread")
    .run_worker_thread
assert(require("resty.nonblocking_ffi").pool("small",
                                             { threads = 2 }))
local most = 0
for i = 1, 10 do
    local ok, res = run("small", "big", "string")
    ngx.print(ok and #res == 10000000 and "." or res)
    local _, used = run("small", "big", "used")
    most = math.max(most, used)
    ok, res = run("small", "big", "tables")
    ngx.print(ok and res == 100000 and "." or res)
    _, used = run("small", "big", "used")
    most = math.max(most, used)
end
ngx.say(most < 16000 and " fine" or most)
--- response_body
.................... fine
