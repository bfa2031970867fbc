//! Starting a pool thread: name, niceness, timers.
//!
//! No signal is blocked in it, see [`crate::signals`].

use std::thread::{Builder, Thread};

use crate::signals;

/// Linux cuts a thread's name after this many bytes.
const NAME_BYTES: usize = 15;
/// Plugins expect the stack that pthread gives, not Rust's smaller one.
const STACK_BYTES: usize = 8 << 20;

/// How many processors this process may use, at least 1.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

/// `nbffi/<pool>/<index>`, with the pool's name cut so that it fits.
pub fn thread_name(pool: &str, index: usize) -> String {
    let suffix = format!("/{index}");
    let room = NAME_BYTES - "nbffi/".len() - suffix.len();
    // A name with a NUL cannot be a thread's.
    let kept: String = pool.chars().filter(|&c| c != '\0').collect();
    let mut end = kept.len().min(room);
    while !kept.is_char_boundary(end) {
        end -= 1;
    }
    format!("nbffi/{}{suffix}", &kept[..end])
}

/// Starts a pool thread.
pub fn spawn(
    pool: &str,
    index: usize,
    nice: i32,
    body: impl FnOnce() + Send + 'static,
) -> Result<(), String> {
    let spawned = start(thread_name(pool, index), move || {
        lower_priority(nice);
        if !cfg!(miri) {
            sharpen_timers();
        }
        body();
    });
    match spawned {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("cannot start a thread of pool \"{pool}\": {error}")),
    }
}

/// Starts a thread of the library's own.
pub fn spawn_helper(name: &str, body: impl FnOnce() + Send + 'static) -> Result<Thread, String> {
    let spawned = start(format!("nbffi/{name}"), body);
    spawned.map_err(|error| format!("cannot start the thread \"{name}\": {error}"))
}

fn start(name: String, body: impl FnOnce() + Send + 'static) -> std::io::Result<Thread> {
    let builder = Builder::new().name(name).stack_size(STACK_BYTES);
    let unblocked = || {
        // Miri has no signals.
        if !cfg!(miri) {
            signals::unblock();
        }
        body();
    };
    builder
        .spawn(unblocked)
        .map(|handle| handle.thread().clone())
}

/// Makes the calling thread alone nicer. On Linux niceness belongs to threads.
fn lower_priority(nice: i32) {
    if nice > 0 {
        // SAFETY: plain numbers; 0 is the calling thread. A refusal leaves the
        // thread as it was, which is no reason not to run.
        unsafe {
            let current = libc::getpriority(libc::PRIO_PROCESS, 0);
            libc::setpriority(libc::PRIO_PROCESS, 0, current + nice);
        }
    }
}

/// Linux may let the calling thread's timers fire 50 us late, to save power. A
/// pool that serves short waits (a poll, a sleep) loses a percent by that.
fn sharpen_timers() {
    // SAFETY: a plain number, for the calling thread only. It cannot fail.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_keep_their_number() {
        assert_eq!(thread_name("default", 0), "nbffi/default/0");
        assert_eq!(thread_name("thumbnails", 12), "nbffi/thumbn/12");
        assert_eq!(thread_name("größer!!!", 123), "nbffi/grö/123");
        assert_eq!(thread_name("a\0b", 1), "nbffi/ab/1");
    }
}
