//! Whether threads can be started.

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::Builder;

/// What pthread gives a thread by default.
const STACK_BYTES: usize = 8 << 20;

/// Whether so many threads can be started at a time: starts them, and lets them
/// go again.
///
/// For a plugin that is about to start a language's runtime. Some of these end the
/// process when a thread is refused to them (Go, and in some places the JVM), so it
/// is better to find that out before.
///
/// # Errors
/// What the system says of the thread that it refuses.
pub fn can_start(count: usize) -> io::Result<()> {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let mut started = Vec::with_capacity(count);
    let mut result = Ok(());
    for _ in 0..count {
        let gate = gate.clone();
        let wait = move || {
            let (is_open, opened) = &*gate;
            let is_open = is_open.lock().unwrap_or_else(PoisonError::into_inner);
            drop(opened.wait_while(is_open, |is_open| !*is_open));
        };
        let builder = Builder::new().name("nbffi/probe".to_owned());
        match builder.stack_size(STACK_BYTES).spawn(wait) {
            Ok(thread) => started.push(thread),
            Err(error) => {
                result = Err(error);
                break;
            }
        }
    }
    let (is_open, opened) = &*gate;
    *is_open.lock().unwrap_or_else(PoisonError::into_inner) = true;
    opened.notify_all();
    for thread in started {
        // It does nothing that could fail.
        let _ = thread.join();
    }
    result
}

#[cfg(test)]
mod tests {
    use super::can_start;

    #[test]
    fn some_threads_can_be_started_again_and_again() {
        for count in [0, 1, 20, 20] {
            can_start(count).unwrap();
        }
    }
}
