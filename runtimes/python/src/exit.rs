//! The end of the process. Python is not finalised, but what it does before it
//! finalises is done: threads that are not daemons are joined, `atexit` is run,
//! files are flushed (`python/exit.py`).
//!
//! All that belongs on Python's main thread, which is the keeper. If it hangs
//! there, for a thread that does not end, the rest is done here, so that files
//! are flushed in any case.

use std::time::Duration;

use nonblocking_ffi_runtimes_common::host::AtExit;

use crate::interpreter::Interpreter;
use crate::{keeper, threads};

/// The main thread has this part of the time for itself.
const MAIN_SHARE: f64 = 0.6;

impl AtExit for Interpreter {
    fn at_exit(&'static self, left: Duration) {
        if !keeper::end(left.mul_f64(MAIN_SHARE)) {
            self.finish(threads::attach(self.api()).gil());
        }
    }
}
