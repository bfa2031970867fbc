package nonblockingffi

import (
	"context"
	"fmt"
	"io"
	"time"
)

// A Level is one of nginx's error_log.
type Level int

// The levels, the most severe first.
const (
	LevelEmerg Level = iota + 1
	LevelAlert
	LevelCrit
	LevelErr
	LevelWarn
	LevelNotice
	LevelInfo
	LevelDebug
)

// A context has its runtime and its task as values with these keys.
type (
	runtimeKey struct{}
	taskKey    struct{}
)

// runtimeContext is the root of the contexts of one runtime.
type runtimeContext struct {
	in *instance
}

func (c *runtimeContext) Deadline() (time.Time, bool) { return time.Time{}, false }

func (c *runtimeContext) Done() <-chan struct{} { return nil }

func (c *runtimeContext) Err() error { return nil }

func (c *runtimeContext) Value(key any) any {
	if _, ok := key.(runtimeKey); ok {
		return c.in
	}
	return nil
}

func runtimeOf(ctx context.Context) *instance {
	in, _ := ctx.Value(runtimeKey{}).(*instance)
	return in
}

// Name returns the runtime's name, the one in nginx's log and statistics; "" if
// the context is not one of this package, or made from one.
func Name(ctx context.Context) string {
	if in := runtimeOf(ctx); in != nil {
		return in.name
	}
	return ""
}

// Config returns the config that nbffi.load was given; "" if there was none, or
// the context is not one of this package.
func Config(ctx context.Context) string {
	if in := runtimeOf(ctx); in != nil {
		return in.config
	}
	return ""
}

// Log writes to nginx's error log, with the runtime's name in front. Arguments are
// formatted as by fmt.Sprint; each line is an entry. It never blocks. Lines are dropped
// if they are more verbose than nginx's error_log, after the runtime's Close, and with a
// context that is not one of this package.
func Log(ctx context.Context, level Level, arguments ...any) {
	if in := runtimeOf(ctx); in != nil {
		in.log(level, fmt.Append(nil, arguments...))
	}
}

// Logf is Log with a format.
func Logf(ctx context.Context, level Level, format string, arguments ...any) {
	if in := runtimeOf(ctx); in != nil {
		in.log(level, fmt.Appendf(nil, format, arguments...))
	}
}

// LogWriter returns a writer that makes an entry in nginx's error log of each line
// written: for log.New, or a handler of log/slog. It outlives the context, until the
// runtime's Close.
func LogWriter(ctx context.Context, level Level) io.Writer {
	return &logWriter{runtimeOf(ctx), level}
}

type logWriter struct {
	in    *instance
	level Level
}

func (w *logWriter) Write(line []byte) (int, error) {
	if w.in != nil {
		w.in.log(w.level, line)
	}
	return len(line), nil
}

// SetStatus gives the response that the handler is going to return a status: the
// Lua side gets it as response, nil, code, message.
func SetStatus(ctx context.Context, code int64, message string) {
	if t, ok := ctx.Value(taskKey{}).(*task); ok {
		t.in.setStatus(t.handle, code, message)
	}
}
