//! What a task is answered with, and how the bytes reach the host.
//!
//! Large responses are handed over: the host sends the plugin's memory itself
//! and drops it when it is done. Small ones are copied, because that is
//! cheaper than having them freed in another thread.

use std::any::Any;
use std::ffi::{c_int, c_void};
use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::Arc;

use crate::error::{Error, drop_quietly};
use crate::sys::{self, nbffi_host, nbffi_task};

/// Up to this many bytes a response is copied, not handed over.
const COPY_MAX: usize = 1024;

/// A successful answer: bytes, and perhaps a status.
///
/// It is made from `Vec<u8>`, `String`, `Box<[u8]>`, `Arc<[u8]>`,
/// `&'static [u8]` and `&'static str` without copying what they hold (see the
/// module for small ones), from `()` (empty), or by one of the functions
/// below.
#[derive(Debug)]
pub struct Response {
    body: Body,
    status: Option<(i64, String)>,
}

enum Body {
    Static(&'static [u8]),
    Vec(Vec<u8>),
    Owner(Box<Owner>),
    /// Yet to be written, into a buffer of the host of this size.
    InPlace(usize, Box<Fill>),
}

type Fill = dyn FnOnce(&mut Buffer<'_>, &[u8]) -> Result<(), Error> + Send;

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Body::Static(b) => write!(f, "Static({} bytes)", b.len()),
            Body::Vec(b) => write!(f, "Vec({} bytes)", b.len()),
            Body::Owner(_) => f.write_str("Owner"),
            Body::InPlace(size, _) => write!(f, "InPlace({size} bytes)"),
        }
    }
}

/// Bytes and whatever keeps them alive.
struct Owner {
    data: NonNull<u8>,
    len: usize,
    _keep: Box<dyn Any + Send>,
}

// SAFETY: `data` points into `_keep`, which is Send; the bytes are shared only
// for reading.
unsafe impl Send for Owner {}

impl Response {
    /// A copy of `data`.
    pub fn copy_of(data: &[u8]) -> Self {
        data.to_vec().into()
    }

