//! The response of a task and its memory.
//!
//! A short response lives in the slot itself. A longer one is in a host
//! buffer, which the slot keeps for its next task if the client's cache allows
//! (a fresh 100 KB buffer costs more in page faults than copying into it). A
//! part of the request need not be copied at all, as the request is in the
//! VM's memory and stays there. And a plugin may hand over memory of its own.

use std::ffi::c_void;

use nonblocking_ffi_plugin::sys::nbffi_cancel_fn;

use crate::error::Error;
use crate::memory;

/// Responses up to this many bytes need no buffer.
pub const INLINE_BYTES: usize = 64;

/// Host buffers are powers of two from this size on.
const SMALLEST_BUFFER: usize = 512;

/// Releases memory that a plugin handed over.
pub type Release = unsafe extern "C" fn(arg: *mut c_void, data: *mut c_void);

/// Where the bytes of a response are.
#[derive(Debug, Clone, Copy)]
enum Place {
    Inline,
    Buffer,
    Request(*const u8),
    Owned {
        data: *mut u8,
        release: Option<Release>,
        arg: *mut c_void,
    },
}

/// Memory that the host allocated with `malloc` and that may outlive a task.
#[derive(Debug)]
struct Buffer {
    data: *mut u8,
    capacity: usize,
}

impl Default for Buffer {
    fn default() -> Self {
        Self {
            data: std::ptr::null_mut(),
            capacity: 0,
        }
    }
}

impl Buffer {
    fn reserve(&mut self, size: usize) -> Result<(), Error> {
        if size <= self.capacity {
            return Ok(());
        }
        self.free();
        let capacity = size
            .max(SMALLEST_BUFFER)
            .checked_next_power_of_two()
            // Above a megabyte, rounding up wastes more than it saves.
            .map_or(size, |rounded| if size > 1 << 20 { size } else { rounded });
        // SAFETY: malloc may be called with any size.
        let data = unsafe { libc::malloc(capacity) };
        if data.is_null() {
            return Err(Error::NoMemory);
        }
        *self = Self {
            data: data.cast(),
            capacity,
        };
        Ok(())
    }

    fn free(&mut self) {
        // SAFETY: `data` is null or what malloc returned, and it is forgotten
        // here, so it is freed once.
        unsafe { libc::free(self.data.cast()) };
        *self = Self::default();
    }
}

/// Aligned like what malloc returns, as the plugin ABI promises.
#[repr(C, align(16))]
#[derive(Debug)]
struct InlineBytes([u8; INLINE_BYTES]);

/// A function of a plugin, see `runtime::cancel`.
#[derive(Debug, Clone, Copy)]
pub struct Watch {
    /// The function.
    pub function: nbffi_cancel_fn,
    /// Its first argument.
    pub arg: *mut c_void,
}

/// How a task ended. Written by the thread that completes (or edits) the task,
/// read by the main thread once it is done.
#[derive(Debug)]
pub struct Reply {
    /// Success, or the error that Lua gets.
    pub result: Result<(), Error>,
    /// The plugin's own status.
    pub code: i64,
    /// The plugin's own message, or the text of a runtime error.
    pub message: Option<Box<[u8]>>,
    /// What to call when the task is unwanted. Only valid while its state word
    /// has flag `WATCHED`.
    pub watch: Option<Watch>,
    /// When the task ended, in nanoseconds of `CLOCK_MONOTONIC`.
    pub ended_ns: u64,
    place: Place,
    len: usize,
    /// How much `allocate` gave the plugin; `None` before it did.
    allocated: Option<usize>,
    bytes: InlineBytes,
    buffer: Buffer,
    /// Why a buffer was refused.
    refused: Option<Error>,
}

impl Default for Reply {
    fn default() -> Self {
        Self {
            result: Ok(()),
            code: 0,
            message: None,
            watch: None,
            ended_ns: 0,
            place: Place::Inline,
            len: 0,
            allocated: None,
            bytes: InlineBytes([0; INLINE_BYTES]),
            buffer: Buffer::default(),
            refused: None,
        }
    }
}

impl Reply {
    /// A place for a response of `size` bytes: uninitialised memory that is
    /// the reply's until it is reset.
    pub fn allocate(&mut self, size: usize) -> Result<*mut u8, Error> {
        let place = self.place_for(size)?;
        self.allocated = Some(size);
        Ok(place)
    }

    fn place_for(&mut self, size: usize) -> Result<*mut u8, Error> {
        if size <= INLINE_BYTES {
            self.place = Place::Inline;
            return Ok(self.bytes.0.as_mut_ptr());
        }
        self.buffer.reserve(size)?;
        self.place = Place::Buffer;
        Ok(self.buffer.data)
    }

    /// What `allocate` gave, if it was called since the last reset.
    pub fn allocated(&mut self) -> Option<*mut u8> {
        self.allocated.map(|size| match size {
            ..=INLINE_BYTES => self.bytes.0.as_mut_ptr(),
            _ => self.buffer.data,
        })
    }

    /// Whether `allocate` gave at least `len` bytes.
    pub fn is_allocated(&self, len: usize) -> bool {
        self.allocated.is_some_and(|size| len <= size)
    }

    /// Responds with the first `len` bytes of what `allocate` gave.
    pub fn commit(&mut self, len: usize) {
        debug_assert!(self.is_allocated(len));
        self.len = len.min(self.allocated.unwrap_or(0));
    }

    /// Responds with a copy of `data`.
    pub fn copy(&mut self, data: &[u8]) -> Result<(), Error> {
        let place = self.place_for(data.len())?;
        // SAFETY: `place` has room for `data.len()` bytes, and it is ours, so
        // the two do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), place, data.len()) };
        self.len = data.len();
        Ok(())
    }

