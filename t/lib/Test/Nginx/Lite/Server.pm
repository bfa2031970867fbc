package Test::Nginx::Lite::Server;

# The nginx side of the runner: its folder, its configuration file, its user,
# and its life. nginx runs in the foreground as our child, so that its exit
# status is known and none is left behind; only processes that were started
# here are ever signalled.

use v5.10.1;
use strict;
use warnings;

use Cwd qw( abs_path );
use File::Basename qw( dirname );
use File::Glob qw( bsd_glob );
use File::Path qw( make_path remove_tree );
use File::Spec ();
use File::Temp ();
use IO::Socket::INET ();
use POSIX qw( :sys_wait_h );
use Time::HiRes qw( sleep time );

use constant STEP => 0.005;

sub new {
    my ($class) = @_;
    my $self = bless { ports => {} }, $class;

    my $env = dirname(abs_path(__FILE__)) . '/../../../../../scripts/nginx-env.sh';
    if (defined $ENV{TEST_NGINX_BINARY} && defined $ENV{TEST_NGINX_LOAD_MODULES}) {
        $self->{binary} = $ENV{TEST_NGINX_BINARY};
        $self->{modules} = [ split ' ', $ENV{TEST_NGINX_LOAD_MODULES} ];
    } else {
        my $said = `sh '$env'`;
        die "no nginx to test with\n" if $? != 0;
        my %found = $said =~ /^(\w+)='(.*)'$/mg;
        $self->{binary} = $found{TEST_NGINX_BINARY};
        $self->{modules} = [ split ' ', $found{TEST_NGINX_LOAD_MODULES} ];
    }

    # nginx would take it for the sockets that it inherits.
    delete $ENV{NGINX};

    my $about = `'$self->{binary}' -V 2>&1`;
    my ($version) = $about =~ m{^(?:nginx|openresty) version: \S+?/(\d+\.\d+\.\d+)}m;
    die "cannot tell the version of $self->{binary}\n" unless defined $version;
    $self->{version} = version_number($version);
    $self->{without} = { map { $_ => 1 } $about =~ /--without-http_(\w+)_module/g };

    if (defined $ENV{TEST_NGINX_SERVROOT}) {
        $self->{root} = $ENV{TEST_NGINX_SERVROOT};
        make_path($self->{root});
    } else {
        $self->{temp} = File::Temp->newdir('nbffi-t.XXXXXX', DIR => temp_dir(),
                                           CLEANUP => !$ENV{TEST_NGINX_NO_CLEAN});
        chmod 0755, "$self->{temp}";
        $self->{root} = "$self->{temp}/servroot";
        mkdir $self->{root} or die "mkdir $self->{root}: $!\n";
    }
    $self->{root} = abs_path($self->{root});
    $self->{user} = worker_user($self->{root});
    return $self;
}

