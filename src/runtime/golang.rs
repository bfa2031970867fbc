//! Several Go runtimes in one process.
//!
//! Each library that Go has built has a Go runtime of its own: a heap, a collector,
//! threads, and signal handlers. They only disturb each other by one signal. Handlers of
//! faults (SIGSEGV and the like) and of SIGPIPE pass on what did not happen in their own
//! runtime's code. SIGURG, by which a runtime interrupts its goroutines, is not passed on:
//! the newest runtime has it, and ignores it in threads of others. Then nobody interrupts
//! a goroutine of another runtime that computes without a function call. That runtime's
//! collector waits for it, and all its goroutines wait for the collector.
//!
//! So SIGURG is passed to all runtimes, one after the other. Each checks whether the thread
//! is its own and does nothing otherwise, as for a SIGURG of any other sender.
//!
//! When a new handler is found, a new *level* is installed that calls all handlers found so
//! far: level 3 calls those of the levels 0 to 3. A runtime that is just starting may
//! reinstall the handler that it found, which is the level below. So a level must never
//! call itself.

use std::ffi::{c_int, c_void};
use std::fs;
use std::mem::MaybeUninit;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// The most handlers that share the signal. A later one keeps it for itself.
const LEVELS: usize = 16;

/// The handlers that were found, in this order, followed by zeros.
static FOUND: [AtomicUsize; LEVELS] = [const { AtomicUsize::new(0) }; LEVELS];

/// Serialises changes; the number of handlers found.
static COUNT: Mutex<usize> = Mutex::new(0);

type Handler = unsafe extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

/// Passes the signal to the handlers of the levels up to `LEVEL`. Runs on any thread at
/// any moment, so it only reads the table.
unsafe extern "C" fn level<const LEVEL: usize>(
    signal: c_int,
    info: *mut libc::siginfo_t,
    context: *mut c_void,
) {
    for found in &FOUND[..=LEVEL] {
        // Acquire: pairs with the Release in `share_signal`. All of them were
        // found before this level was made.
        let address = found.load(Ordering::Acquire);
        // SAFETY: it was a handler of this signal, and libraries stay loaded. A handler
        // that only takes the signal ignores the other arguments.
        unsafe { std::mem::transmute::<usize, Handler>(address)(signal, info, context) };
    }
}

const SHARED: [Handler; LEVELS] = [
    level::<0>,
    level::<1>,
    level::<2>,
    level::<3>,
    level::<4>,
    level::<5>,
    level::<6>,
    level::<7>,
    level::<8>,
    level::<9>,
    level::<10>,
    level::<11>,
    level::<12>,
    level::<13>,
    level::<14>,
    level::<15>,
];

/// Checks who handles SIGURG. If a new handler has replaced others, all of them get the
/// signal from now on. Called when a library may have been opened.
pub fn share_signal() {
    let mut count = COUNT.lock().unwrap_or_else(PoisonError::into_inner);
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: only reads, into writable memory; zeros are valid.
    let mut action = unsafe {
        libc::sigaction(libc::SIGURG, std::ptr::null(), action.as_mut_ptr());
        action.assume_init()
    };
    let handler = action.sa_sigaction;
    let top = |count: usize| SHARED[count - 1] as usize;
    let is_ours = *count > 1 && handler == top(*count);
    if matches!(handler, libc::SIG_DFL | libc::SIG_IGN) || is_ours {
        return;
    }
    let known = SHARED.iter().any(|&shared| shared as usize == handler)
        // Relaxed: written under the lock.
        || FOUND[..*count].iter().any(|f| f.load(Ordering::Relaxed) == handler);
    if !known {
        let Some(free) = FOUND.get(*count) else {
            return;
        };
        // Release: pairs with the Acquire in `level`.
        free.store(handler, Ordering::Release);
        *count += 1;
    }
    if *count > 1 {
        action.sa_sigaction = top(*count);
        action.sa_flags |= libc::SA_SIGINFO;
        // SAFETY: a handler that lives as long as the process.
        unsafe { libc::sigaction(libc::SIGURG, &action, std::ptr::null_mut()) };
        repeat_signal();
    }
}

/// Sends SIGURG to all threads except nginx's. A signal may have been lost while one
/// runtime had it alone, and a runtime never sends a second one before the first has
/// arrived. A SIGURG without a reason does no harm.
fn repeat_signal() {
    let process = std::process::id() as libc::pid_t;
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten();
    for thread in threads.flatten() {
        let name = thread.file_name();
        let number = name.to_str().and_then(|name| name.parse().ok());
        if let Some(number) = number.filter(|&number: &libc::pid_t| number != process) {
            // SAFETY: the handler is set; a thread that has ended gets nothing.
            unsafe { libc::syscall(libc::SYS_tgkill, process, number, libc::SIGURG) };
        }
    }
}

/// A Go library of this process: its name, and its device and inode.
type Known = (PathBuf, (u64, u64));

static LIBRARIES: Mutex<Vec<Known>> = Mutex::new(Vec::new());

/// Notes that a Go library was opened. Returns a warning if it is not the first one.
pub fn note(path: &Path) -> Option<String> {
    let about = fs::metadata(path).ok()?;
    let number = (about.dev(), about.ino());
    let mut libraries = LIBRARIES.lock().unwrap_or_else(PoisonError::into_inner);
    if libraries
        .iter()
        .any(|known| known.0 == path || known.1 == number)
    {
        return None;
    }
    libraries.push((path.to_owned(), number));
    let first = &libraries[0].0;
    (libraries.len() > 1).then(|| {
        format!(
            "library \"{}\" brings Go runtime number {} into this process; the first is that \
             of \"{}\". Each has a heap, a collector and threads of its own: one library with \
             all functions costs less",
            path.display(),
            libraries.len(),
            first.display(),
        )
    })
}
