module github.com/lua-resty-nonblocking-ffi/lua-resty-nonblocking-ffi/examples/go

go 1.19

require (
	github.com/lua-resty-nonblocking-ffi/lua-resty-nonblocking-ffi/runtimes/go v0.1.0
	github.com/redis/go-redis/v9 v9.7.3
	github.com/yuin/goldmark v1.7.8
	golang.org/x/sync v0.3.0
)

require (
	github.com/cespare/xxhash/v2 v2.2.0 // indirect
	github.com/dgryski/go-rendezvous v0.0.0-20200823014737-9f7001d12a5f // indirect
)

replace github.com/lua-resty-nonblocking-ffi/lua-resty-nonblocking-ffi/runtimes/go => ../../runtimes/go
