# Phases of TLS handshakes, and phases that only newer versions of nginx-lua
# have: nginx-lua is asked which of them may yield.

use lib '.';
use t::TestNbffi;
use File::Temp ();

our $dir = File::Temp->newdir('nbffi-tls.XXXXXX', TMPDIR => 1);
chmod 0755, "$dir";
system("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1"
       . " -nodes -days 2 -subj /CN=test -keyout $dir/key.pem"
       . " -out $dir/cert.pem >$dir/log 2>&1") == 0
    or die "no certificate: ", `cat $dir/log`;

# Whether nginx knows a directive.
sub knows {
    my ($directive) = @_;
    my @modules = split ' ', $ENV{TEST_NGINX_LOAD_MODULES} // '';
    return system('grep', '-qsaF', "$directive\0", $ENV{TEST_NGINX_BINARY},
                  @modules) == 0;
}
our $has_precontent = knows('precontent_by_lua_block');

our $HttpConfig = q{
    init_worker_by_lua_block {
        package.loaded.seen = {}
        package.loaded.try = function()
            local nbffi = require "resty.nonblocking_ffi"
            local run = require(
                "resty.nonblocking_ffi.compat.run_worker_thread")
                .run_worker_thread
            local seen = require "seen"
            local where = ngx.get_phase()
            local rt, err = nbffi.load { language = "c", library = "echo" }
            if not rt then
                seen[where] = err
                return
            end
            local res, why = rt:call("now")
            local later, no = rt:submit("later"):wait()
            local _, ran, up = pcall(run, "default", "string", "upper", "up")
            seen[where] = string.format("call %s, wait %s, run %s",
                                        res or why, later or no, up or ran)
        end
        assert(require("resty.nonblocking_ffi").load {
            language = "c", library = "echo" })
    }
};

repeat_each(1);
plan tests => repeat_each() * (blocks() * 3);
run_tests();

__DATA__

=== TEST 1: TLS: certificate, session_store, and session_fetch if OpenSSL can wait there
--- http_config eval
"$::HttpConfig
server {
    listen unix:$::dir/tls.sock ssl;
    server_name test;
    ssl_certificate $::dir/cert.pem;
    ssl_certificate_key $::dir/key.pem;
    ssl_protocols TLSv1.2;
    ssl_session_tickets off;
    ssl_certificate_by_lua_block { require('try')() }
    location / { return 200 'fine'; }
}
lua_ssl_protocols TLSv1.2;
ssl_session_store_by_lua_block { require('try')() }
ssl_session_fetch_by_lua_block { require('try')() }
"
--- config eval
"location = /t {
    content_by_lua_block {
        local seen = require 'seen'
        local function connect(session)
            local sock = ngx.socket.tcp()
            assert(sock:connect('unix:$::dir/tls.sock'))
            session = assert(sock:sslhandshake(session, 'test', false))
            assert(sock:send('GET / HTTP/1.0\\r\\nHost: test\\r\\n\\r\\n'))
            assert(sock:receive('*a'):find('fine', 1, true))
            sock:close()
            return session
        end
        connect(connect())
        require('test_plugins').poll(function()
            return seen.ssl_session_fetch
        end)
        for _, where in ipairs { 'ssl_cert', 'ssl_session_store' } do
            ngx.say(where, ': ', seen[where])
        end
        local can = pcall(function()
            local ffi = require 'ffi'
            ffi.cdef 'void *SSL_magic_pending_session_ptr(void);'
            return ffi.C.SSL_magic_pending_session_ptr
        end)
        ngx.say('ssl_session_fetch: ', seen.ssl_session_fetch
                == (can and seen.ssl_cert or [[call cannot yield in this phase, ]]
                    .. [[wait cannot yield in this phase, run API disabled in ]]
                    .. [[the context of ssl_session_fetch_by_lua*: this ]]
                    .. [[OpenSSL cannot wait there]])
                or seen.ssl_session_fetch)
    }
}"
--- response_body
ssl_cert: call now, wait later, run UP
ssl_session_store: call cannot yield in this phase, wait cannot yield in this phase, run API disabled in the context of ssl_session_store_by_lua*
ssl_session_fetch: true



=== TEST 2: TLS: client_hello, where nginx itself can wait there
--- skip_nginx: 3: < 1.29.2
--- http_config eval
"$::HttpConfig
server {
    listen unix:$::dir/tls.sock ssl;
    server_name test;
    ssl_certificate $::dir/cert.pem;
    ssl_certificate_key $::dir/key.pem;
    ssl_client_hello_by_lua_block { require('try')() }
    location / { return 200 'fine'; }
}"
--- config eval
"location = /t {
    content_by_lua_block {
        local sock = ngx.socket.tcp()
        assert(sock:connect('unix:$::dir/tls.sock'))
        assert(sock:sslhandshake(nil, 'test', false))
        sock:close()
        ngx.say(require('seen').ssl_client_hello)
    }
}"
--- response_body
call now, wait later, run UP



=== TEST 3: precontent, where nginx-lua has it
--- skip_eval: 3: !$::has_precontent
--- config
location = /t {
    precontent_by_lua_block { require('try')() }
    content_by_lua_block { ngx.say(require('seen').precontent) }
}
--- response_body
call now, wait later, run UP
