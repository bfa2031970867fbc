package nonblockingffi

import (
	"context"
	"fmt"
	"testing"

	"github.com/lua-resty-nonblocking-ffi/lua-resty-nonblocking-ffi/runtimes/go/internal/fakehost"
)

func echo(_ context.Context, request []byte) ([]byte, error) { return request, nil }

// BenchmarkEcho has a pool thread bring requests of 64 bytes: one at a time, and
// as many as the handler will take.
func BenchmarkEcho(b *testing.B) {
	Register("bench inline", echo, Inline)
	Register("bench inline, zero copy", echo, Inline, ZeroCopy)
	Register("bench goroutines", echo, Goroutines)
	for _, name := range []string{"inline", "inline, zero copy", "goroutines"} {
		for _, batch := range []int{1, 1000} {
			b.Run(fmt.Sprintf("%s, %d a visit", name, batch), func(b *testing.B) {
				entry := "bench " + name
				host := fakehost.New("bench", fmt.Sprintf("entry:%d:%s\n", len(entry), entry), 1, 0)
				if err := host.Load(fakehost.Framed); err != nil {
					b.Fatal(err)
				}
				took := host.Bench(b.N, batch, 64)
				b.ReportMetric(float64(took.Nanoseconds())/float64(b.N), "ns/echo")
				host.Close()
				host.Free()
			})
		}
	}
}
