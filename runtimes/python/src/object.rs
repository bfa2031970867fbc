//! Python's objects, which only a thread that has the GIL may touch.
//!
//! [`Gil`] proves that the calling thread has it, for `'py`. A [`Bound`] is an
//! object that can be used during that time. A [`Py`] is one that is kept longer:
//! it can only be bound again. What runs in [`Gil::without`] can reach neither a
//! `Gil` nor a `Bound`, since both are tied to their thread and a closure that
//! has them is not `Send`. So this does not compile:
//!
//! ```compile_fail,E0277
//! # use nonblocking_ffi_python::object::Gil;
//! fn calls_python_without_the_gil(gil: Gil<'_>) {
//!     gil.without(|| gil.int(1).is_ok());
//! }
//! ```
//!
//! Nor can an object be kept beyond the time that the GIL is had:
//!
//! ```compile_fail,E0597
//! # use nonblocking_ffi_python::{api::Api, threads::attach};
//! fn keeps_an_object(api: &'static Api) {
//!     let object = {
//!         // SAFETY: this thread does not have the GIL.
//!         let attached = unsafe { attach(api) };
//!         attached.gil().int(1)
//!     };
//!     drop(object);
//! }
//! ```

use std::ffi::{CStr, CString, c_char};
use std::marker::PhantomData;
use std::ptr::{NonNull, null_mut};

use crate::api::{Api, PY_FILE_INPUT, PyObject, PyThreadState};

/// Proves that this thread has the GIL during `'py`, and leads to Python's
/// functions.
#[derive(Clone, Copy, Debug)]
pub struct Gil<'py> {
    api: &'static Api,
    /// The pointer: not for other threads.
    _here: PhantomData<(&'py (), *mut ())>,
}

impl std::ops::Deref for Gil<'_> {
    type Target = Api;

    fn deref(&self) -> &Api {
        self.api
    }
}

/// An exception is set in this thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raised;

/// What may raise an exception.
pub type Result<T> = std::result::Result<T, Raised>;

/// A reference to an object, while the GIL is had.
#[derive(Debug)]
pub struct Bound<'py> {
    object: NonNull<PyObject>,
    gil: Gil<'py>,
}

impl Drop for Bound<'_> {
    fn drop(&mut self) {
        // SAFETY: a reference of its own; the GIL is there.
        unsafe { (self.gil.Py_DecRef)(self.object.as_ptr()) };
    }
}

/// A reference to an object that may be kept without the GIL. To drop it leaks
/// the object, since that needs the GIL, too: see [`Py::into_bound`].
#[derive(Debug)]
pub struct Py(NonNull<PyObject>);

// SAFETY: an address; what is behind it is used with a Gil only.
unsafe impl Send for Py {}
// SAFETY: as above.
unsafe impl Sync for Py {}

impl Py {
    /// The object, for as long as the GIL is had.
    pub fn bind<'py>(&self, gil: Gil<'py>) -> Bound<'py> {
        // SAFETY: the object lives, by this reference.
        unsafe { gil.borrowed(self.0.as_ptr()) }
    }

    /// The same with this reference, so that the object can be released.
    pub fn into_bound(self, gil: Gil<'_>) -> Bound<'_> {
        Bound {
            object: self.0,
            gil,
        }
    }
}

impl<'py> Gil<'py> {
    /// # Safety
    ///
    /// This thread has the GIL during `'py`.
    pub unsafe fn assume(api: &'static Api) -> Self {
        Self {
            api,
            _here: PhantomData,
        }
    }

