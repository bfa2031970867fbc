// Package fakehost is a host of plugins, for tests: what nginx's worker is to
// the package nonblockingffi, which has to be linked in. The memory of a request
// is overwritten when its task ends, and so is the host table when the runtime is
// closed, so that who uses them too long is found out.
package fakehost

// #cgo LDFLAGS: -lpthread
// #include <stdlib.h>
// #include <string.h>
// #include "fakehost.h"
import "C"

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// A Host is one runtime, from New to Close.
type Host struct {
	c       *C.fakehost
	name    string
	pool    int
	threads []C.pthread_t
	stale   atomic.Int64

	lock     sync.Mutex
	posted   *sync.Cond
	queue    []*Task
	stopping bool
	log      string
}

// All hosts, by their C part, and all tasks, by their handle. A goroutine that comes
// from C keeps its thread while it waits for a lock, so there is no lock that many
// wait for when they end their tasks.
var (
	hosts, tasks sync.Map
	last         atomic.Uint64
)

// An Entry is how the plugin is entered.
type Entry string

// The entries of a Go plugin.
const (
	Plain  Entry = "nbffi_plugin_entry"
	Framed Entry = "nbffi_go_entry"
)

// New makes a host of ABI version 1.minor, with a pool of so many threads.
func New(name, config string, minor, threads int) *Host {
	c := C.fakehost_new(C.CString(name), C.CString(config), C.int(minor))
	host := &Host{c: c, name: name, pool: threads}
	host.posted = sync.NewCond(&host.lock)
	hosts.Store(c, host)
	return host
}

// Load initialises the plugin and starts the threads.
func (h *Host) Load(entry Entry) error {
	const size = 256
	message := (*C.char)(C.calloc(1, size))
	defer C.free(unsafe.Pointer(message))
	framed := C.int(0)
	if entry == Framed {
		framed = 1
	}
	if C.fakehost_load(h.c, framed, message, size) != 0 {
		return errors.New(C.GoString(message))
	}
	for i := 0; i < h.pool; i++ {
		h.threads = append(h.threads, C.fakehost_start(h.c))
	}
	return nil
}

// A Task has been posted.
type Task struct {
	host     *Host
	handle   C.nbffi_task
	request  unsafe.Pointer
	length   C.uint64_t
	deadline C.uint64_t
	ended    chan struct{}

	lock      sync.Mutex
	running   bool
	cancelled bool
	onCancel  C.nbffi_cancel_fn
	arg       unsafe.Pointer
	result    Result
}

// A Result is how a task ended.
type Result struct {
	Response []byte
	Failed   bool
	Code     int64
	Message  string
}

// Post posts a request; a timeout of 0 is none.
func (h *Host) Post(request []byte, timeout time.Duration) *Task {
	t := &Task{
		host:     h,
		request:  C.CBytes(request),
		length:   C.uint64_t(len(request)),
		deadline: C.NBFFI_NO_DEADLINE,
		ended:    make(chan struct{}),
		handle:   C.nbffi_task(last.Add(1)),
	}
	if timeout != 0 {
		t.deadline = C.uint64_t(time.Duration(C.fakehost_now()) + timeout)
	}
	tasks.Store(t.handle, t)
	h.lock.Lock()
	defer h.lock.Unlock()
	h.queue = append(h.queue, t)
	h.posted.Signal()
	return t
}

// Wait waits until the task has ended.
func (t *Task) Wait() Result {
	<-t.ended
	return t.result
}

// Cancel is what a caller does that gives up.
func (t *Task) Cancel() {
	t.lock.Lock()
	t.cancelled = true
	tell := t.running && t.onCancel != nil
	t.lock.Unlock()
	if tell {
		C.fakehost_tell(t.onCancel, t.arg, t.handle)
	}
}

// Call is Post and Wait.
func (h *Host) Call(request string) Result {
	return h.Post([]byte(request), 0).Wait()
}

// Close closes the runtime, after its tasks have ended.
func (h *Host) Close() {
	h.lock.Lock()
	h.stopping = true
	h.posted.Broadcast()
	h.lock.Unlock()
	for _, thread := range h.threads {
		C.pthread_join(thread, nil)
	}
	C.fakehost_close(h.c)
}

// Free frees the host: of a runtime that is closed, or was not loaded.
func (h *Host) Free() {
	hosts.Delete(h.c)
	tasks.Range(func(handle, t any) bool {
		if t.(*Task).host == h {
			tasks.Delete(handle)
		}
		return true
	})
	C.fakehost_free(h.c)
}

