//! Keeping nginx's signal handlers nginx's.
//!
//! A library for lua-resty-ffi that starts a language runtime often lets it
//! take over signals: a JVM that is not told otherwise exits on SIGTERM by its
//! own lights, before nginx has heard of it. So what nginx had set for the
//! signals that control it is set again when `libffi_init` has returned.
//! Signals that a runtime needs for itself (SIGSEGV, SIGUSR2, ...) are left
//! alone.

use std::ffi::c_int;
use std::mem::MaybeUninit;

/// The signals that nginx's workers act upon, or ignore.
const NGINX: [(c_int, &str); 9] = [
    (libc::SIGHUP, "SIGHUP"),
    (libc::SIGINT, "SIGINT"),
    (libc::SIGQUIT, "SIGQUIT"),
    (libc::SIGTERM, "SIGTERM"),
    (libc::SIGUSR1, "SIGUSR1"),
    (libc::SIGWINCH, "SIGWINCH"),
    (libc::SIGALRM, "SIGALRM"),
    (libc::SIGIO, "SIGIO"),
    (libc::SIGPIPE, "SIGPIPE"),
];

/// What was set for each of the signals.
pub struct Handlers([libc::sigaction; NGINX.len()]);

impl Handlers {
    /// What is set now.
    pub fn now() -> Self {
        Self(NGINX.map(|(signal, _)| handler(signal)))
    }

    /// Sets what has changed back to what it was. Returns the names of these
    /// signals, in one string.
    pub fn restore(&self) -> Option<String> {
        let mut changed = Vec::new();
        for ((signal, name), before) in NGINX.into_iter().zip(&self.0) {
            if handler(signal).sa_sigaction != before.sa_sigaction {
                // SAFETY: what was set before is valid still.
                unsafe { libc::sigaction(signal, before, std::ptr::null_mut()) };
                changed.push(name);
            }
        }
        (!changed.is_empty()).then(|| changed.join(", "))
    }
}

fn handler(signal: c_int) -> libc::sigaction {
    let mut found = MaybeUninit::zeroed();
    // SAFETY: asks only, into writable memory; it cannot fail for these
    // signals, and all zero is a valid answer.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), found.as_mut_ptr());
        found.assume_init()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_over_is_given_back() {
        extern "C" fn other(_signal: c_int) {}
        let before = Handlers::now();
        assert_eq!(before.restore(), None);
        // Signals that no test needs.
        for signal in [libc::SIGWINCH, libc::SIGIO] {
            let mut theirs = handler(signal);
            theirs.sa_sigaction = other as *const () as usize;
            // SAFETY: a handler that does nothing.
            unsafe { libc::sigaction(signal, &theirs, std::ptr::null_mut()) };
        }
        assert_eq!(before.restore().as_deref(), Some("SIGWINCH, SIGIO"));
        assert_eq!(handler(libc::SIGIO).sa_sigaction, libc::SIG_DFL);
        assert_eq!(before.restore(), None);
    }
}
