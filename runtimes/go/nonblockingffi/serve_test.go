package nonblockingffi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lua-resty-nonblocking-ffi/lua-resty-nonblocking-ffi/runtimes/go/internal/fakehost"
)

func echo(_ context.Context, request []byte) ([]byte, error) { return request, nil }

func TestEveryRequestIsAnswered(t *testing.T) {
	every(t, func(t *testing.T, minor int, options []Option) {
		host := load(t, setting{entry: entry(echo, options...), minor: minor})
		for _, size := range []int{0, 1, 64, 65, 4096, 1 << 20, 10 << 20} {
			request := make([]byte, size)
			rand.Read(request)
			if result := host.Post(request, 0).Wait(); result.Failed ||
				!bytes.Equal(result.Response, request) {
				t.Errorf("%d bytes: %d, %s", size, len(result.Response), result.Message)
			}
		}
		var tasks []*fakehost.Task
		for i := 0; i < 10000; i++ {
			tasks = append(tasks, host.Post([]byte(fmt.Sprint(i)), 0))
		}
		for i, task := range tasks {
			if result := task.Wait(); string(result.Response) != fmt.Sprint(i) {
				t.Fatalf("%d: %+v", i, result)
			}
		}
		if stale := host.Stale(); stale != 0 {
			t.Errorf("%d tasks were completed twice", stale)
		}
	})
}

func TestARequestMayBeKept(t *testing.T) {
	var lock sync.Mutex
	kept := make(map[string][]byte)
	keep := func(_ context.Context, request []byte) ([]byte, error) {
		lock.Lock()
		defer lock.Unlock()
		kept[string(request)] = request
		return nil, nil
	}
	host := load(t, setting{entry: entry(keep), minor: 2})
	for i := 0; i < 1000; i++ {
		host.Call(fmt.Sprintf("request %d", i))
	}
	for text, request := range kept {
		if string(request) != text {
			t.Fatalf("%q became %q", text, request)
		}
	}
	if len(kept) != 1000 {
		t.Errorf("%d were kept", len(kept))
	}
}

func TestZeroCopyReadsTheRequestInPlace(t *testing.T) {
	var view []byte
	look := func(_ context.Context, request []byte) ([]byte, error) {
		view = request
		return request[2:4], nil
	}
	host := load(t, setting{entry: entry(look, ZeroCopy), minor: 2})
	if result := host.Call("abcdef"); string(result.Response) != "cd" {
		t.Errorf("%+v", result)
	}
	if len(view) != 6 {
		t.Errorf("%d bytes", len(view))
	}
}

// failing has a way to fail for each request.
func failing(_ context.Context, request []byte) ([]byte, error) {
	switch string(request) {
	case "plain":
		return []byte("ignored"), errors.New("plain")
	case "code":
		return nil, WithCode(42, errors.New("with a code"))
	case "wrapped":
		return nil, fmt.Errorf("outside: %w", Errorf(-1<<40, "%s", "inside"))
	case "panic":
		panic(fmt.Errorf("on %s", "purpose"))
	case "typed nil":
		var none *nilError
		return nil, none
	case "nil":
		var none *nilError
		none.text = "x"
	case "exit":
		runtime.Goexit()
	}
	return []byte("fine"), nil
}

type nilError struct{ text string }

func (e *nilError) Error() string { return e.text }

func TestErrorsAndPanics(t *testing.T) {
	const fault = "panic: runtime error: invalid memory address or nil pointer dereference"
	every(t, func(t *testing.T, minor int, options []Option) {
		host := load(t, setting{entry: entry(failing, options...), minor: minor})
		for _, want := range []struct {
			request, message string
			code             int64
			logged           bool
		}{
			{"plain", "plain", 1, false},
			{"code", "with a code", 42, false},
			{"wrapped", "outside: inside", -1 << 40, false},
			{"panic", "panic: on purpose", -1, true},
			{"typed nil", fault, -1, true},
			{"nil", fault, -1, true},
		} {
			result := host.Call(want.request)
			if !result.Failed || result.Message != want.message || result.Code != want.code {
				t.Errorf("%s: %+v", want.request, result)
			}
			log := host.Log()
			if logged := strings.HasPrefix(log, "4 ") && strings.Contains(log, "serve_test.go:"); logged != want.logged {
				t.Errorf("%s: logged %q", want.request, log)
			}
		}
		if result := host.Call("else"); string(result.Response) != "fine" {
			t.Errorf("%+v", result)
		}
	})
}

func TestGoexitIsAnError(t *testing.T) {
	host := load(t, setting{entry: entry(failing, Goroutines), minor: 2})
	for i := 0; i < 100; i++ {
		result := host.Call("exit")
		if !result.Failed || !strings.Contains(result.Message, "neither returned nor panicked") {
			t.Fatalf("%+v", result)
		}
	}
}