    /// Responds with a part of the request, which stays alive until the reply
    /// is reset.
    pub fn refer(&mut self, part: &[u8]) {
        self.place = Place::Request(part.as_ptr());
        self.len = part.len();
    }

    /// Responds with memory of the plugin's, to be released by `reset`.
    ///
    /// # Safety
    /// `len` bytes at `data` are readable until `release` is called, with `arg`, which
    /// may be done once, on any thread.
    pub unsafe fn own(
        &mut self,
        data: *mut u8,
        len: usize,
        release: Option<Release>,
        arg: *mut c_void,
    ) {
        self.place = Place::Owned { data, release, arg };
        self.len = len;
    }

    /// Ends the task with an error instead of a response.
    pub fn fail(&mut self, error: Error, code: i64, message: &[u8]) {
        self.result = Err(error);
        self.set_status(code, message);
    }

    /// The plugin's own status and message. If there is no memory for the message,
    /// that is how the task ends.
    pub fn set_status(&mut self, code: i64, message: &[u8]) {
        self.code = code;
        self.message = None;
        if !message.is_empty() {
            self.message = memory::copy(message);
            if self.message.is_none() {
                self.code = 0;
                self.result = Err(Error::NoMemory);
            }
        }
    }

    /// Notes that a buffer was refused. A task that its plugin then leaves
    /// incomplete ends with this error.
    pub fn refuse(&mut self, why: Error) {
        self.refused = Some(why);
    }

    /// Why a buffer was refused, if one was.
    pub fn refused(&self) -> Option<Error> {
        self.refused
    }

    /// The response, for the main thread once the task is done.
    pub fn data(&self) -> (*const u8, usize) {
        if self.result.is_err() {
            return (self.bytes.0.as_ptr(), 0);
        }
        let data = match self.place {
            Place::Inline => self.bytes.0.as_ptr(),
            Place::Buffer => self.buffer.data,
            Place::Request(data) => data,
            Place::Owned { data, .. } => data,
        };
        (data, self.len)
    }

    /// Bytes of the buffer that the reply keeps across tasks.
    pub fn cached(&self) -> usize {
        self.buffer.capacity
    }

    /// Readies the reply for the next task; frees its buffer unless
    /// `keep_buffer`. Runs the plugin's release function if it handed over
    /// memory.
    pub fn reset(&mut self, keep_buffer: bool) {
        if let Place::Owned {
            data,
            release: Some(release),
            arg,
        } = self.place
        {
            // SAFETY: the plugin passed `release` to be called once with these
            // arguments; `place` is overwritten below, so this is the once.
            unsafe { release(arg, data.cast()) };
        }
        self.place = Place::Inline;
        self.len = 0;
        self.allocated = None;
        self.result = Ok(());
        self.code = 0;
        self.message = None;
        self.refused = None;
        if !keep_buffer && self.buffer.capacity > 0 {
            self.buffer.free();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn bytes(reply: &Reply) -> Vec<u8> {
        let (data, len) = reply.data();
        // SAFETY: `data` points at `len` bytes while the reply lives.
        unsafe { std::slice::from_raw_parts(data, len).to_vec() }
    }

    #[test]
    fn responses_of_every_size_come_back() {
        let mut reply = Reply::default();
        for size in [0, 1, INLINE_BYTES, INLINE_BYTES + 1, 511, 513, 3 << 20] {
            let data: Vec<u8> = (0..size).map(|i| i as u8).collect();
            reply.copy(&data).unwrap();
            assert_eq!(bytes(&reply), data, "size {size}");
            reply.reset(true);
            assert_eq!(bytes(&reply), b"", "size {size} after reset");
        }
    }

    #[test]
    fn a_kept_buffer_is_used_again() {
        let mut reply = Reply::default();
        let first = reply.allocate(1000).unwrap();
        reply.reset(true);
        assert_eq!(reply.cached(), 1024);
        assert_eq!(reply.allocate(900).unwrap(), first);
        reply.reset(false);
        assert_eq!(reply.cached(), 0);
    }

    #[test]
    fn only_what_was_allocated_can_be_committed() {
        let mut reply = Reply::default();
        assert!(!reply.is_allocated(0), "nothing was allocated");
        assert_eq!(reply.allocated(), None);
        let place = reply.allocate(100).unwrap();
        assert!(!reply.is_allocated(101) && reply.is_allocated(100));
        assert_eq!(reply.allocated(), Some(place));
        reply.commit(100);
        assert_eq!(reply.data().1, 100);
    }

    #[test]
    fn owned_memory_is_released_exactly_once() {
        unsafe extern "C" fn count(arg: *mut c_void, _data: *mut c_void) {
            // SAFETY: the test passes a pointer to its counter.
            unsafe { *arg.cast::<u32>() += 1 };
        }
        let mut released = 0_u32;
        let arg = std::ptr::from_mut(&mut released).cast();
        let mut data = *b"mine";
        let mut reply = Reply::default();
        // SAFETY: both live until the reply is reset.
        unsafe { reply.own(data.as_mut_ptr(), 4, Some(count), arg) };
        assert_eq!(bytes(&reply), b"mine");
        reply.reset(true);
        reply.reset(true);
        assert_eq!(released, 1);
    }

    #[test]
    fn an_error_has_no_response() {
        let mut reply = Reply::default();
        reply.copy(b"half done").unwrap();
        reply.fail(Error::Runtime, 42, b"broken");
        assert_eq!(bytes(&reply), b"");
        assert_eq!(reply.code, 42);
        assert_eq!(reply.message.as_deref(), Some(&b"broken"[..]));
    }
}
