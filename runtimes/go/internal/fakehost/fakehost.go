// Package fakehost is a host of plugins, for tests: what nginx's worker is to
// the package nonblockingffi, which has to be linked in. The memory of a request
// is overwritten when its task ends, and so is the host table when the runtime is
// closed, so that who uses them too long is found out.
package fakehost

// #cgo LDFLAGS: -lpthread
// #include <stdlib.h>
// #include "fakehost.h"
import "C"

import (
	"errors"
	"time"
	"unsafe"
)

// A Host is one runtime, from New to Close.
type Host struct {
	host *C.fakehost
}

// An Entry is how the plugin is entered.
type Entry string

// The entries of a Go plugin.
const (
	Plain  Entry = "nbffi_plugin_entry"
	Framed Entry = "nbffi_go_entry"
)

// New makes a host of ABI version 1.minor, with a pool of so many threads.
func New(name, config string, minor, threads int) *Host {
	n, c := C.CString(name), C.CString(config)
	defer C.free(unsafe.Pointer(n))
	defer C.free(unsafe.Pointer(c))
	return &Host{C.fakehost_new(n, c, C.int(minor), C.int(threads))}
}

// Load initialises the plugin and starts the threads.
func (h *Host) Load(entry Entry) error {
	name := C.CString(string(entry))
	defer C.free(unsafe.Pointer(name))
	const size = 256
	message := (*C.char)(C.calloc(1, size))
	defer C.free(unsafe.Pointer(message))
	if C.fakehost_load(h.host, name, message, size) != 0 {
		return errors.New(C.GoString(message))
	}
	return nil
}

// A Task has been posted.
type Task struct {
	host   *Host
	handle C.nbffi_task
}

// A Result is how a task ended.
type Result struct {
	Response []byte
	Failed   bool
	Code     int64
	Message  string
}

// Post posts a request; a timeout of 0 is none.
func (h *Host) Post(request []byte, timeout time.Duration) Task {
	deadline := C.uint64_t(C.NBFFI_NO_DEADLINE)
	if timeout != 0 {
		deadline = C.uint64_t(monotonic() + timeout)
	}
	data := C.CBytes(request)
	defer C.free(data)
	return Task{h, C.fakehost_post(h.host, (*C.char)(data), C.uint64_t(len(request)), deadline)}
}

// Wait waits until the task has ended; once for each.
func (t Task) Wait() Result {
	var result C.fakehost_result
	C.fakehost_wait(t.host.host, t.handle, &result)
	defer C.free(unsafe.Pointer(result.data))
	defer C.free(unsafe.Pointer(result.message))
	return Result{
		Response: C.GoBytes(unsafe.Pointer(result.data), C.int(result.len)),
		Failed:   result.failed != 0,
		Code:     int64(result.code),
		Message:  C.GoString(result.message),
	}
}

// Cancel is what a caller does that gives up.
func (t Task) Cancel() {
	C.fakehost_cancel(t.host.host, t.handle)
}

// Call is Post and Wait.
func (h *Host) Call(request string) Result {
	return h.Post([]byte(request), 0).Wait()
}

// Close closes the runtime, after its tasks have ended.
func (h *Host) Close() {
	C.fakehost_close(h.host)
}

// Free frees the host: of a runtime that is closed, or was not loaded.
func (h *Host) Free() {
	C.fakehost_free(h.host)
}

// Log returns what was logged since the last time, "<level> <name>: <text>".
func (h *Host) Log() string {
	log := C.fakehost_log(h.host)
	defer C.free(unsafe.Pointer(log))
	return C.GoString(log)
}

// Stale returns how many completions came too late.
func (h *Host) Stale() int {
	return int(C.fakehost_stale(h.host))
}

// Bench has one thread bring so many requests of so many bytes, at most batch of
// them at a time, and returns how long it took until all were answered. It is
// for the first host that there is.
func (h *Host) Bench(tasks, batch, length int) time.Duration {
	return time.Duration(C.fakehost_bench(h.host, C.uint64_t(tasks), C.uint64_t(batch), C.uint64_t(length)))
}

// OnPoolThread says whether the calling goroutine is on a thread of a pool.
func OnPoolThread() bool {
	return C.fakehost_on_pool_thread() != 0
}

// monotonic is the clock of deadlines.
func monotonic() time.Duration {
	return time.Duration(C.fakehost_now())
}