// Whatever the handlers do, requests reach Go: one that is quick, then blocks.
func TestBlockedHandlersKeepNobodyOut(t *testing.T) {
	for threads := 1; threads <= 3; threads++ {
		t.Run(fmt.Sprintf("%d threads", threads), func(t *testing.T) {
			var blocked atomic.Int64
			gate := make(chan struct{})
			handler := func(_ context.Context, request []byte) ([]byte, error) {
				if string(request) == "block" {
					blocked.Add(1)
					<-gate
				}
				return request, nil
			}
			host := load(t, setting{entry: entry(handler), minor: 2, threads: threads})
			for i := 0; i < 10*maxStreak; i++ {
				host.Call("quick")
			}
			var tasks []*fakehost.Task
			for i := 0; i < 200; i++ {
				tasks = append(tasks, host.Post([]byte("block"), 0))
			}
			await(t, "all are in Go", func() bool { return blocked.Load() == 200 })
			if result := host.Call("quick"); string(result.Response) != "quick" {
				t.Errorf("%+v", result)
			}
			close(gate)
			for _, task := range tasks {
				task.Wait()
			}
		})
	}
}

func TestWhoRunsAHandler(t *testing.T) {
	var here atomic.Bool
	handler := func(context.Context, []byte) ([]byte, error) {
		here.Store(fakehost.OnPoolThread())
		return nil, nil
	}
	for _, want := range []struct {
		threads int
		options []Option
		here    bool
	}{
		{1, nil, false}, {2, nil, true},
		{1, []Option{Inline}, true}, {2, []Option{Inline}, true},
		{1, []Option{Goroutines}, false}, {2, []Option{Goroutines}, false},
	} {
		host := load(t, setting{entry: entry(handler, want.options...), minor: 2, threads: want.threads})
		for i := 0; i < 10*maxStreak; i++ {
			host.Call("")
		}
		await(t, fmt.Sprint(want), func() bool {
			host.Call("")
			return here.Load() == want.here
		})
	}
}

// A handler that is slow from now on, while many requests wait.
func TestAThreadDoesNotStayWithASlowHandler(t *testing.T) {
	const slow = 500
	var here atomic.Int64
	handler := func(_ context.Context, request []byte) ([]byte, error) {
		if len(request) > 0 {
			if fakehost.OnPoolThread() {
				here.Add(1)
			}
			time.Sleep(time.Millisecond)
		}
		return nil, nil
	}
	host := load(t, setting{entry: entry(handler), minor: 2, threads: 1, said: 2})
	for i := 0; i < 10*maxStreak; i++ {
		host.Call("")
	}
	var tasks []*fakehost.Task
	for i := 0; i < slow; i++ {
		tasks = append(tasks, host.Post([]byte("slow"), 0))
	}
	for _, task := range tasks {
		task.Wait()
	}
	if count := here.Load(); count > slow/4 {
		t.Errorf("%d of %d were handled by the pool thread", count, slow)
	}
}

func TestGarbageIsCollectedMeanwhile(t *testing.T) {
	every(t, func(t *testing.T, minor int, options []Option) {
		handler := func(_ context.Context, request []byte) ([]byte, error) {
			return append([]byte("re: "), request...), nil
		}
		host := load(t, setting{entry: entry(handler, options...), minor: minor})
		var stop atomic.Bool
		var collectors sync.WaitGroup
		collectors.Add(1)
		go func() {
			defer collectors.Done()
			for !stop.Load() {
				runtime.GC()
			}
		}()
		end := time.Now().Add(200 * time.Millisecond)
		for i := 0; time.Now().Before(end); i++ {
			if result := host.Call(fmt.Sprint(i)); string(result.Response) != fmt.Sprint("re: ", i) {
				t.Fatalf("%+v", result)
			}
		}
		stop.Store(true)
		collectors.Wait()
	})
}

// Threads that wait for requests in Go leave something for others to run on.
func TestNotAllThreadsWaitInGo(t *testing.T) {
	const threads = 8
	var together sync.WaitGroup
	together.Add(threads)
	handler := func(context.Context, []byte) ([]byte, error) {
		together.Done()
		together.Wait()
		return nil, nil
	}
	host := load(t, setting{entry: entry(handler, Inline), minor: 2, threads: threads})
	var tasks []*fakehost.Task
	for i := 0; i < threads; i++ {
		tasks = append(tasks, host.Post(nil, 0))
	}
	for _, task := range tasks {
		task.Wait()
	}
	want := int32(threads)
	if want > maxWaiters {
		want = maxWaiters
	}
	await(t, fmt.Sprint(want, " threads wait"), func() bool { return waiters.Load() == want })
}

// BenchmarkEcho has a pool thread bring requests of 64 bytes: one at a time, and
// as many as the handler will take.
func BenchmarkEcho(b *testing.B) {
	for _, way := range []struct {
		name    string
		options []Option
	}{
		{"inline", []Option{Inline}},
		{"inline, zero copy", []Option{Inline, ZeroCopy}},
		{"goroutines", []Option{Goroutines}},
	} {
		name := entry(echo, way.options...)
		for _, batch := range []int{1, 1000} {
			b.Run(fmt.Sprintf("%s, %d a batch", way.name, batch), func(b *testing.B) {
				host := load(b, setting{entry: name, minor: 2})
				took := host.Bench(b.N, batch, 64)
				b.ReportMetric(float64(took.Nanoseconds())/float64(b.N), "ns/echo")
			})
		}
	}
}