    /// The bytes of `owner`, which is dropped when the host is done with them:
    /// a memory map, a `bytes::Bytes`, ... It is dropped on nginx's main
    /// thread, so that must not block.
    pub fn from_owner<T: AsRef<[u8]> + Send + 'static>(owner: T) -> Self {
        let keep = Box::new(owner);
        let bytes: &[u8] = (*keep).as_ref();
        let (data, len) = (NonNull::from(bytes).cast::<u8>(), bytes.len());
        // The bytes stay where they are: the owner is boxed, and from here on
        // nothing accesses it until it is dropped.
        Body::Owner(Box::new(Owner {
            data,
            len,
            _keep: keep,
        }))
        .into()
    }

    /// A response of at most `size` bytes that `fill` writes into memory of the
    /// host: it is not copied again, and not allocated if it is small. `fill`
    /// gets the buffer and the task's request.
    ///
    /// It runs later, when `call` has returned or in the thread that responds.
    /// If `size` exceeds the runtime's `max_response`, or memory is out, it does
    /// not run at all, and the task fails: with "response too large" or "no
    /// memory", or, in an asynchronous plugin that finds memory out, with
    /// "runtime error: no memory".
    pub fn in_place<F>(size: usize, fill: F) -> Self
    where
        F: FnOnce(&mut Buffer<'_>, &[u8]) -> Result<(), Error> + Send + 'static,
    {
        Body::InPlace(size, Box::new(fill)).into()
    }

    /// The same response with a status: Lua gets `response, nil, code, message`.
    #[must_use]
    pub fn with_status(mut self, code: i64, message: impl Into<String>) -> Self {
        self.status = Some((code, message.into()));
        self
    }

    /// Completes the task with this response; returns what the host said, or
    /// why it was not asked. The task is still pending after an error,
    /// `NBFFI_INVALID`, and, if the response is one `in_place`, after
    /// `NBFFI_NO_MEMORY`.
    ///
    /// # Safety
    ///
    /// `host` is valid, `request` is the task's, and nobody else uses the
    /// request or completes the task.
    pub(crate) unsafe fn send(
        self,
        host: NonNull<nbffi_host>,
        task: nbffi_task,
        request: *const [u8],
    ) -> Result<c_int, Error> {
        // The functions are fetched first: once the task is completed the
        // runtime may be closed at any time, and the table with it.
        // SAFETY: the caller vouches for host.
        let (respond, respond_owned, set_status) = unsafe {
            let table = host.as_ref();
            (table.respond, table.respond_owned, table.set_status)
        };
        if let Some((code, message)) = &self.status {
            // SAFETY: message is readable; the host copies it.
            unsafe { set_status(task, *code, message.as_ptr().cast(), message.len() as u64) };
        }
        let rc = match self.body {
            Body::Static(b) if b.len() > COPY_MAX => {
                let data = b.as_ptr().cast_mut().cast::<c_void>();
                // SAFETY: the host only reads the bytes, and they live for ever.
                unsafe { respond_owned(task, data, b.len() as u64, None, std::ptr::null_mut()) }
            }
            Body::Static(b) => {
                // SAFETY: b is readable; the host copies it.
                unsafe { respond(task, b.as_ptr().cast(), b.len() as u64) }
            }
            Body::Vec(v) if v.len() > COPY_MAX => {
                let mut v = std::mem::ManuallyDrop::new(v);
                let capacity = std::ptr::without_provenance_mut::<c_void>(v.capacity());
                let data = v.as_mut_ptr().cast::<c_void>();
                // SAFETY: the vector's memory now belongs to the host, which
                // calls release_vec exactly once, whatever this returns.
                unsafe { respond_owned(task, data, v.len() as u64, Some(release_vec), capacity) }
            }
            Body::Vec(v) => {
                // SAFETY: v is readable; the host copies it.
                unsafe { respond(task, v.as_ptr().cast(), v.len() as u64) }
            }
            Body::Owner(owner) => {
                let (data, len) = (owner.data.as_ptr().cast::<c_void>(), owner.len as u64);
                let arg = Box::into_raw(owner).cast::<c_void>();
                // SAFETY: the bytes live until release_owner, which the host
                // calls exactly once, whatever this returns; it only reads.
                unsafe { respond_owned(task, data, len, Some(release_owner), arg) }
            }
            Body::InPlace(size, fill) => {
                // SAFETY: host is valid, and the request readable until the
                // task is completed.
                unsafe { fill_and_send(host, task, request, size, fill)? }
            }
        };
        Ok(rc)
    }
}

/// Has a response written into a buffer of the host, and sends it.
///
/// # Safety
///
/// As for [`Response::send`].
unsafe fn fill_and_send(
    host: NonNull<nbffi_host>,
    task: nbffi_task,
    request: *const [u8],
    size: usize,
    fill: Box<Fill>,
) -> Result<c_int, Error> {
    // SAFETY: the caller vouches for host.
    let (alloc, respond_buffer) = unsafe { (host.as_ref().alloc, host.as_ref().respond_buffer) };
    // SAFETY: any handle and any size may be passed.
    let Some(data) = NonNull::new(unsafe { alloc(task, size as u64) }.cast()) else {
        drop_quietly(fill);
        // The task is still pending, and the host has not said why. This
        // does: for a size beyond max_response it completes the task with
        // that error. Otherwise nothing was allocated, so it is invalid.
        // SAFETY: any handle and any length may be passed.
        return Ok(match unsafe { respond_buffer(task, size as u64) } {
            sys::NBFFI_INVALID => sys::NBFFI_NO_MEMORY,
            code => code,
        });
    };
    let mut buffer = Buffer {
        data,
        capacity: size,
        len: 0,
        _host: PhantomData,
    };
    // SAFETY: the task is not completed, so its request is readable.
    let request = unsafe { &*request };
    catch_unwind(AssertUnwindSafe(|| fill(&mut buffer, request)))
        .unwrap_or_else(|payload| Err(Error::from_panic(payload)))?;
    // SAFETY: so many bytes of the buffer are initialised.
    Ok(unsafe { respond_buffer(task, buffer.len as u64) })
}

/// Releases a vector: `data` is its memory, `arg` its capacity.
unsafe extern "C" fn release_vec(arg: *mut c_void, data: *mut c_void) {
    // SAFETY: both come from one vector in Response::send; a length of 0 is
    // right for any vector of bytes, since they need no dropping.
    drop(unsafe { Vec::from_raw_parts(data.cast::<u8>(), 0, arg.addr()) });
}

