//! The calls that a pool thread brings to a blocking plugin at a time.

use std::ffi::c_void;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;

use crate::sys::{nbffi_host, nbffi_task};
use crate::{Error, Plugin, Task};

/// The call that a pool thread has come for, and those that it could make while
/// it is there. See [`Plugin::call_batch`].
///
/// If it is dropped before any call was made, the one that the thread has come
/// for fails with the code [`Error::DROPPED`].
pub struct Calls<'a, P: Plugin> {
    plugin: &'a P,
    host: NonNull<nbffi_host>,
    first: Option<Raw>,
}

/// A task and its request, as the host passes them.
#[derive(Clone, Copy)]
pub(crate) struct Raw {
    pub task: nbffi_task,
    pub req: *const c_void,
    pub len: u64,
}

impl<'a, P: Plugin> Calls<'a, P> {
    /// # Safety
    ///
    /// This thread is inside the `call` of a blocking plugin until the value is
    /// dropped: `host` is the plugin's, `first` the task that it was given.
    pub(crate) unsafe fn new(plugin: &'a P, host: NonNull<nbffi_host>, first: Raw) -> Self {
        Calls {
            plugin,
            host,
            first: Some(first),
        }
    }

    /// Makes the call that the thread has come for: what the default
    /// [`Plugin::call_batch`] does.
    pub fn one(mut self) {
        if let Some(first) = self.first.take() {
            // SAFETY: see `new`.
            unsafe { self.answer(first) };
        }
    }

    /// Makes that call, and then others for this runtime as long as they are
    /// the next ones in the pool's queue. How many were made.
    pub fn all(mut self) -> u64 {
        let mut made = 0;
        let mut next = self.first.take();
        while let Some(call) = next {
            // SAFETY: see `new`; what `next` gave is such a task, too.
            unsafe { self.answer(call) };
            made += 1;
            next = self.next();
        }
        made
    }

    /// The next task, which this thread must complete before it asks again.
    fn next(&self) -> Option<Raw> {
        let mut raw = Raw {
            task: 0,
            req: std::ptr::null(),
            len: 0,
        };
        let host = self.host.as_ptr();
        // SAFETY: this thread is inside `call`, and the last task is complete.
        let more = unsafe { ((*host).next)(host, &mut raw.task, &mut raw.req, &mut raw.len) };
        (more != 0).then_some(raw)
    }

    /// Has the plugin answer a request, and completes its task.
    ///
    /// # Safety
    ///
    /// The task is pending, and nobody else completes it.
    unsafe fn answer(&self, raw: Raw) {
        // SAFETY: pending until it is completed below, or by our return.
        let task = unsafe { Task::new(self.host, raw.task) };
        let data = request_address(raw.req).as_ptr();
        // SAFETY: the host's request is readable until the task is completed.
        let request = unsafe { std::slice::from_raw_parts(data, raw.len as usize) };
        let result = catch_unwind(AssertUnwindSafe(|| self.plugin.call(&task, request)));
        match result.unwrap_or_else(|payload| Err(Error::from_panic(payload))) {
            // SAFETY: the plugin's borrows of task and request have ended.
            Ok(response) => unsafe { task.respond(response, request, true) },
            // SAFETY: as above.
            Err(error) => unsafe { task.fail(&error) },
        }
    }
}

impl<P: Plugin> Drop for Calls<'_, P> {
    fn drop(&mut self) {
        let Some(first) = self.first.take() else {
            return;
        };
        let why = if std::thread::panicking() {
            Error::new(Error::PANIC, "panic: before the call")
        } else {
            Error::new(Error::DROPPED, "the plugin did not make the call")
        };
        // SAFETY: pending: nobody but this value had it.
        unsafe { Task::new(self.host, first.task).fail(&why) };
    }
}

impl<P: Plugin> fmt::Debug for Calls<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.first.map(|first| first.task);
        f.debug_struct("Calls").field("first", &first).finish()
    }
}

/// A request's address; that of an empty request may be NULL, that of a slice
/// may not.
pub(crate) fn request_address(req: *const c_void) -> NonNull<u8> {
    NonNull::new(req.cast_mut().cast()).unwrap_or(NonNull::dangling())
}
