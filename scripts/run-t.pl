#!/usr/bin/env perl
# run-t.pl [file.t ...]: runs t/*.t as `prove` does, and counts.
#
# The files are run with the real Test::Nginx where it is installed, and with
# the runner in t/lib where it is not. The last line printed, for the script
# that adds it all up, is "t: N passed, N failed".

use strict;
use warnings;

use File::Spec ();
use File::Temp ();
use FindBin ();
use IO::Socket::INET ();
use TAP::Harness ();

chdir "$FindBin::Bin/.." or die "chdir: $!\n";

my $found = `sh scripts/nginx-env.sh`;
exit 1 if $? != 0;
$ENV{$1} = $2 while $found =~ /^(\w+)='(.*)'$/mg;
# nginx would take it for the sockets that it inherits.
delete $ENV{NGINX};

my @lib;
my $servroot;
if (system("$^X -MTest::Nginx::Socket -e1 >" . File::Spec->devnull . ' 2>&1') == 0) {
    print "running t/ with the Test::Nginx that is installed\n";
    # Its defaults are port 1984, a folder below t/, and no master process.
    my $sock = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Proto => 'tcp',
                                     LocalPort => 0, Listen => 1)
        or die "no free port: $!\n";
    $ENV{TEST_NGINX_SERVER_PORT} //= $sock->sockport;
    $ENV{TEST_NGINX_MASTER_PROCESS} //= 'on';
    if (!defined $ENV{TEST_NGINX_SERVROOT}) {
        $servroot = File::Temp->newdir('nbffi-t.XXXXXX', TMPDIR => 1);
        chmod 0755, "$servroot";
        $ENV{TEST_NGINX_SERVROOT} = "$servroot/servroot";
    }
} else {
    print "running t/ with the runner in t/lib (Test::Nginx is not installed)\n";
    @lib = ('t/lib');
}

my @files = @ARGV ? @ARGV : sort glob 't/*.t';
my $harness = TAP::Harness->new({
    lib => \@lib,
    color => -t STDOUT ? 1 : 0,
    verbosity => $ENV{V} ? 1 : 0,
    failures => 1,
});
my $all = $harness->runtests(@files);

# A file that died, or ran another number of tests than it planned, failed even
# if none of its tests did.
my $failed = $all->failed;
for my $file (@files) {
    my ($parser) = $all->parsers($file);
    $failed++ if !defined $parser
        || !$parser->failed && ($parser->parse_errors || $parser->exit || $parser->wait);
}
my $passed = $all->passed;
$failed++ if $passed + $failed == 0;
print "t: $passed passed, $failed failed\n";
exit($failed ? 1 : 0);
