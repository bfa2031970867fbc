# Plugins written for lua-resty-ffi: loading, phases, unloading.

use lib '.';
use t::TestNbffi;

repeat_each(2);
plan tests => repeat_each() * (blocks() * 3 + 1);
log_level('info');
run_tests();

__DATA__

=== TEST 1: one runtime for a library and a configuration
--- lua
require "resty_ffi"
local say = require("test_plugins").say
local lib = require("test_plugins").rffi()
local a = ngx.load_ffi("rffi", "label=one")
local b = ngx.load_ffi("rffi", "label=two pollers=3")
local before = lib.inits()
local none, empty = ngx.load_ffi("rffi"), ngx.load_ffi("rffi", "")
say(a:label("label"))
say(b:label("label"))
say(none:label("label"))
say(empty:label("label"))
say(ngx.load_ffi("rffi", "label=one") == a, a == b, none == empty)
say(lib.inits() - before <= 2)
--- response_body
true one
true two
true no cfg
true 
true false false
true



=== TEST 2: libffi_init returns a code
--- lua
require "resty_ffi"
local say = require("test_plugins").say
local rt, rc = ngx.load_ffi("rffi", "rc=5")
say(rt, type(rc), rc)
say(ngx.load_ffi("rffi", "rc=-1"))
-- And again: nothing of it was kept.
say(ngx.load_ffi("rffi", "rc=5"))
say(ngx.load_ffi("rffi"):call("echo fine"))
--- response_body
nil number 5
nil -1
nil 5
true echo fine



=== TEST 3: a library by its path, its name, and its short names
--- lua
require "resty_ffi"
local say = require("test_plugins").say
local path = package.searchpath("librffi", package.cpath, "", "")
for _, lib in ipairs { "rffi", "librffi", "librffi.so", path } do
    say(ngx.load_ffi(lib, "label=" .. lib:match("[^/]+$")):label("label"))
end
local ok, err = pcall(ngx.load_ffi, "no_such_thing")
say(ok, err:match('load_ffi: cannot load library "libno_such_thing.so": '
                  .. 'libno_such_thing.so: [^;]+; not in package.cpath'),
    err:match("target/test%-plugins/libno_such_thing%.so"))
ok, err = pcall(ngx.load_ffi, "/nonexistent/libx.so")
say(ok, err:match('cannot load library "/nonexistent/libx.so": .*'))
ok, err = pcall(ngx.load_ffi, "late")
say(ok, err:match('library "[^"]*liblate.so" has no libffi_init'))
--- response_body_like
^true rffi
true librffi
true librffi.so
true librffi.so
false load_ffi: cannot load library "libno_such_thing.so": libno_such_thing.so: [^;]+; not in package.cpath target/test-plugins/libno_such_thing.so
false cannot load library "/nonexistent/libx.so": .*
false library "[^"]*liblate.so" has no libffi_init



=== TEST 4: is_global makes the library's symbols everybody's
--- lua
require "resty_ffi"
local say = require("test_plugins").say
require("ffi").cdef[[int libffi_init(char *cfg, void *tq);]]
local function is_visible()
    return (pcall(function()
        return require("ffi").C.libffi_init ~= nil
    end))
end
if not package.loaded.second_round then
    ngx.load_ffi("rffi")
    local before = is_visible()
    package.loaded.second_round = true
    if before then say("visible before") end
end
ngx.load_ffi("rffi", "label=global", { is_global = true })
say(is_visible())
--- response_body
true



=== TEST 5: phases: loading works wherever there is a worker, calls where one can yield
--- http_config
    init_by_lua_block {
        require "resty_ffi"
        in_init = select(2, pcall(ngx.load_ffi, "rffi"))
    }
    init_worker_by_lua_block {
        at_start = ngx.load_ffi("rffi", "label=start")
        in_worker = { at_start:label("label") }
    }
--- config
location = /t {
    access_by_lua_block {
        local rt = ngx.load_ffi("rffi", "label=access")
        ngx.ctx.access = { rt:label("label") }
    }
    content_by_lua_block {
        local say = require("test_plugins").say
        package.preload.module_of_its_own = function()
            return ngx.load_ffi("rffi", "label=module")
        end
        say(in_init:match("load_ffi: .*"))
        say(unpack(in_worker))
        say(at_start:label("label"))
        say(unpack(ngx.ctx.access))
        say(require("module_of_its_own"):label("label"))
    }
    header_filter_by_lua_block {
        ngx.header["X-Call"] = select(2,
            ngx.load_ffi("rffi", "label=filter"):label("label"))
    }
}
--- response_body
load_ffi: not in init_by_lua: threads do not survive the fork of workers; use init_worker_by_lua or later
false cannot yield in this phase
true start
true access
true module
--- response_headers
X-Call: cannot yield in this phase



=== TEST 6: unloading: queued tasks still run, then every poller is told
--- lua
require "resty_ffi"
local say = require("test_plugins").say
local lib = require("test_plugins").rffi()
local rt = ngx.load_ffi("rffi", "pollers=3 label=unloading")
local nulls, polled = lib.nulls(), lib.polled()
-- Each of the three takes one and then waits for the test.
say(lib.has("asking", 3))
lib.stop(1)
local threads, sum = {}, 0
for i = 1, 20 do
    threads[i] = ngx.thread.spawn(rt.call, rt, "echo " .. i)
end
say(lib.has("polled", polled + 3), lib.polled() == polled + 3)
say(rt:__unload())
say(rt:call("echo too late"))
say(rt:__unload())
lib.stop(0)
for i = 1, 20 do
    local _, ok, res = ngx.thread.wait(threads[i])
    sum = sum + (ok and tonumber(res:match("%d+")) or 0)
end
say(sum, lib.has("nulls", nulls + 3), lib.nulls() == nulls + 3)
say(rt:any("echo too late"))
-- The same again is another runtime.
local again = ngx.load_ffi("rffi", "pollers=3 label=unloading")
say(again == rt, again:label("label"))
lib.has("asking", 3)
again:__unload()
say(lib.has("nulls", nulls + 6))
--- response_body
true
true true

false task queue is finished

210 true true
false task queue is finished
false true unloading
true



=== TEST 7: a plugin may respond when it has been told that there is no more
--- lua
require "resty_ffi"
local say = require("test_plugins").say
local lib = require("test_plugins").rffi()
local rt = ngx.load_ffi("rffi", "label=held")
local nulls = lib.nulls()
local threads = {}
for i = 1, 100 do
    threads[i] = ngx.thread.spawn(rt.call, rt, "hold")
end
say(lib.has("holding", 100))
rt:__unload()
say(lib.has("nulls", nulls + 1))
say(lib.release("the end"))
local ends = 0
for i = 1, 100 do
    local _, ok, res = ngx.thread.wait(threads[i])
    ends = ends + (ok and res == "the end" and 1 or 0)
end
say(ends)
--- response_body
true
true
100
100



=== TEST 8: a worker exits although tasks are held for ever
--- lua
require "resty_ffi"
local lib = require("test_plugins").rffi()
local rt = ngx.load_ffi("rffi", "pollers=2")
local thread = ngx.thread.spawn(rt.call, rt, "hold")
ngx.say(lib.has("holding", 1))
ngx.thread.kill(thread)
--- response_body
true
