//! Starting a pool thread: signals, name, niceness, timers.

use std::mem::MaybeUninit;
use std::thread::Builder;

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

/// Starts a pool thread with every signal blocked: all signals are nginx's.
pub fn spawn(
    pool: &str,
    index: usize,
    nice: i32,
    body: impl FnOnce() + Send + 'static,
) -> Result<(), String> {
    let spawned = spawn_blocked(thread_name(pool, index), move || {
        lower_priority(nice);
        sharpen_timers();
        body();
    });
    spawned.map_err(|error| format!("cannot start a thread of pool \"{pool}\": {error}"))
}

/// Starts a thread of the library's own, with every signal blocked.
pub fn spawn_helper(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let spawned = spawn_blocked(format!("nbffi/{name}"), body);
    spawned.map_err(|error| format!("cannot start the thread \"{name}\": {error}"))
}

fn spawn_blocked(name: String, body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    let builder = Builder::new().name(name).stack_size(STACK_BYTES);
    let mask = block_signals();
    // The thread inherits the mask.
    let spawned = builder.spawn(body);
    restore_signals(&mask);
    spawned.map(drop)
}

fn block_signals() -> libc::sigset_t {
    let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
    // SAFETY: sigfillset initialises `all`; pthread_sigmask with a valid `how`
    // cannot fail and initialises `before`.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
        before.assume_init()
    }
}

fn restore_signals(mask: &libc::sigset_t) {
    // SAFETY: `mask` is what pthread_sigmask gave.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, mask, std::ptr::null_mut()) };
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

    #[test]
    fn every_signal_is_blocked_in_the_thread_and_none_more_outside() {
        let blocked = || {
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            let line = status.lines().find(|line| line.starts_with("SigBlk:"));
            let mask = line.unwrap().split_whitespace().nth(1).unwrap();
            u64::from_str_radix(mask, 16).unwrap()
        };
        let before = blocked();
        let (send, receive) = std::sync::mpsc::channel();
        spawn("test", 0, 0, move || send.send(blocked()).unwrap()).unwrap();
        let inside = receive.recv().unwrap();
        for signal in [libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGCHLD] {
            assert_ne!(inside & 1 << (signal - 1), 0, "signal {signal}");
        }
        assert_eq!(blocked(), before);
    }
}
