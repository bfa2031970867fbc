package nonblockingffi

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/lua-resty-nonblocking-ffi/lua-resty-nonblocking-ffi/runtimes/go/internal/fakehost"
)

// alone has nothing registered but what a test registers, until it ends.
func alone(t *testing.T) {
	before := registry.byName
	registry.byName = nil
	t.Cleanup(func() { registry.byName = before })
}

func TestNames(t *testing.T) {
	alone(t)
	said := func(name string) string {
		r, err := registered(name)
		if err != nil {
			return err.Error()
		}
		return "found " + r.name
	}
	expect := func(name, text string) {
		t.Helper()
		if is := said(name); is != text {
			t.Errorf("%q: %s", name, is)
		}
	}
	expect("", "no function is registered in this library")
	expect("b", "no function is registered in this library")
	Register("b", echo)
	expect("", "found b")
	expect("b", "found b")
	expect("c", `no function "c" is registered in this library, only "b"`)
	Register("a", echo)
	expect("", `this library has several functions; entry must be one of "a", "b"`)
	expect("a", "found a")
}

func TestMisuse(t *testing.T) {
	alone(t)
	Register("a", echo)
	for what, misuse := range map[string]func(){
		"the name is empty": func() { Register("", echo) },
		"taken":             func() { Register("a", echo) },
		"no handler":        func() { Register("b", nil) },
		"no service":        func() { RegisterService("b", nil) },
	} {
		func() {
			defer func() {
				if value := recover(); value == nil ||
					!strings.HasPrefix(fmt.Sprint(value), "nonblockingffi: ") {
					t.Error(what, ": ", value)
				}
			}()
			misuse()
		}()
	}
}

// A life is a service that writes down what happens to it.
type life struct {
	events chan string
	ctx    context.Context
}

func (l *life) Init(ctx context.Context, config string) error {
	l.ctx = ctx
	l.events <- "init " + config + " " + Name(ctx) + " " + Config(ctx)
	switch config {
	case "fail":
		return errors.New("told to fail")
	case "panic":
		panic("told to panic")
	case "typed nil":
		var none *nilError
		return none
	case "long":
		return errors.New(strings.Repeat("long ", 1000))
	}
	return nil
}

func (l *life) Call(_ context.Context, request []byte) ([]byte, error) {
	return append([]byte("call "), request...), nil
}

func (l *life) Close() error {
	l.events <- fmt.Sprint("close ", l.ctx.Err())
	Log(l.ctx, LevelInfo, "logged in Close")
	panic("in Close")
}

// newHost makes a host that is not loaded yet.
func newHost(s setting) *fakehost.Host {
	return fakehost.New(s.entry, s.framed(), s.minor, s.threads)
}

func TestTheLifeOfAService(t *testing.T) {
	events := make(chan string, 10)
	RegisterService("life", func() Service { return &life{events: events} })
	event := func(text string) {
		t.Helper()
		if is := <-events; is != text {
			t.Errorf("%q instead of %q", is, text)
		}
	}
	// Two at a time.
	one := newHost(setting{entry: "life", config: "one", minor: 2, threads: 2})
	two := newHost(setting{entry: "life", config: "two", minor: 2, threads: 2})
	for _, host := range []*fakehost.Host{one, two} {
		if err := host.Load(fakehost.Framed); err != nil {
			t.Fatal(err)
		}
	}
	event("init one life one")
	event("init two life two")
	if result := one.Call("1"); string(result.Response) != "call 1" {
		t.Errorf("%+v", result)
	}
	one.Close()
	event("close context canceled")
	log := one.Log()
	if !strings.HasPrefix(log, "7 life: logged in Close\n4 life: panic in Close: in Close\n") ||
		!strings.HasSuffix(log, "4 life: Close: panic: in Close\n") {
		t.Error(log)
	}
	one.Free()
	if result := two.Call("2"); string(result.Response) != "call 2" {
		t.Errorf("%+v", result)
	}
	// A third one takes the first one's place.
	three := newHost(setting{entry: "life", config: "three", minor: 2, threads: 2})
	if err := three.Load(fakehost.Framed); err != nil {
		t.Fatal(err)
	}
	event("init three life three")
	if result := three.Call("3"); string(result.Response) != "call 3" {
		t.Errorf("%+v", result)
	}
	for _, host := range []*fakehost.Host{two, three} {
		host.Close()
		event("close context canceled")
		host.Free()
	}
}

func TestInitFails(t *testing.T) {
	events := make(chan string, 10)
	none := false
	RegisterService("bad start", func() Service {
		if none {
			return nil
		}
		return &life{events: events}
	})
	for config, want := range map[string]string{
		"fail":      "told to fail",
		"panic":     "panic: told to panic",
		"long":      strings.Repeat("long ", 1000)[:255],
		"typed nil": "panic: runtime error: invalid memory address or nil pointer dereference",
		"none":      "panic: runtime error: invalid memory address or nil pointer dereference",
	} {
		none = config == "none"
		host := newHost(setting{entry: "bad start", config: config, minor: 2, threads: 2})
		if err := host.Load(fakehost.Framed); err == nil || err.Error() != want {
			t.Errorf("%s: %v", config, err)
		}
		if log := host.Log(); strings.Contains(log, "panic in Init") != strings.HasPrefix(want, "panic") ||
			config == "panic" && !strings.Contains(log, "register_test.go:") {
			t.Errorf("%s: %s", config, log)
		}
		host.Free()
	}
	host := newHost(setting{entry: "nothing of this name", minor: 2, threads: 2})
	if err := host.Load(fakehost.Framed); err == nil || !strings.HasPrefix(err.Error(), "no function ") {
		t.Error(err)
	}
	host.Free()
}

// The usual entry, with the configuration as it is.
func TestThePlainEntry(t *testing.T) {
	alone(t)
	Register("only", func(ctx context.Context, _ []byte) ([]byte, error) {
		return []byte(Config(ctx)), nil
	})
	host := fakehost.New("plain", "any config: 5", 0, 1)
	if err := host.Load(fakehost.Plain); err != nil {
		t.Fatal(err)
	}
	if result := host.Call(""); string(result.Response) != "any config: 5" {
		t.Errorf("%+v", result)
	}
	host.Close()
	host.Free()
}

func TestFields(t *testing.T) {
	found, err := fields("a:0:\nb:3:x\ny\nc:1::\nd:2:1:\n")
	if err != nil || found["a"] != "" || found["b"] != "x\ny" || found["c"] != ":" ||
		found["d"] != "1:" || len(found) != 4 {
		t.Error(found, err)
	}
	for _, wrong := range []string{
		"a", "a:", "a:1", "a:1:", "a:1:x", "a:1:xy", "a:-1:\n", "a:x:y\n", "a:1:x\nb",
		"a:99999999999999999999:\n", "a:4294967295:\n", "a:2:x\n",
	} {
		if found, err := fields(wrong); err == nil {
			t.Errorf("%q: %v", wrong, found)
		}
	}
}
