//! A process that Python code has forked, as `multiprocessing` may.
//!
//! It ends with its parent, the worker, in whichever way that ends: nobody else
//! would end it. Linux tells a process of it by a signal of its choice, but counts
//! the *thread* that has forked as the parent: when that one ends, the signal
//! comes, and another thread of the worker is the parent from then on. So the
//! signal is one with a handler, which looks whether the worker is there. If it is
//! not, this process has got another parent before the signal was sent.
//!
//! The choice outlives `exec`, and the handler does not. Hence SIGURG: a program
//! that has no handler for it ignores it.

use std::ffi::c_int;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI32, Ordering};

/// This process, as of the last fork.
static PROCESS: AtomicI32 = AtomicI32::new(0);
/// Its parent, if it is a child.
static PARENT: AtomicI32 = AtomicI32::new(0);

/// Says that this process is the worker.
pub fn is_worker() {
    // Relaxed: a child reads its own copy, made later. SAFETY: asks only.
    PROCESS.store(unsafe { libc::getpid() }, Ordering::Relaxed);
}

/// Says that this process is a child, on its only thread: signals are as in a
/// Python program, and it ends with its parent.
pub fn enter() {
    // SAFETY: asks only.
    let parent = PROCESS.swap(unsafe { libc::getpid() }, Ordering::Relaxed);
    PARENT.store(parent, Ordering::Relaxed);
    // SAFETY: plain numbers, and a handler that makes system calls only. All zero
    // is a valid action: no flags, and no signal blocked.
    unsafe {
        for signal in 1..=libc::SIGSYS {
            libc::signal(signal, libc::SIG_DFL);
        }
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_end_of_thread as *const () as usize;
        action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGURG, &action, null_mut());
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGURG);
    }
    // It may have ended before.
    end_without_parent();
}

/// Whether this process is a child.
pub fn is_child() -> bool {
    // Relaxed: written by `enter`, before there was another thread.
    PARENT.load(Ordering::Relaxed) != 0
}

/// A thread of the parent has ended, which was the parent to the kernel.
extern "C" fn on_end_of_thread(_signal: c_int) {
    end_without_parent();
}

fn end_without_parent() {
    // Relaxed: written by `enter`, before there was another thread.
    let parent = PARENT.load(Ordering::Relaxed);
    // SAFETY: plain numbers, and this process.
    unsafe {
        if libc::getppid() != parent {
            libc::kill(libc::getpid(), libc::SIGKILL);
        }
    }
}
