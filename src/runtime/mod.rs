//! Runtimes: what runs tasks.
//!
//! | file      | role |
//! |-----------|------|
//! | [`c`]     | a plugin: a shared object with the plugin ABI |
//! | [`host_api`]  | the host functions that plugins call |
//! | [`cancel`] | tells plugins which tasks are unwanted |
//! | [`registry`] | runtimes by name, for calls from VMs |
//! | [`resty_ffi`] | plugins that were written for lua-resty-ffi |
//! | [`library`] | opening a shared object, and finding functions in it |
//! | [`elf`]   | a look at its file before |
//! | [`golang`] | several Go runtimes in one process |
//! | [`spin_wait`] | whether the caller should wait a moment before it yields |
//!
//! A [`Runtime`] is one backend with one configuration. It is made by the
//! main thread; a pool thread initialises, runs and closes its [`Backend`]. The
//! main thread frees it when it is closed and its last task has been collected.

pub mod c;
pub mod cancel;
mod elf;
mod golang;
pub mod host_api;
mod library;
pub mod registry;
pub mod resty_ffi;
mod spin_wait;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::Error;
use crate::exit;
use crate::log::LogSink;
use crate::pool::source::TaskSink;
use crate::pool::{self, Pool};
use crate::stats::RuntimeStats;
use crate::task::{Handle, Kind, Runner, Running};
use crate::wake::Mailbox;
pub use spin_wait::{SPIN_WAIT_NS, SpinWait, WORTH_NS};

/// Runs requests in some language. Every function is called on a pool thread.
pub trait Backend: Send + Sync {
    /// Readies it; the error says what is wrong. Called once, before all else.
    /// `runtime` is what [`pool::pull`] knows the runtime by.
    fn init(&self, runtime: *const ()) -> Result<(), String>;
    /// Runs one request, and others that it gets from [`pool::pull`]. A task
    /// may be completed in here; if the last one is not, what this returns
    /// says how it ends.
    fn call(&self, task: &Running) -> Outcome;
    /// Ends it. Called once, after all else; not if `init` failed.
    fn close(&self);
    /// Whether code of other runtimes may run its tasks on their own threads.
    fn may_nest(&self) -> bool {
        true
    }
    /// Who takes this runtime's tasks instead of the pool, if anybody does:
    /// then `call` is never called. Asked once, on the main thread.
    fn sink(&self) -> Option<&'static dyn TaskSink> {
        None
    }
}

/// For who keeps one beside its runtime.
impl<B: Backend + ?Sized> Backend for Arc<B> {
    fn init(&self, runtime: *const ()) -> Result<(), String> {
        (**self).init(runtime)
    }

    fn call(&self, task: &Running) -> Outcome {
        (**self).call(task)
    }

    fn close(&self) {
        (**self).close();
    }

    fn may_nest(&self) -> bool {
        (**self).may_nest()
    }

    fn sink(&self) -> Option<&'static dyn TaskSink> {
        (**self).sink()
    }
}

/// What becomes of a task that `Backend::call` has not completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It ends with an empty response.
    Done,
    /// It will be completed later.
    Pending,
    /// It fails with this code.
    Failed(i64),
}

/// Where a runtime runs, whatever it runs.
#[derive(Clone, Copy)]
pub struct Place {
    /// The pool whose threads run it.
    pub pool: &'static Pool,
    /// Where its log lines go.
    pub log: &'static dyn LogSink,
    /// The event loop that waits for its results.
    pub event_loop: &'static Mailbox,
}

impl std::fmt::Debug for Place {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Place").field(self.pool).finish()
    }
}

/// What Lua asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// Name in logs and statistics.
    pub name: String,
    /// The longest response allowed, in bytes.
    pub max_response: usize,
}

/// A runtime.
pub struct Runtime {
    options: Options,
    pool: &'static Pool,
    backend: Box<dyn Backend>,
    sink: Option<&'static dyn TaskSink>,
    stats: RuntimeStats,
    /// Two for each call from another runtime: one until its task has ended, one
    /// until the caller has left. The runtime is not closed before that.
    nested: AtomicU32,
    /// Whether waiting inline has paid; the main thread's.
    pub spin_wait: SpinWait,
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Runtime")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Runtime {
    /// A runtime that has not been initialised.
    pub fn new(options: Options, place: Place, backend: Box<dyn Backend>) -> Self {
        exit::tell_runtime_by(with_current_name);
        Self {
            options,
            pool: place.pool,
            sink: backend.sink(),
            backend,
            stats: RuntimeStats::default(),
            nested: AtomicU32::new(0),
            spin_wait: SpinWait::default(),
        }
    }