    /// The functions themselves, for what outlives the GIL.
    pub fn api(self) -> &'static Api {
        self.api
    }

    /// What a function returned: a new reference, or NULL and an exception.
    ///
    /// # Safety
    ///
    /// The reference is the caller's, and becomes the result's.
    pub unsafe fn owned(self, object: *mut PyObject) -> Result<Bound<'py>> {
        let object = NonNull::new(object).ok_or(Raised)?;
        Ok(Bound { object, gil: self })
    }

    /// A further reference to a borrowed object.
    ///
    /// # Safety
    ///
    /// The object lives.
    pub unsafe fn borrowed(self, object: *mut PyObject) -> Bound<'py> {
        // SAFETY: by the contract; what lives is not NULL.
        unsafe {
            (self.Py_IncRef)(object);
            let object = NonNull::new_unchecked(object);
            Bound { object, gil: self }
        }
    }

    /// `None`.
    pub fn none(self) -> Bound<'py> {
        // SAFETY: it lives for ever.
        unsafe { self.borrowed(self._Py_NoneStruct) }
    }

    /// A `str`. What is not UTF-8 becomes what `os.fsdecode` makes of it.
    pub fn text(self, text: &[u8]) -> Result<Bound<'py>> {
        let (data, len) = (text.as_ptr().cast(), text.len() as isize);
        // SAFETY: `len` readable bytes, which are copied; a new reference.
        unsafe {
            let object = (self.PyUnicode_DecodeUTF8)(data, len, c"surrogateescape".as_ptr());
            self.owned(object)
        }
    }

    /// `bytes`, a copy.
    pub fn bytes(self, data: &[u8]) -> Result<Bound<'py>> {
        let (data, len) = (data.as_ptr().cast(), data.len() as isize);
        // SAFETY: as for `text`.
        unsafe { self.owned((self.PyBytes_FromStringAndSize)(data, len)) }
    }

    /// An `int`.
    pub fn int(self, number: u64) -> Result<Bound<'py>> {
        // SAFETY: a new reference.
        unsafe { self.owned((self.PyLong_FromUnsignedLongLong)(number)) }
    }

    /// A `bool`.
    pub fn truth(self, value: bool) -> Result<Bound<'py>> {
        // SAFETY: a new reference.
        unsafe { self.owned((self.PyBool_FromLong)(value.into())) }
    }

    /// A `tuple` of these.
    pub fn tuple<const N: usize>(self, items: [Bound<'py>; N]) -> Result<Bound<'py>> {
        // SAFETY: a new tuple, each place of which is filled once; SetItem
        // takes the reference, also if it fails.
        unsafe {
            let tuple = self.owned((self.PyTuple_New)(N as isize))?;
            for (index, item) in items.into_iter().enumerate() {
                if (self.PyTuple_SetItem)(tuple.as_ptr(), index as isize, item.into_ptr()) != 0 {
                    return Err(Raised);
                }
            }
            Ok(tuple)
        }
    }

    /// The exception that is set, which is not set any more. `None` if there is
    /// none.
    pub fn take_exception(self) -> Option<Bound<'py>> {
        let (mut class, mut value, mut trace) = (null_mut(), null_mut(), null_mut());
        // SAFETY: Fetch gives the references to us; Normalize exchanges them,
        // and makes the value an instance of the class.
        unsafe {
            (self.PyErr_Fetch)(&mut class, &mut value, &mut trace);
            if class.is_null() {
                return None;
            }
            (self.PyErr_NormalizeException)(&mut class, &mut value, &mut trace);
            if !trace.is_null() && !value.is_null() {
                (self.PyException_SetTraceback)(value, trace);
            }
            for object in [class, trace] {
                if !object.is_null() {
                    (self.Py_DecRef)(object);
                }
            }
            self.owned(value).ok()
        }
    }

    /// The exception that is set, in a few words; it is not set any more.
    pub fn take_message(self) -> String {
        let Some(error) = self.take_exception() else {
            return "no exception".to_owned();
        };
        // SAFETY: the object lives; a new reference.
        let text = unsafe { self.owned((self.PyObject_Str)(error.as_ptr())) };
        let text = text.and_then(|text| text.string());
        let class = error.class_name();
        // What was raised by describing it is of no interest.
        self.clear();
        format!("{class}: {}", text.unwrap_or_default())
    }

    /// No exception is set any more.
    pub fn clear(self) {
        // SAFETY: the GIL is there.
        unsafe { (self.PyErr_Clear)() };
    }

    /// Whether an exception is set: what a function returned may be its sign for
    /// that, or a value.
    pub fn check(self) -> Result<()> {
        // SAFETY: the GIL is there; a borrowed reference.
        match unsafe { (self.PyErr_Occurred)() }.is_null() {
            true => Ok(()),
            false => Err(Raised),
        }
    }

    /// Sets a `TypeError`.
    pub fn type_error(self, message: &str) -> Raised {
        let message = CString::new(message).unwrap_or_default();
        // SAFETY: the class lives as long as Python; the message is copied.
        unsafe { (self.PyErr_SetString)(self.class(self.PyExc_TypeError), message.as_ptr()) };
        Raised
    }

    /// Compiles a source and runs it as a module.
    pub fn run_module(self, name: &CStr, file: &CStr, source: &CStr) -> Result<Bound<'py>> {
        let (source, file) = (source.as_ptr(), file.as_ptr());
        // SAFETY: terminated texts, which are copied; new references.
        unsafe {
            let code = self.owned((self.Py_CompileString)(source, file, PY_FILE_INPUT))?;
            self.owned((self.PyImport_ExecCodeModule)(name.as_ptr(), code.as_ptr()))
        }
    }

    /// Runs something without the GIL. The calling thread has it again
    /// afterwards, also if there was a panic.
    pub fn without<T: Send>(self, work: impl FnOnce() -> T + Send) -> T {
        struct Again(&'static Api, *mut PyThreadState);
        impl Drop for Again {
            fn drop(&mut self) {
                // SAFETY: the thread's own state, which it let go of.
                unsafe { (self.0.PyEval_RestoreThread)(self.1) };
            }
        }
        // SAFETY: this thread has the GIL, and gets it again.
        let _again = Again(self.api, unsafe { (self.PyEval_SaveThread)() });
        work()
    }

    /// Takes back an exception that [`Gil::stop`] has sent to a thread and that
    /// it has not met.
    pub fn take_back(self, thread: u64) {
        // SAFETY: NULL removes what waits; a thread that is gone is not found.
        unsafe { (self.PyThreadState_SetAsyncExc)(thread, null_mut()) };
    }

    /// Has a thread raise an exception as soon as it runs Python code.
    pub fn stop(self, thread: u64, class: &Bound<'py>) {
        // SAFETY: Python takes a reference of its own; a thread that is gone is
        // not found.
        unsafe { (self.PyThreadState_SetAsyncExc)(thread, class.as_ptr()) };
    }
}

