//! Stops tasks that nobody wants any more and that do not end by themselves.
//!
//! The host tells of such a task once, when its deadline has passed or its caller
//! has given up ([`Interrupter::add`]). Nothing wakes before that.
//!
//! # Stopping
//!
//! `PyThreadState_SetAsyncExc` has a thread raise an exception as soon as it
//! next runs Python code. The exception must hit the task that is unwanted and
//! no other. A record's task changes only with the GIL, which the interrupter
//! has: so the task is still in its function, and will be until the interrupter
//! lets the GIL go. When the function returns without having met the exception,
//! its thread takes it back before anything else.
//!
//! The exception is no `Exception`, so that `except Exception` does not catch
//! it. What catches it nevertheless is stopped again, every [`AGAIN`]. A thread
//! that waits in C (`time.sleep`, a query) raises it when it comes back; nothing
//! can be done about it before. A `with shield()` raises it at its end.
//!
//! # The loop of asyncio
//!
//! cancels its tasks itself: see [`crate::inbox`]. That does not help if one of
//! them does not give the loop back. If the loop is in such a task at two looks in
//! the same turn, [`TURN`] apart, the task is stopped.

use std::time::{Duration, Instant};

use nonblocking_ffi_plugin::sys::nbffi_task;
use nonblocking_ffi_runtimes_common::task;

use crate::alarm::Unwanted;
use crate::interpreter::Interpreter;
use crate::object::Gil;
use crate::threads::{self, Record};

/// How long a task of a loop may keep it.
const TURN: Duration = Duration::from_millis(20);
/// How long a task that was stopped has until it is stopped again.
const AGAIN: Duration = Duration::from_millis(50);
/// The same once its function has ended, for what it raised to be described.
const DESCRIPTION: Duration = Duration::from_secs(1);

/// Tasks that are to end.
#[derive(Debug, Default)]
pub struct Interrupter(Vec<Late>);

/// One of them.
#[derive(Debug)]
struct Late {
    task: nbffi_task,
    loop_of: u64,
    /// The turn in which its loop was in it at the last look.
    turn: Option<u64>,
    /// Whether it was sent an exception.
    sent: bool,
    /// When to look again.
    due: Instant,
}

impl Interrupter {
    /// Adds a task.
    pub fn add(&mut self, Unwanted { task, loop_of }: Unwanted) {
        let now = Instant::now();
        self.0.push(Late {
            task,
            loop_of,
            turn: None,
            sent: false,
            // Most tasks of a loop end by being cancelled.
            due: if loop_of == 0 { now } else { now + TURN },
        });
    }

    /// When to call [`Interrupter::look`].
    pub fn due(&self) -> Option<Instant> {
        self.0.iter().map(|late| late.due).min()
    }

    /// Stops what is due; takes the GIL if need be.
    ///
    /// # Safety
    ///
    /// The calling thread does not have the GIL.
    pub unsafe fn look(&mut self, interpreter: &Interpreter) {
        // The handle of a task that has ended is stale, and has no deadline.
        self.0.retain(|late| task::deadline_ns(late.task) != 0);
        let now = Instant::now();
        if self.due().is_none_or(|due| due > now) {
            return;
        }
        // SAFETY: by the contract.
        let attached = unsafe { interpreter.attach() };
        for late in self.0.iter_mut().filter(|late| late.due <= now) {
            let time = late.look(attached.gil(), interpreter);
            // Now: it may have taken long to get the GIL.
            late.due = Instant::now() + time;
        }
    }
}

impl Late {
    /// Has its thread raise the exception if need be. Returns when to look again.
    fn look(&mut self, gil: Gil<'_>, interpreter: &Interpreter) -> Duration {
        let (task, loop_of) = (self.task, self.loop_of);
        let is_in_loop = loop_of != 0 && interpreter.task_of_loop(gil, loop_of) == task;
        let stopped = interpreter.stopped(gil);
        let is_right = |record: &Record| match loop_of {
            0 => record.task() == task,
            runtime => record.is_loop() && record.runtime() == runtime,
        };
        let mut time = AGAIN;
        threads::find(is_right, |record| {
            if loop_of != 0 {
                let turn = is_in_loop.then(|| record.turns());
                let last = std::mem::replace(&mut self.turn, turn);
                if turn.is_none() || turn != last {
                    time = TURN;
                    return;
                }
            } else if self.sent && !record.is_stopped() {
                self.sent = false;
                time = DESCRIPTION;
                return;
            }
            self.sent = record.stop(&stopped, gil);
        });
        time
    }
}