// Log returns what was logged since the last time, "<level> <name>: <text>".
func (h *Host) Log() string {
	h.lock.Lock()
	defer h.lock.Unlock()
	log := h.log
	h.log = ""
	return log
}

// Stale returns how many completions came too late.
func (h *Host) Stale() int {
	return int(h.stale.Load())
}

// Bench has one thread bring so many requests of so many bytes, at most batch of
// them at a time, and returns how long it took until all were answered.
func (h *Host) Bench(tasks, batch, length int) time.Duration {
	start := time.Now()
	C.fakehost_bench(h.c, C.uint64_t(tasks), C.uint64_t(batch), C.uint64_t(length))
	return time.Since(start)
}

// OnPoolThread says whether the calling goroutine is on a thread of a pool.
func OnPoolThread() bool {
	return C.fakehost_on_pool_thread() != 0
}

// What follows are functions of the host.

func hostOf(c *C.fakehost) *Host {
	h, _ := hosts.Load(c)
	return h.(*Host)
}

//export fakehostLog
func fakehostLog(c *C.fakehost, level C.int, message *C.char, length C.uint64_t) {
	h := hostOf(c)
	h.lock.Lock()
	defer h.lock.Unlock()
	h.log += fmt.Sprintf("%d %s: %s\n", level, h.name, C.GoStringN(message, C.int(length)))
}

//export fakehostTake
func fakehostTake(c *C.fakehost, wait C.int, task *C.nbffi_task, request *unsafe.Pointer,
	length *C.uint64_t) C.int {
	h := hostOf(c)
	h.lock.Lock()
	defer h.lock.Unlock()
	for wait != 0 && len(h.queue) == 0 && !h.stopping {
		h.posted.Wait()
	}
	if len(h.queue) == 0 {
		return 0
	}
	t := h.queue[0]
	h.queue = h.queue[1:]
	t.lock.Lock()
	t.running = true
	t.lock.Unlock()
	*task, *request, *length = t.handle, t.request, t.length
	return 1
}

// running calls a function with a task that is running, and its lock.
func running(handle C.nbffi_task, do func(t *Task)) C.int {
	found, _ := tasks.Load(handle)
	t := found.(*Task)
	t.lock.Lock()
	defer t.lock.Unlock()
	if !t.running {
		return C.NBFFI_STALE
	}
	do(t)
	return C.NBFFI_OK
}

// end ends a task. From now on the request is nobody's: who reads it shall notice.
func end(handle C.nbffi_task, do func(t *Task)) C.int {
	status := running(handle, func(t *Task) {
		do(t)
		t.running = false
		C.memset(t.request, 0xdd, C.size_t(t.length))
		C.free(t.request)
		close(t.ended)
	})
	if status == C.NBFFI_STALE {
		t, _ := tasks.Load(handle)
		t.(*Task).host.stale.Add(1)
	}
	return status
}

//export fakehostRespond
func fakehostRespond(handle C.nbffi_task, data unsafe.Pointer, length C.uint64_t) C.int {
	return end(handle, func(t *Task) {
		t.result.Response = C.GoBytes(data, C.int(length))
	})
}

//export fakehostFail
func fakehostFail(handle C.nbffi_task, code C.int64_t, message *C.char, length C.uint64_t) C.int {
	return end(handle, func(t *Task) {
		t.result = Result{Failed: true, Code: int64(code), Message: C.GoStringN(message, C.int(length))}
	})
}

//export fakehostSetStatus
func fakehostSetStatus(handle C.nbffi_task, code C.int64_t, message *C.char, length C.uint64_t) C.int {
	return running(handle, func(t *Task) {
		t.result.Code, t.result.Message = int64(code), C.GoStringN(message, C.int(length))
	})
}

//export fakehostDeadline
func fakehostDeadline(handle C.nbffi_task) (deadline C.uint64_t) {
	running(handle, func(t *Task) { deadline = t.deadline })
	return deadline
}

//export fakehostIsCancelled
func fakehostIsCancelled(handle C.nbffi_task) C.int {
	cancelled := true
	running(handle, func(t *Task) { cancelled = t.cancelled })
	if cancelled {
		return 1
	}
	return 0
}

//export fakehostOnCancel
func fakehostOnCancel(handle C.nbffi_task, function C.nbffi_cancel_fn, arg unsafe.Pointer) C.int {
	cancelled := false
	status := running(handle, func(t *Task) {
		t.onCancel, t.arg = function, arg
		cancelled = t.cancelled
	})
	if cancelled {
		C.fakehost_tell(function, arg, handle)
	}
	return status
}
