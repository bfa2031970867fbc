//! From what a function returned to what its caller gets.
//!
//! `bytes` go as they are. `str` goes as UTF-8, `None` as nothing. Whatever else
//! has bytes (`bytearray`, `memoryview`, an array of numpy) goes as these bytes,
//! which must be contiguous. Anything else is a `TypeError`.

use std::ffi::c_char;
use std::ptr::null_mut;

use nonblocking_ffi_plugin::sys::nbffi_task;
use nonblocking_ffi_runtimes_common::task;

use crate::api::{PY_BUF_SIMPLE, Py_buffer};
use crate::object::{Gil, Ref, Result};

/// What is larger is copied without the GIL.
const LARGE: usize = 64 * 1024;

/// Bytes that are ready to be sent, and what keeps them.
#[derive(Debug)]
pub struct Reply {
    data: *const u8,
    len: usize,
    keep: Keep,
}

#[derive(Debug)]
enum Keep {
    Nothing,
    Object { _bytes: Ref },
    Buffer(Box<Py_buffer>),
}

impl Reply {
    /// The bytes of what a function returned.
    pub fn of(gil: Gil, result: Ref) -> Result<Self> {
        let (mut data, mut len) = (null_mut::<c_char>(), 0);
        // SAFETY: the function checks the type; its result lives as long as
        // the object, which the reply keeps.
        if unsafe { (gil.PyBytes_AsStringAndSize)(result.as_ptr(), &mut data, &mut len) } == 0 {
            return Ok(Self {
                data: data.cast(),
                len: len as usize,
                keep: Keep::Object { _bytes: result },
            });
        }
        // SAFETY: the GIL is there.
        unsafe { (gil.PyErr_Clear)() };
        if result.as_ptr() == gil.none() {
            return Ok(Self {
                data: std::ptr::null(),
                len: 0,
                keep: Keep::Nothing,
            });
        }
        // SAFETY: both are objects.
        let is_text =
            unsafe { (gil.PyObject_IsInstance)(result.as_ptr(), gil.PyUnicode_Type) } == 1;
        if is_text {
            // SAFETY: a `str`; a new reference. What has no UTF-8 raises.
            let bytes = unsafe {
                let (utf8, strict) = (c"utf-8".as_ptr(), c"strict".as_ptr());
                gil.owned((gil.PyUnicode_AsEncodedString)(
                    result.as_ptr(),
                    utf8,
                    strict,
                ))?
            };
            return Self::of(gil, bytes);
        }
        Self::of_buffer(gil, &result)
    }

    fn of_buffer(gil: Gil, result: &Ref) -> Result<Self> {
        let mut buffer = Box::new(Py_buffer {
            buf: null_mut(),
            obj: null_mut(),
            len: 0,
            itemsize: 0,
            readonly: 0,
            ndim: 0,
            format: null_mut(),
            shape: null_mut(),
            strides: null_mut(),
            suboffsets: null_mut(),
            internal: null_mut(),
        });
        // SAFETY: the structure is writable; it keeps the object if it worked.
        let got = unsafe { (gil.PyObject_GetBuffer)(result.as_ptr(), &mut *buffer, PY_BUF_SIMPLE) };
        if got == 0 {
            return Ok(Self {
                data: buffer.buf.cast_const().cast(),
                len: buffer.len as usize,
                keep: Keep::Buffer(buffer),
            });
        }
        let why = gil.take_message();
        let class = gil.class_name(result);
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
    pub unsafe fn send(mut self, gil: Gil, task: nbffi_task) {
        // SAFETY: by the contract; the bytes are kept until this has returned.
        // Whatever the host says, the task is complete then: bytes with a length
        // are never an invalid argument.
        let send = || unsafe { task::respond(task, self.data, self.len as u64) };
        if self.len > LARGE {
            gil.without(send);
        } else {
            send();
        }
        if let Keep::Buffer(buffer) = &mut self.keep {
            // SAFETY: the buffer that was got, once.
            unsafe { (gil.PyBuffer_Release)(&mut **buffer) };
        }
    }
}

/// `bytes` with a copy of a request.
pub fn bytes(gil: Gil, request: &[u8]) -> Result<Ref> {
    if request.len() <= LARGE {
        return gil.bytes(request);
    }
    let (mut data, mut len) = (null_mut::<c_char>(), request.len() as isize);
    // SAFETY: without data, a new object of that length whose bytes may be
    // written as long as nobody else has it.
    unsafe {
        let object = gil.owned((gil.PyBytes_FromStringAndSize)(std::ptr::null(), len))?;
        (gil.PyBytes_AsStringAndSize)(object.as_ptr(), &mut data, &mut len);
        let to = data.cast::<u8>();
        gil.without(|| std::ptr::copy_nonoverlapping(request.as_ptr(), to, request.len()));
        Ok(object)
    }
}
