// Package nonblockingffi makes functions in Go callable from nginx's Lua
// handlers, off the event loop, with lua-resty-nonblocking-ffi.
//
// A library of such functions is a main package that registers them in an init
// function, and has an empty main:
//
//	func init() {
//		nonblockingffi.Register("echo",
//			func(ctx context.Context, request []byte) ([]byte, error) {
//				return request, nil
//			})
//	}
//
//	func main() {}
//
// It is built with
//
//	go build -buildmode=c-shared -o libecho.so
//
// and loaded, in each nginx worker, with
//
//	local echo, err = nbffi.load{
//	    language = "go", library = "/path/to/libecho.so", entry = "echo",
//	}
//	local response, err, code = echo:call("request")
//
// # Requests
//
// Each request has a context of its own, which ends with the deadline of the
// caller, when the caller gives up, and when the function returns. A function
// may be called by any number of goroutines at the same time. It may block: what
// it keeps is a goroutine, not a thread of nginx. (If it has been returning
// within microseconds it is called without that detour, on the thread that
// brought the request; see [Goroutines].)
//
// What is to be done once at the end of the worker is for [OnExit].
//
// An error that a function returns is the caller's error. A panic is one too,
// and its stack is logged; nginx goes on. What Go cannot recover from ends the
// worker: a panic in a goroutine that the function started, a concurrent write
// to a map, os.Exit, log.Fatal. A function must not call [runtime.Goexit], and
// nothing must call os.Exit with 2: nginx starts no other worker then.
//
// # What is nginx's
//
// Signals are nginx's: do not use [os/signal.Notify] for those that nginx
// handles. So are children: nginx collects every child that ends, so
// [os/exec.Cmd.Wait] may not find out how its command ended.
//
// There can be one library in Go in a process, since each has a Go runtime of
// its own, and two of these fight for signals. Register everything in one.
package nonblockingffi
