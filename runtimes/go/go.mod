module github.com/lua-resty-nonblocking-ffi/lua-resty-nonblocking-ffi/runtimes/go

go 1.19
