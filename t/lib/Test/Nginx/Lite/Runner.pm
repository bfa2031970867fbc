package Test::Nginx::Lite::Runner;

# Runs the blocks of a test file: for each one a fresh nginx, the requests as
# often as repeat_each says, the checks, and the end of nginx, which is part of
# what is checked. The settings a test file may change are in %set.

use v5.10.1;
use strict;
use warnings;

use List::Util qw( shuffle );
use Test::More ();
use Test::Nginx::Lite::Checks ();
use Test::Nginx::Lite::Client ();
use Test::Nginx::Lite::Server ();
use Time::HiRes qw( sleep );

# Sections that are understood. Any other one is a mistake, most likely a
# misspelt check that would never be made.
our %known = map { $_ => 1 } qw(
    name description ONLY SKIP LAST
    main_config post_main_config http_config config user_files server_name
    error_log_file log_level init
    request pipelined_requests raw_request raw_request_middle_delay more_headers
    timeout abort shutdown wait ignore_response
    error_code error_code_like response_body response_body_like
    response_body_unlike response_body_filters response_headers
    response_headers_like raw_response_headers_like raw_response_headers_unlike
    error_log no_error_log grep_error_log grep_error_log_out
    access_log no_access_log shutdown_error_log no_shutdown_error_log
    allowed_log_errors must_die skip_nginx skip_eval todo no_check_leak
    reload_fails
);

our %set = (
    repeat_each => 1,
    timeout => $ENV{TEST_NGINX_TIMEOUT} || 3,
    workers => 1,
    connections => 64,
    # Unlike Test::Nginx: a master sees how workers end, and gives them
    # another user. master_off() is obeyed.
    master => defined $ENV{TEST_NGINX_MASTER_PROCESS}
        ? $ENV{TEST_NGINX_MASTER_PROCESS} eq 'on' : 1,
    log_level => $ENV{TEST_NGINX_LOG_LEVEL} || 'debug',
    preamble => '',
    server_name => 'localhost',
    addr => '127.0.0.1',
    root_location => 1,
    shuffle => !$ENV{TEST_NGINX_NO_SHUFFLE},
    accumulate => $ENV{TEST_NGINX_CHECK_ACCUM_ERR_LOG},
    env => [],
    preprocessors => [],
    cleanups => [],
    body_checks => [],
);

our $server = Test::Nginx::Lite::Server->new;
$set{port} = $ENV{TEST_NGINX_SERVER_PORT} || $ENV{TEST_NGINX_PORT}
    || Test::Nginx::Lite::Server::free_port();
$ENV{TEST_NGINX_SERVER_PORT} = $set{port};
$ENV{TEST_NGINX_SERVER_ROOT} = $server->{root};

my $main_pid = $$;
my $previous_config;

# An interrupted run stops its nginx, too: END runs on exit, not on signals.
$SIG{$_} = sub { exit 130 } for qw( INT TERM HUP );

sub bail_out {
    $server->kill_hard;
    Test::More::BAIL_OUT(join '', @_);
}

sub run_blocks {
    my @blocks = $set{shuffle} ? shuffle(@_) : @_;
    for my $block (@blocks) {
        $_->($block) for @{ $set{preprocessors} };
        $block->set_value(name => "$0 " . $block->name);
        run_block($block);
    }
}

sub run_block {
    my ($block) = @_;
    my $name = $block->name;

    for my $section (keys %$block) {
        next if $known{$section} || $section =~ /^_/;
        next if $section =~ /^(?:blocks_object|seq_num|is_filtered|original_values)$/;
        bail_out("$name - unknown section --- $section");
    }
    return if skip($block);

    my $checks;
    eval {
        # Dies of mistakes in the block alone; a wrong server is a result.
        $checks = Test::Nginx::Lite::Checks->new($block,
            port => $set{port},
            accumulate => $set{accumulate},
            error_log => scalar($block->error_log_file) // $server->error_log,
            access_log => $server->path('logs/access.log'));
        prepare($block);
        if (defined $block->must_die) {
            must_die($block, $checks, $_) for 0 .. $set{repeat_each} - 1;
        } else {
            serve($block, $checks);
        }
        1;
    } or bail_out("$name - $@");

    return if $checks->flush;
    show_log($checks->{error_log});
}

