//! What the library changes in a worker, once, before the first client and the first
//! plugin: [`nbffi_enter`]. Loading the library changes nothing, so the master may load
//! it. But the master never enters: it starts programs (a binary upgrade), waits for its
//! workers, and passes descriptors on.
//!
//! The exit of the process is guarded, see [`exit`]. The rest is for children. nginx's
//! workers never start programs, so nginx does not care what these would inherit. Plugins
//! do start programs:
//!
//! | file            | what a child gets then |
//! |-----------------|------------------------|
//! | [`signals`]    | no blocked signal, every handler at its default, and its exit status is the language's |
//! | [`descriptors`] | none of nginx's descriptors |
//! | [`imports`]     | how nginx's later descriptors are known: its calls into libc are replaced |
//!
//! For a child that executes another program, the kernel does this, however the child
//! was started: it resets handlers to their defaults and closes descriptors that close on
//! exec. A child that continues in this program after `fork` runs a handler of
//! `pthread_atfork`.

use std::sync::Once;

use super::{ErrorBuffer, PANICKED, catch};
use nonblocking_ffi_core::error::Error;
use nonblocking_ffi_core::runtime::cancel;
use nonblocking_ffi_core::{exit, memory, signals};

mod descriptors;
mod imports;

/// Readies this worker for clients and plugins, once. On the main thread; never in the
/// master. Returns 0, or 1 with a warning in `warning`, or `-n` for the error `n`: then
/// there must be no client.
///
/// # Safety
/// The buffer is as it says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_enter(warning: ErrorBuffer) -> i32 {
    catch(PANICKED, || {
        if !memory::is_enough_for(0) {
            return -Error::NoMemory.code();
        }
        let Some(trouble) = enter() else {
            return 0;
        };
        let text = format!("children inherit nginx's descriptors: {trouble}");
        // SAFETY: by the contract.
        unsafe { warning.write(&text) };
        1
    })
}

/// Changes this worker as described above, once. Returns what failed.
fn enter() -> Option<String> {
    static ENTERED: Once = Once::new();
    let mut trouble = None;
    ENTERED.call_once(|| {
        exit::install();
        signals::take();
        descriptors::note_existing();
        trouble = imports::replace().err();
        // SAFETY: the handlers live as long as the process, since this object is never
        // unloaded. If there is no memory for them, forked children are not changed.
        unsafe { libc::pthread_atfork(Some(before_fork), Some(in_parent), Some(in_child)) };
    });
    trouble
}

// nginx-lua forks on the main thread (`ngx.pipe`), and closes descriptors itself.

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

/// In the child, on its only thread. It takes no lock, since other threads of the
/// parent may have held any.
extern "C" fn in_child() {
    signals::reset();
    cancel::forked();
    if !signals::is_main_thread() {
        descriptors::close_nginxs();
        descriptors::end_fork();
    }
}
