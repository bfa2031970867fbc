// A library of functions in Go, to begin with. In its folder:
//
//	go build -buildmode=c-shared -o libtemplate.so
package main

import (
	"bytes"
	"context"

	"github.com/lua-resty-nonblocking-ffi/lua-resty-nonblocking-ffi/runtimes/go/nonblockingffi"
)

func upper(ctx context.Context, request []byte) ([]byte, error) {
	if len(request) == 0 {
		return nil, nonblockingffi.Errorf(400, "nothing to do")
	}
	return bytes.ToUpper(request), nil
}

func init() {
	nonblockingffi.Register("upper", upper)
}

func main() {}
