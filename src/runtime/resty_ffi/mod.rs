//! A plugin that was written for lua-resty-ffi.
//!
//! | file        | role |
//! |-------------|------|
//! | [`leases`]  | which queue belongs to which runtime |
//! | [`queue`]   | where its tasks wait until one of its threads asks for one |
//! | [`library`] | opening it, with the functions it needs in sight |
//!
//! Such a library exports `int libffi_init(char *cfg, void *tq)`, which starts
//! threads. These call [`poll`] with `tq`, [`request`] and [`respond`] with the
//! task that they got; `ffi::resty_ffi` exports them under the names that the
//! library was linked with. Unloading is a poll that returns NULL.
//!
//! A task is a pointer to the library, but nothing is there: it is the task's
//! handle in another form, so one that is used twice, or for too long, meets
//! a generation that has moved on, and does nothing.

mod leases;
pub mod library;
pub mod queue;

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;

use nonblocking_ffi_plugin::faults;

use super::library::settle;
use super::{Backend, Outcome, Place};
use crate::error::Error;
use crate::log::{LogSink, NOTICE, WARN};
use crate::pool::source::TaskSink;
use crate::signals::Handlers;
use crate::task::reply::Reply;
use crate::task::{Handle, Running, Task, arena};
use leases::Lease;
use library::Source;

/// The tag of a task without a request, as opposed to an empty one.
pub const NO_REQUEST: u32 = 1;

/// Responses up to this many bytes are copied by the thread that responds, and
/// freed where they were allocated; that is cheaper than to free them on the
/// main thread.
const COPY_MAX: usize = 1024;

/// One of the functions that libraries need.
const POLL: &CStr = c"ngx_http_lua_ffi_task_poll";

/// Where a task's pointer is: not in any process's address space, as it would
/// have to begin with nine or more equal bits. So nothing that looks at
/// pointers (the garbage collector of Go, say) takes it for one of its own.
const MARK: u64 = 0xa5 << 56;
/// The handle's number of the slot, shifted so that the pointer is aligned ...
const INDEX_SHIFT: u32 = 4;
const INDEX_BITS: u32 = 20;
/// ... and its generation, behind.
const GENERATION_SHIFT: u32 = INDEX_SHIFT + INDEX_BITS;

const _: () = assert!(arena::MAX_SLOTS <= 1 << INDEX_BITS);
const _: () = assert!(GENERATION_SHIFT + 32 == 56);

fn to_pointer(number: u64) -> *mut c_void {
    let (generation, index) = (number >> 32, number & u64::from(u32::MAX));
    let address = MARK | generation << GENERATION_SHIFT | index << INDEX_SHIFT;
    ptr::without_provenance_mut(address as usize)
}

/// The number of the handle in a task's pointer; `None` for what is none.
fn to_number(task: *mut c_void) -> Option<u64> {
    let address = task.addr() as u64;
    let number = (address >> GENERATION_SHIFT & u64::from(u32::MAX)) << 32
        | address >> INDEX_SHIFT & ((1 << INDEX_BITS) - 1);
    (to_pointer(number) == task).then_some(number)
}

/// Which library, and its configuration.
#[derive(Debug)]
pub struct Descriptor {
    /// The runtime's name.
    pub name: String,
    /// The library.
    pub source: Source,
    /// Its `cfg`.
    pub config: Option<CString>,
    /// How many tasks may wait to be polled.
    pub max_queue: i64,
}

/// A library with one configuration.
pub struct Plugin {
    what: Descriptor,
    lease: Lease,
    log: &'static dyn LogSink,
}

impl Plugin {
    /// A library that is not loaded yet. `None` if there are too many runtimes.
    pub fn new(what: Descriptor, place: Place) -> Option<Self> {
        Some(Self {
            lease: Lease::new(what.max_queue)?,
            what,
            log: place.log,
        })
    }

    fn log(&self, level: u8, text: &str) {
        self.log.log(level, &self.what.name, text.as_bytes());
    }
}

