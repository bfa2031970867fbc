//! The host's table, as one runtime sees it.
//!
//! A table of an older host is shorter than the type. So it is never borrowed as
//! a whole: each field is read in place, and those that came with a later version
//! only if the table's `size` covers them.

use std::ffi::{c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{NonNull, null};
use std::time::Duration;

use nonblocking_ffi_plugin::glue::monotonic_ns;
use nonblocking_ffi_plugin::sys::{NBFFI_OK, nbffi_exit_fn, nbffi_host, nbffi_task};

use crate::task::{self, later};

/// The table of one runtime.
#[derive(Clone, Copy, Debug)]
pub struct Host(NonNull<nbffi_host>);

// SAFETY: the header allows every host function on any thread.
unsafe impl Send for Host {}
// SAFETY: as above; nobody writes to the table.
unsafe impl Sync for Host {}

/// A task and its request, as the host hands them out.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// The task.
    pub task: nbffi_task,
    data: *const u8,
    len: u64,
}

// SAFETY: the request is readable on any thread until the task is completed.
unsafe impl Send for Request {}
// SAFETY: as above; nobody writes to it.
unsafe impl Sync for Request {}

impl Request {
    /// Of `call`'s arguments.
    pub fn new(task: nbffi_task, data: *const c_void, len: u64) -> Self {
        let data = data.cast();
        Self { task, data, len }
    }

    /// How many bytes it has.
    #[allow(clippy::len_without_is_empty, reason = "nobody asks")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Its bytes.
    ///
    /// # Safety
    ///
    /// The host handed it out, and the task is not completed during `'a`.
    pub unsafe fn bytes<'a>(&self) -> &'a [u8] {
        // SAFETY: by the contract.
        unsafe { slice(self.data, self.len) }
    }
}

/// What is done when the process ends: see [`Host::at_exit`].
pub trait AtExit: Sync + 'static {
    /// Does it, and should return within `left`.
    fn at_exit(&'static self, left: Duration);
}

impl Host {
    /// The table that `init` was given.
    ///
    /// # Errors
    ///
    /// If it is NULL.
    ///
    /// # Safety
    ///
    /// `host` is NULL or what `init` was given. The value, its copies and what they
    /// return are not used once `init` has failed or `close` has returned.
    pub unsafe fn new(host: *const nbffi_host) -> Result<Self, String> {
        let host = NonNull::new(host.cast_mut()).ok_or("the host passed no host table")?;
        // SAFETY: by the contract.
        unsafe { task::keep_functions(host) };
        Ok(Self(host))
    }

    /// The option `config`.
    pub fn config(&self) -> &[u8] {
        // SAFETY: see `new`; there in every version.
        unsafe { self.text((*self.0.as_ptr()).config) }
    }

    /// The runtime's name.
    pub fn name(&self) -> &[u8] {
        // SAFETY: as above.
        unsafe { self.text((*self.0.as_ptr()).name) }
    }

    /// # Safety
    ///
    /// The function is one of the table's.
    unsafe fn text(
        &self,
        get: unsafe extern "C" fn(*const nbffi_host, *mut u64) -> *const c_char,
    ) -> &[u8] {
        let mut len = 0;
        // SAFETY: the text is readable until `close`; see `new`.
        unsafe {
            let data = get(self.0.as_ptr(), &mut len);
            slice(data.cast(), len)
        }
    }

    /// Writes one entry to nginx's error log.
    pub fn log(&self, level: c_int, text: &[u8]) {
        let host = self.0.as_ptr();
        // SAFETY: see `new`; there in every version. The host copies the text.
        unsafe { ((*host).log)(host, level, text.as_ptr().cast(), text.len() as u64) };
    }

    /// The next task for this runtime, if the host has one for this thread.
    ///
    /// # Safety
    ///
    /// On the thread of a `call` of this runtime, inside of it, when its last
    /// task is completed or, in an asynchronous plugin, in other hands.
    pub unsafe fn next(&self) -> Option<Request> {
        // It came with version 1.1.
        let next = later!(self.0.as_ptr(), next)?;
        let mut request = (0, null(), 0);
        // SAFETY: by the contract; the pointers are writable.
        let found = unsafe {
            next(
                self.0.as_ptr(),
                &mut request.0,
                &mut request.1,
                &mut request.2,
            )
        };
        (found == 1).then(|| Request::new(request.0, request.1, request.2))
    }

    /// Has the value's [`AtExit::at_exit`] called once when the process ends,
    /// however often this is called with it. Does nothing with a host older than
    /// version 1.3.
    ///
    /// # Errors
    ///
    /// If memory is out.
    pub fn at_exit<T: AtExit>(&self, value: &'static T) -> Result<(), String> {
        let Some(at_exit) = later!(self.0.as_ptr(), at_exit) else {
            return Ok(());
        };
        let function: nbffi_exit_fn = run_at_exit::<T>;
        let arg = std::ptr::from_ref(value).cast_mut().cast();
        // SAFETY: see `new`; `function` takes what `arg` is.
        match unsafe { at_exit(self.0.as_ptr(), Some(function), arg) } {
            NBFFI_OK => Ok(()),
            status => Err(format!("the host does not take at_exit: {status}")),
        }
    }
}

unsafe extern "C" fn run_at_exit<T: AtExit>(arg: *mut c_void, deadline_ns: u64) {
    // SAFETY: what `Host::at_exit` passed: it lives for ever.
    let value = unsafe { &*arg.cast_const().cast::<T>() };
    let left = Duration::from_nanos(deadline_ns.saturating_sub(monotonic_ns()));
    // Nobody can be told of a panic. Unwind safety: nothing is used after it.
    let _ = catch_unwind(AssertUnwindSafe(|| value.at_exit(left)));
}

/// The host's bytes; NULL if there are none.
///
/// # Safety
///
/// `data` is NULL or points to `len` bytes that are readable for `'a`.
unsafe fn slice<'a>(data: *const u8, len: u64) -> &'a [u8] {
    if data.is_null() {
        return &[];
    }
    // SAFETY: by the contract; what is readable fits usize.
    unsafe { std::slice::from_raw_parts(data, len as usize) }
}
