//! Signals: nginx's reach nginx, no thread blocks any, and children start anew.
//!
//! nginx's handlers are made for a process of one thread: they set a flag and
//! rely on the signal to interrupt the main thread's `epoll_wait`. On another
//! thread the handler sets the flag, but the main thread sleeps on. Blocking all signals
//! in all other threads would prevent that. But programs that such a thread starts inherit
//! the mask, and SIGTERM cannot end them. So nginx's handlers are wrapped:
//! [`on_signal`] sends a signal that reached another thread on to the main thread, and
//! calls nginx's handler there.
//!
//! - SIGCHLD: nginx's handler waits for every child, also for those of a
//!   language, which then never learns how its child has ended. nginx starts no children
//!   in a worker, so the signal gets its default again. The handler of
//!   nginx-lua's `ngx.pipe` waits for its own children only, and stays. Newer
//!   versions of it have no handler: they block the signal on the main thread and
//!   read it from a descriptor. It is sent on to that thread, too.
//! - SIGPIPE: nginx ignores it. Programs that a worker starts would ignore it, too, and
//!   might write for ever. A handler that does nothing has the same effect in the worker,
//!   and programs get the default.
//!
//! Language runtimes replace handlers when they are loaded. [`Handlers`] restores them.

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::sync::OnceLock;

/// The signals that nginx's workers handle or ignore, without SIGCHLD and SIGUSR2:
/// languages may use these.
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
const WRAPPED: usize = NGINX.len() + 1;

/// A signal whose handler was wrapped.
struct Taken {
    signal: c_int,
    /// nginx's action.
    before: libc::sigaction,
    /// The action that replaces it.
    now: libc::sigaction,
}

struct Worker {
    pid: libc::pid_t,
    main_thread: libc::pthread_t,
    taken: [Taken; WRAPPED],
    /// The action for SIGCHLD.
    child: libc::sigaction,
}

static WORKER: OnceLock<Worker> = OnceLock::new();

/// Wraps nginx's handlers. On the main thread of a worker.
pub fn take() {
    let wrap = |signal| {
        let before = action(signal);
        let mut now = before;
        // Without a handler there, nginx has not set one, or the program is not nginx.
        match before.sa_sigaction {
            libc::SIG_IGN if signal == libc::SIGPIPE => {
                now.sa_sigaction = on_ignored as *const () as usize;
            }
            libc::SIG_DFL | libc::SIG_IGN => {}
            _ => now.sa_sigaction = on_signal as *const () as usize,
        }
        if now.sa_sigaction != before.sa_sigaction {
            // RESTART: system calls of plugins continue. `epoll_wait` returns
            // nevertheless, as nginx needs. ONSTACK: Go's threads run on small stacks.
            now.sa_flags |= libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
        }
        Taken {
            signal,
            before,
            now,
        }
    };
    let names = NGINX.iter().map(|(signal, _)| *signal);
    let mut signals = names.chain([libc::SIGUSR2]);
    let taken = std::array::from_fn(|_| wrap(signals.next().unwrap_or(libc::SIGUSR2)));
    let mut child = action(libc::SIGCHLD);
    match child.sa_sigaction {
        libc::SIG_DFL | libc::SIG_IGN => {}
        handler if handler == action(libc::SIGTERM).sa_sigaction => {
            child.sa_sigaction = libc::SIG_DFL;
        }
        _ => child.sa_flags |= libc::SA_RESTART | libc::SA_ONSTACK,
    }
    if is_blocked(libc::SIGCHLD) {
        // The kernel would give it to a thread that does not block it, and it would
        // be lost.
        child.sa_sigaction = on_signal as *const () as usize;
        child.sa_flags |= libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
    }
    // SAFETY: plain numbers.
    let (pid, main_thread) = unsafe { (libc::getpid(), libc::pthread_self()) };
    let worker = WORKER.get_or_init(|| Worker {
        pid,
        main_thread,
        taken,
        child,
    });
    let all = worker.taken.iter().map(|taken| (taken.signal, &taken.now));
    for (signal, now) in all.chain([(libc::SIGCHLD, &worker.child)]) {
        // SAFETY: nginx's actions, or handlers of this object, which is never unloaded.
        unsafe { libc::sigaction(signal, now, std::ptr::null_mut()) };
    }
}

/// In a forked child: sets signals to their defaults if they still have the actions of
/// [`take`]. It makes system calls only.
pub fn reset() {
    let Some(worker) = WORKER.get() else {
        return;
    };
    let all = worker.taken.iter().map(|taken| (taken.signal, &taken.now));
    for (signal, ours) in all.chain([(libc::SIGCHLD, &worker.child)]) {
        if action(signal).sa_sigaction == ours.sa_sigaction {
            set_default(signal);
        }
    }
}

