//! The host's functions that take a task's handle.
//!
//! They are the same for all runtimes of a host and live as long as it does. So
//! a handle may outlive its task, and even its runtime: the host knows such
//! handles, and calls them stale. Before the first [`crate::host::Host`] is made
//! every handle is stale.

use std::ffi::{c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::OnceLock;

use nonblocking_ffi_plugin::glue::monotonic_ns;
use nonblocking_ffi_plugin::sys::{NBFFI_STALE, nbffi_cancel_fn, nbffi_host, nbffi_task};

/// A field that came with a later version than 1.0, if the table has it.
macro_rules! later {
    ($table:expr, $field:ident) => {{
        let end = std::mem::offset_of!(nbffi_host, $field) + size_of::<usize>();
        // SAFETY: the table is a host's, which is not closed. `size` is there in every
        // version, and the field if the table is that long.
        unsafe { ((*$table).size as usize >= end).then(|| (*$table).$field) }
    }};
}
pub(crate) use later;

type Message = unsafe extern "C" fn(nbffi_task, i64, *const c_char, u64) -> c_int;
type AskOnCancel = unsafe extern "C" fn(nbffi_task, Option<nbffi_cancel_fn>, *mut c_void) -> c_int;

#[derive(Debug)]
struct Functions {
    deadline_ns: unsafe extern "C" fn(nbffi_task) -> u64,
    is_cancelled: unsafe extern "C" fn(nbffi_task) -> c_int,
    alloc: unsafe extern "C" fn(nbffi_task, u64) -> *mut c_void,
    respond_buffer: unsafe extern "C" fn(nbffi_task, u64) -> c_int,
    respond: unsafe extern "C" fn(nbffi_task, *const c_void, u64) -> c_int,
    fail: Message,
    set_status: Message,
    /// Since 1.3.
    on_cancel: Option<AskOnCancel>,
}

static FUNCTIONS: OnceLock<Functions> = OnceLock::new();

/// Keeps the functions of a host.
///
/// # Safety
///
/// `host` is what a plugin's `init` was given, and is not closed.
pub(crate) unsafe fn keep_functions(host: NonNull<nbffi_host>) {
    let host = host.as_ptr();
    let on_cancel = later!(host, on_cancel);
    // SAFETY: the others are those of version 1.0. They are read in place, since an
    // older host's table is shorter than the type.
    FUNCTIONS.get_or_init(|| unsafe {
        Functions {
            deadline_ns: (*host).deadline_ns,
            is_cancelled: (*host).is_cancelled,
            alloc: (*host).alloc,
            respond_buffer: (*host).respond_buffer,
            respond: (*host).respond,
            fail: (*host).fail,
            set_status: (*host).set_status,
            on_cancel,
        }
    });
}

/// When the caller stops waiting, in nanoseconds of [`monotonic_ns`];
/// `NBFFI_NO_DEADLINE` if never, 0 if the task is stale.
pub fn deadline_ns(task: nbffi_task) -> u64 {
    // SAFETY: the host takes any handle, on any thread.
    FUNCTIONS
        .get()
        .map_or(0, |f| unsafe { (f.deadline_ns)(task) })
}

/// Whether the caller has given up, or the task is stale.
pub fn is_cancelled(task: nbffi_task) -> bool {
    // SAFETY: the host takes any handle, on any thread.
    FUNCTIONS
        .get()
        .is_none_or(|f| unsafe { (f.is_cancelled)(task) != 0 })
}

/// Whether nobody wants the result any more: the caller has given up, the
/// deadline has passed, or the task is stale.
pub fn is_unwanted(task: nbffi_task) -> bool {
    is_cancelled(task) || deadline_ns(task) <= monotonic_ns()
}

/// Gives the response that is still to come a status.
pub fn set_status(task: nbffi_task, code: i64, message: &[u8]) {
    if let Some(functions) = FUNCTIONS.get() {
        let (data, len) = (message.as_ptr().cast(), message.len() as u64);
        // SAFETY: the host takes any handle, and copies the message.
        unsafe { (functions.set_status)(task, code, data, len) };
    }
}

/// Room for a response of `size` bytes, for [`respond_buffer`]; none if that is
/// too large, if memory is out, or if the task is stale.
pub fn alloc(task: nbffi_task, size: u64) -> Option<NonNull<u8>> {
    // SAFETY: the host takes any handle.
    NonNull::new(unsafe { (FUNCTIONS.get()?.alloc)(task, size) }.cast())
}

/// Completes the task with the first `len` bytes of what [`alloc`] gave. Returns
/// what the host says.
///
/// # Safety
///
/// These bytes are written. Nobody uses them or the task's request afterwards.
pub unsafe fn respond_buffer(task: nbffi_task, len: u64) -> c_int {
    // SAFETY: by the contract.
    FUNCTIONS
        .get()
        .map_or(NBFFI_STALE, |f| unsafe { (f.respond_buffer)(task, len) })
}

/// Completes the task with a copy of `len` bytes at `data`, which may lie in the
/// request. Returns what the host says.
///
/// # Safety
///
/// The bytes are readable; NULL will do if there are none. Nobody uses the
/// task's request afterwards.
pub unsafe fn respond(task: nbffi_task, data: *const u8, len: u64) -> c_int {
    // SAFETY: by the contract.
    FUNCTIONS.get().map_or(NBFFI_STALE, |f| unsafe {
        (f.respond)(task, data.cast(), len)
    })
}

/// Fails the task.
///
/// # Safety
///
/// Nobody uses the task's request afterwards.
pub unsafe fn fail(task: nbffi_task, code: i64, message: &[u8]) {
    if let Some(functions) = FUNCTIONS.get() {
        let (data, len) = (message.as_ptr().cast(), message.len() as u64);
        // SAFETY: by the contract; the host copies the message.
        unsafe { (functions.fail)(task, code, data, len) };
    }
}

/// Who is told that nobody waits for a task any more.
pub trait OnCancel: Sync {
    /// Nobody does. Called on the host's thread for that: it must not wait for a
    /// lock that may be held for long, such as an interpreter's.
    fn on_cancel(&self, task: nbffi_task);
}

/// Has `value` told once nobody waits for the task any more. It is not told of a
/// task that has ended, if memory is out, or by a host older than version 1.3.
///
/// # Safety
///
/// The value lives until the runtime of the task is closed.
pub unsafe fn on_cancel<T: OnCancel>(task: nbffi_task, value: &T) {
    if let Some(ask) = FUNCTIONS.get().and_then(|f| f.on_cancel) {
        let arg = std::ptr::from_ref(value).cast_mut().cast();
        // SAFETY: the host takes any handle; by the contract the function finds
        // the value when it is called.
        unsafe { ask(task, Some(tell::<T>), arg) };
    }
}

unsafe extern "C" fn tell<T: OnCancel>(arg: *mut c_void, task: nbffi_task) {
    // SAFETY: what `on_cancel` passed; it lives, by the contract.
    let value = unsafe { &*arg.cast_const().cast::<T>() };
    // Nobody can be told of a panic. Unwind safety: the value is Sync, so it is
    // in order whenever somebody else could look at it.
    let _ = catch_unwind(AssertUnwindSafe(|| value.on_cancel(task)));
}