impl Backend for Plugin {
    fn init(&self, _runtime: *const ()) -> Result<(), String> {
        library::show_exports(POLL)?;
        let handlers = Handlers::now();
        let faults = faults::Handlers::now();
        let init = self.what.source.open(&|text| self.log(WARN, text))?;
        // The library may write to it: loaders cut it into words.
        let mut config = self.what.config.clone().map(CString::into_bytes_with_nul);
        let cfg = config.as_mut().map_or(ptr::null_mut(), Vec::as_mut_ptr);
        // SAFETY: as its documentation has it: `cfg` is a C string or NULL, and
        // `tq` is for `poll` alone, for ever.
        let rc = unsafe { init(cfg.cast(), self.lease.ticket()) };
        // It may have loaded libraries, a language's runtime for one.
        settle();
        faults.keep_order(false);
        if let Some(signals) = handlers.restore() {
            let line = format!("{signals} are handled by nginx again, not by the library");
            self.log(NOTICE, &line);
        }
        if rc != 0 {
            return Err(format!("libffi_init returned {rc}"));
        }
        Ok(())
    }

    fn call(&self, _task: &Running) -> Outcome {
        // Tasks go to the queue.
        Outcome::Failed(-1)
    }

    fn close(&self) {
        self.lease.queue().finish();
    }

    fn may_nest(&self) -> bool {
        false
    }

    fn sink(&self) -> Option<&'static dyn TaskSink> {
        Some(self.lease.queue())
    }
}

/// `ngx_http_lua_ffi_task_poll`: the next task, after waiting for one; NULL if
/// the runtime was unloaded. From any thread.
///
/// `tq` is what `libffi_init` was given; anything else is as good as a queue that
/// was unloaded.
pub fn poll(tq: *mut c_void) -> *mut c_void {
    let task = leases::resolve(tq).and_then(|(queue, generation)| queue.poll(generation));
    task.map_or(ptr::null_mut(), |task| to_pointer(task.handle().number()))
}

/// `ngx_http_lua_ffi_get_req`: the request of a task and its length; NULL if
/// it has none. A copy that is the library's to change, with a NUL behind it,
/// until the task is completed. From any thread.
pub fn request(task: *mut c_void) -> (*mut c_char, c_int) {
    const NONE: (*mut c_char, c_int) = (ptr::null_mut(), 0);
    let found = to_number(task).and_then(Handle::from_number);
    let edited = found.map(|task| task.edit(copy_request));
    let copy = edited.and_then(Result::ok).flatten();
    copy.map_or(NONE, |(data, len)| (data.cast(), len as c_int))
}

fn copy_request(task: &Task, reply: &mut Reply) -> Option<(*mut u8, usize)> {
    if task.tag == NO_REQUEST {
        return None;
    }
    let len = task.request_len;
    if let Some(data) = reply.allocated() {
        return Some((data, len));
    }
    let data = reply.allocate(len + 1).ok()?;
    // SAFETY: Lua keeps the request alive until the task has been collected,
    // and there is room for it and one byte more.
    unsafe {
        ptr::copy_nonoverlapping(task.request, data, len);
        *data.add(len) = 0;
    }
    Some((data, len))
}

/// `ngx_http_lua_ffi_respond`: completes a task. `rsp` is handed over: memory
/// from `malloc`, or NULL. If `len` is 0 it is a C string. `rc` other than 0 is
/// a failure. Lua gets a failure's response as the message, with a `=` before
/// it; and for no response to a success the message `nil`. From any thread.
///
/// A task that is complete already stays as it is, and `rsp` is not freed: who
/// responds twice may well pass the same memory twice.
///
/// # Safety
/// `rsp` is as described.
pub unsafe fn respond(task: *mut c_void, rc: c_int, rsp: *mut c_char, len: c_int) {
    let Some(task) = to_number(task).and_then(Handle::from_number) else {
        return;
    };
    let write = |task: &Task, reply: &mut Reply| {
        // SAFETY: by the contract, and only the thread that completes the task
        // comes here.
        let response = unsafe { Response::new(rsp, len) };
        response.give(task, reply, rc)
    };
    // An error is either the task's now, or of a task that was complete.
    let _ = task.complete(|_, _| Ok(()), write);
}

