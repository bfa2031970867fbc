package nonblockingffi

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"sync"
)

// A Handler answers one request. The response it returns is copied; it must not
// be changed before the copy is made, so not at all. A nil response is an empty
// one.
type Handler func(ctx context.Context, request []byte) ([]byte, error)

// A Service is a handler with a life: something that keeps connections, caches
// or goroutines of its own. There is one for each nbffi.load with different
// arguments, in each nginx worker.
type Service interface {
	// Init readies the service; it may block. The config is the one that was
	// given to nbffi.load. The context ends when the service is about to be
	// closed: it is made for goroutines that Init starts. The error is the
	// error of nbffi.load.
	Init(ctx context.Context, config string) error
	// Call answers one request, as a Handler does.
	Call(ctx context.Context, request []byte) ([]byte, error)
	// Close is called once, after the last Call has returned; not if Init has
	// failed. An error is logged. A worker that is killed, or told to stop at
	// once, does not call it.
	Close() error
}

// An Option says how a handler or a service is called.
type Option func(*registration)

// ZeroCopy has the handler read the request where Lua keeps it, without a copy.
// The slice, and whatever is a part of it, must not be changed, and must not be
// used after the handler has returned, also not by goroutines that it started.
// To return a part of the request is allowed, and costs no copy either.
func ZeroCopy(r *registration) {
	r.zeroCopy = true
}

// Goroutines has each request handled in a goroutine of its own, however quick
// the handler is. Without an option, requests for a handler that has been
// returning within microseconds are handled by the thread that brings them,
// which saves some microseconds, as long as another thread of the pool is free
// to bring more. The first one that takes longer changes that.
func Goroutines(r *registration) {
	r.where = elsewhere
}

// Inline has each request handled by the pool thread that brings it. Not more
// requests than the pool has threads are handled at a time, and one that blocks
// or takes long keeps a thread from bringing others, also to other handlers.
// For handlers that return within microseconds, always.
func Inline(r *registration) {
	r.where = here
}

// A registration has the arguments of Register.
type registration struct {
	name     string
	service  func() Service
	zeroCopy bool
	where    where
}

var registry struct {
	sync.Mutex
	byName map[string]*registration
}

// Register makes a handler known under a name, which nbffi.load calls its entry.
// It is to be called in an init function. It panics if the name is empty or
// taken, or the handler nil.
func Register(name string, handler Handler, options ...Option) {
	if handler == nil {
		panic(fmt.Sprintf("nonblockingffi: the handler %q is nil", name))
	}
	register(name, func() Service { return plain{handler} }, options)
}

// RegisterService makes a service known under a name. New is called for each
// nbffi.load that makes a runtime of it, before Init. It panics as Register does.
func RegisterService(name string, new func() Service, options ...Option) {
	if new == nil {
		panic(fmt.Sprintf("nonblockingffi: the service %q is nil", name))
	}
	register(name, new, options)
}

func register(name string, service func() Service, options []Option) {
	if name == "" {
		panic("nonblockingffi: a name is empty")
	}
	r := &registration{name: name, service: service}
	for _, option := range options {
		option(r)
	}
	registry.Lock()
	defer registry.Unlock()
	if registry.byName[name] != nil {
		panic(fmt.Sprintf("nonblockingffi: %q is registered twice", name))
	}
	if registry.byName == nil {
		registry.byName = make(map[string]*registration)
	}
	registry.byName[name] = r
}

// registered returns the registration of a name, or the only one if the name is empty.
func registered(name string) (*registration, error) {
	registry.Lock()
	defer registry.Unlock()
	if name != "" {
		if r := registry.byName[name]; r != nil {
			return r, nil
		}
	} else if len(registry.byName) == 1 {
		for _, r := range registry.byName {
			return r, nil
		}
	}
	if len(registry.byName) == 0 {
		return nil, errors.New("no function is registered in this library")
	}
	if name != "" {
		return nil, fmt.Errorf("no function %q is registered in this library, "+
			"only %s", name, names())
	}
	return nil, fmt.Errorf("this library has several functions; entry must be "+
		"one of %s", names())
}

// names lists the registered names, for an error.
func names() string {
	names := make([]string, 0, len(registry.byName))
	for name := range registry.byName {
		names = append(names, name)
	}
	sort.Strings(names)
	for i, name := range names {
		names[i] = strconv.Quote(name)
	}
	return strings.Join(names, ", ")
}

// plain is a handler as a service.
type plain struct {
	handler Handler
}

func (p plain) Init(context.Context, string) error { return nil }

func (p plain) Call(ctx context.Context, request []byte) ([]byte, error) {
	return p.handler(ctx, request)
}

func (p plain) Close() error { return nil }
