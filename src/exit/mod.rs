//! Leaving the process while pool threads, or a plugin's own, are running.
//!
//! `exit` runs the destructors and exit handlers of every library in the process. A
//! thread that is in such a library may then crash. So the exit handler of this module ends the process at once. Handlers
//! run in the reverse order of their registration. So this one moves to the end of the
//! list after each library that is loaded, and runs before that library's.
//!
//! # Shutdown
//!
//! | file         | role |
//! |--------------|------|
//! | [`hooks`]    | what plugins run when the process ends |
//! | [`children`] | processes that this one has left behind |
//!
//! This is the order when nginx ends a worker. docs/operations.md tells users the same
//! steps, and other files refer to these numbers.
//!
//! 1. Requests and timers end; Lua (`core/exit.lua`) bounds the waits of timers.
//! 2. nginx-lua ends the Lua VM, and with it the memory of every request. Lua closes the
//!    runtimes with nothing in flight, and calls `nbffi_client_close`. Posts that are held
//!    back go to the pools, and queued tasks may begin for some seconds. Then the mailbox
//!    is closed: from now on no task begins, and running tasks have some seconds to end.
//!    If one still runs, it may be reading memory of the VM: the log lines that wait are
//!    written, and [`now`] is called. Else nginx frees its memory and calls `exit`, which
//!    calls the handler here.
//! 3. The hooks run, each on a thread of its own, for as long as [`allow`] says. The
//!    main thread only waits.
//! 4. The buffers of C's `FILE`s are flushed.
//! 5. Child processes are ended.
//! 6. `_exit`.
//!
//! An `exit` on any other thread ends the process at once, without these steps.

mod children;
mod hooks;

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::log::stderr;
use crate::signals::is_main_thread;
pub use hooks::{Hook, add};

/// The process whose exit is guarded. Children that a plugin forks are not.
static OWNER: AtomicU32 = AtomicU32::new(0);
/// The time of the hooks if [`allow`] was not called.
const DEFAULT_TIME: Duration = Duration::from_millis(500);
/// The time that [`allow`] has set, in nanoseconds.
static TIME_NS: AtomicU64 = AtomicU64::new(DEFAULT_TIME.as_nanos() as u64);
/// How long flushing `FILE`s may take. Mostly it takes no time.
const FLUSH_TIME: Duration = Duration::from_millis(100);
type TellRuntime = fn(&mut dyn FnMut(Option<&str>));
static TELL_RUNTIME: OnceLock<TellRuntime> = OnceLock::new();
/// The status by which a worker tells nginx not to start another one.
const FATAL: c_int = 2;

/// Guards the exit of this process against the handlers registered so far.
pub fn install() {
    // Relaxed: read by the handler in whichever thread exits; a plain number.
    OWNER.store(std::process::id(), Ordering::Relaxed);
    stderr::prepare();
    register();
}

/// Sets the function that calls its argument with the name of the runtime that the
/// calling thread is inside of, if any. It takes no lock.
pub fn tell_runtime_by(tell: TellRuntime) {
    let _ = TELL_RUNTIME.set(tell);
}

/// Sets how long hooks, and after them child processes, may take.
pub fn allow(time: Duration) {
    let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    // Relaxed: the main thread writes it, and reads it when it exits.
    TIME_NS.store(nanos, Ordering::Relaxed);
}

/// Ends the process in order, with this status and without any exit handler.
/// On the main thread.
pub fn now(status: c_int) -> ! {
    end();
    leave(status)
}

fn leave(status: c_int) -> ! {
    // SAFETY: `_exit` may be called at any time.
    unsafe { libc::_exit(status) }
}

/// Whether the orderly end has begun.
static ENDING: AtomicBool = AtomicBool::new(false);

