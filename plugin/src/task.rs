//! Tasks: one request each, completed exactly once.
//!
//! [`Task`] is what a task can be asked, and is all a blocking plugin sees: its
//! task is completed by what `call` returns. [`OwnedTask`] is a task that the
//! plugin itself completes, by consuming it.

use std::cell::Cell;
use std::ffi::c_void;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use crate::glue::monotonic_ns;
use crate::sys::{self, nbffi_cancel_fn, nbffi_host, nbffi_task};
use crate::{Error, Response};

/// A task that is not completed yet.
pub struct Task<'a> {
    raw: nbffi_task,
    /// Valid while the task is pending: the host closes a runtime only after
    /// its last task.
    host: NonNull<nbffi_host>,
    _call: PhantomData<&'a nbffi_host>,
}

// SAFETY: the host's functions may be called for a task from any thread.
unsafe impl Send for Task<'_> {}
// SAFETY: as above, and at the same time; shared access only asks.
unsafe impl Sync for Task<'_> {}

impl Task<'_> {
    /// # Safety
    ///
    /// The task is pending, and `host` valid, as long as this value lives
    /// (until one of the methods that complete it, at the longest).
    pub(crate) unsafe fn new(host: NonNull<nbffi_host>, raw: nbffi_task) -> Self {
        Task {
            raw,
            host,
            _call: PhantomData,
        }
    }

    fn table(&self) -> &nbffi_host {
        // SAFETY: the task is pending, see `new`; nobody writes to the table.
        unsafe { self.host.as_ref() }
    }

    /// The handle that the C functions in [`sys`] take; unique among
    /// the tasks of a worker for practical purposes.
    pub fn id(&self) -> u64 {
        self.raw
    }

    /// Whether nobody waits for the response any more: the caller timed out, or
    /// cancelled. Cheap; a long-running task should ask often. A task whose
    /// caller was killed, or never waited, has only its deadline: see
    /// [`Task::remaining`].
    pub fn is_cancelled(&self) -> bool {
        // SAFETY: any handle may be passed, from any thread.
        unsafe { (self.table().is_cancelled)(self.raw) != 0 }
    }

    /// How long the caller will wait yet: zero if no longer, `None` if for ever.
    pub fn remaining(&self) -> Option<Duration> {
        // SAFETY: any handle may be passed, from any thread.
        let deadline = unsafe { (self.table().deadline_ns)(self.raw) };
        (deadline != sys::NBFFI_NO_DEADLINE)
            .then(|| Duration::from_nanos(deadline.saturating_sub(monotonic_ns())))
    }

    /// When the caller stops waiting; `None` if never.
    pub fn deadline(&self) -> Option<Instant> {
        let now = Instant::now();
        self.remaining().and_then(|r| now.checked_add(r))
    }

    /// Completes the task with `response`.
    ///
    /// What the host has no memory for is left pending if the task `ends` by
    /// itself, when `call` returns: the host then knows the right error.
    ///
    /// # Safety
    ///
    /// `request` is the task's; neither is used by anybody else.
    pub(crate) unsafe fn respond(&self, response: Response, request: *const [u8], ends: bool) {
        // The table may be gone as soon as the task is completed; see there.
        let fail = self.table().fail;
        // SAFETY: host is valid; the caller vouches for the rest.
        let error = match unsafe { response.send(self.host, self.raw, request) } {
            // With what it refused for its size, the host has completed the
            // task too, with an error of its own.
            Ok(sys::NBFFI_OK | sys::NBFFI_STALE | sys::NBFFI_TOO_LARGE) => return,
            Ok(sys::NBFFI_NO_MEMORY) if ends => return,
            // Too late, and so without effect, but for a buffer that was not
            // to be had.
            Ok(sys::NBFFI_NO_MEMORY) => Error::msg("no memory"),
            Ok(code) => Error::msg(format!("the host did not accept the response: code {code}")),
            Err(error) => error,
        };
        let message = error.message();
        // SAFETY: the message is readable, and the host copies it.
        unsafe {
            fail(
                self.raw,
                error.code(),
                message.as_ptr().cast(),
                message.len() as u64,
            )
        };
    }

    /// Completes the task with an error.
    ///
    /// # Safety
    ///
    /// Nobody else completes the task, or uses its request afterwards.
    pub(crate) unsafe fn fail(&self, error: &Error) {
        let message = error.message();
        // SAFETY: the message is readable, and the host copies it.
        unsafe {
            let fail = self.table().fail;
            fail(
                self.raw,
                error.code(),
                message.as_ptr().cast(),
                message.len() as u64,
            )
        };
    }
}

impl fmt::Debug for Task<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Task").field(&self.raw).finish()
    }
}

/// A task that the plugin completes, when and in which thread it likes.
///
/// The methods that complete it consume it, so it is completed once. A task
/// that is dropped fails with the code [`Error::DROPPED`]; so no path, not even
/// a panic, leaves the caller waiting. (`std::mem::forget` does.)
///
/// It dereferences to [`Task`], for its deadline and cancellation.
///
/// Nothing of a task can be used once it is completed; this does not compile:
///
/// ```compile_fail,E0505
/// # use nonblocking_ffi_plugin::OwnedTask;
/// fn answer(task: OwnedTask) -> usize {
///     let request = task.request();
///     task.respond("done");
///     request.len()
/// }
/// ```
pub struct OwnedTask {
    task: Task<'static>,
    request: NonNull<u8>,
    request_len: usize,
    /// What `on_cancel` is to call: the plugin, with its state.
    plugin: (nbffi_cancel_fn, *mut c_void),
}

