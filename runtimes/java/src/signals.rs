//! Signals are how nginx is controlled. A JVM wants some for itself; this is
//! how both get what they need.
//!
//! - `-Xrs` keeps the JVM from SIGHUP, SIGINT, SIGTERM and SIGQUIT.
//! - It uses one more to stop threads, by default SIGUSR2, which is nginx's;
//!   `_JAVA_SR_SIGNUM` names another.
//! - It takes SIGPIPE and SIGXFSZ only to ignore them. They are put back: the host
//!   has seen to SIGPIPE.
//! - SIGSEGV, SIGBUS, SIGFPE and SIGILL are how its compiled code finds a null
//!   reference or stops for the collector. They are caused by the very thread
//!   that gets them, so they are never nginx's. Another language may use them, too: the JVM
//!   passes on to the earlier handler what is not Java's. Go's code runs on
//!   small stacks of its own making, and its handler ends the process if it is
//!   not on the thread's stack for signals, so the JVM's has to be there, too.

use std::ffi::{CStr, c_int, c_void};
use std::mem::MaybeUninit;

/// The JVM needs these.
const SYNCHRONOUS: [c_int; 5] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGTRAP,
];
/// Tells the JVM which signal stops threads.
const STOP_VARIABLE: &CStr = c"_JAVA_SR_SIGNUM";
/// The highest number of a signal.
const LAST: c_int = 64;

/// The signal that stops threads: one without a name. The JDK's own libraries use
/// `SIGRTMAX - 2` to wake threads that wait for sockets.
fn stop_signal() -> c_int {
    libc::SIGRTMAX() - 5
}

/// The handlers of all signals, at one moment.
pub struct Handlers(Vec<(c_int, libc::sigaction)>);

impl std::fmt::Debug for Handlers {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Handlers({})", self.0.len())
    }
}

impl Handlers {
    /// Those there are now.
    pub fn now() -> Self {
        let all = (1..=LAST).filter_map(|signal| Some((signal, action(signal)?)));
        Self(all.collect())
    }

    /// Restores the handlers that a library has replaced meanwhile, except those
    /// that the JVM needs. The library is known by an address in it. Handlers
    /// that others set at the same time stay.
    pub fn restore(&self, library: *const c_void) {
        let (kept, library) = (stop_signal(), library_at(library));
        for (signal, before) in &self.0 {
            if SYNCHRONOUS.contains(signal) {
                move_to_signal_stack(*signal, library);
                continue;
            }
            if *signal == kept {
                continue;
            }
            let now = action(*signal).map_or(0, |now| now.sa_sigaction);
            if now != before.sa_sigaction && library_at(now as *const c_void) == library {
                // SAFETY: an action that was this signal's a moment ago.
                unsafe { libc::sigaction(*signal, before, std::ptr::null_mut()) };
            }
        }
    }
}

/// The action of a signal; `None` if there is no such signal.
fn action(signal: c_int) -> Option<libc::sigaction> {
    let mut action = MaybeUninit::uninit();
    // SAFETY: asks only; writes the action if it returns 0.
    let known = unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) } == 0;
    // SAFETY: written, then.
    known.then(|| unsafe { action.assume_init() })
}

/// Makes a handler of this library run on the thread's signal stack, if it has one.
fn move_to_signal_stack(signal: c_int, library: *const c_void) {
    let Some(mut theirs) = action(signal) else {
        return;
    };
    let handler = theirs.sa_sigaction;
    if library_at(handler as *const c_void) != library {
        return;
    }
    theirs.sa_flags |= libc::SA_ONSTACK;
    let mut replaced = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: the action that there is, with one flag more; zeroes are a valid
    // action. If somebody has just set another one, it is put back.
    unsafe {
        libc::sigaction(signal, &theirs, replaced.as_mut_ptr());
        if replaced.assume_init_ref().sa_sigaction != handler {
            libc::sigaction(signal, replaced.as_ptr(), std::ptr::null_mut());
        }
    }
}

/// Where the library begins that contains an address; null if none does.
fn library_at(address: *const c_void) -> *const c_void {
    let mut info = MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: any address may be asked for; zeroes are a valid Dl_info.
    unsafe {
        libc::dladdr(address, info.as_mut_ptr());
        info.assume_init().dli_fbase.cast_const()
    }
}

/// Tells a JVM that is about to be made which signal to stop threads with.
pub fn choose_stop_signal() {
    let number = format!("{}\0", stop_signal());
    let Ok(number) = CStr::from_bytes_with_nul(number.as_bytes()) else {
        return;
    };
    // SAFETY: terminated strings. Another thread may be reading the
    // environment; glibc does not free what it might see, and the JVM has no
    // other way to be told.
    unsafe { libc::setenv(STOP_VARIABLE.as_ptr(), number.as_ptr(), 1) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handler(signal: c_int) -> usize {
        action(signal).unwrap().sa_sigaction
    }

    fn set(signal: c_int, handler: usize) {
        // SAFETY: nobody sends these signals here.
        unsafe { libc::signal(signal, handler) };
    }

    #[test]
    fn only_what_java_needs_is_kept() {
        extern "C" fn ours(_: c_int) {}
        let ours = ours as extern "C" fn(c_int) as usize;
        let foreign = libc::abort as unsafe extern "C" fn() -> ! as usize;
        let stop = stop_signal();
        let before = Handlers::now();
        let signals = [libc::SIGPIPE, libc::SIGUSR2, libc::SIGBUS, stop];
        let old = signals.map(handler);
        for signal in signals {
            set(signal, ours);
        }
        let urgent = handler(libc::SIGURG);
        set(libc::SIGURG, foreign);
        before.restore(ours as *const c_void);
        assert_eq!(signals.map(handler), [old[0], old[1], ours, ours]);
        assert_eq!(handler(libc::SIGURG), foreign);
        // What is kept runs where other languages need it to.
        let flags = |signal| action(signal).unwrap().sa_flags;
        assert_ne!(flags(libc::SIGBUS) & libc::SA_ONSTACK, 0);
        assert_eq!(flags(libc::SIGURG) & libc::SA_ONSTACK, 0);
        for (signal, old) in signals.into_iter().zip(old) {
            set(signal, old);
        }
        set(libc::SIGURG, urgent);
    }
}
