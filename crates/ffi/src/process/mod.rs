//! What the worker shares with other programs: its children inherit signals and
//! descriptors from it, and are waited for by whoever started them.
//!
//! nginx's workers never start programs, so nginx leaves all of that as it is.
//! Plugins do start programs. [`enter`] changes the worker, once, before the
//! first plugin is loaded:
//!
//! | file            | what a child gets then |
//! |-----------------|------------------------|
//! | [`signals`]    | no blocked signal, every handler at its default, and its exit status is the language's |
//! | [`descriptors`] | none of nginx's descriptors |
//! | [`imports`]     | how nginx's later descriptors are known: its calls into libc are replaced |
//!
//! A child that becomes another program gets it from the kernel, whichever way it
//! was started: handlers go back to their defaults, and descriptors that close on
//! exec are closed. A child that goes on in this program, by `fork`, is put in
//! order by a handler of `pthread_atfork`.
//!
//! The master is never touched: it starts programs (a binary upgrade), waits for
//! its workers, and hands on descriptors.

use std::sync::Once;

use nonblocking_ffi_core::signals;

mod descriptors;
mod imports;

/// Changes this worker as described above, once. On the main thread, before any
/// plugin is loaded. Returns what could not be done.
pub fn enter() -> Option<String> {
    static ENTERED: Once = Once::new();
    let mut trouble = None;
    ENTERED.call_once(|| {
        signals::take();
        descriptors::note_existing();
        trouble = imports::replace().err();
        // SAFETY: a handler that lives as long as the process, since this object
        // is never unloaded. Without memory for it, forked children stay as they
        // were.
        unsafe { libc::pthread_atfork(Some(before_fork), Some(in_parent), Some(in_child)) };
    });
    trouble
}

// nginx-lua forks on the main thread (`ngx.pipe`), and closes what it wants closed.

extern "C" fn before_fork() {
    if !signals::is_main_thread() {
        descriptors::begin_fork();
    }
}

extern "C" fn in_parent() {
    if !signals::is_main_thread() {
        descriptors::end_fork();
    }
}

/// In the child, on its only thread. Whatever the parent's other threads were
/// doing is never finished here: system calls only.
extern "C" fn in_child() {
    signals::reset();
    if !signals::is_main_thread() {
        descriptors::close_nginxs();
        descriptors::end_fork();
    }
}