// SAFETY: the request is read-only memory of the host, readable from any thread
// until the task is completed. The plugin's state may be used from any thread.
unsafe impl Send for OwnedTask {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for OwnedTask {}

impl OwnedTask {
    /// # Safety
    ///
    /// The task is pending and nobody else completes it; `host` is valid, and
    /// the request readable, until it is completed. The function of `plugin` may be
    /// called with its state until the runtime is closed.
    pub(crate) unsafe fn new(
        host: NonNull<nbffi_host>,
        raw: nbffi_task,
        request: NonNull<u8>,
        request_len: usize,
        plugin: (nbffi_cancel_fn, *mut c_void),
    ) -> Self {
        // SAFETY: the caller vouches for it. 'static is not what bounds the
        // use of the task, this value is.
        let task = unsafe { Task::new(host, raw) };
        OwnedTask {
            task,
            request,
            request_len,
            plugin,
        }
    }

    /// The request.
    pub fn request(&self) -> &[u8] {
        // SAFETY: readable until the task is completed, which consumes self.
        unsafe { std::slice::from_raw_parts(self.request.as_ptr(), self.request_len) }
    }

    /// Completes the task with a response. If it exceeds the runtime's
    /// `max_response`, or memory is out, Lua gets that as the error.
    pub fn respond(self, response: impl Into<Response>) {
        // The conversion may panic; self is still to be dropped then.
        let response = response.into();
        let request: *const [u8] = self.request();
        let task = self.into_task();
        // SAFETY: this value was the only way to the task and its request.
        unsafe { task.respond(response, request, false) };
    }

    /// Completes the task with an error: [`Error`], or any `std::error::Error`.
    pub fn fail(self, error: impl Into<Error>) {
        let error = error.into();
        let task = self.into_task();
        // SAFETY: this value was the only way to the task.
        unsafe { task.fail(&error) };
    }

    /// Completes the task with either.
    pub fn complete<R, E>(self, result: Result<R, E>)
    where
        R: Into<Response>,
        E: Into<Error>,
    {
        match result {
            Ok(response) => self.respond(response),
            Err(error) => self.fail(error),
        }
    }

    /// Completes the task with what `work` returns; with the error
    /// `panic: <payload>` if it panics. For the threads of the plugin:
    /// `task.run(|task| Ok(parse(task.request())?))`.
    pub fn run<R: Into<Response>>(self, work: impl FnOnce(&Self) -> Result<R, Error>) {
        let result = catch_unwind(AssertUnwindSafe(|| work(&self).map(Into::into)));
        self.complete(
            result.unwrap_or_else(|payload| Err::<Response, _>(Error::from_panic(payload))),
        );
    }

    /// Has [`AsyncPlugin::cancelled`](crate::AsyncPlugin::cancelled) called once when
    /// nobody waits for the response any more: the caller cancelled or timed out, or
    /// the deadline has passed. If that is so already, it is called soon. It is not
    /// called for a task that is completed.
    ///
    /// # Errors
    ///
    /// The host is out of memory; the task is as it was.
    pub fn watch(&self) -> Result<(), Error> {
        let (cancelled, state) = self.plugin;
        // SAFETY: any handle may be passed; the function may be called with the
        // plugin's state until it is closed, which is after this task's end.
        match unsafe { (self.table().on_cancel)(self.raw, Some(cancelled), state) } {
            sys::NBFFI_NO_MEMORY => Err(Error::msg("no memory")),
            _ => Ok(()),
        }
    }

    /// Defuses the destructor.
    fn into_task(self) -> Task<'static> {
        let this = std::mem::ManuallyDrop::new(self);
        // SAFETY: `this` is neither used nor dropped afterwards; the other
        // fields need no dropping.
        unsafe { std::ptr::read(&this.task) }
    }
}

impl Deref for OwnedTask {
    type Target = Task<'static>;

    fn deref(&self) -> &Task<'static> {
        &self.task
    }
}

impl fmt::Debug for OwnedTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnedTask")
            .field("task", &self.task.raw)
            .field("request_len", &self.request_len)
            .finish()
    }
}

impl Drop for OwnedTask {
    fn drop(&mut self) {
        let unwinding = std::thread::panicking();
        if unwinding && Submission::take_over(self.task.raw) {
            return;
        }
        let why = if unwinding {
            Error::new(Error::PANIC, "panic: the thread that had the task")
        } else {
            Error::new(
                Error::DROPPED,
                "the plugin dropped the task without a response",
            )
        };
        // SAFETY: this value was the only way to the task.
        unsafe { self.task.fail(&why) };
    }
}

thread_local! {
    /// The task that this thread is submitting, and whether its destructor has
    /// left it pending.
    static SUBMITTING: Cell<(nbffi_task, bool)> = const { Cell::new((0, false)) };
}

/// A call of `submit` that is under way in this thread. It lets the error of a
/// panic carry the payload: the task is dropped while the thread unwinds, when
/// only the catcher will know the payload, so the catcher completes it.
pub(crate) struct Submission;

impl Submission {
    pub(crate) fn begin(task: nbffi_task) {
        SUBMITTING.set((task, false));
    }

    /// Whether the task was left pending for the caller to complete.
    pub(crate) fn end() -> bool {
        SUBMITTING.replace((0, false)).1
    }

    /// Leaves `task` to the caller of `submit`, if it is being submitted here.
    fn take_over(task: nbffi_task) -> bool {
        // A thread whose locals are gone submits nothing.
        SUBMITTING
            .try_with(|s| {
                let mine = s.get().0 == task;
                if mine {
                    s.set((task, true));
                }
                mine
            })
            .unwrap_or(false)
    }
}
