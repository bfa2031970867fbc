package Test::Nginx::Lite::Client;

# The HTTP side of the runner: makes the bytes of the requests that a block
# asks for, sends them over a fresh connection, and takes responses apart.
#
# A request is an array of packets, { value, delay_before }, because a block
# may ask for a pause in the middle of a request. Most have one packet.

use v5.10.1;
use strict;
use warnings;

use IO::Select ();
use IO::Socket::INET ();
use Socket qw( SHUT_WR );
use Time::HiRes qw( sleep time );
use Errno qw( EAGAIN EINTR );

use constant READ_SIZE => 65536;

# The requests of one run of a block, in order: [ [ packet, ... ], ... ].
# Pipelined requests are one request here, made of many.
sub requests {
    my ($block, $host) = @_;

    my $raw = $block->raw_request;
    if (defined $raw) {
        return [ [ map { { value => $_ } } ref $raw ? @$raw : ($raw) ] ];
    }

    my $more_headers = $block->more_headers;
    my $headers_of = sub {
        my $index = shift;
        my $text = ref $more_headers ? $more_headers->[$index] : $more_headers;
        die "--- more_headers has no entry for request $index\n"
            if ref $more_headers && !defined $text;
        return parse_more_headers($text // '');
    };

    my $pipelined = $block->pipelined_requests;
    if (defined $pipelined) {
        die "--- pipelined_requests must be an array\n"
            unless ref $pipelined eq 'ARRAY';
        my $bytes = '';
        for my $i (0 .. $#$pipelined) {
            my $last = $i == $#$pipelined;
            $bytes .= request_bytes($pipelined->[$i], $headers_of->($i), $host,
                                    $last ? 'close' : 'keep-alive');
        }
        return [ [ { value => $bytes } ] ];
    }

    my $request = $block->request;
    die "no --- request, --- pipelined_requests or --- raw_request\n"
        unless defined $request;

    if (!ref $request) {
        # Comments and blank lines may come before the request line.
        1 while $request =~ s/\A(?:\s+|\#[^\n]*\n)//;
        return [ [ { value => request_bytes($request, $headers_of->(0), $host,
                                            'close') } ] ];
    }

    my @requests;
    for my $i (0 .. $#$request) {
        push @requests, packets($request->[$i], $headers_of->($i), $host);
    }
    return \@requests;
}

# One request given as text, or as an array of packets. Packets are joined to
# complete the head, and cut again where the author cut the body; a head that
# is itself in pieces cannot be completed and has to be a raw_request.
sub packets {
    my ($request, $headers, $host) = @_;

    if (!ref $request) {
        return [ { value => request_bytes($request, $headers, $host, 'close') } ];
    }

    my @parts = map { ref $_ eq 'HASH' ? { %$_ } : { value => $_ } } @$request;
    my $first = $parts[0]{value};
    die "the first packet must hold the whole request line; "
        . "use --- raw_request for finer cuts\n" if $first !~ /\n/;

    my $rest = join '', map { $_->{value} } @parts[1 .. $#parts];
    $rest =~ s/\s+\z//;
    my $bytes = request_bytes($first . $rest, $headers, $host, 'close');
    my $head = length($bytes) - length $rest;
    my $offset = $head;
    for my $part (@parts[1 .. $#parts]) {
        my $length = length $part->{value};
        $part->{value} = substr $bytes, $offset, $length;
        $offset += $length;
    }
    $parts[0]{value} = substr $bytes, 0, $head;
    return \@parts;
}

sub parse_more_headers {
    my $text = shift;
    my @lines;
    for my $line (split /\n+/, $text) {
        next if $line =~ /^\s*(?:#|$)/;
        my ($name, $value) = split /:\s*/, $line, 2;
        push @lines, [ $name, $value // '' ];
    }
    return \@lines;
}

# Completes "METHOD [uri [version]]\nbody" to a request.
sub request_bytes {
    my ($text, $headers, $host, $connection) = @_;

    my ($line, $body) = split /\n/, $text, 2;
    $line =~ s/\A\s+|\s+\z//g;
    my ($method, $uri, $version, $excess) = split / +/, $line;
    die "bad request line \"$line\"\n" if !defined $method || defined $excess;
    $uri //= '/';
    $version //= 'HTTP/1.1';
    $body //= '';

    my %has = map { lc $_->[0] => $_->[1] } @$headers;
    my @head = ("$method $uri $version");
    push @head, "Host: $host" unless exists $has{host};
    push @head, "Connection: $connection" unless exists $has{connection};
    push @head, map { "$_->[0]: $_->[1]" } @$headers;

    my $chunked = lc($has{'transfer-encoding'} // '') eq 'chunked';
    if ($body ne '' && !$chunked && !exists $has{'content-length'}) {
        $body =~ s/\A\s+|\s+\z//g;
        push @head, 'Content-Length: ' . length $body;
    }
    return join("\r\n", @head) . "\r\n\r\n$body";
}

# Sends one request and reads until the server closes. Returns the bytes and
# what went wrong: undef, "timeout" or a message. The time limit is for each
# wait, as a large response may take long in all.
sub exchange {
    my ($request, %opt) = @_;

    my $sock = connect_to($opt{addr}, $opt{port}, $opt{timeout})
        or return ('', "cannot connect to $opt{addr}:$opt{port}: $!");

    local $SIG{PIPE} = 'IGNORE';
    my @packets = @$request;
    my $packet = shift @packets;
    my ($out, $sent, $in) = ($packet->{value}, 0, '');
    my $reading = IO::Select->new($sock);
    my $writing = IO::Select->new($sock);
    my $may_write = 1;

    while (1) {
        my ($readable, $writable) =
            IO::Select->select($reading, $may_write ? $writing : undef, undef,
                               $opt{timeout});
        if (!defined $readable) {
            next if $! == EINTR;
            close $sock;
            return ($in, 'timeout');
        }

        if (@$readable) {
            my $n = sysread $sock, $in, READ_SIZE, length $in;
            if (!defined $n) {
                next if $! == EAGAIN || $! == EINTR;
                return ($in, $in eq '' ? "read failed: $!" : undef);
            }
            last if $n == 0;
        }

        if (@$writable) {
            if ($sent < length $out) {
                my $n = syswrite $sock, $out, length($out) - $sent, $sent;
                if (!defined $n) {
                    next if $! == EAGAIN || $! == EINTR;
                    # The server may answer early and close; read what it said.
                    $may_write = 0;
                    next;
                }
                $sent += $n;
            }
            if ($sent == length $out) {
                if ($packet = shift @packets) {
                    my $delay = $packet->{delay_before} // $opt{middle_delay};
                    sleep $delay if $delay;
                    ($out, $sent) = ($packet->{value}, 0);
                } else {
                    $may_write = 0;
                    if (defined $opt{shutdown}) {
                        shutdown $sock,
                            $opt{shutdown} =~ /^\d/ ? $opt{shutdown} : SHUT_WR;
                    }
                }
            }
        }
    }
    close $sock;
    return ($in, undef);
}

sub connect_to {
    my ($addr, $port, $timeout) = @_;
    my $give_up = time + ($timeout < 2 ? 2 : $timeout);
    while (1) {
        my $sock = IO::Socket::INET->new(
            PeerAddr => $addr, PeerPort => $port, Proto => 'tcp',
            Timeout  => $timeout);
        if ($sock) {
            $sock->blocking(0);
            return $sock;
        }
        return undef if time > $give_up;
        sleep 0.02;
    }
}

# Takes the first response off the bytes. Returns { code, headers (array of
# [name, value]), raw_headers, body } and what is left; a response of HTTP/0.9
# or none at all has no code.
sub parse_response {
    my ($raw, $is_head) = @_;

    my $res = { code => '', headers => [], raw_headers => '', body => '' };
    return ($res, '', undef) if $raw eq '';

    if ($raw !~ /\A(HTTP\/\d\S* +(\d+)[^\r\n]*\r?\n(?:.*?\r?\n)??)\r?\n/s) {
        $res->{body} = $raw;
        return ($res, '', 'no HTTP response head');
    }
    $res->{raw_headers} = $1;
    $res->{code} = $2;
    my $start = $+[0];

    for my $line (split /\r?\n/, $res->{raw_headers}) {
        next unless $line =~ /\A([^:\s]+)\s*:\s*(.*?)\s*\z/;
        push @{ $res->{headers} }, [ $1, $2 ];
    }

    if ($is_head || $res->{code} =~ /\A(?:1\d\d|204|304)\z/) {
        return ($res, substr($raw, $start), undef);
    }

    my $encoding = header($res, 'Transfer-Encoding') // '';
    if (lc $encoding eq 'chunked') {
        return unchunk($res, $raw, $start);
    }

    my $length = header($res, 'Content-Length');
    if (defined $length && $length =~ /\A\d+\z/) {
        $res->{body} = substr $raw, $start, $length;
        my $short = length($res->{body}) < $length;
        return ($res, $short ? '' : substr($raw, $start + $length),
                $short ? "body cut short: $length bytes announced, "
                         . length($res->{body}) . ' received' : undef);
    }

    $res->{body} = substr $raw, $start;
    return ($res, '', undef);
}

sub unchunk {
    my ($res, $raw, $pos) = @_;
    while (1) {
        pos($raw) = $pos;
        if ($raw !~ /\G[ \t]*([0-9A-Fa-f]+)[^\r\n]*\r\n/gc) {
            return ($res, '', 'chunked body has a bad or no last chunk');
        }
        my $size = hex $1;
        $pos = pos $raw;
        if ($size == 0) {
            if ($raw !~ /\G(?:[^\r\n]+\r\n)*\r\n/gc) {
                return ($res, '', 'chunked body has no end');
            }
            return ($res, substr($raw, pos $raw), undef);
        }
        if (length($raw) < $pos + $size + 2) {
            return ($res, '', 'chunked body cut short');
        }
        $res->{body} .= substr $raw, $pos, $size;
        $pos += $size + 2;
    }
}

# All values of a header, joined with a comma; undef without any.
sub header {
    my ($res, $name) = @_;
    my @values = map { $_->[1] }
        grep { lc $_->[0] eq lc $name } @{ $res->{headers} };
    return @values ? join(', ', @values) : undef;
}

1;
