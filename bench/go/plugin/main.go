// Echo in Go, as a plugin.
package main

import (
	"context"

	nbffi "github.com/lua-resty-nonblocking-ffi/lua-resty-nonblocking-ffi/runtimes/go/nonblockingffi"
)

func echo(_ context.Context, request []byte) ([]byte, error) { return request, nil }

func init() {
	nbffi.Register("echo", echo)
	nbffi.Register("echo in a goroutine", echo, nbffi.Goroutines)
}

func main() {}
