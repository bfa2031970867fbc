package Test::Nginx::Lite::Checks;

# Compares what happened with what a block says. One result for one number of
# Test::Nginx's plan: the status, each header, the body, each pattern for a
# log. Results are kept, not printed, until nginx has stopped, so that a crash
# or an alert found at the end can fail the last of them without a number of
# its own (the real Test::Nginx only warns of these).

use v5.10.1;
use strict;
use warnings;

use Digest::MD5 ();
use Digest::SHA ();
use Test::More ();
use Test::Nginx::Lite::Client ();
use Time::HiRes qw( sleep time );

# How long the log phase of a request gets to write its lines: always the
# first, and up to the second if a line that has to be there is missing.
use constant SETTLE => 0.045;
use constant PATIENCE => 1;

# %with: port, error_log and access_log (paths), accumulate.
sub new {
    my ($class, $block, %with) = @_;
    return bless { %with, block => $block, name => $block->name,
                   results => [], log_pos => 0 }, $class;
}

sub result {
    my ($self, $ok, $what, @diag) = @_;
    push @{ $self->{results} }, [ $ok ? 1 : 0, "$self->{name} - $what", @diag ];
}

# Something is wrong that has no number of its own: fails the last result. A
# block without any gets one, which no plan expects, so it is seen as well.
sub wrong {
    my ($self, $message) = @_;
    $self->result(0, 'no check was made') unless @{ $self->{results} };
    my $last = $self->{results}[-1];
    $last->[0] = 0;
    push @$last, $message;
}

# Prints the results; true if all were good.
sub flush {
    my ($self) = @_;
    my $builder = Test::More->builder;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $good = 1;
    for my $result (splice @{ $self->{results} }) {
        my ($ok, $name, @diag) = @$result;
        $builder->ok($ok, $name);
        next if $ok;
        $good = 0;
        $builder->diag("  $_") for @diag;
    }
    return $good;
}

# The entry for one request of a section that may be an array.
sub pick {
    my ($value, $index, $many) = @_;
    return $value->[$index] if ref $value eq 'ARRAY';
    die "a block with several requests needs arrays of expected values\n" if $many;
    return $value;
}

sub ports_in {
    my ($self, $text) = @_;
    return $text if !defined $text || ref $text;
    $text =~ s/\$ServerPort(?:ForClient)?\b/$self->{port}/g;
    return $text;
}

# Equal, or matching where a pattern is expected.
sub compare {
    my ($self, $got, $expected, $what) = @_;
    if (ref $expected) {
        $self->result(scalar($got =~ $expected), $what, 'got: ' . show($got),
                      "expected to match: $expected");
        return;
    }
    my $ok = defined $expected && $got eq $expected;
    $self->result($ok, $what, $ok ? () : difference($got, $expected));
}

sub response {
    my ($self, $res, $request, $many, $round) = @_;
    my $block = $self->{block};

    my $code_like = $block->error_code_like;
    if (defined $code_like) {
        my $pattern = pick($code_like, $request, $many);
        $self->result(scalar($res->{code} =~ /$pattern/sm), 'status code ok',
                      "got: '$res->{code}'", "expected to match: $pattern");
    } else {
        my $expected = $block->error_code;
        $expected = defined $expected ? pick($expected, $request, $many) : 200;
        $expected =~ s/\s+\z//;
        $self->result($res->{code} eq $expected, 'status code ok',
                      "got: '$res->{code}'", "expected: '$expected'");
    }

    $self->raw_headers($res, $request, $many);
    $self->headers($res, $request, $many);
    $self->body($res, $request, $many, $round);
}

sub raw_headers {
    my ($self, $res, $request, $many) = @_;
    my $block = $self->{block};
    my $like = $block->raw_response_headers_like;
    if (defined $like) {
        my $pattern = pick($like, $request, $many);
        $self->result(scalar($res->{raw_headers} =~ /$pattern/s), 'raw response headers like',
                      'got: ' . show($res->{raw_headers}), "expected: $pattern");
    }
    my $unlike = $block->raw_response_headers_unlike;
    if (defined $unlike) {
        my $pattern = pick($unlike, $request, $many);
        $self->result($res->{raw_headers} !~ /$pattern/s, 'raw response headers unlike',
                      'got: ' . show($res->{raw_headers}), "not expected: $pattern");
    }
}