/// Steps 3 to 5, once.
fn end() {
    // Relaxed: only the main thread comes here, and comes twice if it calls
    // `exit` from within. For others it is a hint.
    if ENDING.swap(true, Ordering::Relaxed) {
        return;
    }
    // The handler that is running is off the list; a hook may call `exit`.
    register();
    // Relaxed: as in `allow`.
    let time = Duration::from_nanos(TIME_NS.load(Ordering::Relaxed));
    let begun = Instant::now();
    let deadline = begun.checked_add(time).unwrap_or(begun + DEFAULT_TIME);
    hooks::run(deadline);
    hooks::run_bounded("flush", Instant::now() + FLUSH_TIME, flush_files);
    children::end(deadline);
}

/// Writes out the buffers of C code and of Lua's `io`.
fn flush_files() {
    // SAFETY: null is all of them. It waits for a thread that is inside of one, so
    // it is not done on the main thread.
    unsafe { libc::fflush(std::ptr::null_mut()) };
}

/// `exit` was called, with this status.
fn on_exit(status: c_int) {
    if OWNER.load(Ordering::Relaxed) != std::process::id() {
        return;
    }
    if is_main_thread() {
        now(status);
    }
    // Relaxed: as in `end`.
    while ENDING.load(Ordering::Relaxed) {
        // A hook has called it. The process ends anyway, and the other hooks keep
        // their time.
        std::thread::park();
    }
    // nginx would start no other worker in place of one that ends with 2.
    let changed = if status & 0xff == FATAL { 1 } else { status };
    let mut report = |name: Option<&str>| {
        stderr::write(&[
            "the worker is ended by exit(",
            &stderr::number(status),
            ") in thread \"",
            &stderr::thread_name(),
            "\"",
            name.map_or("", |_| ", in runtime "),
            name.unwrap_or_default(),
        ]);
    };
    match TELL_RUNTIME.get() {
        Some(tell) => tell(&mut report),
        None => report(None),
    }
    leave(changed);
}

/// The thread that moves the handler, which takes it off by having it called.
#[cfg(target_env = "gnu")]
static MOVER: Mutex<()> = Mutex::new(());
#[cfg(target_env = "gnu")]
static MOVING: AtomicI32 = AtomicI32::new(0);

/// Registers the handler behind all others. It is in the list once: a list that grew
/// with every runtime would never end.
#[cfg(target_env = "gnu")]
fn register() {
    unsafe extern "C" {
        fn __cxa_atexit(
            handler: extern "C" fn(*mut c_void, c_int),
            arg: *mut c_void,
            library: *const c_void,
        ) -> c_int;
        fn __cxa_finalize(library: *const c_void);
    }
    extern "C" fn handler(_arg: *mut c_void, status: c_int) {
        // Relaxed: written by this thread, if it says so.
        if MOVING.load(Ordering::Relaxed) != thread() {
            on_exit(status);
        }
    }
    fn thread() -> i32 {
        // SAFETY: takes nothing and cannot fail.
        unsafe { libc::gettid() }
    }
    // By its address, the handler is told from others.
    static KEY: u8 = 0;
    let key = std::ptr::from_ref(&KEY).cast();
    let _mover = MOVER.lock().unwrap_or_else(PoisonError::into_inner);
    MOVING.store(thread(), Ordering::Relaxed);
    // SAFETY: takes off what was registered with the key: the handler, if anything.
    unsafe { __cxa_finalize(key) };
    MOVING.store(0, Ordering::Relaxed);
    // SAFETY: the handler lives as long as the process, as this object is never
    // unloaded; glibc gives it the status. If there is no room for it, exit is as it
    // was before.
    unsafe { __cxa_atexit(handler, std::ptr::null_mut(), key) };
}

#[cfg(not(target_env = "gnu"))]
fn register() {
    // Only glibc tells a handler the status. nginx's workers exit with 0, except
    // for fatal errors before plugins are loaded.
    extern "C" fn handler() {
        on_exit(0);
    }
    // SAFETY: as above.
    unsafe { libc::atexit(handler) };
}