    /// The pool that runs its tasks.
    pub fn pool(&self) -> &'static Pool {
        self.pool
    }

    /// Who takes its tasks instead of the pool.
    pub fn sink(&self) -> Option<&'static dyn TaskSink> {
        self.sink
    }

    /// What it counts.
    pub fn stats(&self) -> &RuntimeStats {
        &self.stats
    }

    /// Whether code of other runtimes may run its tasks on their own threads.
    pub fn may_nest(&self) -> bool {
        self.backend.may_nest()
    }

    /// One user more from another runtime, under the registry's lock or by a user.
    pub(crate) fn enter_nested(&self) {
        // Relaxed: the lock, or the other user, keeps the runtime.
        self.nested.fetch_add(1, Ordering::Relaxed);
    }

    /// Runs a task that the calling thread has claimed.
    fn perform(&self, task: &Running) {
        let result = match task.kind() {
            Kind::Init => self
                .backend
                .init(self.address())
                .inspect(|()| registry::add(self)),
            Kind::Close => {
                // A thread may still be on its way out of a task that ended, or
                // wait for the next one.
                registry::remove(self);
                self.pool.interrupt();
                // Acquire: pairs with the Release in `leave_nested`.
                while self.pool.users(self.address()) > 1 || self.nested.load(Ordering::Acquire) > 0
                {
                    std::thread::yield_now();
                }
                cancel::leave(self.address());
                self.backend.close();
                Ok(())
            }
            Kind::Call => {
                let outcome = self.backend.call(task);
                return settle(self.last_begun(task.handle()), outcome);
            }
        };
        task.handle().end(|reply| {
            if let Err(message) = result {
                reply.fail(Error::Load, 0, message.as_bytes());
            }
        });
    }

    /// The task that the backend has now, if it was given this one first.
    fn last_begun(&self, first: Handle) -> Handle {
        pool::last_begun(self.address()).unwrap_or(first)
    }

    /// By what the pool's threads note that they use this runtime.
    pub fn address(&self) -> *const () {
        std::ptr::from_ref(self).cast()
    }
}

/// Calls `tell` with the name of the runtime that the calling thread is inside of, if
/// it is a pool thread and inside of one. Takes no lock.
fn with_current_name(tell: &mut dyn FnMut(Option<&str>)) {
    let runtime: *const Runtime = pool::running().cast();
    // SAFETY: pool threads only run runtimes of this type, and a runtime is freed when no
    // thread is inside of it, which this thread is until `tell` returns.
    let runtime = unsafe { runtime.as_ref() };
    tell(runtime.map(|runtime| runtime.options.name.as_str()));
}

/// Ends a task that its backend has done with, unless it is complete.
pub fn settle(task: Handle, outcome: Outcome) {
    let failed = match outcome {
        Outcome::Pending => return,
        Outcome::Done => None,
        Outcome::Failed(code) => Some(code),
    };
    task.end(|reply| {
        if let Some(why) = reply.refused() {
            reply.fail(why, 0, b"");
        } else if let Some(code) = failed {
            reply.fail(Error::Runtime, code, format!("code {code}").as_bytes());
        }
    });
}

impl Runner for Runtime {
    fn run(&self, task: &Running) {
        // A plugin must not unwind, but a backend of this crate might panic; that
        // is one task's failure, not the worker's. Unwind safety: the backend is
        // only used through `&self`.
        let outcome = catch_unwind(AssertUnwindSafe(|| self.perform(task)));
        if outcome.is_err() {
            self.last_begun(task.handle()).end(|reply| {
                reply.fail(Error::Runtime, 0, b"panic in the host");
            });
        }
    }

    fn stats(&self) -> &RuntimeStats {
        &self.stats
    }

    fn max_response(&self) -> usize {
        self.options.max_response
    }

    unsafe fn leave_nested(&self) {
        // Release: pairs with the Acquire in `perform`.
        self.nested.fetch_sub(1, Ordering::Release);
    }
}
