//! From what a function returned to what its caller gets.
//!
//! `bytes` go as they are. `str` goes as UTF-8, `None` as nothing. Whatever else
//! has bytes (`bytearray`, `memoryview`, an array of numpy) goes as these bytes,
//! which must be contiguous. Anything else is a `TypeError`.

use std::ffi::{c_char, c_int};
use std::mem::MaybeUninit;
use std::ptr::{null, null_mut};

use nonblocking_ffi_plugin::sys::nbffi_task;
use nonblocking_ffi_runtimes_common::task;

use crate::api::{PY_BUF_SIMPLE, Py_buffer};
use crate::object::{Bound, Gil, Result};

/// What is larger is copied without the GIL.
const LARGE: usize = 64 * 1024;

/// Bytes that are ready to be sent, and what keeps them.
#[derive(Debug)]
pub struct Reply<'py> {
    gil: Gil<'py>,
    bytes: Bytes,
    keep: Keep<'py>,
}

/// Bytes of a Python object. Python code may be changing them: so they are no
/// slice.
#[derive(Clone, Copy, Debug)]
struct Bytes {
    data: *const u8,
    len: usize,
}

// SAFETY: readable on any thread as long as the object is kept.
unsafe impl Send for Bytes {}

impl Bytes {
    /// # Safety
    ///
    /// The object is kept until this returns. Nobody uses the task's request
    /// afterwards.
    unsafe fn respond(self, task: nbffi_task) -> c_int {
        // SAFETY: by the contract.
        unsafe { task::respond(task, self.data, self.len as u64) }
    }
}

#[derive(Debug)]
enum Keep<'py> {
    Nothing,
    Object { _bytes: Bound<'py> },
    Buffer(Box<Py_buffer>),
}

impl Drop for Reply<'_> {
    fn drop(&mut self) {
        if let Keep::Buffer(buffer) = &mut self.keep {
            // SAFETY: the buffer that was got, once; the GIL is there.
            unsafe { (self.gil.PyBuffer_Release)(&mut **buffer) };
        }
    }
}

impl<'py> Reply<'py> {
    fn new(gil: Gil<'py>, data: *const u8, len: usize, keep: Keep<'py>) -> Self {
        let bytes = Bytes { data, len };
        Self { gil, bytes, keep }
    }

    /// The bytes of what a function returned.
    pub fn of(gil: Gil<'py>, result: Bound<'py>) -> Result<Self> {
        let (mut data, mut len) = (null_mut::<c_char>(), 0);
        // SAFETY: the function checks the type; its result lives as long as
        // the object, which the reply keeps.
        if unsafe { (gil.PyBytes_AsStringAndSize)(result.as_ptr(), &mut data, &mut len) } == 0 {
            let keep = Keep::Object { _bytes: result };
            return Ok(Self::new(gil, data.cast(), len as usize, keep));
        }
        gil.clear();
        if result.is_none() {
            return Ok(Self::new(gil, null(), 0, Keep::Nothing));
        }
        let is_instance = gil.PyObject_IsInstance;
        // SAFETY: both are objects.
        if unsafe { is_instance(result.as_ptr(), gil.PyUnicode_Type) } == 1 {
            let encode = gil.PyUnicode_AsEncodedString;
            let (utf8, strict) = (c"utf-8".as_ptr(), c"strict".as_ptr());
            // SAFETY: a `str`; a new reference. What has no UTF-8 raises.
            let bytes = unsafe { gil.owned(encode(result.as_ptr(), utf8, strict))? };
            return Self::of(gil, bytes);
        }
        Self::of_buffer(gil, &result)
    }

    fn of_buffer(gil: Gil<'py>, result: &Bound<'py>) -> Result<Self> {
        // SAFETY: numbers and pointers; all zero is the empty structure.
        let mut buffer = Box::new(unsafe { MaybeUninit::<Py_buffer>::zeroed().assume_init() });
        // SAFETY: the structure is writable; it keeps the object if it worked.
        let got = unsafe { (gil.PyObject_GetBuffer)(result.as_ptr(), &mut *buffer, PY_BUF_SIMPLE) };
        if got == 0 {
            let (data, len) = (buffer.buf.cast_const().cast(), buffer.len as usize);
            return Ok(Self::new(gil, data, len, Keep::Buffer(buffer)));
        }
        let why = gil.take_message();
        let class = result.class_name();
        Err(match why.starts_with("TypeError") {
            true => gil.type_error(&format!(
                "{class} was returned, but a response is bytes (or bytearray, memoryview, str, \
                 None)"
            )),
            // Bytes it has, but not contiguous ones.
            false => gil.type_error(&format!("{class} was returned: {why}")),
        })
    }

    /// Completes a task with it.
    ///
    /// # Safety
    ///
    /// Nobody uses the task's request afterwards.
    pub unsafe fn send(self, task: nbffi_task) {
        let bytes = self.bytes;
        // SAFETY: by the contract; the object is kept until the end. Whatever the
        // host says, the task is complete then: bytes with a length are never an
        // invalid argument.
        let send = move || unsafe { bytes.respond(task) };
        if bytes.len > LARGE {
            self.gil.without(send);
        } else {
            send();
        }
    }
}

/// `bytes` with a copy of a request.
pub fn bytes<'py>(gil: Gil<'py>, request: &[u8]) -> Result<Bound<'py>> {
    if request.len() <= LARGE {
        return gil.bytes(request);
    }
    let (mut data, mut len) = (null_mut::<c_char>(), request.len() as isize);
    // SAFETY: without data, a new object of that length whose bytes may be
    // written as long as nobody else has it.
    unsafe {
        let object = gil.owned((gil.PyBytes_FromStringAndSize)(null(), len))?;
        (gil.PyBytes_AsStringAndSize)(object.as_ptr(), &mut data, &mut len);
        let room = std::slice::from_raw_parts_mut(data.cast::<MaybeUninit<u8>>(), request.len());
        gil.without(|| {
            let to = room.as_mut_ptr().cast();
            std::ptr::copy_nonoverlapping(request.as_ptr(), to, request.len());
        });
        Ok(object)
    }
}
