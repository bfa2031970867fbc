//! Python's main thread: starts Python, then stops tasks that run too long, and
//! does what is done at the end of the process. It sleeps while there is none of
//! that.
//!
//! # Why a thread of its own
//!
//! Python takes the thread that starts it for the main thread, and lets only
//! that one install signal handlers. As no plugin's code ever runs there, none
//! can take a signal away from nginx: `signal.signal` raises everywhere.
//!
//! # The end of the process
//!
//! Python is not finalised, but what it does before it finalises is done: threads
//! that are not daemons are joined, `atexit` is run, files are flushed
//! (`python/exit.py`). All that belongs on this thread. If it hangs there, for a
//! thread that does not end, the rest is done elsewhere, so that files are
//! flushed in any case.

use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Duration;

use nonblocking_ffi_runtimes_common::host::AtExit;

use crate::alarm;
use crate::config::Config;
use crate::interpreter::Interpreter;
use crate::interrupter::Interrupter;
use crate::locate::{self, Found, Wanted};

/// Its stack: Python code runs on it, if little.
const STACK_BYTES: usize = 8 << 20;
/// The part of the time at the end of the process that it has for itself.
const SHARE: f64 = 0.6;

type Started = Result<&'static Interpreter, String>;

enum State {
    None,
    Running(&'static Interpreter),
    /// Half of it may be there; there is no second attempt.
    Broken(String),
}

static STATE: Mutex<State> = Mutex::new(State::None);

/// The interpreter, started if need be.
///
/// # Errors
///
/// If there is none that works, or the one that runs is not the one wanted.
pub fn obtain(config: &Config) -> Started {
    let wanted = Wanted {
        python: config.python.clone(),
        venv: config.venv.clone(),
    };
    // Held while Python starts: others wait for it, on pool threads, as init
    // may.
    let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    match &*state {
        State::Running(interpreter) => {
            interpreter.must_fit(&wanted)?;
            return Ok(interpreter);
        }
        State::Broken(why) => return Err(why.clone()),
        State::None => {}
    }
    let found = locate::find(&wanted)?;
    // Nothing of Python has run if there is no thread for it: it is tried again.
    let started = start(found)?;
    let started = started
        .recv()
        .unwrap_or_else(|_| Err("Python's thread has ended".to_owned()));
    *state = match &started {
        Ok(interpreter) => State::Running(interpreter),
        Err(why) => State::Broken(format!("Python could not be started before: {why}")),
    };
    started
}

/// Starts Python on a thread of its own, which sends what comes of it.
fn start(found: Found) -> Result<mpsc::Receiver<Started>, String> {
    let (send, receive) = mpsc::channel();
    let body = move || {
        // SAFETY: this thread is nothing but Python's main thread.
        let started = unsafe { Interpreter::start(found) };
        let interpreter = started.map(|i| -> &'static Interpreter { Box::leak(Box::new(i)) });
        let _ = send.send(interpreter.clone());
        if let Ok(interpreter) = interpreter {
            live(interpreter);
        }
    };
    let thread = std::thread::Builder::new()
        .name("nbffi-python".to_owned())
        .stack_size(STACK_BYTES);
    thread
        .spawn(body)
        .map_err(|error| format!("cannot start a thread for Python: {error}"))?;
    Ok(receive)
}

fn live(interpreter: &'static Interpreter) -> ! {
    let mut interrupter = Interrupter::default();
    loop {
        let posted = alarm::wait(interrupter.due());
        posted
            .unwanted
            .into_iter()
            .for_each(|unwanted| interrupter.add(unwanted));
        // SAFETY: this thread takes the GIL here and below only.
        unsafe { interrupter.look(interpreter) };
        if let Some(done) = posted.end {
            // SAFETY: as above.
            interpreter.end(unsafe { interpreter.attach() }.gil());
            // Nobody waits any more if it took too long.
            let _ = done.send(());
        }
    }
}

impl AtExit for Interpreter {
    fn at_exit(&'static self, left: Duration) {
        if !alarm::end(left.mul_f64(SHARE)) {
            // SAFETY: a thread of the host's, which runs no Python otherwise.
            self.finish(unsafe { self.attach() }.gil());
        }
    }
}
