// What handlers in Go can do, well and badly, for t/54-go.t and tests/go.rs. A
// request is a verb and its argument.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	nbffi "github.com/lua-resty-nonblocking-ffi/lua-resty-nonblocking-ffi/runtimes/go/nonblockingffi"
)

// What has happened so far in this process.
var (
	running   atomic.Int64
	cancelled atomic.Int64
	expired   atomic.Int64
	closed    atomic.Int64
)

// A gate is what the verbs hold and turn wait for: until the verb open.
type gate struct {
	open atomic.Bool
	// opened is closed when it is.
	opened chan struct{}
}

var theGate atomic.Pointer[gate]

func init() {
	theGate.Store(&gate{opened: make(chan struct{})})
}

// kept is the last request that was kept, by the verb keep.
var kept atomic.Pointer[[]byte]

func echo(_ context.Context, request []byte) ([]byte, error) { return request, nil }

type brokenError struct{ text *string }

func (b *brokenError) Error() string { return *b.text }

type verb func(ctx context.Context, argument string) (string, error)

var verbs = map[string]verb{
	"echo": func(_ context.Context, argument string) (string, error) {
		return argument, nil
	},
	"empty": func(context.Context, string) (string, error) {
		return "", nil
	},
	// Errors.
	"error": func(_ context.Context, argument string) (string, error) {
		return "thrown away", errors.New(argument)
	},
	"code": func(_ context.Context, argument string) (string, error) {
		number, text, _ := strings.Cut(argument, " ")
		code, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			return "", err
		}
		return "", fmt.Errorf("wrapped: %w", nbffi.Errorf(code, "%s", text))
	},
	"typed nil": func(context.Context, string) (string, error) {
		var none *brokenError
		return "", none
	},
	// Panics.
	"panic": func(_ context.Context, argument string) (string, error) {
		panic(argument)
	},
	"dereference": func(context.Context, string) (string, error) {
		var none *brokenError
		return *none.text, nil
	},
	"index": func(_ context.Context, argument string) (string, error) {
		return argument[len(argument):][:1], nil
	},
	"divide": func(_ context.Context, argument string) (string, error) {
		return strconv.Itoa(1 / len(argument)), nil
	},
	"exit": func(context.Context, string) (string, error) {
		runtime.Goexit()
		return "", nil
	},
	// The end of the worker.
	"crash": func(context.Context, string) (string, error) {
		go panic("nobody recovers this")
		select {}
	},
	"at_exit": func(_ context.Context, argument string) (string, error) {
		write := func(text string) func(context.Context) {
			return func(ctx context.Context) {
				_, hasDeadline := ctx.Deadline()
				file, err := os.OpenFile(argument, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
				if err == nil {
					fmt.Fprintf(file, "%s %t, ", text, hasDeadline)
					file.Close()
				}
			}
		}
		nbffi.OnExit(write("first"))
		nbffi.OnExit(func(context.Context) { panic("told to panic") })
		nbffi.OnExit(write("second"))
		return "", nil
	},
	// Time.
	"sleep": func(_ context.Context, argument string) (string, error) {
		running.Add(1)
		defer running.Add(-1)
		time.Sleep(milliseconds(argument))
		return argument, nil
	},
	"hold": func(_ context.Context, argument string) (string, error) {
		running.Add(1)
		defer running.Add(-1)
		<-theGate.Load().opened
		return argument, nil
	},
	"open": func(context.Context, string) (string, error) {
		old := theGate.Swap(&gate{opened: make(chan struct{})})
		old.open.Store(true)
		close(old.opened)
		return "", nil
	},
	// turn and spin are loops without a call, which only a signal can interrupt.
	"turn": func(_ context.Context, argument string) (string, error) {
		running.Add(1)
		defer running.Add(-1)
		turns, gate := 0, theGate.Load()
		for !gate.open.Load() {
			turns++
		}
		return argument, nil
	},
	"spin": func(_ context.Context, argument string) (string, error) {
		running.Add(1)
		defer running.Add(-1)
		var stop atomic.Bool
		time.AfterFunc(milliseconds(argument), func() { stop.Store(true) })
		turns := 0
		for !stop.Load() {
			turns++
		}
		return argument, nil
	},
	"wait": func(ctx context.Context, argument string) (string, error) {
		running.Add(1)
		defer running.Add(-1)
		select {
		case <-ctx.Done():
			note(ctx.Err())
			return "", ctx.Err()
		case <-time.After(milliseconds(argument)):
			return argument, nil
		}
	},
	"poll": func(ctx context.Context, argument string) (string, error) {
		running.Add(1)
		defer running.Add(-1)
		end := time.Now().Add(milliseconds(argument))
		for time.Now().Before(end) {
			if err := ctx.Err(); err != nil {
				note(err)
				return "", err
			}
			time.Sleep(time.Millisecond)
		}
		return argument, nil
	},
	"deadline": func(ctx context.Context, _ string) (string, error) {
		deadline, ok := ctx.Deadline()
		if !ok {
			return "none", nil
		}
		return strconv.FormatInt(time.Until(deadline).Milliseconds(), 10), nil
	},
	// The host.
	"status": func(ctx context.Context, argument string) (string, error) {
		nbffi.SetStatus(ctx, 203, argument)
		return "with a status", nil
	},
	"log": func(ctx context.Context, argument string) (string, error) {
		nbffi.Log(ctx, nbffi.LevelWarn, "Log ", argument, 1, 2)
		nbffi.Logf(ctx, nbffi.LevelNotice, "Logf <%s>", argument)
		log.New(nbffi.LogWriter(ctx, nbffi.LevelErr), "Writer ", 0).Print(argument)
		return "logged", nil
	},
	"config": func(ctx context.Context, _ string) (string, error) {
		return nbffi.Name(ctx) + ": " + nbffi.Config(ctx), nil
	},
	// The Go runtime.
	"gc": func(_ context.Context, argument string) (string, error) {
		turns, err := strconv.Atoi(argument)
		for ; turns > 0; turns-- {
			runtime.GC()
		}
		return "collected", err
	},
	"pipe": func(context.Context, string) (string, error) {
		r, w, err := os.Pipe()
		if err != nil {
			return "", err
		}
		defer w.Close()
		r.Close()
		_, err = w.Write([]byte("to nobody"))
		return strconv.FormatBool(errors.Is(err, syscall.EPIPE)), nil
	},
	// Programs: start one that lives on, how one has ended, one that is told to.
	"start": func(_ context.Context, argument string) (string, error) {
		program := exec.Command("/bin/sh", "-c", argument)
		if err := program.Start(); err != nil {
			return "", err
		}
		return strconv.Itoa(program.Process.Pid), nil
	},
	"run": func(_ context.Context, argument string) (string, error) {
		err := exec.Command("/bin/sh", "-c", argument).Run()
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return strconv.Itoa(exit.ExitCode()), nil
		}
		return "0", err
	},
	"killed": func(_ context.Context, argument string) (string, error) {
		program := exec.Command("/bin/sleep", argument)
		if err := program.Start(); err != nil {
			return "", err
		}
		if err := program.Process.Signal(syscall.SIGTERM); err != nil {
			return "", err
		}
		program.Wait()
		status := program.ProcessState.Sys().(syscall.WaitStatus)
		return strconv.Itoa(int(status.Signal())), nil
	},
	"kept": func(context.Context, string) (string, error) {
		return string(*kept.Load()), nil
	},
	"reset": func(context.Context, string) (string, error) {
		cancelled.Store(0)
		expired.Store(0)
		closed.Store(0)
		return "", nil
	},
	"counts": func(context.Context, string) (string, error) {
		return fmt.Sprintf("running=%d\ncancelled=%d\nexpired=%d\nclosed=%d\n"+
			"goroutines=%d\n", running.Load(), cancelled.Load(), expired.Load(),
			closed.Load(), runtime.NumGoroutine()), nil
	},
}

