package t::TestNbffi;

# What the test files have in common. Beside the sections of Test::Nginx, a block
# may have
#
#   --- lua   the code of content_by_lua_block in /t
#
# instead of --- config. What a block does not say is:
#
#   --- http_config    the file's $HttpConfig, if there is one. The search paths
#                      are put before it, unless it has some
#   --- request        GET /t
#   --- no_error_log   [error], unless there is --- error_log or --- grep_error_log

use Test::Nginx::Socket::Lua -Base;
use Cwd qw( cwd );

my $pwd = cwd();
my $html = html_dir();
my $paths = qq{
    lua_package_path "$html/?.lua;$pwd/lua/?.lua;$pwd/t/plugins/?.lua;;";
    lua_package_cpath "$pwd/target/release/?.so;$pwd/target/test-plugins/?.so;$pwd/target/examples/?.so;;";
};

# For --- config, --- user_files and the like.
$ENV{TEST_NGINX_PWD} = $pwd;

# Only the runner in t/lib asks for the sections that it does not know.
{
    no warnings 'once';
    $Test::Nginx::Lite::Runner::known{lua} = 1;
}

no_long_string();
timeout(60);

add_block_preprocessor(sub {
    my ($block) = @_;

    if (defined(my $lua = $block->lua)) {
        die $block->name, ": both --- lua and --- config\n"
            if defined $block->config;
        $block->set_value(config => "location = /t {\ncontent_by_lua_block {\n$lua}\n}\n");
    }

    my $http = $block->http_config // $main::HttpConfig // '';
    $http = $paths . $http unless $http =~ /lua_package_c?path/;
    $block->set_value(http_config => $http);

    if (!defined $block->request && !defined $block->raw_request
        && !defined $block->pipelined_requests)
    {
        $block->set_value(request => 'GET /t');
    }
    if (!defined $block->error_log && !defined $block->no_error_log
        && !defined $block->grep_error_log)
    {
        $block->set_value(no_error_log => '[error]');
    }
});

1;