sub version_number {
    my @part = split /\./, shift;
    return $part[0] * 1_000_000 + $part[1] * 1_000 + ($part[2] // 0);
}

sub path { my ($self, $name) = @_; return "$self->{root}/$name" }

sub error_log { return shift->path('logs/error.log') }

# Where a folder may be made that an unprivileged worker can enter.
sub temp_dir {
    my $dir = File::Spec->tmpdir;
    return reachable($dir) ? $dir : '/tmp';
}

# Whether users other than the owner can enter this folder and all above it.
sub reachable {
    my $dir = abs_path(shift);
    while (defined $dir) {
        my $mode = (stat $dir)[2];
        return 0 unless defined $mode && $mode & 0001;
        last if $dir eq '/';
        $dir = dirname $dir;
    }
    return 1;
}

# The user and group of the workers. As root they are given to `nobody`, if
# that user can reach what is tested; a clone in a private home cannot be.
sub worker_user {
    return $ENV{TEST_NGINX_WORKER_USER} if defined $ENV{TEST_NGINX_WORKER_USER};
    return undef if $> != 0;
    my $nobody = getpwnam 'nobody';
    if (!defined $nobody || !reachable('.')) {
        print STDERR "# nginx workers run as root: `nobody` cannot reach ",
            abs_path('.'), "\n" unless $ENV{NBFFI_WARNED_ROOT}++;
        return 'root';
    }
    my $group = getgrgid((getpwnam 'nobody')[3]);
    return 'nobody ' . ($group // 'nogroup');
}

sub free_port {
    my $sock = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 0,
                                     Proto => 'tcp', Listen => 1)
        or die "no free port: $!\n";
    return $sock->sockport;
}

# $TEST_NGINX_* in configurations and files. The ports TEST_NGINX_RAND_PORT_n
# are chosen at first use and stay the same within a block.
sub expand {
    my ($self, $text) = @_;
    return '' unless defined $text;
    $text =~ s{\$(TEST_NGINX_[_A-Z0-9]+)}{
        my $name = $1;
        $name =~ /^TEST_NGINX_RAND_PORT_\d+$/
            ? $self->{ports}{$name} //= free_port()
            : $ENV{$name} // die "\$$name is used, but not in the environment\n"
    }ge;
    return $text;
}

# Empties the folder. Only what nginx and this file make there is removed, in
# case TEST_NGINX_SERVROOT names a folder by mistake.
sub wipe {
    my ($self) = @_;
    my $root = $self->{root};
    $self->{ports} = {};
    remove_tree("$root/conf", "$root/logs", "$root/html",
                bsd_glob("$root/*_temp"), bsd_glob("$root/*_cache"));
    for my $dir (qw( conf logs html )) {
        mkdir "$root/$dir" or die "mkdir $root/$dir: $!\n";
        chmod 0755, "$root/$dir";
    }
    spew("$root/html/index.html",
         '<html><head><title>It works!</title></head><body>It works!</body></html>');
}

sub spew {
    my ($path, $text) = @_;
    open my $out, '>', $path or die "cannot write $path: $!\n";
    binmode $out;
    print $out $text;
    close $out or die "cannot write $path: $!\n";
}

# --- user_files: ">>> name [touch date]" lines with contents between, or an
# array of [name, contents, date].
sub write_user_files {
    my ($self, $files) = @_;
    return unless defined $files;

    if (!ref $files) {
        my @files;
        for my $line (split /^/, $files) {
            if ($line =~ /^>>> (\S+)(?:\s+(\S+))?/) {
                push @files, [ $1, '', $2 ];
            } elsif (@files) {
                $files[-1][1] .= $line;
            }
        }
        $files = \@files;
    }

    for my $file (@$files) {
        my ($name, $body, $date) = @$file;
        my $path = $name =~ m{^/} ? $name : $self->path("html/$name");
        make_path(dirname $path);
        spew($path, $self->expand($body));
        if (defined $date) {
            local $ENV{TZ} = 'GMT';
            system('touch', '-t', $date, $path) == 0 or die "touch -t $date failed\n";
        }
    }
}

# Writes nginx.conf. %c: config, http_config, main_config, post_main_config,
# preamble, workers, connections, master, log_level, env, port, server_name,
# error_log, root_location.
sub write_config {
    my ($self, %c) = @_;
    my $root = $self->{root};

    my @main = map { "load_module $_;" } @{ $self->{modules} };
    push @main, "user $self->{user};" if defined $self->{user} && $c{master};
    push @main, "worker_processes $c{workers};",
        'daemon off;',
        'master_process ' . ($c{master} ? 'on' : 'off') . ';',
        'error_log ' . ($c{error_log} // $self->error_log) . " $c{log_level};",
        "pid $root/logs/nginx.pid;";
    push @main, map { /\s/ ? "env '$_';" : "env $_;" }
        qw( LD_PRELOAD LD_LIBRARY_PATH ASAN_OPTIONS TSAN_OPTIONS RUST_BACKTRACE ),
        @{ $c{env} };

    my @http = ("access_log $root/logs/access.log;", 'default_type text/plain;',
                'keepalive_timeout 68;', "client_body_temp_path $root/client_body_temp;");
    for my $module (qw( proxy fastcgi uwsgi scgi )) {
        push @http, "${module}_temp_path $root/${module}_temp;"
            unless $self->{without}{$module};
    }
    (my $server_name = $c{server_name}) =~ s/(['\\])/\\$1/g;
    my $root_location = $c{root_location}
        ? "location / { root $root/html; index index.html index.htm; }" : '';

    spew("$root/conf/nginx.conf", join "\n",
        @main,
        $self->expand($c{main_config}),
        'events {', "accept_mutex off; worker_connections $c{connections};", '}',
        'http {', @http,
        $self->expand($c{http_config}),
        'server {',
        "listen 127.0.0.1:$c{port};",
        "server_name '$server_name';",
        'client_max_body_size 30M;',
        $self->expand($c{preamble}),
        '# the configuration of the test begins here',
        $self->expand($c{config}),
        '# and ends here',
        $root_location,
        '}', '}',
        $self->expand($c{post_main_config}), '');
}

# Starts nginx and waits until it has written its pid file or has exited.
# Returns true, or false and the exit status as waitpid gives it.
sub start {
    my ($self) = @_;
    my $root = $self->{root};

    # Since 1.19.5 nginx can be told where to log before it has read its
    # configuration; the errors of a refused one are then in the log.
    my @command = ($self->{binary}, '-p', "$root/", '-c', "$root/conf/nginx.conf");
    push @command, '-e', $self->error_log if $self->{version} >= 1_019_005;

    my $pid = fork // die "fork: $!\n";
    if ($pid == 0) {
        open STDIN, '<', '/dev/null';
        open STDOUT, '>', '/dev/null';
        open STDERR, '>', "$root/logs/stderr.log";
        { no warnings "exec"; exec { $command[0] } @command }
        POSIX::_exit(127);
    }
    $self->{pid} = $pid;
    $self->{owner} = $$;

    my $give_up = time + 30;
    while (!-s "$root/logs/nginx.pid") {
        if (waitpid($pid, WNOHANG) == $pid) {
            delete $self->{pid};
            return (0, $?);
        }
        if (time > $give_up) {
            $self->kill_hard;
            die "nginx wrote no pid file within 30 s\n";
        }
        sleep STEP;
    }
    return (1, 0);
}

# Waits for an nginx that is expected to exit by itself. True if it did.
sub wait_exit {
    my ($self, $seconds) = @_;
    my $give_up = time + $seconds;
    while (waitpid($self->{pid}, WNOHANG) != $self->{pid}) {
        return 0 if time > $give_up;
        sleep STEP;
    }
    $self->{status} = $?;
    delete $self->{pid};
    return 1;
}

sub running { return defined shift->{pid} }

# Asks nginx to quit as an operator would, and describes what was wrong with
# how it did: nothing (undef), too slow, a signal, or an exit code.
sub stop {
    my ($self, $seconds) = @_;
    return undef unless defined $self->{pid};
    kill QUIT => $self->{pid};
    if (!$self->wait_exit($seconds)) {
        $self->kill_hard;
        return "nginx did not quit within $seconds s";
    }
    return describe_status($self->{status});
}

sub describe_status {
    my $status = shift;
    return undef if $status == 0;
    return 'nginx exited on signal ' . ($status & 127) if $status & 127;
    return 'nginx exited with code ' . ($status >> 8);
}

# For the end of the run only: the master and the workers it has now.
sub kill_hard {
    my ($self) = @_;
    my $pid = delete $self->{pid} // return;
    local $?;
    my @workers = map { /^\s*(\d+)\s+$pid\s*$/ ? $1 : () } `ps -e -o pid= -o ppid=`;
    kill KILL => $pid, @workers;
    waitpid $pid, 0;
}

sub DESTROY {
    my ($self) = @_;
    # A forked child of a test must not end its parent's nginx.
    return if !defined $self->{pid} || $self->{owner} != $$;
    $self->kill_hard;
}

1;
