module github.com/lua-resty-nonblocking-ffi/lua-resty-nonblocking-ffi/bench/go

go 1.19

require github.com/lua-resty-nonblocking-ffi/lua-resty-nonblocking-ffi/runtimes/go v0.1.0

replace github.com/lua-resty-nonblocking-ffi/lua-resty-nonblocking-ffi/runtimes/go => ../../runtimes/go