# skip_nginx ("tests: < 1.21.4: reason"), skip_eval ("tests: expression"), and
# todo ("tests: reason"). True if the block is not to be run.
sub skip {
    my ($block) = @_;
    my $name = $block->name;
    my $builder = Test::More->builder;

    my ($count, $reason);
    if (defined(my $spec = $block->skip_nginx)) {
        $spec =~ /\A\s*(\d+)\s*:\s*([<>]=?)\s*(\d+\.\d+\.\d+)(?:\s*:\s*(.*?))?\s*\z/s
            or bail_out("$name - bad --- skip_nginx: $spec");
        my ($tests, $op, $version) = ($1, $2, $3);
        my $why = $4 // "nginx version $op $version";
        my $order = $server->{version}
            <=> Test::Nginx::Lite::Server::version_number($version);
        my $met = $op =~ /=/ && $order == 0
            || ($op =~ /</ ? $order < 0 : $order > 0);
        ($count, $reason) = ($tests, $why) if $met;
    }
    if (defined(my $spec = $block->skip_eval)) {
        $spec =~ /\A\s*(\d+)\s*:\s*(.*)/s
            or bail_out("$name - bad --- skip_eval: $spec");
        my ($tests, $code) = ($1, $2);
        my $met = eval $code;
        bail_out("$name - --- skip_eval: $@") if $@;
        ($count, $reason) = ($tests, 'skip_eval') if $met;
    }
    if (defined $count) {
        $builder->skip("$name - $reason") for 1 .. $count * $set{repeat_each};
        return 1;
    }
    if (defined(my $spec = $block->todo)) {
        $spec =~ /\A\s*(\d+)\s*:\s*(.*?)\s*\z/s
            or bail_out("$name - bad --- todo: $spec");
        $builder->todo_skip("$name - $2") for 1 .. $1 * $set{repeat_each};
        return 1;
    }
    return 0;
}

sub prepare {
    my ($block) = @_;
    my $config = $block->config // $previous_config
        // die "no --- config, and no block before it\n";
    $previous_config = $config;

    $server->wipe;
    $server->write_user_files(scalar $block->user_files);
    $server->write_config(
        config => $config,
        http_config => scalar $block->http_config,
        main_config => scalar $block->main_config,
        post_main_config => scalar $block->post_main_config,
        error_log => scalar $block->error_log_file,
        log_level => scalar($block->log_level) // $set{log_level},
        server_name => scalar($block->server_name) // $set{server_name},
        map { $_ => $set{$_} }
            qw( preamble workers connections master env port root_location ));
}

# A configuration that nginx has to refuse: --- must_die, with the exit code if
# it matters.
sub must_die {
    my ($block, $checks, $round) = @_;
    my $expected = $block->must_die;
    my ($started, $status) = $server->start;
    if ($started) {
        # Some of them fail only when the workers start.
        $status = $server->wait_exit(1) ? $server->{status} : 0;
        $server->stop($set{timeout});
    }
    my $said = 'it said: ' . ($started ? 'nothing, it runs' : stderr());
    if ($expected =~ /^\s*(\d+)\s*$/) {
        $checks->result($status == $1 << 8, 'die with the expected exit code',
                        'exit code ' . ($status >> 8), $said);
    } else {
        $checks->result($status != 0, 'die as expected', $said);
    }
    $checks->result(0, 'nginx exited on a signal') if $status & 127;
    $checks->error_log($round);
}

sub stderr {
    my ($lines) = Test::Nginx::Lite::Checks::read_log($server->path('logs/stderr.log'), 0);
    my ($log) = Test::Nginx::Lite::Checks::read_log($server->error_log, 0);
    return Test::Nginx::Lite::Checks::show(
        join '', grep { !/\[debug\]/ } @$lines, @$log);
}

