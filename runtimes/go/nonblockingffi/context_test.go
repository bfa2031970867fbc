package nonblockingffi

import (
	"context"
	"errors"
	"log"
	"strings"
	"testing"
	"time"

	"github.com/lua-resty-nonblocking-ffi/lua-resty-nonblocking-ffi/runtimes/go/internal/fakehost"
)

// waiting waits for the end of its context and tells how it came.
func waiting(ends chan error) Handler {
	return func(ctx context.Context, _ []byte) ([]byte, error) {
		<-ctx.Done()
		ends <- ctx.Err()
		return nil, ctx.Err()
	}
}

func TestACallerThatGivesUp(t *testing.T) {
	every(t, func(t *testing.T, minor int, options []Option) {
		ends := make(chan error, 1)
		host := load(t, setting{entry: entry(waiting(ends), options...), minor: minor})
		task := host.Post(nil, time.Hour)
		task.Cancel()
		if err := <-ends; err != context.Canceled {
			t.Error(err)
		}
		if result := task.Wait(); result.Message != "context canceled" {
			t.Errorf("%+v", result)
		}
		// With its deadline, or without having been there at all.
		task = host.Post(nil, 20*time.Millisecond)
		if err := <-ends; err != context.DeadlineExceeded {
			t.Error(err)
		}
		task.Wait()
		task = host.Post(nil, -time.Millisecond)
		if err := <-ends; err != context.DeadlineExceeded {
			t.Error(err)
		}
		task.Wait()
		if count := watches(); count != 0 {
			t.Errorf("%d tasks are watched", count)
		}
	})
}

// A caller that times out looks as one that gives up; the deadline is what it is.
func TestATimeoutIsADeadline(t *testing.T) {
	ends := make(chan error, 1)
	host := load(t, setting{entry: entry(waiting(ends)), minor: 3})
	for i := 0; i < 20; i++ {
		task := host.Post(nil, 30*time.Millisecond)
		time.Sleep(29 * time.Millisecond)
		task.Cancel()
		if err := <-ends; err != context.DeadlineExceeded {
			t.Error(err)
		}
		task.Wait()
	}
}

func TestManyThatGiveUp(t *testing.T) {
	const number = 1000
	ends := make(chan error, number)
	host := load(t, setting{entry: entry(waiting(ends)), minor: 3})
	var cancel []func()
	for i := 0; i < number; i++ {
		task := host.Post(nil, time.Hour)
		cancel = append(cancel, task.Cancel)
		defer task.Wait()
	}
	// In two halves: who does not give up is not disturbed.
	for i := 0; i < number; i += 2 {
		cancel[i]()
	}
	for i := 0; i < number/2; i++ {
		if err := <-ends; err != context.Canceled {
			t.Fatal(err)
		}
	}
	select {
	case err := <-ends:
		t.Error("one that was not cancelled: ", err)
	case <-time.After(10 * margin):
	}
	for i := 1; i < number; i += 2 {
		cancel[i]()
	}
	for i := 0; i < number/2; i++ {
		<-ends
	}
}

func TestDeadline(t *testing.T) {
	type seen struct {
		left time.Duration
		ok   bool
	}
	deadlines := make(chan seen, 2)
	handler := func(ctx context.Context, _ []byte) ([]byte, error) {
		for i := 0; i < 2; i++ {
			deadline, ok := ctx.Deadline()
			deadlines <- seen{time.Until(deadline), ok}
			ctx.Done()
		}
		return nil, nil
	}
	host := load(t, setting{entry: entry(handler), minor: 3})
	host.Post(nil, time.Hour).Wait()
	for i := 0; i < 2; i++ {
		if d := <-deadlines; !d.ok || d.left > time.Hour || d.left < time.Hour-patience {
			t.Error(d)
		}
	}
	host.Call("")
	for i := 0; i < 2; i++ {
		if d := <-deadlines; d.ok {
			t.Error(d)
		}
	}
}

func TestTheContextEndsWithTheHandler(t *testing.T) {
	for _, asked := range []bool{false, true} {
		contexts := make(chan context.Context, 1)
		handler := func(ctx context.Context, _ []byte) ([]byte, error) {
			if asked {
				if ctx.Err() != nil || ctx.Done() != ctx.Done() {
					return nil, errors.New("over already")
				}
			}
			contexts <- ctx
			return nil, nil
		}
		host := load(t, setting{entry: entry(handler), minor: 3})
		if result := host.Call(""); result.Failed {
			t.Error(result.Message)
		}
		ctx := <-contexts
		<-ctx.Done()
		if err := ctx.Err(); err != context.Canceled {
			t.Error(err)
		}
	}
}

func TestTheReasonDoesNotChange(t *testing.T) {
	contexts := make(chan context.Context, 1)
	handler := func(ctx context.Context, _ []byte) ([]byte, error) {
		<-ctx.Done()
		contexts <- ctx
		return nil, nil
	}
	host := load(t, setting{entry: entry(handler), minor: 3})
	host.Post(nil, 10*time.Millisecond).Wait()
	if err := (<-contexts).Err(); err != context.DeadlineExceeded {
		t.Error(err)
	}
}

// The standard library starts a goroutine for a child of a context that it does
// not know.
func TestChildrenNeedNoGoroutine(t *testing.T) {
	counts := make(chan int, 2)
	handler := func(ctx context.Context, _ []byte) ([]byte, error) {
		ctx.Done()
		counts <- goroutines()
		for i := 0; i < 100; i++ {
			child, cancel := context.WithCancel(context.WithValue(ctx, "key", i))
			defer cancel()
			if child.Value("key") != i || runtimeOf(child) == nil {
				return nil, errors.New("values are lost")
			}
		}
		counts <- goroutines()
		return nil, nil
	}
	// One thread: others are goroutines, too, when they wait for a task.
	host := load(t, setting{entry: entry(handler, Inline), minor: 3, threads: 1})
	if result := host.Call(""); result.Failed {
		t.Error(result.Message)
	}
	if before, after := <-counts, <-counts; after > before {
		t.Errorf("%d goroutines, then %d", before, after)
	}
}

