# The runner in t/lib is what the other files rely on where Test::Nginx is not
# installed, so it has to be able to fail. Each case here is a test file of one
# or two blocks, run in a process of its own, with the outcome it has to have.
# The runner is always the one in t/lib, whatever else is installed.

use strict;
use warnings;

use File::Temp ();
use Test::More;

my $dir = File::Temp->newdir('nbffi-runner.XXXXXX', TMPDIR => 1);
my $say = 'location = /t { content_by_lua_block { ngx.say("hello") } }';

# Runs blocks with a prologue; returns the TAP, split into good and bad lines,
# and all that was printed.
sub outcome {
    my ($blocks, $prologue) = @_;
    my $file = "$dir/case.t";
    open my $out, '>', $file or die "$file: $!";
    print $out "use Test::Nginx::Socket::Lua 'no_plan';\n",
        $prologue // '', "no_shuffle();\nrun_tests();\n__DATA__\n", $blocks;
    close $out;
    local $ENV{HARNESS_ACTIVE};
    my $printed = `$^X -It/lib $file 2>&1`;
    my $status = $?;
    return {
        ok => scalar(() = $printed =~ /^ok \d/mg),
        not_ok => scalar(() = $printed =~ /^not ok \d/mg),
        status => $status,
        printed => $printed,
    };
}

sub block {
    my ($config, $rest) = @_;
    return "\n=== TEST: case\n--- config\n$config\n$rest\n";
}

# A run of one block that must be good, with the number of its tests, which is
# what Test::Nginx would count.
sub passes {
    my ($name, $count, $blocks, $prologue) = @_;
    my $got = outcome($blocks, $prologue);
    my $good = $got->{ok} == $count && $got->{not_ok} == 0 && $got->{status} == 0;
    ok($good, "passes with $count: $name") or diag($got->{printed});
}

