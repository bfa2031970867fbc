# Plugins that wait for tasks in a call, by the host function `await_next`.

use strict;
use warnings;

use Test::Nginx::Socket::Lua;
use Cwd qw( cwd );

my $pwd = cwd();
our $HttpConfig = qq{
    lua_package_path "$pwd/lua/?.lua;$pwd/t/plugins/?.lua;;";
    lua_package_cpath "$pwd/target/release/?.so;$pwd/target/test-plugins/?.so;$pwd/target/examples/?.so;;";
    init_by_lua_block {
        local nbffi = require "resty.nonblocking_ffi"
        nbffi.pool("one", { threads = 1 })
        nbffi.pool("two", { threads = 2 })

        -- A plugin whose "hold" holds until open() is called.
        function waiter(pool)
            local path = os.tmpname()
            os.remove(path)
            local rt = assert(nbffi.load {
                runtime = "c", library = "puller", pool = pool,
                config = "await " .. path,
            })
            return rt, function()
                assert(io.open(path, "w")):close()
            end, path
        end
    }
};

repeat_each(2);
plan tests => repeat_each() * (blocks() * 3);
no_long_string();
timeout(20);
run_tests();

__DATA__

=== TEST 1: one call takes what comes, whether the thread spins or sleeps
--- http_config eval: $::HttpConfig
--- config
location = /t {
    content_by_lua_block {
        local rt = waiter("one")
        rt:call("counts")
        local right = 0
        for i = 1, 50 do
            if rt:call("task " .. i) == "task " .. i then
                right = right + 1
            end
            if i % 10 == 0 then
                ngx.sleep(0.01)
            end
        end
        ngx.say(right)
        -- Still in the call that counted before.
        ngx.say(rt:call("counts"))
        rt:close()
    }
}
--- request
GET /t
--- response_body
50
0 51
--- no_error_log
[error]



=== TEST 2: the thread leaves for what others want of it
--- http_config eval: $::HttpConfig
--- config
location = /t {
    content_by_lua_block {
        local nbffi = require "resty.nonblocking_ffi"
        local rt = waiter("one")
        local echo = assert(nbffi.load { runtime = "c", library = "echo",
                                         pool = "one" })
        rt:call("counts")
        ngx.say(rt:call("a"), " ", echo:call("b"), " ", rt:call("c"))
        local lua = assert(nbffi.load { runtime = "lua", module = "vm_jobs",
                                        pool = "one" })
        ngx.say((lua:call("echo", "d")), " ", rt:call("e"))
        ngx.say(lua:close(), " ", rt:call("f"))
        ngx.say(echo:call("g"))
        ngx.say(rt:close())
    }
}
--- request
GET /t
--- response_body
a b c
d e
true f
g
true
--- no_error_log
[error]



=== TEST 3: what is left without a response is empty
--- http_config eval: $::HttpConfig
--- config
location = /t {
    content_by_lua_block {
        local rt, open, path = waiter("one")
        ngx.say("\"", rt:call("leave"), "\"")
        local futures = { rt:submit("hold"), rt:submit("leave"), rt:submit("x") }
        open()
        local results = require("resty.nonblocking_ffi").wait_all(futures)
        os.remove(path)
        ngx.say(table.concat(results, ","))
        ngx.say((select(2, rt:call("fail"))))
        rt:close()
    }
}
--- request
GET /t
--- response_body
""
hold,,x
runtime error: code 7
--- no_error_log
[error]



=== TEST 4: closing recalls the threads that wait
--- http_config eval: $::HttpConfig
--- config
location = /t {
    content_by_lua_block {
        local nbffi = require "resty.nonblocking_ffi"
        local rt, open, path = waiter("two")
        local held = { rt:submit("hold"), rt:submit("hold") }
        -- Both threads have come.
        while nbffi.stats().pools.two.running < 2 do
            ngx.sleep(0.001)
        end
        open()
        nbffi.wait_all(held)
        os.remove(path)
        ngx.say(rt:close())
        local echo = assert(nbffi.load { runtime = "c", library = "echo",
                                         pool = "two" })
        ngx.say(echo:call("open"))
    }
}
--- request
GET /t
--- response_body
true
open
--- no_error_log
[error]
