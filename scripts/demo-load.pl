#!/usr/bin/env perl
# demo-load.pl PORT SECONDS PICTURES TEXT [LANGUAGE...]: loads the demo's nginx and
# reports.
#
# Rounds with a ping every other millisecond over one connection: nothing else
# going on; pictures resized by the plugin in Rust; something done with the text in
# each of the other languages; and, for contrast, as much work as a picture makes,
# on the event loop itself.

use strict;
use warnings;

use IO::Socket::INET ();
use List::Util qw( max sum );
use Socket qw( IPPROTO_TCP TCP_NODELAY );
use Time::HiRes qw( sleep time );

my ($port, $seconds, $folder, $text_file, @languages) = @ARGV;
my $clients = 8;
my $short = $seconds < 2 ? $seconds : 2;
$| = 1;

sub contents {
    my ($file) = @_;
    open my $in, '<:raw', $file or die "$file: $!\n";
    local $/;
    return scalar <$in>;
}

my @pictures = map {
    { name => m{([^/]+)\z}, data => contents($_) }
} sort glob "'$folder'/*";
my $text = contents($text_file);

# What the languages do with the text, and how an answer begins.
my %work = (
    python => [ 'counting words in Python', qr/\A\{"/ ],
    go => [ 'Markdown to HTML in Go', qr/\A<h1/ ],
    java => [ 'gzip in Java', qr/\A\x1f\x8b/ ],
);
die "no pictures in $folder\n" unless @pictures;

sub dial {
    my $sock = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port,
                                     Proto => 'tcp', Timeout => 5)
        or die "cannot connect to 127.0.0.1:$port: $!\n";
    setsockopt $sock, IPPROTO_TCP, TCP_NODELAY, 1 or die "setsockopt: $!\n";
    return $sock;
}

# One request over a connection that stays open; status, body, and what the
# plugin said of the picture.
sub ask {
    my ($sock, $method, $uri, $body) = @_;
    $body //= '';
    print $sock "$method $uri HTTP/1.1\r\nHost: demo\r\nContent-Length: "
        . length($body) . "\r\n\r\n" . $body or die "send: $!\n";
    $sock->flush;
    my ($status, $length, $about) = (0, 0, '');
    while (defined(my $line = <$sock>)) {
        $status = $1 if $line =~ m{\AHTTP/1\.1 (\d+)};
        $length = $1 if $line =~ /\AContent-Length:\s*(\d+)/i;
        $about = $1 if $line =~ /\AX-Thumbnail:\s*(.*?)\r/i;
        last if $line eq "\r\n";
    }
    my $got = '';
    read($sock, $got, $length) == $length or die "nginx closed the connection\n"
        if $length;
    die "nginx closed the connection\n" unless $status;
    return ($status, $got, $about);
}

# Clients in processes of their own that send requests until told to stop, and
# then report "count in out" lines: how many, and how many bytes each way.
sub start_clients {
    my ($request) = @_;
    my @clients;
    for my $n (1 .. $clients) {
        pipe my $reader, my $writer or die "pipe: $!\n";
        my $pid = fork // die "fork: $!\n";
        if ($pid == 0) {
            close $reader;
            my $stop = 0;
            $SIG{TERM} = sub { $stop = 1 };
            my ($count, $in, $out, $fault) = (0, 0, 0, '');
            eval {
                my $sock = dial();
                for (my $i = $n; !$stop; $i++) {
                    my ($status, $body, $sent) = $request->($sock, $i);
                    die "status $status: $body\n" unless $status == 200;
                    $count++;
                    $in += $sent;
                    $out += length $body;
                }
                1;
            } or chomp($fault = $@);
            print $writer "$count $in $out $fault\n";
            close $writer;
            # Not the parent's END, nor its buffers.
            require POSIX;
            POSIX::_exit(0);
        }
        close $writer;
        push @clients, [ $pid, $reader ];
    }
    return @clients;
}

sub stop_clients {
    my ($count, $in, $out) = (0, 0, 0);
    kill TERM => map { $_->[0] } @_;
    for my $client (@_) {
        my ($pid, $reader) = @$client;
        my $line = <$reader> // '';
        waitpid $pid, 0;
        my ($c, $i, $o, $fault) = split ' ', $line, 4;
        die 'a client failed: ' . ($fault // 'it is gone') . "\n"
            if !defined $o || ($fault // '') =~ /\S/;
        $count += $c;
        $in += $i;
        $out += $o;
    }
    return ($count, $in, $out);
}

sub ping_for {
    my $until = time + shift;
    my $sock = dial();
    my @took;
    while ((my $begin = time) < $until) {
        my ($status) = ask($sock, 'GET', '/ping');
        die "/ping answered with $status\n" unless $status == 200;
        push @took, time - $begin;
        sleep 0.002;
    }
    return [ sort { $a <=> $b } @took ];
}

sub ms { return sprintf '%.2f', 1000 * shift }

sub line {
    my ($what, $took, $done) = @_;
    my $at = sub { $took->[ int($_[0] * $#$took) ] };
    printf "%-34s %8d %10s %10s %10s   %s\n", $what, scalar @$took,
        ms($at->(0.5)), ms($at->(0.99)), ms($took->[-1]), $done;
}

my $control = dial();
print "\n";
for my $picture (@pictures) {
    my $begin = time;
    my ($status, $thumb, $about) = ask($control, 'POST', '/thumb', $picture->{data});
    die "/thumb answered with $status: $thumb\n" unless $status == 200;
    printf "  %-16s %6.0f kB  ->  %s, %.1f kB, in %.0f ms\n",
        $picture->{name}, length($picture->{data}) / 1000, $about,
        length($thumb) / 1000, 1000 * (time - $begin);
}

print "\nOne nginx worker; $clients clients; pings in milliseconds:\n\n";
printf "%-34s %8s %10s %10s %10s\n", '', 'pings', 'p50', 'p99', 'max';
line('nothing else', ping_for($short), '');

my @busy = start_clients(sub {
    my ($sock, $i) = @_;
    my $picture = $pictures[ $i % @pictures ];
    my ($status, $body) = ask($sock, 'POST', '/thumb', $picture->{data});
    return ($status, $body, length $picture->{data});
});
my $took = ping_for($seconds);
my ($count, $in, $out) = stop_clients(@busy);
die "no thumbnail was made\n" unless $count;
line('resizing in Rust', $took,
     sprintf '%.0f thumbnails/s (%d: %.1f MB in, %.1f MB out)',
             $count / $seconds, $count, $in / 1e6, $out / 1e6);

# What a runtime says of itself, and what one request cost a pool thread, from
# its histogram.
sub stats {
    my ($query) = @_;
    my ($status, $stats) = ask($control, 'GET', "/stats$query");
    my ($mean) = $stats =~ /^run_time mean ([\d.e-]+)/m;
    die "/stats answered with $status: $stats\n" unless defined $mean;
    return ($stats, $mean);
}
my ($stats, $mean) = stats('');

for my $language (@languages) {
    my ($what, $right) = @{ $work{$language} };
    my $uri = "/work?language=$language";
    my ($status, $answer) = ask($control, 'POST', $uri, $text);
    if ($status != 200) {
        # A runtime that cannot be loaded says what is missing.
        printf "%-34s left out: %s\n", $what, $answer =~ /\A(.*)/;
        next;
    }
    @busy = start_clients(sub {
        my ($sock) = @_;
        my ($code, $body) = ask($sock, 'POST', $uri, $text);
        die "$what: a wrong answer\n" if $code == 200 && $body !~ $right;
        return ($code, $body, length $text);
    });
    my $pings = ping_for($short);
    my ($calls) = stop_clients(@busy);
    die "$what: no answer\n" unless $calls;
    my (undef, $each) = stats("?language=$language");
    line($what, $pings, sprintf '%.0f texts/s of %.0f kB, %.2f ms each',
         $calls / $short, length($text) / 1000, 1000 * $each);
}

@busy = start_clients(sub {
    my ($sock) = @_;
    my ($status, $body) = ask($sock, 'GET', "/busy?seconds=$mean");
    return ($status, $body, 0);
});
my $blocked = ping_for($seconds);
my ($spins) = stop_clients(@busy);
line('as much work on the event loop', $blocked, sprintf '%.0f/s', $spins / $seconds);

print "\nThe picture runtime's own account:\n\n";
print "  $_\n" for split /\n/, $stats;