impl<'py> Bound<'py> {
    /// The object, borrowed.
    pub fn as_ptr(&self) -> *mut PyObject {
        self.object.as_ptr()
    }

    /// Gives the reference away.
    pub fn into_ptr(self) -> *mut PyObject {
        self.unbind().0.as_ptr()
    }

    /// The same for longer than the GIL is had.
    pub fn unbind(self) -> Py {
        let object = self.object;
        std::mem::forget(self);
        Py(object)
    }

    /// Whether it is `None`.
    pub fn is_none(&self) -> bool {
        self.as_ptr() == self.gil._Py_NoneStruct
    }

    /// An item of a tuple.
    pub fn item(&self, index: isize) -> Result<Bound<'py>> {
        // SAFETY: GetItem checks both; what it returns is borrowed.
        unsafe {
            let item = (self.gil.PyTuple_GetItem)(self.as_ptr(), index);
            if item.is_null() {
                return Err(Raised);
            }
            Ok(self.gil.borrowed(item))
        }
    }

    /// An attribute.
    pub fn attribute(&self, name: &CStr) -> Result<Bound<'py>> {
        let get = self.gil.PyObject_GetAttrString;
        // SAFETY: the object lives; a new reference.
        unsafe { self.gil.owned(get(self.as_ptr(), name.as_ptr())) }
    }

    /// Sets an attribute.
    pub fn set_attribute(&self, name: &CStr, value: &Bound<'py>) -> Result<()> {
        let set = self.gil.PyObject_SetAttrString;
        // SAFETY: both live; the object takes a reference of its own.
        match unsafe { set(self.as_ptr(), name.as_ptr(), value.as_ptr()) } {
            0 => Ok(()),
            _ => Err(Raised),
        }
    }

    /// Calls it with these.
    pub fn call<const N: usize>(&self, arguments: [Bound<'py>; N]) -> Result<Bound<'py>> {
        let arguments = self.gil.tuple(arguments)?;
        let call = self.gil.PyObject_CallObject;
        // SAFETY: both live; a new reference.
        unsafe { self.gil.owned(call(self.as_ptr(), arguments.as_ptr())) }
    }

    /// The number of an `int`.
    pub fn number(&self) -> Result<u64> {
        // SAFETY: an object; what is no number raises.
        let number = unsafe { (self.gil.PyLong_AsUnsignedLongLong)(self.as_ptr()) };
        if number == u64::MAX {
            self.gil.check()?;
        }
        Ok(number)
    }

    /// The same with a sign.
    pub fn signed(&self) -> Result<i64> {
        // SAFETY: as above.
        let number = unsafe { (self.gil.PyLong_AsLongLong)(self.as_ptr()) };
        if number == -1 {
            self.gil.check()?;
        }
        Ok(number)
    }

    /// The text of a `str`, with `\udcff` and the like for what is no text.
    pub fn string(&self) -> Result<String> {
        let encode = self.gil.PyUnicode_AsEncodedString;
        let (utf8, errors) = (c"utf-8".as_ptr(), c"backslashreplace".as_ptr());
        // SAFETY: the functions check the types; `bytes` lives while its data
        // is copied.
        unsafe {
            let bytes = self.gil.owned(encode(self.as_ptr(), utf8, errors))?;
            let (mut data, mut len) = (null_mut::<c_char>(), 0);
            if (self.gil.PyBytes_AsStringAndSize)(bytes.as_ptr(), &mut data, &mut len) != 0 {
                return Err(Raised);
            }
            let data = std::slice::from_raw_parts(data.cast::<u8>(), len as usize);
            Ok(String::from_utf8_lossy(data).into_owned())
        }
    }

    /// Its class.
    pub fn class(&self) -> Result<Bound<'py>> {
        // SAFETY: the object lives; a new reference.
        unsafe { self.gil.owned((self.gil.PyObject_Type)(self.as_ptr())) }
    }

    /// The name of its class.
    pub fn class_name(&self) -> String {
        let name = self.class().and_then(|class| class.attribute(c"__name__"));
        let name = name.and_then(|name| name.string());
        name.unwrap_or_else(|_| "an exception".to_owned())
    }
}