// note counts how a context has ended.
func note(err error) {
	switch err {
	case context.Canceled:
		cancelled.Add(1)
	case context.DeadlineExceeded:
		expired.Add(1)
	}
}

func milliseconds(text string) time.Duration {
	number, err := strconv.Atoi(text)
	if err != nil {
		panic(err)
	}
	return time.Duration(number) * time.Millisecond
}

func do(ctx context.Context, request []byte) ([]byte, error) {
	// Verbs of two words have no argument.
	name, argument, _ := strings.Cut(string(request), " ")
	found := verbs[name]
	if found == nil {
		found = verbs[string(request)]
	}
	if found == nil {
		return nil, nbffi.Errorf(404, "no verb %q", name)
	}
	response, err := found(ctx, argument)
	return []byte(response), err
}

// keep keeps the request itself, which only a handler that was given a copy may.
func keep(_ context.Context, request []byte) ([]byte, error) {
	kept.Store(&request)
	return nil, nil
}

// half returns a part of the request.
func half(_ context.Context, request []byte) ([]byte, error) {
	return request[len(request)/2:], nil
}

// counter counts its calls, from a number in its config.
type counter struct {
	next atomic.Int64
	done <-chan struct{}
}

func (c *counter) Init(ctx context.Context, config string) error {
	switch config {
	case "fail":
		return errors.New("told to fail")
	case "panic":
		panic("told to panic")
	}
	first, err := strconv.Atoi(config)
	c.next.Store(int64(first))
	c.done = ctx.Done()
	return err
}

func (c *counter) Call(context.Context, []byte) ([]byte, error) {
	return strconv.AppendInt(nil, c.next.Add(1)-1, 10), nil
}

func (c *counter) Close() error {
	select {
	case <-c.done:
	default:
		return errors.New("the context of Init has not ended")
	}
	closed.Add(1)
	if c.next.Load() >= 1000 {
		return errors.New("counted to 1000")
	}
	return nil
}

func init() {
	nbffi.Register("do", do)
	nbffi.Register("do inline", do, nbffi.Inline)
	nbffi.Register("do goroutines", do, nbffi.Goroutines)
	nbffi.Register("echo", echo)
	nbffi.Register("echo zero copy", echo, nbffi.ZeroCopy)
	nbffi.Register("half", half, nbffi.ZeroCopy)
	nbffi.Register("keep", keep, nbffi.Inline)
	nbffi.RegisterService("counter", func() nbffi.Service { return &counter{} })
}

func main() {}
