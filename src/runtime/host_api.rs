//! The host functions that plugins call, from any thread.
//!
//! Each is a C boundary: nothing unwinds, and a handle may be of a task that
//! is long gone.

use std::ffi::{CString, c_char, c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use nonblocking_ffi_plugin::sys;

use super::{Outcome, cancel, settle};
use crate::catch::catch;
use crate::error::Error;
use crate::exit;
use crate::log::LogSink;
use crate::pool;
use crate::sync::now_ns;
use crate::task::reply::{INLINE_BYTES, Reply};
use crate::task::slot::NO_DEADLINE;
use crate::task::state::Stale;
use crate::task::{Failure, Handle, Task};

/// The host table of one runtime, with what its functions need behind it.
#[repr(C)]
pub struct HostApi {
    table: sys::nbffi_host,
    log: &'static dyn LogSink,
    name: CString,
    config: CString,
    /// The runtime's address, once it is being initialised.
    runtime: AtomicPtr<()>,
    /// Whether the plugin is blocking: it has done with a task when it asks for
    /// the next one.
    blocking: AtomicBool,
}

impl HostApi {
    /// The table of a runtime with this name and configuration, which may not
    /// contain a NUL where C strings cannot.
    pub fn new(log_to: &'static dyn LogSink, name: CString, config: CString) -> Box<Self> {
        Box::new(Self {
            table: sys::nbffi_host {
                abi_version: sys::NBFFI_ABI_VERSION,
                size: size_of::<sys::nbffi_host>() as u32,
                log,
                config: config_of,
                name: name_of,
                deadline_ns,
                is_cancelled,
                alloc,
                respond_buffer,
                respond,
                respond_owned,
                fail,
                set_status,
                next: next::<false>,
                await_next: next::<true>,
                at_exit,
                on_cancel,
            },
            log: log_to,
            name,
            config,
            runtime: AtomicPtr::new(std::ptr::null_mut()),
            blocking: AtomicBool::new(false),
        })
    }

    /// Writes a line about the runtime to nginx's log.
    pub fn log(&self, level: c_int, text: &str) {
        let name = self.name.to_string_lossy();
        self.log.log(level as u8, &name, text.as_bytes());
    }

    /// Says which runtime the table is for.
    pub fn belongs_to(&self, runtime: *const ()) {
        // Relaxed, as for `blocking`: written before the pool hands out the
        // first task, which orders it.
        self.runtime.store(runtime.cast_mut(), Ordering::Relaxed);
    }

    /// Says that the plugin is blocking.
    pub fn ends_what_is_left(&self) {
        self.blocking.store(true, Ordering::Relaxed);
    }

    /// What the plugin is given.
    pub fn as_ptr(&self) -> *const sys::nbffi_host {
        // Of the whole table, not of its first field: the functions look
        // behind it.
        std::ptr::from_ref(self).cast()
    }

    /// The table behind a plugin's pointer.
    ///
    /// # Safety
    /// `host` is what `as_ptr` gave, and the runtime is not closed.
    unsafe fn from_ptr<'a>(host: *const sys::nbffi_host) -> &'a Self {
        // SAFETY: by the contract; the table is the first field.
        unsafe { &*host.cast() }
    }
}

/// Bytes of a plugin; `None` for a null pointer with a length.
///
/// # Safety
/// `data` points at `len` readable bytes, or is null.
unsafe fn bytes<'a>(data: *const c_void, len: u64) -> Option<&'a [u8]> {
    match (data.is_null(), usize::try_from(len)) {
        (_, Ok(0)) => Some(&[]),
        // SAFETY: by the contract.
        (false, Ok(len)) => Some(unsafe { std::slice::from_raw_parts(data.cast(), len) }),
        _ => None,
    }
}

fn status(result: Result<(), Failure>) -> c_int {
    match result {
        Ok(()) => sys::NBFFI_OK,
        Err(Failure::Stale) => sys::NBFFI_STALE,
        Err(Failure::Invalid) => sys::NBFFI_INVALID,
        Err(Failure::Ended(Error::ResponseTooLarge)) => sys::NBFFI_TOO_LARGE,
        Err(Failure::Ended(_)) => sys::NBFFI_NO_MEMORY,
    }
}

fn complete(
    handle: u64,
    check: impl FnOnce(&Task, &mut Reply) -> Result<(), Failure>,
    write: impl FnOnce(&Task, &mut Reply) -> Result<(), Error>,
) -> Result<(), Failure> {
    let task = Handle::from_number(handle).ok_or(Failure::Stale)?;
    task.complete(check, write)
}

fn edit<T>(handle: u64, change: impl FnOnce(&Task, &mut Reply) -> T) -> Result<T, Stale> {
    Handle::from_number(handle).ok_or(Stale)?.edit(change)
}

/// Whether the deadline of a task has passed.
fn has_passed(task: &Task) -> bool {
    task.deadline_ns != NO_DEADLINE && task.deadline_ns <= now_ns()
}

/// The length of a response, if the runtime allows it.
fn allowed(task: &Task, len: u64) -> Result<usize, Error> {
    // SAFETY: the runtime outlives its tasks, and this one has not ended.
    let limit = unsafe { task.runtime.as_ref() }.max_response();
    usize::try_from(len)
        .ok()
        .filter(|&len| len <= limit)
        .ok_or(Error::ResponseTooLarge)
}

unsafe extern "C" fn log(host: *const sys::nbffi_host, level: c_int, msg: *const c_char, len: u64) {
    catch((), || {
        // SAFETY: the plugin passes what `init` was given, before `close` has
        // returned.
        let host = unsafe { HostApi::from_ptr(host) };
        // SAFETY: the plugin's message.
        if let Some(text) = unsafe { bytes(msg.cast(), len) } {
            let level = level.clamp(sys::NBFFI_LOG_EMERG, sys::NBFFI_LOG_DEBUG);
            let name = host.name.to_string_lossy();
            host.log.log(level as u8, &name, text);
        }
    });
}

/// Hands out a string of the host table.
///
/// # Safety
/// `len` is null or writable.
unsafe fn hand_out(text: &CString, len: *mut u64) -> *const c_char {
    if !len.is_null() {
        // SAFETY: by the contract.
        unsafe { *len = text.as_bytes().len() as u64 };
    }
    text.as_ptr()
}

unsafe extern "C" fn config_of(host: *const sys::nbffi_host, len: *mut u64) -> *const c_char {
    // SAFETY: the plugin passes what `init` was given, and a valid `len`.
    unsafe { hand_out(&HostApi::from_ptr(host).config, len) }
}

unsafe extern "C" fn name_of(host: *const sys::nbffi_host, len: *mut u64) -> *const c_char {
    // SAFETY: the plugin passes what `init` was given, and a valid `len`.
    unsafe { hand_out(&HostApi::from_ptr(host).name, len) }
}

unsafe extern "C" fn deadline_ns(handle: u64) -> u64 {
    catch(0, || edit(handle, |task, _| task.deadline_ns).unwrap_or(0))
}

unsafe extern "C" fn is_cancelled(handle: u64) -> c_int {
    c_int::from(Handle::from_number(handle).is_none_or(Handle::is_unwanted))
}

unsafe extern "C" fn alloc(handle: u64, size: u64) -> *mut c_void {
    catch(std::ptr::null_mut(), || {
        let place = edit(handle, |task, reply| {
            let place = allowed(task, size).and_then(|size| reply.allocate(size));
            place.map_err(|why| reply.refuse(why)).ok()
        });
        place
            .ok()
            .flatten()
            .map_or(std::ptr::null_mut(), |p| p.cast())
    })
}

unsafe extern "C" fn respond_buffer(handle: u64, len: u64) -> c_int {
    catch(sys::NBFFI_INVALID, || {
        status(complete(
            handle,
            |task, reply| {
                let fits = allowed(task, len).map(|len| reply.is_allocated(len));
                // Too large: ends the task, below.
                if fits == Ok(false) {
                    return Err(Failure::Invalid);
                }
                Ok(())
            },
            |task, reply| {
                reply.commit(allowed(task, len)?);
                Ok(())
            },
        ))
    })
}

/// Puts a response into a reply; what is a part of the request is not copied.
pub fn answer(task: &Task, reply: &mut Reply, data: &[u8]) -> Result<(), Error> {
    allowed(task, data.len() as u64)?;
    if data.len() > INLINE_BYTES && task.is_of_request(data) {
        reply.refer(data);
        return Ok(());
    }
    reply.copy(data)
}

unsafe extern "C" fn respond(handle: u64, data: *const c_void, len: u64) -> c_int {
    catch(sys::NBFFI_INVALID, || {
        // SAFETY: the plugin's data, which stays until this returns.
        let data = unsafe { bytes(data, len) };
        status(complete(
            handle,
            |_, _| data.map(drop).ok_or(Failure::Invalid),
            |task, reply| answer(task, reply, data.unwrap_or_default()),
        ))
    })
}

unsafe extern "C" fn respond_owned(
    handle: u64,
    data: *mut c_void,
    len: u64,
    release: Option<sys::nbffi_release_fn>,
    arg: *mut c_void,
) -> c_int {
    let result = catch(Err(Failure::Invalid), || {
        complete(
            handle,
            |_, _| {
                if data.is_null() && len > 0 {
                    return Err(Failure::Invalid);
                }
                Ok(())
            },
            |task, reply| {
                let len = allowed(task, len)?;
                // SAFETY: the plugin hands them over for that.
                unsafe { reply.own(data.cast(), len, release, arg) };
                Ok(())
            },
        )
    });
    if let (Err(_), Some(release)) = (&result, release) {
        // SAFETY: the plugin passed `release` to be called once with these; the
        // reply did not take them.
        unsafe { release(arg, data) };
    }
    status(result)
}

unsafe extern "C" fn fail(handle: u64, code: i64, msg: *const c_char, len: u64) -> c_int {
    catch(sys::NBFFI_INVALID, || {
        // SAFETY: the plugin's message, which stays until this returns.
        let message = unsafe { bytes(msg.cast(), len) };
        status(complete(
            handle,
            |_, _| message.map(drop).ok_or(Failure::Invalid),
            |task, reply| {
                // A plugin that watches the deadline itself may give up before
                // the caller's timer has fired; to the caller that is the same.
                let error = if has_passed(task) {
                    Error::Timeout
                } else {
                    Error::Runtime
                };
                reply.fail(error, code, message.unwrap_or_default());
                Ok(())
            },
        ))
    })
}

unsafe extern "C" fn set_status(handle: u64, code: i64, msg: *const c_char, len: u64) -> c_int {
    catch(sys::NBFFI_INVALID, || {
        // SAFETY: the plugin's message, which stays until this returns.
        let message = unsafe { bytes(msg.cast(), len) };
        let set = edit(handle, |_, reply| {
            message.map(|message| reply.set_status(code, message))
        });
        match set {
            Ok(Some(())) => sys::NBFFI_OK,
            Ok(None) => sys::NBFFI_INVALID,
            Err(Stale) => sys::NBFFI_STALE,
        }
    })
}

/// `next`, and if the thread may `WAIT` for a task, `await_next`.
unsafe extern "C" fn next<const WAIT: bool>(
    host: *const sys::nbffi_host,
    task: *mut sys::nbffi_task,
    request: *mut *const c_void,
    len: *mut u64,
) -> c_int {
    catch(0, || {
        // SAFETY: the plugin passes what `init` was given.
        let host = unsafe { HostApi::from_ptr(host) };
        let runtime = host.runtime.load(Ordering::Relaxed);
        if host.blocking.load(Ordering::Relaxed)
            && let Some(last) = pool::last_begun(runtime)
        {
            settle(last, Outcome::Done);
        }
        let Some(begun) = pool::pull(runtime, WAIT) else {
            return 0;
        };
        let (data, size) = begun.request();
        // SAFETY: the plugin's pointers are writable.
        unsafe {
            *task = begun.handle().number();
            *request = data.cast();
            *len = size as u64;
        }
        1
    })
}

unsafe extern "C" fn at_exit(
    _host: *const sys::nbffi_host,
    function: Option<sys::nbffi_exit_fn>,
    arg: *mut c_void,
) -> c_int {
    catch(sys::NBFFI_NO_MEMORY, || {
        let Some(function) = function else {
            return sys::NBFFI_INVALID;
        };
        // SAFETY: the plugin passes them for that.
        let hook = unsafe { exit::Hook::new(function, arg) };
        match exit::add(hook) {
            true => sys::NBFFI_OK,
            false => sys::NBFFI_NO_MEMORY,
        }
    })
}

unsafe extern "C" fn on_cancel(
    handle: u64,
    function: Option<sys::nbffi_cancel_fn>,
    arg: *mut c_void,
) -> c_int {
    catch(sys::NBFFI_INVALID, || {
        let Some(function) = function else {
            return sys::NBFFI_INVALID;
        };
        // SAFETY: the plugin passes them for that.
        status(unsafe { cancel::watch(handle, function, arg) })
    })
}
