package Test::Nginx::Socket::Lua;

# The name most test files of Lua libraries use; see Test::Nginx::Socket.

use Test::Nginx::Socket -Base;

1;