func TestNameConfigAndLog(t *testing.T) {
	handler := func(ctx context.Context, request []byte) ([]byte, error) {
		Log(ctx, LevelWarn, "Log ", 1, 2, string(request))
		Logf(ctx, LevelDebug, "Logf %q", request)
		log.New(LogWriter(ctx, LevelInfo), "> ", 0).Print("Print")
		LogWriter(ctx, LevelEmerg).Write(nil)
		SetStatus(ctx, 7, "seven")
		return []byte(Name(ctx) + "|" + Config(ctx)), nil
	}
	name := entry(handler)
	host := load(t, setting{entry: name, config: "a:1:b\n", minor: 3})
	result := host.Call("!")
	if string(result.Response) != name+"|a:1:b\n" || result.Code != 7 || result.Message != "seven" {
		t.Errorf("%+v", result)
	}
	want := strings.ReplaceAll("5 N: Log 1 2!\n8 N: Logf \"!\"\n7 N: > Print\n1 N: \n", "N", name)
	if log := host.Log(); log != want {
		t.Errorf("%q instead of %q", log, want)
	}
	// Contexts of others have none of this.
	ctx := context.Background()
	Log(ctx, LevelErr, "nobody reads this")
	Logf(ctx, LevelErr, "nobody reads this")
	LogWriter(ctx, LevelErr).Write([]byte("nobody reads this\n"))
	SetStatus(ctx, 1, "")
	if Name(ctx) != "" || Config(ctx) != "" {
		t.Error("of no runtime")
	}
}

// What a handler has left behind may use its context whenever it likes; the host
// is gone then, and its memory overwritten.
func TestAContextThatIsKeptTooLong(t *testing.T) {
	for _, asked := range []bool{false, true} {
		contexts := make(chan context.Context, 1)
		handler := func(ctx context.Context, _ []byte) ([]byte, error) {
			if asked {
				ctx.Done()
			}
			contexts <- ctx
			return nil, nil
		}
		name := entry(handler)
		host := newHost(setting{entry: name, minor: 3, threads: 2})
		if err := host.Load("nbffi_go_entry"); err != nil {
			t.Fatal(err)
		}
		host.Post(nil, time.Hour).Wait()
		ctx := <-contexts
		host.Close()
		host.Free()
		<-ctx.Done()
		ctx.Deadline()
		Log(ctx, LevelErr, "nobody reads this")
		LogWriter(ctx, LevelErr).Write([]byte("nobody reads this\n"))
		SetStatus(ctx, 1, "nobody reads this")
		if Name(ctx) != name || ctx.Err() != context.Canceled {
			t.Error(Name(ctx), ctx.Err())
		}
	}
}

// A goroutine that asks for the first time while its handler returns and the
// runtime is closed.
func TestAContextThatIsAskedTooLate(t *testing.T) {
	for i := 0; i < 200; i++ {
		began, ended := make(chan struct{}), make(chan error)
		handler := func(ctx context.Context, _ []byte) ([]byte, error) {
			go func() {
				close(began)
				<-ctx.Done()
				ended <- ctx.Err()
			}()
			<-began
			return nil, nil
		}
		host := newHost(setting{entry: entry(handler), minor: 3, threads: 1})
		if err := host.Load("nbffi_go_entry"); err != nil {
			t.Fatal(err)
		}
		host.Call("")
		host.Close()
		host.Free()
		if err := <-ended; err != context.Canceled {
			t.Fatal(err)
		}
	}
}

// watches counts the tasks whose contexts may end because nobody waits.
func watches() int {
	cancellations.Lock()
	defer cancellations.Unlock()
	return len(cancellations.byTask)
}

func TestManyAskAtTheSameTime(t *testing.T) {
	const askers = 8
	counts := make(chan int, 1)
	handler := func(ctx context.Context, _ []byte) ([]byte, error) {
		channels := make(chan (<-chan struct{}), askers)
		begin := make(chan struct{})
		for i := 0; i < askers; i++ {
			go func() {
				<-begin
				channels <- ctx.Done()
			}()
		}
		close(begin)
		for i := 0; i < askers; i++ {
			if <-channels != ctx.Done() {
				return nil, errors.New("another channel")
			}
		}
		counts <- watches()
		return nil, nil
	}
	host := load(t, setting{entry: entry(handler, Goroutines), minor: 3})
	for i := 0; i < 2000; i++ {
		if result := host.Call(""); result.Failed {
			t.Fatal(result.Message)
		}
		if count := <-counts; count != 1 {
			t.Fatalf("%d watches", count)
		}
	}
}

// More than the pipe holds, while its reader is busy: it looks at all of them.
func TestMoreGiveUpThanThePipeHolds(t *testing.T) {
	const number = 20000
	ends := make(chan error, number)
	host := load(t, setting{entry: entry(waiting(ends), Goroutines), minor: 3})
	var tasks []*fakehost.Task
	for i := 0; i < number; i++ {
		tasks = append(tasks, host.Post(nil, time.Hour))
		defer tasks[i].Wait()
	}
	await(t, "all wait", func() bool { return watches() == number })
	// The reader waits for this lock.
	cancellations.Lock()
	for _, task := range tasks {
		task.Cancel()
	}
	cancellations.Unlock()
	for i := 0; i < number; i++ {
		if err := <-ends; err != context.Canceled {
			t.Fatal(err)
		}
	}
}
