package Test::Nginx::Socket;

# The names that test files in Test::Nginx format use, for machines where
# Test::Nginx is not installed. scripts/run-t.pl puts this folder on the include
# path only there; test files do not know which of the two runs them.
#
# What is supported, and how it differs, is in CONTRIBUTING.md ("Tests in t/").
# The work is done in Test::Nginx::Lite::*; Test::Base parses the blocks.

use v5.10.1;
use Test::Base -Base;

our $VERSION = '0.29';

use Test::Nginx::Lite::Runner ();

our @EXPORT = qw(
    plan run_tests run_test repeat_each config_preamble worker_connections
    master_process_enabled master_on master_off workers log_level timeout
    no_long_string no_shuffle no_root_location no_diag_on_only use_hup
    server_name server_addr server_root html_dir server_port
    server_port_for_client check_accum_error_log env_to_nginx is_str
    add_block_preprocessor add_cleanup_handler add_response_body_check bail_out
);

*set = \%Test::Nginx::Lite::Runner::set;
our %set;

# Subs with prototypes, as -Base would give the others a $self.

sub run_tests () { Test::Nginx::Lite::Runner::run_blocks(Test::Base::blocks()) }

sub run_test ($) { Test::Nginx::Lite::Runner::run_block($_[0]) }

sub get_or_set ($@) {
    my ($name, @value) = @_;
    $set{$name} = $value[0] if @value;
    return $set{$name};
}

sub repeat_each (@) { get_or_set('repeat_each', @_) }

sub worker_connections (@) { get_or_set('connections', @_) }

sub workers (@) { get_or_set('workers', @_) }

sub log_level (@) { get_or_set('log_level', @_) }

sub timeout (@) { get_or_set('timeout', @_) }

sub server_name (@) { get_or_set('server_name', @_) }

sub server_addr (@) { get_or_set('addr', @_) }

sub server_port (@) { get_or_set('port', @_) }

sub server_port_for_client (@) { get_or_set('port', @_) }

sub config_preamble ($) { $set{preamble} = $_[0] }

sub master_process_enabled (@) {
    $set{master} = $_[0] ? 1 : 0 if @_;
    return $set{master} ? 'on' : 'off';
}

sub master_on () { $set{master} = 1 }

sub master_off () { $set{master} = 0 }

sub no_shuffle () { $set{shuffle} = 0 }

sub no_root_location () { $set{root_location} = 0 }

sub check_accum_error_log () { $set{accumulate} = 1 }

# Differences are always shown from where they begin.
sub no_long_string () { 1 }

# Every block gets an nginx of its own here.
sub use_hup () { 1 }

sub server_root () { $Test::Nginx::Lite::Runner::server->{root} }

sub html_dir () { $Test::Nginx::Lite::Runner::server->path('html') }

sub env_to_nginx (@) {
    for my $name (@_) {
        croak "env_to_nginx: bad name \"$name\"" if $name !~ /\A[A-Za-z_][^\n]*\z/;
        push @{ $set{env} }, $name;
    }
}

sub is_str (@) {
    my ($got, $expected, $name) = @_;
    return ref $expected ? like($got, $expected, $name)
        : Test::More::is($got, $expected, $name);
}

sub add_block_preprocessor (&) { unshift @{ $set{preprocessors} }, $_[0] }

sub add_cleanup_handler ($) { unshift @{ $set{cleanups} }, $_[0] }

sub add_response_body_check ($) { push @{ $set{body_checks} }, $_[0] }

sub bail_out (@) { Test::Nginx::Lite::Runner::bail_out(@_) }

1;
