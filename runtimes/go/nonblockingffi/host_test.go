package nonblockingffi

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lua-resty-nonblocking-ffi/lua-resty-nonblocking-ffi/runtimes/go/internal/fakehost"
)

// patience is how long anything may take that is not timed.
const patience = 20 * time.Second

var unique atomic.Int64

// entry registers a handler under a name of its own.
func entry(handler Handler, options ...Option) string {
	name := fmt.Sprintf("test %d", unique.Add(1))
	Register(name, handler, options...)
	return name
}

// A setting is what a runtime of a test is like.
type setting struct {
	entry   string
	config  string
	minor   int
	threads int
	// said is how many threads the configuration says that there are.
	said int
}

// framed is the configuration of language = "go".
func (s setting) framed() string {
	if s.said == 0 {
		s.said = s.threads
	}
	field := func(key, value string) string {
		return fmt.Sprintf("%s:%d:%s\n", key, len(value), value)
	}
	// The seats of a pool are the same for all its runtimes, so each has one of
	// its own.
	return field("pool", fmt.Sprint(unique.Add(1))) +
		field("threads", fmt.Sprint(s.said)) +
		field("config", s.config) + field("entry", s.entry)
}

// load loads a runtime, and closes it after the test.
func load(t testing.TB, s setting) *fakehost.Host {
	t.Helper()
	if s.threads == 0 {
		s.threads = 2
	}
	host := fakehost.New(s.entry, s.framed(), s.minor, s.threads)
	if err := host.Load(fakehost.Framed); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		host.Close()
		host.Free()
	})
	return host
}

// await waits until a condition holds.
func await(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !condition(); {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
		time.Sleep(time.Millisecond)
	}
}

// every runs a test for each way in which handlers are called.
func every(t *testing.T, test func(t *testing.T, minor int, options []Option)) {
	for name, options := range map[string][]Option{
		"anywhere":   nil,
		"inline":     {Inline},
		"goroutines": {Goroutines},
		"zero copy":  {ZeroCopy},
	} {
		for minor := 0; minor <= 3; minor++ {
			t.Run(fmt.Sprintf("%s, ABI 1.%d", name, minor), func(t *testing.T) {
				test(t, minor, options)
			})
		}
	}
}

// goroutines counts those that there are when all that come and go are gone.
func goroutines() int {
	runtime.Gosched()
	return runtime.NumGoroutine()
}
