package nonblockingffi

// #include "bridge.h"
import "C"

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"
)

// nbffiGoServe is where pool threads come with requests. It returns when there
// are no more for now, or the thread is wanted elsewhere.
//
//export nbffiGoServe
func nbffiGoServe(batch *C.nbffi_go_batch) {
	in := instanceOf(uint64(batch.instance))
	for in.placement.enter() && in.serveHere(batch) {
		switch awaitNext(batch) {
		case C.NBFFI_GO_OVER:
			return
		case C.NBFFI_GO_LONG:
			yield(batch)
		}
	}
	for count := C.int(1); count > 0; count = C.nbffi_go_take(batch) {
		for _, request := range batch.tasks[:count] {
			go in.serveElsewhere(request)
		}
	}
}

// Pool threads that wait for requests in here, and how many may: each keeps a P,
// until Go's monitor takes that away, which may be milliseconds. One P is for
// others.
var (
	waiters    atomic.Int32
	maxWaiters = int32(runtime.GOMAXPROCS(0)) - 1
)

// awaitNext has a pool thread wait for the next request. When the last one leaves
// Go, Go's monitor goes to sleep, and the next one that comes has to wake it:
// system calls, and a core for a thread that has nothing to do.
func awaitNext(batch *C.nbffi_go_batch) C.int {
	defer waiters.Add(-1)
	if waiters.Add(1) > maxWaiters {
		return C.NBFFI_GO_OVER
	}
	return C.nbffi_go_await(batch)
}

// yield has the scheduler see this goroutine. From one that it has not seen for
// 10 milliseconds, Go's monitor takes the P whenever it is in C, and as long as
// there is something to take it looks every 20 microseconds.
func yield(batch *C.nbffi_go_batch) {
	start := time.Now()
	runtime.Gosched()
	batch.since_ns += C.uint64_t(time.Since(start))
}

// serveHere handles requests on the pool thread: one crossing for each, which
// completes it and gets the next one. False if the placement has changed its mind
// and there is a request left, the first of the batch.
func (in *instance) serveHere(batch *C.nbffi_go_batch) (over bool) {
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
	for quick, requests := true, 0; quick && !over; {
		next := in.serveFirst(batch, tasks.next())
		requests++
		if next != C.NBFFI_GO_NEXT {
			over = next == C.NBFFI_GO_OVER
			quick = in.placement.judge(requests, time.Duration(batch.now_ns-batch.since_ns))
			batch.since_ns, requests = batch.now_ns, 0
		}
		if next == C.NBFFI_GO_LONG {
			yield(batch)
		}
	}
	in.placement.leave()
	returned = true
	return over
}

// serveFirst handles the first request of a batch, and says what comes next.
func (in *instance) serveFirst(batch *C.nbffi_go_batch, t *task) C.int {
	a := in.handle(batch.tasks[0], t)
	data, length := pointer(a.data)
	if a.failed {
		return C.nbffi_go_fail_next(batch, a.code, data, length)
	}
	return C.nbffi_go_respond_next(batch, data, length)
}

// serveElsewhere handles a request in a goroutine of its own.
func (in *instance) serveElsewhere(request C.nbffi_go_task) {
	measure := in.placement.measures()
	var came time.Time
	if measure {
		came = time.Now()
	}
	a := in.handle(request, new(task))
	if measure {
		in.placement.note(time.Since(came))
	}
	in.complete(request.task, a)
}

// complete ends a task, on any thread; if it has ended, nothing happens.
func (in *instance) complete(handle C.nbffi_task, a answer) {
	data, length := pointer(a.data)
	if a.failed {
		C.nbffi_go_fail(in.table, handle, a.code, data, length)
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
