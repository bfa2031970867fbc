//! Several Go runtimes in one process.
//!
//! Each library that Go has built brings a Go runtime of its own: a heap, a
//! collector, threads, and handlers for signals. They get along but for one signal.
//! Handlers of faults (SIGSEGV and its like) and of SIGPIPE pass on what did not
//! happen in their own runtime's code. SIGURG, with which a runtime interrupts its
//! goroutines, is not passed on: the runtime that came last has it, and ignores it
//! in threads that are not its own. A goroutine of another runtime that computes
//! without a function call is then interrupted by nobody, and that runtime's
//! garbage collection waits for it, and all of its goroutines for the collection.
//!
//! So SIGURG is given to all of them, one after the other. Each looks whose thread
//! it is on, and does nothing if it is not its own; that is what it does today when
//! anybody else sends the signal.
//!
//! A handler that is found is called from then on by a new *level*: level 3 calls
//! what the levels 0 to 3 have found. A runtime that is only starting hands the
//! signal back to who had it before, which is the level below: so no level may
//! become a part of itself.

use std::ffi::{c_int, c_void};
use std::fs;
use std::mem::MaybeUninit;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// So many handlers share the signal. What comes later keeps it for itself.
const LEVELS: usize = 16;

/// The handlers that were found, in the order of their coming; 0 behind.
static FOUND: [AtomicUsize; LEVELS] = [const { AtomicUsize::new(0) }; LEVELS];

/// Serialises changes; the number of handlers found.
static COUNT: Mutex<usize> = Mutex::new(0);

type Handler = unsafe extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

/// Hands the signal to the handlers of the levels up to `LEVEL`. On any thread, at
/// any moment: it touches nothing but the table.
unsafe extern "C" fn level<const LEVEL: usize>(
    signal: c_int,
    info: *mut libc::siginfo_t,
    context: *mut c_void,
) {
    for found in &FOUND[..=LEVEL] {
        // Acquire: pairs with the Release in `share_signal`. All of them were
        // found before this level was made.
        let address = found.load(Ordering::Acquire);
        // SAFETY: what was a handler of this signal once; libraries stay. Those
        // that take the signal alone do not mind the other arguments.
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

/// Looks who handles SIGURG now. If it is somebody who has come after others, all
/// of them get it from now on. Called when a library may have been opened.
pub fn share_signal() {
    let mut count = COUNT.lock().unwrap_or_else(PoisonError::into_inner);
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: asks only, into writable memory; all zero is a valid answer.
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

/// Sends SIGURG to all threads but nginx's. One that was lost while somebody had
/// the signal alone would be waited for for ever: a runtime sends a thread no
/// second one before it has seen the first. It is used to signals without a reason.
fn repeat_signal() {
    let process = std::process::id() as libc::pid_t;
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten();
    for thread in threads.flatten() {
        let name = thread.file_name();
        let number = name.to_str().and_then(|name| name.parse().ok());
        if let Some(number) = number.filter(|&number: &libc::pid_t| number != process) {
            // SAFETY: a thread of this process, or of nobody, whose handler is set.
            unsafe { libc::syscall(libc::SYS_tgkill, process, number, libc::SIGURG) };
        }
    }
}

/// A Go library of this process: its name, and what the kernel knows it by.
type Known = (PathBuf, (u64, u64));

static LIBRARIES: Mutex<Vec<Known>> = Mutex::new(Vec::new());

/// A Go library was opened. What to say if it is not the first one.
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
