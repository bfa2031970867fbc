package nonblockingffi

// #include "bridge.h"
import "C"

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// An instance is one runtime: a registered service with one configuration.
type instance struct {
	name      string
	config    string
	make      func() Service
	service   Service
	zeroCopy  bool
	placement *placement
	// end ends the context that Init was given.
	end context.CancelFunc

	// table is the host, to complete a task with: the runtime is not closed before
	// its tasks are complete.
	table *C.nbffi_host
	// host is the same for all other uses; nil when the runtime is closed.
	host *C.nbffi_host
	lock sync.RWMutex
}

// instances are the runtimes that are not closed, by number; 0 is none. A list
// is never changed, only replaced, so that a batch costs no lock.
var instances struct {
	sync.Mutex
	list atomic.Pointer[[]*instance]
}

func instanceOf(number uint64) *instance {
	return (*instances.list.Load())[number]
}

// setInstance puts an instance, or nil, into a place of the list.
func setInstance(number uint64, in *instance) {
	var list []*instance
	if old := instances.list.Load(); old != nil {
		list = append(list, *old...)
	}
	for uint64(len(list)) <= number {
		list = append(list, nil)
	}
	list[number] = in
	instances.list.Store(&list)
}

// addInstance finds a place for an instance, and returns its number.
func addInstance(in *instance) uint64 {
	instances.Lock()
	defer instances.Unlock()
	number := uint64(1)
	if list := instances.list.Load(); list != nil {
		for number < uint64(len(*list)) && (*list)[number] != nil {
			number++
		}
	}
	setInstance(number, in)
	return number
}

func init() {
	// SIGPIPE does nothing in a worker, and Go's runtime has taken it. The first
	// call keeps Go from ending the worker when its standard output is closed. The
	// second one restores the handler that was there: a signal that Go ignores would
	// be ignored by the programs that it starts, too.
	if C.nbffi_go_sigpipe_is_harmless() != 0 {
		signal.Ignore(syscall.SIGPIPE)
		C.nbffi_go_give_sigpipe_back()
	}
}

// newInstance makes an instance for a configuration; it is not initialised yet.
func newInstance(host *C.nbffi_host, framed bool) (*instance, error) {
	in := &instance{host: host, table: host}
	var length C.uint64_t
	name := C.nbffi_go_name(host, &length)
	in.name = C.GoStringN(name, C.int(length))
	config := C.nbffi_go_config(host, &length)
	in.config = C.GoStringN(config, C.int(length))
	entry, pool, threads := "", "", 0
	if framed {
		found, err := fields(in.config)
		if err != nil {
			return nil, err
		}
		in.config = found["config"]
		entry, pool = found["entry"], found["pool"]
		// 0, unknown, if it is no number.
		threads, _ = strconv.Atoi(found["threads"])
	}
	r, err := registered(entry)
	if err != nil {
		return nil, err
	}
	in.make = r.service
	in.zeroCopy = r.zeroCopy
	in.placement = newPlacement(r.where, seatsOf(pool, threads))
	return in, nil
}

// guard calls functions of the service other than Call. A panic is logged and
// becomes an error, also one of the error's own methods.
func (in *instance) guard(what string, call func() error) (err error) {
	defer func() {
		if value := recover(); value != nil {
			err = fmt.Errorf("panic: %v", value)
			in.logStack(what, value)
		}
	}()
	if err := call(); err != nil {
		return errors.New(err.Error())
	}
	return nil
}

// logStack logs a panic, from the deferred function that has recovered it.
func (in *instance) logStack(what string, value any) {
	in.log(LevelErr, fmt.Appendf(nil, "panic in %s: %v\n%s", what, value, debug.Stack()))
}

//export nbffiGoInit
func nbffiGoInit(host *C.nbffi_host, framed C.int, message *C.char, size C.uint64_t) C.uint64_t {
	in, err := newInstance(host, framed != 0)
	if err == nil {
		var ctx context.Context
		ctx, in.end = context.WithCancel(&runtimeContext{in})
		err = in.guard("Init", func() error {
			in.service = in.make()
			return in.service.Init(ctx, in.config)
		})
		if err == nil {
			return C.uint64_t(addInstance(in))
		}
		in.end()
		in.detach()
	}
	if size > 0 {
		text := unsafe.Slice((*byte)(unsafe.Pointer(message)), uint64(size))
		// A NUL of its own would cut it short.
		text[copy(text[:size-1], strings.ReplaceAll(err.Error(), "\x00", "\ufffd"))] = 0
	}
	return 0
}

//export nbffiGoClose
func nbffiGoClose(number C.uint64_t) {
	in := instanceOf(uint64(number))
	instances.Lock()
	setInstance(uint64(number), nil)
	instances.Unlock()
	in.end()
	if err := in.guard("Close", in.service.Close); err != nil {
		in.log(LevelErr, []byte("Close: "+err.Error()))
	}
	in.detach()
}

// detach leaves the host: from now on log lines are lost.
func (in *instance) detach() {
	in.lock.Lock()
	defer in.lock.Unlock()
	in.host = nil
}

// log writes to nginx's error log, while the runtime is not closed. The host writes
// each entry on one line, with control characters escaped; stacks are easier to read
// if each of their lines is an entry, without tabs.
func (in *instance) log(level Level, message []byte) {
	in.lock.RLock()
	defer in.lock.RUnlock()
	if in.host == nil {
		return
	}
	text := strings.ReplaceAll(strings.TrimSuffix(string(message), "\n"), "\t", "    ")
	for _, line := range strings.Split(text, "\n") {
		data, length := pointer([]byte(line))
		C.nbffi_go_log(in.host, C.int(level), data, length)
	}
}

// setStatus gives a task that is not complete a status.
func (in *instance) setStatus(handle C.nbffi_task, code int64, message string) {
	in.lock.RLock()
	defer in.lock.RUnlock()
	if in.host != nil {
		data, length := pointer([]byte(message))
		C.nbffi_go_set_status(in.host, handle, C.int64_t(code), data, length)
	}
}

// deadline returns when the caller of a task stops waiting, if it ever does.
func (in *instance) deadline(handle C.nbffi_task) (time.Time, bool) {
	in.lock.RLock()
	defer in.lock.RUnlock()
	remaining := int64(C.NBFFI_GO_NO_DEADLINE)
	if in.host != nil {
		remaining = int64(C.nbffi_go_remaining(in.host, handle))
	}
	if remaining == C.NBFFI_GO_NO_DEADLINE {
		return time.Time{}, false
	}
	// If this thread was held up since, the context ends too late rather than too
	// early: an error that came before the deadline would be the handler's.
	return time.Now().Add(time.Duration(remaining)), true
}

// onCancel has the host tell when nobody waits for a task any more. False if it cannot.
// There is nothing to tell when the task has ended, or the runtime is closed.
func (in *instance) onCancel(handle C.nbffi_task) bool {
	in.lock.RLock()
	defer in.lock.RUnlock()
	return in.host == nil || C.nbffi_go_on_cancel(in.host, handle) != 0
}

// isCancelled asks the host whether nobody waits for a task any more.
func (in *instance) isCancelled(handle C.nbffi_task) bool {
	in.lock.RLock()
	defer in.lock.RUnlock()
	return in.host != nil && C.nbffi_go_is_cancelled(in.host, handle) != 0
}

// pointer is how C takes a slice.
func pointer(slice []byte) (*C.char, C.uint64_t) {
	if len(slice) == 0 {
		return nil, 0
	}
	return (*C.char)(unsafe.Pointer(&slice[0])), C.uint64_t(len(slice))
}