sub headers {
    my ($self, $res, $request, $many) = @_;
    my $block = $self->{block};
    my $exact = $block->response_headers;
    my $like = $block->response_headers_like;
    return unless defined $exact || defined $like;

    # The last of several lines with one name counts, as in Test::Nginx.
    my (%expected, @order);
    for my $line (split /\n/, pick($exact // $like, $request, $many)) {
        $line =~ s/\A\s+|\s+\z//g;
        next if $line eq '';
        my $absent = $line =~ s/\A!\s*//;
        my ($name, $value) = split /\s*:\s*/, $line, 2;
        push @order, $name unless exists $expected{$name};
        $expected{$name} = $absent ? undef : $value // '';
    }

    for my $name (@order) {
        my $got = Test::Nginx::Lite::Client::header($res, $name);
        my $expected = $self->ports_in($expected{$name});
        if (defined $like && !defined $exact) {
            $expected //= '';
            $self->result(scalar(($got // '') =~ /\A(?:$expected)\n?\z/), "header $name like",
                          'got: ' . show($got // ''), "expected to match: $expected");
        } elsif (!defined $expected) {
            $self->result(!defined $got, "header $name not present",
                          'got: ' . show($got // ''));
        } else {
            $self->result(($got // '') eq $expected, "header $name ok",
                          'got: ' . show($got // ''), 'expected: ' . show($expected));
        }
    }
}

my %filters = (
    md5_hex => \&Digest::MD5::md5_hex,
    sha1_hex => \&Digest::SHA::sha1_hex,
    uc => sub { uc $_[0] },
    lc => sub { lc $_[0] },
    ucfirst => sub { ucfirst $_[0] },
    lcfirst => sub { lcfirst $_[0] },
    length => sub { length $_[0] },
);

sub filtered_body {
    my ($self, $body, $request) = @_;
    my $filters = $self->{block}->response_body_filters;
    return $body unless defined $filters;
    if (!ref $filters) {
        $filters = [ split ' ', $filters ];
    } elsif (ref $filters eq 'CODE') {
        $filters = [ $filters ];
    } elsif (ref $filters->[0] eq 'ARRAY') {
        $filters = $filters->[$request];
    }
    for my $filter (@$filters) {
        my $code = ref $filter eq 'CODE' ? $filter : $filters{$filter}
            // die "unknown filter \"$filter\" in --- response_body_filters\n";
        $body = $code->($body);
    }
    return $body;
}

sub body {
    my ($self, $res, $request, $many, $round) = @_;
    my $block = $self->{block};
    my $got = $self->filtered_body($res->{body}, $request);
    my $where = "(repeat $round, request $request)";

    my $exact = $block->response_body;
    my $like = $block->response_body_like;
    my $unlike = $block->response_body_unlike;
    if (defined $exact) {
        my $expected = $self->ports_in(pick($exact, $request, $many));
        $self->compare($got, $expected, "response_body is expected $where");

    } elsif (defined $like) {
        my $pattern = $self->ports_in(pick($like, $request, $many));
        $self->result(scalar($got =~ /$pattern/s), "response_body_like $where",
                      'got: ' . show($got), 'expected to match: ' . show("$pattern"));

    } elsif (defined $unlike) {
        my $pattern = $self->ports_in(pick($unlike, $request, $many));
        $self->result($got !~ /$pattern/s, "response_body_unlike $where",
                      'got: ' . show($got), 'expected not to match: ' . show("$pattern"));
    }
}

# A section of patterns: lines of text, one pattern, or an array of both. The
# undefined ones of an array are not counted.
sub patterns {
    my $value = shift;
    return () unless defined $value;
    return grep { defined } @$value if ref $value eq 'ARRAY';
    return ($value) if ref $value;
    chomp $value;
    return split /\n+/, $value;
}

sub matches {
    my ($line, $pattern) = @_;
    return ref $pattern ? $line =~ $pattern : index($line, $pattern) >= 0;
}

sub read_log {
    my ($path, $pos) = @_;
    open my $in, '<', $path or return ([], $pos);
    binmode $in;
    seek $in, $pos, 0;
    my @lines = <$in>;
    return (\@lines, tell $in);
}

# The error log after a request (of the `round`th repetition).
sub error_log {
    my ($self, $round) = @_;
    my $block = $self->{block};
    my @wanted = patterns(scalar $block->error_log);
    my @unwanted = patterns(scalar $block->no_error_log);

    my $give_up = time + PATIENCE;
    my ($lines, $pos);
    sleep SETTLE;
    while (1) {
        ($lines, $pos) = read_log($self->{error_log}, $self->{log_pos});
        last if time > $give_up;
        last unless grep { my $p = $_; !grep { matches($_, $p) } @$lines } @wanted;
        sleep SETTLE;
    }
    $self->{log_pos} = $pos unless $self->{accumulate};

    $self->grep_error_log($lines, $round);
    $self->log_has($lines, \@wanted, 'error.log', $round);
    $self->log_lacks($lines, \@unwanted, 'error.log', $round);
}

sub grep_error_log {
    my ($self, $lines, $round) = @_;
    my $block = $self->{block};
    my $pattern = $block->grep_error_log;
    my $expected = $block->grep_error_log_out;
    $pattern = $pattern->[$round] if ref $pattern eq 'ARRAY';
    $expected = $expected->[$round] if ref $expected eq 'ARRAY';
    return if !defined $pattern && !defined $expected;
    die "--- grep_error_log and --- grep_error_log_out belong together\n"
        unless defined $pattern && defined $expected;

    my $re = ref $pattern ? $pattern : qr/\Q$pattern\E/;
    my $got = '';
    for my $line (@$lines) {
        next unless $line =~ $re;
        my $found = substr $line, $-[0], $+[0] - $-[0];
        $got .= "$found\n" unless $found =~ /\n/;
    }
    $self->compare($got, $expected, "grep_error_log_out (req $round)");
}

sub access_log {
    my ($self, $round) = @_;
    my $block = $self->{block};
    my @wanted = patterns(scalar $block->access_log);
    my @unwanted = patterns(scalar $block->no_access_log);
    return unless @wanted || @unwanted;
    sleep SETTLE;
    my ($lines) = read_log($self->{access_log}, 0);
    $self->log_has($lines, \@wanted, 'access.log', $round);
    $self->log_lacks($lines, \@unwanted, 'access.log', $round);
}

# After nginx has stopped: what it said at its end.
sub shutdown_log {
    my ($self) = @_;
    my $block = $self->{block};
    my @wanted = patterns(scalar $block->shutdown_error_log);
    my @unwanted = patterns(scalar $block->no_shutdown_error_log);
    return unless @wanted || @unwanted;
    my ($lines) = read_log($self->{error_log}, $self->{log_pos});
    $self->log_has($lines, \@wanted, 'error.log at shutdown', 0);
    $self->log_lacks($lines, \@unwanted, 'error.log at shutdown', 0);
}

sub log_has {
    my ($self, $lines, $patterns, $log, $round) = @_;
    for my $pattern (@$patterns) {
        my $found = grep { matches($_, $pattern) } @$lines;
        $self->result($found, "pattern \"$pattern\" matches a line in $log (req $round)",
                      "no line of $log matches");
    }
}

sub log_lacks {
    my ($self, $lines, $patterns, $log, $round) = @_;
    for my $pattern (@$patterns) {
        my ($line) = grep { matches($_, $pattern) } @$lines;
        $self->result(!defined $line,
                      "pattern \"$pattern\" matches no line in $log (req $round)",
                      defined $line ? 'found: ' . show($line) : ());
    }
}

# What no test may leave in a log unless it says so: nginx's own cries, workers
# that did not exit by themselves, failed assertions. A block says so with the
# level or the words in its --- error_log, or in --- allowed_log_errors.
my @bad = (
    [ qr/\[alert\]/, '[alert' ],
    [ qr/\[crit\]/, '[crit' ],
    [ qr/\[emerg\]/, '[emerg' ],
    [ qr/exited on signal \d/, 'exited on signal' ],
    [ qr/exited with code [1-9]/, 'exited with code' ],
    [ qr/\bAssertion .*failed\b/, 'Assertion' ],
);

sub whole_log {
    my ($self) = @_;
    my @named = patterns(scalar $self->{block}->error_log);
    my @allowed = patterns(scalar $self->{block}->allowed_log_errors);
    my @looked_for = grep { my $words = $_->[1];
                            !grep { index("$_", $words) >= 0
                                    || index("$_", "\\$words") >= 0 } @named } @bad;
    my ($lines) = read_log($self->{error_log}, 0);
    for my $line (@$lines) {
        next unless grep { $line =~ $_->[0] } @looked_for;
        next if grep { matches($line, $_) } @allowed, @named;
        $self->wrong('the log says: ' . show($line));
    }
}

# Text on one line, cut to what a terminal can bear.
sub show {
    my $text = shift;
    my $length = length $text;
    $text = substr($text, 0, 400) if $length > 400;
    $text =~ s/([\\"])/\\$1/g;
    $text =~ s/\n/\\n/g;
    $text =~ s/\r/\\r/g;
    $text =~ s/([^\x20-\x7e])/sprintf '\\x%02x', ord $1/ge;
    return qq{"$text"} . ($length > 400 ? "... ($length bytes)" : '');
}

sub difference {
    my ($got, $expected) = @_;
    return 'nothing was expected to compare with' unless defined $expected;
    my $max = length $got < length $expected ? length $got : length $expected;
    my ($low, $high) = (0, $max);   # the longest common start, by halving
    while ($low < $high) {
        my $mid = int(($low + $high + 1) / 2);
        if (substr($got, 0, $mid) eq substr($expected, 0, $mid)) {
            $low = $mid;
        } else {
            $high = $mid - 1;
        }
    }
    my $from = $low > 40 ? $low - 40 : 0;
    return ("got:      " . show(substr $got, $from),
            "expected: " . show(substr $expected, $from),
            "they differ from byte $low on (shown from byte $from); "
            . length($got) . ' bytes instead of ' . length $expected);
}

1;