/// Unblocks all signals in the calling thread. It has inherited the mask of nginx's main
/// thread, and programs that it starts would inherit that mask, too.
pub fn unblock() {
    // SAFETY: the set is initialised by sigemptyset, and `how` is valid.
    unsafe {
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
}

fn is_blocked(signal: c_int) -> bool {
    // SAFETY: asks only, into writable memory, which is an empty set before.
    unsafe {
        let mut blocked = std::mem::zeroed();
        libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &mut blocked);
        libc::sigismember(&blocked, signal) == 1
    }
}

/// Whether the calling thread called [`take`], or is the copy of that thread in a child.
pub fn is_main_thread() -> bool {
    // SAFETY: asks only.
    WORKER
        .get()
        .is_some_and(|worker| worker.main_thread == unsafe { libc::pthread_self() })
}

/// The handler that replaces nginx's handlers. Runs on any thread.
unsafe extern "C" fn on_signal(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let Some(worker) = WORKER.get() else {
        return;
    };
    // SAFETY: errno is this thread's; system calls with plain numbers, and the
    // kernel's own `info`. nginx's handler is called as the kernel would.
    unsafe {
        let errno = *libc::__errno_location();
        let (pid, thread) = (libc::getpid(), libc::gettid());
        if pid != worker.pid {
            // A child that shares this memory until it executes another program, as
            // after vfork: the signal is for the child, not for nginx.
            set_default(signal);
            libc::syscall(libc::SYS_tgkill, pid, thread, signal);
        } else if thread != pid {
            // With the sender, which nginx logs. The kernel lets a process send only
            // codes of user space to another thread.
            let mut told = *info;
            told.si_code = libc::SI_QUEUE;
            libc::syscall(libc::SYS_rt_tgsigqueueinfo, pid, pid, signal, &told);
        } else {
            call(worker, signal, info, context);
        }
        *libc::__errno_location() = errno;
    }
}

/// # Safety
/// As for a handler that the kernel calls.
unsafe fn call(worker: &Worker, signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    type Short = extern "C" fn(c_int);
    type Long = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

    let Some(taken) = worker.taken.iter().find(|taken| taken.signal == signal) else {
        return;
    };
    let handler = taken.before.sa_sigaction as *const ();
    // SAFETY: `take` wraps handlers only, and the flag tells their type.
    unsafe {
        if taken.before.sa_flags & libc::SA_SIGINFO != 0 {
            std::mem::transmute::<*const (), Long>(handler)(signal, info, context);
        } else {
            std::mem::transmute::<*const (), Short>(handler)(signal);
        }
    }
}

extern "C" fn on_ignored(_signal: c_int) {}

fn action(signal: c_int) -> libc::sigaction {
    let mut found = MaybeUninit::zeroed();
    // SAFETY: asks only, into writable memory; it cannot fail for these signals,
    // and all zero is a valid answer.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), found.as_mut_ptr());
        found.assume_init()
    }
}

fn set_default(signal: c_int) {
    // SAFETY: all zero is the default, with no flag and no signal blocked.
    unsafe {
        let default: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, &default, std::ptr::null_mut());
    }
}

/// The handlers of nginx's signals at one moment, to be restored after a library was
/// loaded that may replace them. A JVM without `-Xrs`, for instance, exits on SIGTERM
/// before nginx sees it. Signals that a language needs itself (SIGSEGV, SIGUSR2, ...)
/// stay as they are.
pub struct Handlers([libc::sigaction; NGINX.len()]);

impl Handlers {
    /// The present ones.
    pub fn now() -> Self {
        Self(NGINX.map(|(signal, _)| {
            let taken = WORKER.get().map(|worker| worker.taken.iter());
            let taken = taken.and_then(|mut all| all.find(|taken| taken.signal == signal));
            // Not the present action: another library may be replacing it right now.
            taken.map_or_else(|| action(signal), |taken| taken.now)
        }))
    }

    /// Restores the handlers that have changed. Returns the names of their signals, in
    /// one string.
    pub fn restore(&self) -> Option<String> {
        let mut changed = Vec::new();
        for ((signal, name), before) in NGINX.into_iter().zip(&self.0) {
            if action(signal).sa_sigaction != before.sa_sigaction {
                // SAFETY: its handler belongs to a library, and these stay loaded.
                unsafe { libc::sigaction(signal, before, std::ptr::null_mut()) };
                changed.push(name);
            }
        }
        (!changed.is_empty()).then(|| changed.join(", "))
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
            let mut theirs = action(signal);
            theirs.sa_sigaction = other as *const () as usize;
            // SAFETY: a handler that does nothing.
            unsafe { libc::sigaction(signal, &theirs, std::ptr::null_mut()) };
        }
        assert_eq!(before.restore().as_deref(), Some("SIGWINCH, SIGIO"));
        assert_eq!(action(libc::SIGIO).sa_sigaction, libc::SIG_DFL);
        assert_eq!(before.restore(), None);
    }
}
