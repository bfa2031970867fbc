package nonblockingffi

// #include "bridge.h"
import "C"

import (
	"context"
	"sync"
	"time"
)

// tick is how often the watcher looks: how late a handler may learn that its
// caller has given up.
const tick = 5 * time.Millisecond

// watcher looks whether tasks are cancelled: those whose context somebody has
// asked for its end. One goroutine looks at all of them in one crossing, and
// only while there are any.
var watcher watching

type watching struct {
	sync.Mutex
	running bool
	// watches[i] is how C sees tasks[i].
	watches []C.nbffi_go_watch
	tasks   []*watch
}

// A watch is a task that is looked at.
type watch struct {
	in     *instance
	cancel context.CancelFunc
	// place is where in the lists it is, -1 if it is not.
	place int
}

// add begins to look at a task, which is not complete.
func (w *watching) add(watch *watch, host *C.nbffi_host, handle C.nbffi_task) {
	w.Lock()
	defer w.Unlock()
	watch.place = len(w.tasks)
	w.tasks = append(w.tasks, watch)
	w.watches = append(w.watches, C.nbffi_go_watch{host: host, task: handle})
	if !w.running {
		w.running = true
		go w.run()
	}
}

// remove ends looking at a task; it may have been removed before.
func (w *watching) remove(watch *watch) {
	w.Lock()
	defer w.Unlock()
	w.drop(watch)
}

// removeAll ends looking at the tasks of a runtime: when this returns, its host
// is not used any more.
func (w *watching) removeAll(in *instance) {
	w.Lock()
	defer w.Unlock()
	for place := len(w.tasks) - 1; place >= 0; place-- {
		if w.tasks[place].in == in {
			w.drop(w.tasks[place])
		}
	}
}

// drop takes a watch out of the lists and moves the last one to its place.
func (w *watching) drop(watch *watch) {
	place, last := watch.place, len(w.tasks)-1
	if place < 0 {
		return
	}
	watch.place = -1
	if place != last {
		w.tasks[place], w.watches[place] = w.tasks[last], w.watches[last]
		w.tasks[place].place = place
	}
	w.tasks[last] = nil
	w.tasks, w.watches = w.tasks[:last], w.watches[:last]
}

func (w *watching) run() {
	for w.look() {
		time.Sleep(tick)
	}
}

// look cancels what is to be cancelled. False if there is nothing to look at:
// the goroutine ends.
func (w *watching) look() bool {
	w.Lock()
	defer w.Unlock()
	if len(w.tasks) == 0 {
		w.running = false
		return false
	}
	if C.nbffi_go_look(&w.watches[0], C.uint64_t(len(w.watches)), C.int64_t(tick)) == 0 {
		return true
	}
	for place := len(w.tasks) - 1; place >= 0; place-- {
		if watch := w.tasks[place]; w.watches[place].cancelled != 0 {
			w.drop(watch)
			watch.cancel()
		}
	}
	return true
}