/// Releases an owner; its destructor may panic, which must not reach the host.
unsafe extern "C" fn release_owner(arg: *mut c_void, _data: *mut c_void) {
    // SAFETY: arg is the box that Response::send turned into a pointer.
    let owner = unsafe { Box::from_raw(arg.cast::<Owner>()) };
    drop_quietly(owner);
}

impl From<Body> for Response {
    fn from(body: Body) -> Self {
        Response { body, status: None }
    }
}

impl From<()> for Response {
    fn from((): ()) -> Self {
        Body::Static(b"").into()
    }
}

impl From<Vec<u8>> for Response {
    fn from(v: Vec<u8>) -> Self {
        Body::Vec(v).into()
    }
}

impl From<String> for Response {
    fn from(s: String) -> Self {
        s.into_bytes().into()
    }
}

impl From<Box<[u8]>> for Response {
    fn from(b: Box<[u8]>) -> Self {
        b.into_vec().into()
    }
}

impl From<Arc<[u8]>> for Response {
    fn from(a: Arc<[u8]>) -> Self {
        Response::from_owner(a)
    }
}

impl From<&'static [u8]> for Response {
    fn from(b: &'static [u8]) -> Self {
        Body::Static(b).into()
    }
}

impl<const N: usize> From<&'static [u8; N]> for Response {
    fn from(b: &'static [u8; N]) -> Self {
        Body::Static(b).into()
    }
}

impl From<&'static str> for Response {
    fn from(s: &'static str) -> Self {
        Body::Static(s.as_bytes()).into()
    }
}

/// Memory of the host for a response, see [`Response::in_place`].
///
/// It fills from its beginning, through [`io::Write`] or
/// [`Buffer::extend_from_slice`]; what is filled is sent.
pub struct Buffer<'a> {
    data: NonNull<MaybeUninit<u8>>,
    capacity: usize,
    /// So many bytes from `data` on are initialised.
    len: usize,
    /// Bounds its use: it is gone once the response is sent.
    _host: PhantomData<&'a mut [MaybeUninit<u8>]>,
}

// SAFETY: the memory is used through this value only, and the host allows every
// thread to write to it.
unsafe impl Send for Buffer<'_> {}
// SAFETY: shared access only reads.
unsafe impl Sync for Buffer<'_> {}

impl Buffer<'_> {
    /// How many bytes fit.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// How many bytes are filled.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The filled part.
    pub fn filled(&mut self) -> &mut [u8] {
        // SAFETY: len bytes are initialised, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.data.as_ptr().cast::<u8>(), self.len) }
    }

    /// The part that is not filled yet; follow with [`Buffer::advance`].
    pub fn spare(&mut self) -> &mut [MaybeUninit<u8>] {
        // SAFETY: len <= capacity, all of it is the buffer's, and a
        // MaybeUninit needs no initialisation.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.data.as_ptr().add(self.len),
                self.capacity - self.len,
            )
        }
    }

    /// Declares that `n` more bytes are filled.
    ///
    /// # Panics
    ///
    /// If so many do not fit.
    ///
    /// # Safety
    ///
    /// The first `n` bytes of [`Buffer::spare`] are initialised.
    pub unsafe fn advance(&mut self, n: usize) {
        assert!(
            n <= self.capacity - self.len,
            "advanced past the end of a response buffer"
        );
        self.len += n;
    }

    /// Appends `bytes`.
    ///
    /// # Panics
    ///
    /// If they do not fit.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        assert!(
            bytes.len() <= self.capacity - self.len,
            "a response buffer is too small"
        );
        // SAFETY: they fit, and a buffer of the host cannot overlap them since
        // its filled part is only reachable through the exclusive borrow.
        unsafe {
            let end = self.data.as_ptr().add(self.len).cast::<u8>();
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), end, bytes.len());
        }
        self.len += bytes.len();
    }
}

impl io::Write for Buffer<'_> {
    /// Writes what fits: a full buffer is [`io::ErrorKind::WriteZero`] in
    /// `write_all`.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(self.capacity - self.len);
        self.extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
