package nonblockingffi

// #include "bridge.h"
import "C"

import (
	"context"
	"fmt"
	"time"
	"unsafe"
)

// nbffiGoServe is where pool threads come with requests. It returns when there
// are no more for now.
//
//export nbffiGoServe
func nbffiGoServe(visit *C.nbffi_go_visit) {
	in := instanceOf(uint64(visit.instance))
	if in.placement.enter() {
		in.serveHere(visit)
		return
	}
	for count := C.int(1); count > 0; count = C.nbffi_go_take(visit) {
		for _, request := range visit.tasks[:count] {
			go in.serveElsewhere(request)
		}
	}
}

// serveHere handles requests on the pool thread: one crossing for each, which
// completes it and gets the next one.
func (in *instance) serveHere(visit *C.nbffi_go_visit) {
	returned := false
	defer func() {
		if !returned {
			// Goexit: the goroutine would end, but not the C code that is below
			// it on this thread, and Go's runtime would end the process. So it
			// stays, and the thread is lost.
			in.log(LevelAlert, []byte("a handler called runtime.Goexit on a "+
				"pool thread, which is lost"))
			select {}
		}
	}()
	var tasks taskMaker
	requests := 1
	for in.serveFirst(visit, tasks.next()) {
		requests++
	}
	in.placement.leave(requests, time.Duration(visit.left_ns-visit.came_ns))
	returned = true
}

// serveFirst handles the first request of a visit. True if there is another one
// in its place now.
func (in *instance) serveFirst(visit *C.nbffi_go_visit, t *task) bool {
	answer := in.handle(visit.tasks[0], t)
	data, length := pointer(answer.data)
	if answer.failed {
		return C.nbffi_go_fail_next(visit, answer.code, data, length) != 0
	}
	return C.nbffi_go_respond_next(visit, data, length) != 0
}

// serveElsewhere handles a request in a goroutine of its own.
func (in *instance) serveElsewhere(request C.nbffi_go_task) {
	measure := in.placement.measures()
	var came time.Time
	if measure {
		came = time.Now()
	}
	answer := in.handle(request, new(task))
	if measure {
		in.placement.note(time.Since(came))
	}
	in.complete(request.task, answer)
}

// complete ends a task, on any thread; if it has ended, nothing happens.
func (in *instance) complete(handle C.nbffi_task, answer answer) {
	data, length := pointer(answer.data)
	if answer.failed {
		C.nbffi_go_fail(in.table, handle, answer.code, data, length)
		return
	}
	C.nbffi_go_respond(in.table, handle, data, length)
}

// An answer is how a task ends: with a response, or a code and a message.
type answer struct {
	data   []byte
	code   C.int64_t
	failed bool
}

// handle calls the service, with a task that has not been used. A panic is logged
// and becomes an error.
func (in *instance) handle(request C.nbffi_go_task, t *task) (a answer) {
	t.in, t.handle = in, request.task
	returned := false
	defer func() {
		if returned {
			return
		}
		value := recover()
		t.finish()
		a = answer{code: codeOfPanic, failed: true}
		if value != nil {
			a.data = fmt.Appendf(nil, "panic: %v", value)
			in.logStack("a handler", value)
			return
		}
		// Goexit, after which nobody can answer any more. (Before Go 1.21, also
		// panic(nil); then the second answer is ignored.)
		a.data = []byte("the handler has neither returned nor panicked")
		in.complete(request.task, a)
	}()
	response, err := in.call(t, request)
	if err != nil {
		// In here, because methods of errors may panic, too.
		a = answer{[]byte(err.Error()), C.int64_t(codeOf(err)), true}
	} else {
		a.data = response
	}
	returned = true
	t.finish()
	return a
}

func (in *instance) call(ctx context.Context, request C.nbffi_go_task) ([]byte, error) {
	view := unsafe.Slice((*byte)(request.req), uint64(request.len))
	if !in.zeroCopy {
		view = append([]byte{}, view...)
	}
	return in.service.Call(ctx, view)
}