# One that must be bad: with one `not ok` (unless another number is said), the
# number of tests unchanged, and for the reason given.
sub fails {
    my ($name, $count, $reason, $blocks, $prologue, $not_ok) = @_;
    my $got = outcome($blocks, $prologue);
    my $good = $got->{not_ok} == ($not_ok // 1)
        && $got->{ok} + $got->{not_ok} == $count
        && $got->{status} != 0 && $got->{printed} =~ $reason;
    ok($good, "fails: $name") or diag($got->{printed});
}

sub refuses {
    my ($name, $reason, $blocks) = @_;
    my $got = outcome($blocks);
    ok($got->{status} != 0 && $got->{printed} =~ /^Bail out!.*$reason/m,
       "refuses: $name") or diag($got->{printed});
}

# The request's line is in what a message of Lua's ends with; an nginx without
# --with-debug has no other that names it.
my $note = 'location = /t { content_by_lua_block { ngx.log(ngx.NOTICE, "said") '
    . 'ngx.say("hello") } }';
passes('status, body, logs', 5, block($note, <<'_EOC_'));
--- request
GET /t
--- response_body
hello
--- error_log
GET /t
--- no_error_log
[error]
never said
_EOC_

passes('repeated', 4, block($say, <<'_EOC_'), 'repeat_each(2);');
--- request
GET /t
--- response_body
hello
_EOC_

passes('requests in sequence', 6, block(<<'_EOC_', <<'_EOC2_'));
    location = /a { return 200 "a$arg_x\n"; }
    location = /b { return 404 "b\n"; }
_EOC_
--- more_headers eval
["X-A: 1", "X-A: 2"]
--- request eval
["GET /a?x=7", "POST /b\nbody"]
--- error_code eval
[200, 404]
--- response_body eval
["a7\n", qr/^b$/]
--- no_error_log
[alert]
_EOC2_

passes('pipelined requests', 4, block(<<'_EOC_', <<'_EOC2_'));
    location = /t { return 200 "$arg_x\n"; }
_EOC_
--- pipelined_requests eval
["GET /t?x=1", "GET /t?x=2"]
--- response_body eval
["1\n", "2\n"]
_EOC2_

passes('bodies, chunks, packets, NUL bytes', 4, block(<<'_EOC_', <<'_EOC2_'));
    location = /t {
        content_by_lua_block {
            ngx.req.read_body()
            ngx.print(ngx.req.get_body_data())
            ngx.flush(true)
            ngx.print("\0\r\n", ngx.var.http_x)
        }
    }
_EOC_
--- more_headers
X: y
--- request eval
[["POST /t\nab", {value => "cd", delay_before => 0.05}]]
--- response_body eval
"abcd\0\r\ny"
--- response_headers
Transfer-Encoding: chunked
! Content-Length
_EOC2_

passes('grep, header patterns, filters', 4, block(<<'_EOC_', <<'_EOC2_'));
    location = /t {
        content_by_lua_block {
            ngx.header["X-A"] = "abc"
            ngx.log(ngx.WARN, "step 1") ngx.log(ngx.WARN, "step 2")
            ngx.say("x")
        }
    }
_EOC_
--- request
GET /t HTTP/1.0
--- response_headers_like
X-A: a.c
--- response_body_filters
uc
--- response_body
X
--- grep_error_log eval: qr/step \d/
--- grep_error_log_out
step 1
step 2
_EOC2_

passes('a configuration that has to be refused', 3, block('nonsense;', <<'_EOC_'));
--- must_die
--- error_log
[emerg]
unknown directive "nonsense"
_EOC_

passes('an abort', 1, block(<<'_EOC_', <<'_EOC2_'));
    location = /t { content_by_lua_block { ngx.sleep(0.5) } }
_EOC_
--- request
GET /t
--- timeout: 100ms
--- abort
--- ignore_response
--- no_error_log
[error]
_EOC2_

passes('files, ports, environment', 4, block(<<'_EOC_', <<'_EOC2_'),
    location = /t {
        content_by_lua_block {
            ngx.say("$TEST_NGINX_SERVER_PORT" == ngx.var.server_port,
                    " ", os.getenv("NBFFI_CASE"))
        }
    }
_EOC_
--- user_files
>>> a.txt
some
--- request eval
["GET /t", "GET /a.txt"]
--- response_body_like eval
["^true yes\n", "^some\n"]
_EOC2_
    'env_to_nginx("NBFFI_CASE=yes");');

passes('two workers; as root, of an unprivileged user', 2, block(<<'_EOC_', <<'_EOC2_'),
    location = /t {
        content_by_lua_block {
            local status = io.open("/proc/self/status"):read("*a")
            ngx.say(ngx.worker.count(), " ", status:match("Uid:%s+(%d+)"))
        }
    }
_EOC_
--- request
GET /t
--- response_body eval
# A clone in a private home is tested as root, see worker_user in Server.pm.
my $user = $Test::Nginx::Lite::Runner::server->{user};
"2 " . (defined $user ? (getpwnam((split / /, $user)[0]))[2] : $>) . "\n"
_EOC2_
    'workers(2);');

passes('skipped by version', 3,
       block($say, "--- skip_nginx: 2: > 0.1.0\n--- request\nGET /t\n")
       . block($say, "--- request\nGET /t\n"));

fails('a wrong body', 2, qr/differ from byte 3/, block($say, <<'_EOC_'));
--- request
GET /t
--- response_body
help
_EOC_

fails('a body that does not match', 2, qr/expected to match/, block($say, <<'_EOC_'));
--- request
GET /t
--- response_body eval
qr/help/
_EOC_

fails('a wrong status', 1, qr/got: '200'/, block($say, <<'_EOC_'));
--- request
GET /t
--- error_code: 500
_EOC_

fails('a wrong header', 2, qr/header X-A ok/, block($say, <<'_EOC_'));
--- request
GET /t
--- response_headers
X-A: b
_EOC_

fails('a missing log line', 2, qr/no line of error.log matches/, block($say, <<'_EOC_'));
--- request
GET /t
--- error_log
never said
_EOC_

fails('a log line that must not be', 2, qr/found: ".*oh no/, block(<<'_EOC_', <<'_EOC2_'));
    location = /t { content_by_lua_block { ngx.log(ngx.ERR, "oh no") } }
_EOC_
--- request
GET /t
--- no_error_log
[error]
_EOC2_

my $alert = 'location = /t { content_by_lua_block { ngx.log(ngx.ALERT, "oh") } }';

fails('an alert nobody asked for', 1, qr/the log says: ".*\[alert\]/,
      block($alert, "--- request\nGET /t\n"));

passes('an alert the block names', 2,
       block($alert, "--- request\nGET /t\n--- error_log\n[alert]\n"));

passes('an alert the block allows', 1,
       block($alert, "--- request\nGET /t\n--- allowed_log_errors\noh\n"));

fails('an alert when the worker exits', 1, qr/the log says: ".*\[alert\]/,
      block($say, <<'_EOC_'));
--- http_config
    exit_worker_by_lua_block { ngx.log(ngx.ALERT, "at the end") }
--- request
GET /t
_EOC_

passes('what is said at the end, asked for', 3, block($say, <<'_EOC_'));
--- http_config
    exit_worker_by_lua_block { ngx.log(ngx.ERR, "at the end") }
--- request
GET /t
--- shutdown_error_log
at the end
--- no_shutdown_error_log
never said
_EOC_

my $crash = <<'_EOC_';
    location = /t {
        content_by_lua_block {
            local ffi = require "ffi"
            ffi.cdef "int raise(int);"
            ngx.timer.at(0.1, function() ffi.C.raise(11) end)
            ngx.say("hello")
        }
    }
_EOC_

fails('a worker that crashes after its answer', 2, qr/exited on signal 11/,
      block($crash, <<'_EOC_'));
--- request
GET /t
--- response_body
hello
--- wait: 0.3
_EOC_

fails('the same without a master', 2, qr/nginx exited on signal 11/,
      block($crash, <<'_EOC_'), 'master_off();');
--- request
GET /t
--- response_body
hello
--- wait: 0.3
_EOC_

fails('no answer in time', 1, qr/no answer within 0.2 s/, block(<<'_EOC_', <<'_EOC2_'));
    location = /t { content_by_lua_block { ngx.sleep(0.5) } }
_EOC_
--- request
GET /t
--- timeout: 0.2
_EOC2_

fails('a body cut short', 2, qr/cut short/, block(<<'_EOC_', <<'_EOC2_'));
    location = /t {
        content_by_lua_block {
            ngx.header.content_length = 100
            ngx.print("x") ngx.flush(true) ngx.exit(444)
        }
    }
_EOC_
--- request
GET /t
--- response_body chop
x
_EOC2_

fails('a configuration that should have been refused', 1, qr/it runs/,
      block($say, '--- must_die'));

fails('a configuration that is refused', 1, qr/unknown directive/,
      block('nonsense;', "--- request\nGET /t\n"));

refuses('a section nobody knows', 'unknown section --- eror_log',
        block($say, "--- request\nGET /t\n--- eror_log\nx\n"));

refuses('one body for two requests', 'needs arrays',
        block($say, "--- request eval\n['GET /t', 'GET /t']\n--- response_body\nhello\n"));

done_testing();
