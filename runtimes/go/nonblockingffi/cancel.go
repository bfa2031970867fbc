package nonblockingffi

// #include "bridge.h"
import "C"

import (
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// margin is how long before its deadline a caller may give up because of it. The
// context's own timer then ends the context, and says why.
const margin = 5 * time.Millisecond

// cancellations are the contexts to end when nobody waits for their task any more,
// by the task's handle. The host tells on a thread of its own, which must not wait
// for Go: it writes the handle to a pipe, and one goroutine reads them.
var cancellations struct {
	sync.Mutex
	start  sync.Once
	byTask map[C.nbffi_task]*inner
}

// startCancellations makes the pipe. Without one, C has nowhere to write to.
func startCancellations() {
	var pipe [2]int
	if syscall.Pipe2(pipe[:], syscall.O_NONBLOCK|syscall.O_CLOEXEC) != nil {
		return
	}
	cancellations.byTask = make(map[C.nbffi_task]*inner)
	C.nbffi_go_cancellations(C.int(pipe[1]))
	go readCancellations(os.NewFile(uintptr(pipe[0]), "cancellations"))
}

// readCancellations ends contexts, as long as the process lives. Handles are written
// whole, so they are read whole.
func readCancellations(pipe *os.File) {
	var handles [512]C.nbffi_task
	const size = int(unsafe.Sizeof(handles[0]))
	bytes := unsafe.Slice((*byte)(unsafe.Pointer(&handles[0])), len(handles)*size)
	for {
		count, err := pipe.Read(bytes)
		if err != nil {
			return
		}
		for _, handle := range handles[:count/size] {
			cancellations.Lock()
			inner := cancellations.byTask[handle]
			cancellations.Unlock()
			inner.giveUp()
		}
		if C.nbffi_go_cancellations_lost() != 0 {
			lookAtAll()
		}
	}
}

// lookAtAll asks for each task whether it is cancelled: the pipe was full.
func lookAtAll() {
	cancellations.Lock()
	all := make(map[C.nbffi_task]*inner, len(cancellations.byTask))
	for handle, inner := range cancellations.byTask {
		all[handle] = inner
	}
	cancellations.Unlock()
	for handle, inner := range all {
		if inner.in.isCancelled(handle) {
			inner.giveUp()
		}
	}
}

// watch has the context end when nobody waits for its task any more.
func (i *inner) watch(handle C.nbffi_task) {
	cancellations.start.Do(startCancellations)
	cancellations.Lock()
	if i.closed {
		cancellations.Unlock()
		return
	}
	i.handle = handle
	if cancellations.byTask != nil {
		cancellations.byTask[handle] = i
	}
	cancellations.Unlock()
	if !i.in.onCancel(handle) {
		go i.poll(handle)
	}
}

// forget ends that: the handler has returned.
func (i *inner) forget() {
	cancellations.Lock()
	defer cancellations.Unlock()
	i.closed = true
	if cancellations.byTask[i.handle] == i {
		delete(cancellations.byTask, i.handle)
	}
}

// giveUp ends the context of a task that nobody waits for. (nil: the handler has
// returned meanwhile.)
func (i *inner) giveUp() {
	if i == nil {
		return
	}
	if deadline, ok := i.Deadline(); !ok || time.Until(deadline) >= margin {
		i.end()
	}
}

// poll looks again and again whether a task is cancelled. Hosts before version 1.3
// do not tell.
func (i *inner) poll(handle C.nbffi_task) {
	ticker := time.NewTicker(margin)
	defer ticker.Stop()
	for {
		select {
		case <-i.Done():
			return
		case <-ticker.C:
			if i.in.isCancelled(handle) {
				i.giveUp()
			}
		}
	}
}