/// What a task was responded with: memory that is ours now.
struct Response {
    data: *mut u8,
    /// `None` if it was negative.
    len: Option<usize>,
}

impl Response {
    /// # Safety
    /// As for [`respond`].
    unsafe fn new(rsp: *mut c_char, len: c_int) -> Self {
        let len = match len {
            0 if rsp.is_null() => Some(0),
            // SAFETY: by the contract.
            0 => Some(unsafe { c_string_len(rsp) }),
            len => usize::try_from(len).ok(),
        };
        Self {
            data: rsp.cast(),
            len,
        }
    }

    /// Makes this the reply of a task.
    fn give(self, task: &Task, reply: &mut Reply, rc: c_int) -> Result<(), Error> {
        // SAFETY: the runtime outlives its tasks, and this one has not ended.
        let limit = unsafe { task.runtime.as_ref() }.max_response();
        let Some(len) = self.len else {
            let message = b"=a response of negative length";
            reply.fail(Error::Runtime, rc.into(), message);
            return Ok(());
        };
        if len > limit {
            return Err(Error::ResponseTooLarge);
        }
        if self.data.is_null() {
            if rc == 0 {
                reply.set_status(0, b"nil");
            } else {
                reply.fail(Error::Runtime, rc.into(), b"");
            }
            return Ok(());
        }
        // SAFETY: so many bytes are readable, and nobody changes them any more.
        let data = unsafe { std::slice::from_raw_parts(self.data, len) };
        if rc != 0 {
            reply.fail(Error::Runtime, rc.into(), &[b"=", data].concat());
            return Ok(());
        }
        if len <= COPY_MAX {
            return reply.copy(data);
        }
        // SAFETY: memory from malloc, which `release` frees.
        unsafe { reply.own(self.data, len, Some(release), ptr::null_mut()) };
        // It is the reply's now.
        std::mem::forget(self);
        Ok(())
    }
}

impl Drop for Response {
    fn drop(&mut self) {
        // SAFETY: memory from malloc, or null; it is ours.
        unsafe { libc::free(self.data.cast()) };
    }
}

unsafe extern "C" fn release(_arg: *mut c_void, data: *mut c_void) {
    // SAFETY: the response that `give` handed over, once.
    unsafe { libc::free(data) };
}

/// The length of a C string that ends in its block of memory, whether there is
/// a NUL or not: a library that echoes an empty request by `malloc(0)` and a
/// length of 0 means nothing by what is there.
///
/// # Safety
/// `text` is from `malloc`.
unsafe fn c_string_len(text: *const c_char) -> usize {
    // SAFETY: by the contract; the block's memory may be read, all of it.
    unsafe { libc::strnlen(text, libc::malloc_usable_size(text.cast_mut().cast())) }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn pointers_are_handles_and_nothing_else_is() {
        for handle in [1 << 32, u64::from(u32::MAX) << 32 | 0xf_ffff, 7 << 32 | 3] {
            let pointer = to_pointer(handle);
            assert_eq!(to_number(pointer), Some(handle));
            assert_eq!(pointer.addr() % 16, 0);
            assert_eq!(to_number(pointer.map_addr(|a| a | 1)), None);
            assert_eq!(to_number(pointer.map_addr(|a| a & !(1 << 63))), None);
        }
        assert_eq!(to_number(ptr::null_mut()), None);
        assert_eq!(to_number(ptr::from_ref(&0).cast_mut().cast()), None);
    }

    #[test]
    fn c_strings_end_in_their_memory() {
        // SAFETY: memory of our own, freed once.
        unsafe {
            let text = libc::strdup(c"hello".as_ptr());
            assert_eq!(c_string_len(text), 5);
            libc::free(text.cast());
            let block = libc::malloc(40).cast::<c_char>();
            let size = libc::malloc_usable_size(block.cast());
            ptr::write_bytes(block, b'x', size);
            assert_eq!(c_string_len(block), size);
            libc::free(block.cast());
        }
    }
}
