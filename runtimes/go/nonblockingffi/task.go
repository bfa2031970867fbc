package nonblockingffi

// #include "bridge.h"
import "C"

import (
	"context"
	"sync/atomic"
	"time"
)

// A task is one request, and its context. It is small, since most handlers never
// ask it anything; the rest is made when they do.
type task struct {
	in     *instance
	handle C.nbffi_task
	// inner is nil until somebody asks whether the context has ended, and over
	// when the handler has returned.
	inner atomic.Pointer[inner]
}

// A taskMaker makes tasks for one thread, several at a time if many are needed.
// None is used twice: a handler may have kept it.
type taskMaker struct {
	made []task
	size int
}

func (m *taskMaker) next() *task {
	if len(m.made) == 0 {
		if m.size < 32 {
			m.size += m.size + 1
		}
		m.made = make([]task, m.size)
	}
	t := &m.made[0]
	m.made = m.made[1:]
	return t
}

// inner is the context that ends: by its deadline, which is a timer of Go's, or
// when nobody waits for the task any more, see cancel.go.
type inner struct {
	context.Context
	end context.CancelFunc
	in  *instance

	// With the lock of cancellations: the task's handle once it is watched, and
	// whether its handler has returned.
	handle C.nbffi_task
	closed bool
}

// over is the inner context of all handlers that have returned without having
// asked.
var over = func() *inner {
	ctx, end := context.WithCancel(context.Background())
	end()
	return &inner{Context: ctx, end: end}
}()

// Deadline returns when the caller stops waiting.
func (t *task) Deadline() (time.Time, bool) {
	if inner := t.inner.Load(); inner != nil {
		return inner.Deadline()
	}
	return t.in.deadline(t.handle)
}

func (t *task) Done() <-chan struct{} { return t.ask().Done() }

func (t *task) Err() error { return t.ask().Err() }

// Value also finds what the standard library looks for to chain contexts, so
// that it does not need a goroutine for each.
func (t *task) Value(key any) any {
	switch key.(type) {
	case runtimeKey:
		return t.in
	case taskKey:
		return t
	}
	if inner := t.inner.Load(); inner != nil {
		return inner.Value(key)
	}
	return nil
}

// ask makes the inner context when it is first needed.
func (t *task) ask() *inner {
	if inner := t.inner.Load(); inner != nil {
		return inner
	}
	made := &inner{in: t.in}
	deadline, ok := t.in.deadline(t.handle)
	if ok {
		made.Context, made.end = context.WithDeadline(context.Background(), deadline)
	} else {
		made.Context, made.end = context.WithCancel(context.Background())
	}
	if t.inner.CompareAndSwap(nil, made) {
		made.watch(t.handle)
		return made
	}
	// Another goroutine was first, or the handler has returned meanwhile.
	made.end()
	return t.inner.Load()
}

// finish ends the context: the handler has returned.
func (t *task) finish() {
	if !t.inner.CompareAndSwap(nil, over) {
		inner := t.inner.Load()
		inner.forget()
		inner.end()
	}
}