sub serve {
    my ($block, $checks) = @_;

    my ($started, $status);
    for my $try (1 .. 5) {
        ($started, $status) = $server->start;
        last if $started;
        # Somebody may have taken the port since it was found to be free.
        last unless stderr() =~ /Address already in use/;
        sleep 0.2 * $try;
        prepare($block);
    }
    if (!$started) {
        $checks->result(0, 'nginx starts',
                        Test::Nginx::Lite::Server::describe_status($status)
                            // 'nginx exited', stderr());
        return;
    }

    if (defined(my $init = $block->init)) {
        eval $init;
        die "--- init: $@" if $@;
    }

    for my $round (0 .. $set{repeat_each} - 1) {
        $server->write_user_files(scalar $block->user_files) if $round;
        run_once($block, $checks, $round);
    }

    # In the foreground without a master, a crash is the exit of our child.
    if ($server->wait_exit(0)) {
        my $how = Test::Nginx::Lite::Server::describe_status($server->{status})
            // 'nginx exited during the test';
        $checks->wrong($how);
    } else {
        my $how = $server->stop($set{timeout} < 10 ? 10 : $set{timeout});
        $checks->wrong($how) if defined $how;
    }
    $checks->shutdown_log;
    $checks->whole_log;
}

# One round of requests and checks.
sub run_once {
    my ($block, $checks, $round) = @_;

    my $timeout = seconds(scalar($block->timeout) // $set{timeout});
    my $requests = Test::Nginx::Lite::Client::requests($block, $set{server_name});
    my $pipelined = $block->pipelined_requests;
    my $count = $pipelined ? @$pipelined : @$requests;
    my $many = $count > 1 || $pipelined;
    my $ignore = defined $block->ignore_response;

    my $index = 0;
    for my $request (@$requests) {
        my ($raw, $error) = Test::Nginx::Lite::Client::exchange($request,
            addr => $set{addr}, port => $set{port}, timeout => $timeout,
            middle_delay => scalar $block->raw_request_middle_delay,
            shutdown => scalar $block->shutdown);
        if (defined $error && $error eq 'timeout') {
            $error = defined $block->abort
                ? undef : "no answer within $timeout s";
        }

        my $is_head = $request->[0]{value} =~ /\A\s*HEAD\s/;
        for my $part (1 .. ($pipelined ? scalar @$pipelined : 1)) {
            my $flaw;
            if (!$ignore) {
                (my $res, $raw, $flaw) =
                    Test::Nginx::Lite::Client::parse_response($raw, $is_head);
                $checks->response($res, $index, $many, $round);
                $_->($block, $res->{body}, $index, $round, 0)
                    for @{ $set{body_checks} };
                # What an abort cuts short is no flaw.
                $checks->wrong($flaw) if defined $flaw && !defined $block->abort;
            }
            $checks->wrong($error) if defined $error && !$ignore;

            my $wait = $block->wait;
            sleep seconds($wait) if defined $wait && $wait > 0;
            $checks->error_log($round);
            $checks->wrong($error) if defined $error && $ignore;
            $checks->access_log($round) unless $ignore;
            $index++;
        }
        if (!$ignore && defined $raw && $raw ne '' && !defined $block->abort) {
            $checks->wrong('bytes after the response: '
                           . Test::Nginx::Lite::Checks::show($raw));
        }
    }
}

# "1.5", "1.5s", "300ms"
sub seconds {
    my $text = shift;
    $text =~ /\A\s*([\d.]+)\s*(ms|s)?\s*\z/ or die "bad time \"$text\"\n";
    return ($2 // 's') eq 'ms' ? $1 / 1000 : $1;
}

# What a failed block left in the log, without debug lines and without the
# notices of an nginx that starts and stops as it should.
sub show_log {
    my $path = shift;
    my ($lines) = Test::Nginx::Lite::Checks::read_log($path, 0);
    my @lines = grep {
        m{^\d{4}/\d\d/\d\d } && !/\[debug\]/
            && (!/\[notice\]/ || /\[lua\]|exited with code [1-9]/)
    } @$lines;
    splice @lines, 0, @lines - 30 if @lines > 30;
    my $builder = Test::More->builder;
    $builder->diag(@lines ? '  the end of error.log:' : '  error.log has no complaint');
    for my $line (@lines) {
        chomp $line;
        $builder->diag('    ' . substr $line, 0, 300);
    }
    $builder->diag("  kept in $server->{root}") if $ENV{TEST_NGINX_NO_CLEAN};
}

END {
    if ($$ == $main_pid) {
        local ($?, $!, $@);
        $_->() for @{ $set{cleanups} };
        $server->stop(3) if $server && $server->running;
    }
}

1;
