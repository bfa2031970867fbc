package nonblockingffi

// #include "bridge.h"
import "C"

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

// onExit are the functions that are called when the worker ends.
var onExit struct {
	sync.Mutex
	functions []func(context.Context)
}

func init() {
	// A panic that nobody recovers would end the worker with status 2, after which
	// nginx starts no other. Like this it ends by a signal, as other crashes do.
	debug.SetTraceback("crash")
}

// OnExit has a function called when nginx ends the worker: on quit and reload, and
// on stop as far as there is time. It is for what belongs to the process, and is
// called once, after runtimes that had nothing to do were closed; functions of
// other runtimes may still be running. The worker ends when all such functions
// have returned, and soon after ctx is done if they have not.
//
// Functions are called one after the other, those that were added last first. A
// panic is logged.
func OnExit(function func(ctx context.Context)) {
	if function == nil {
		panic("nonblockingffi: OnExit: the function is nil")
	}
	onExit.Lock()
	onExit.functions = append(onExit.functions, function)
	onExit.Unlock()
}

// nextOnExit takes the function that was added last.
func nextOnExit() func(context.Context) {
	onExit.Lock()
	defer onExit.Unlock()
	last := len(onExit.functions) - 1
	if last < 0 {
		return nil
	}
	function := onExit.functions[last]
	onExit.functions = onExit.functions[:last]
	return function
}

//export nbffiGoExit
func nbffiGoExit(remaining C.int64_t) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(remaining))
	defer cancel()
	for function := nextOnExit(); function != nil; function = nextOnExit() {
		callOnExit(ctx, function)
	}
}

func callOnExit(ctx context.Context, function func(context.Context)) {
	defer func() {
		if value := recover(); value != nil {
			message := fmt.Appendf(nil, "panic at the end of the worker: %v\n%s",
				value, debug.Stack())
			logAnywhere(LevelErr, message)
		}
	}()
	function(ctx)
}

// logAnywhere logs in the name of any runtime that is open; if none is, to the
// standard error, which is nginx's error log.
func logAnywhere(level Level, message []byte) {
	if list := instances.list.Load(); list != nil {
		for _, in := range *list {
			if in != nil {
				in.log(level, message)
				return
			}
		}
	}
	println("nonblocking_ffi: " + string(message))
}
