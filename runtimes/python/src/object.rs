//! Python's objects: owned references, texts, errors. All of it needs the GIL,
//! which a [`Gil`] shows that the thread has.

use std::ffi::{CStr, CString, c_char};
use std::marker::PhantomData;
use std::ptr::{NonNull, null, null_mut};

use crate::api::{Api, PyObject, PyThreadState};

/// Shows that this thread has the GIL, and leads to Python's functions.
///
/// Made where the GIL is taken, and not to be kept longer than it is had.
#[derive(Clone, Copy, Debug)]
pub struct Gil {
    api: &'static Api,
    /// Not for other threads.
    _here: PhantomData<*mut ()>,
}

impl std::ops::Deref for Gil {
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

/// A reference to an object that is counted.
#[derive(Debug)]
pub struct Ref {
    object: NonNull<PyObject>,
    api: &'static Api,
}

// SAFETY: an address; whoever uses what is behind it, or drops it, shows a Gil
// or answers for it.
unsafe impl Send for Ref {}
// SAFETY: as above.
unsafe impl Sync for Ref {}

impl Ref {
    /// The object, borrowed.
    pub fn as_ptr(&self) -> *mut PyObject {
        self.object.as_ptr()
    }

    /// Gives the reference away.
    pub fn into_ptr(self) -> *mut PyObject {
        let object = self.object.as_ptr();
        std::mem::forget(self);
        object
    }
}

impl Drop for Ref {
    fn drop(&mut self) {
        // SAFETY: a reference of ours. References are dropped by functions that
        // have a Gil, and by `Runtime::close`, which has one.
        unsafe { (self.api.Py_DecRef)(self.object.as_ptr()) };
    }
}

impl Gil {
    /// # Safety
    ///
    /// This thread has the GIL, and keeps it as long as the value is used.
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
    pub unsafe fn owned(self, object: *mut PyObject) -> Result<Ref> {
        match NonNull::new(object) {
            Some(object) => Ok(Ref {
                object,
                api: self.api,
            }),
            None => Err(Raised),
        }
    }

    /// A further reference to a borrowed object.
    ///
    /// # Safety
    ///
    /// The object lives.
    pub unsafe fn borrowed(self, object: *mut PyObject) -> Ref {
        // SAFETY: by the contract.
        unsafe {
            (self.Py_IncRef)(object);
            Ref {
                object: NonNull::new_unchecked(object),
                api: self.api,
            }
        }
    }

    /// A `str`. What is not UTF-8 becomes what `os.fsdecode` makes of it.
    pub fn text(self, text: &[u8]) -> Result<Ref> {
        let (data, len) = (text.as_ptr().cast(), text.len() as isize);
        // SAFETY: `len` readable bytes, which are copied; a new reference.
        unsafe {
            let object = (self.PyUnicode_DecodeUTF8)(data, len, c"surrogateescape".as_ptr());
            self.owned(object)
        }
    }

    /// `bytes`, a copy.
    pub fn bytes(self, data: &[u8]) -> Result<Ref> {
        // SAFETY: as for `text`.
        unsafe {
            let object =
                (self.PyBytes_FromStringAndSize)(data.as_ptr().cast(), data.len() as isize);
            self.owned(object)
        }
    }

    /// An `int`.
    pub fn int(self, number: u64) -> Result<Ref> {
        // SAFETY: a new reference.
        unsafe { self.owned((self.PyLong_FromUnsignedLongLong)(number)) }
    }

    /// A `tuple` of these.
    pub fn tuple<const N: usize>(self, items: [Ref; N]) -> Result<Ref> {
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

    /// An item of a tuple.
    pub fn item(self, tuple: &Ref, index: isize) -> Result<Ref> {
        // SAFETY: GetItem checks both; what it returns is borrowed.
        unsafe {
            let item = (self.PyTuple_GetItem)(tuple.as_ptr(), index);
            if item.is_null() {
                return Err(Raised);
            }
            Ok(self.borrowed(item))
        }
    }

    /// An attribute.
    pub fn attribute(self, object: &Ref, name: &CStr) -> Result<Ref> {
        // SAFETY: the object lives; a new reference.
        unsafe {
            self.owned((self.PyObject_GetAttrString)(
                object.as_ptr(),
                name.as_ptr(),
            ))
        }
    }

    /// Calls with the items of a tuple.
    pub fn call<const N: usize>(self, function: &Ref, arguments: [Ref; N]) -> Result<Ref> {
        let arguments = self.tuple(arguments)?;
        // SAFETY: both live; a new reference.
        unsafe {
            self.owned((self.PyObject_CallObject)(
                function.as_ptr(),
                arguments.as_ptr(),
            ))
        }
    }

    /// The text of a `str`, with `\udcff` and the like for what is no text.
    pub fn string(self, text: &Ref) -> Result<String> {
        // SAFETY: the functions check the types; `bytes` lives while its data
        // is copied.
        unsafe {
            let bytes = self.owned((self.PyUnicode_AsEncodedString)(
                text.as_ptr(),
                c"utf-8".as_ptr(),
                c"backslashreplace".as_ptr(),
            ))?;
            let (mut data, mut len) = (null_mut::<c_char>(), 0);
            if (self.PyBytes_AsStringAndSize)(bytes.as_ptr(), &mut data, &mut len) != 0 {
                return Err(Raised);
            }
            let data = std::slice::from_raw_parts(data.cast::<u8>(), len as usize);
            Ok(String::from_utf8_lossy(data).into_owned())
        }
    }

    /// The exception that is set, which is not set any more. `None` if there is
    /// none.
    pub fn take_exception(self) -> Option<Ref> {
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
        // SAFETY: the object lives; new references.
        let text = unsafe { self.owned((self.PyObject_Str)(error.as_ptr())) };
        let text = text.and_then(|text| self.string(&text));
        let class = self.class_name(&error);
        // What was raised by describing it is of no interest.
        // SAFETY: the GIL is there.
        unsafe { (self.PyErr_Clear)() };
        format!("{class}: {}", text.unwrap_or_default())
    }

    /// The name of an object's class.
    pub fn class_name(self, object: &Ref) -> String {
        // SAFETY: the object lives; a new reference.
        let class = unsafe { self.owned((self.PyObject_Type)(object.as_ptr())) };
        let name = class.and_then(|class| self.attribute(&class, c"__name__"));
        let name = name.and_then(|name| self.string(&name));
        name.unwrap_or_else(|_| "an exception".to_owned())
    }

    /// Sets a `TypeError`.
    pub fn type_error(self, message: &str) -> Raised {
        let message = CString::new(message).unwrap_or_default();
        // SAFETY: the class lives as long as Python; the message is copied.
        unsafe { (self.PyErr_SetString)(self.class(self.PyExc_TypeError), message.as_ptr()) };
        Raised
    }

    /// Compiles a source and runs it as a module.
    pub fn run_module(self, name: &CStr, file: &CStr, source: &CStr) -> Result<Ref> {
        // SAFETY: terminated texts, which are copied; new references.
        unsafe {
            let code = self.owned((self.Py_CompileString)(
                source.as_ptr(),
                file.as_ptr(),
                crate::api::PY_FILE_INPUT,
            ))?;
            self.owned((self.PyImport_ExecCodeModule)(name.as_ptr(), code.as_ptr()))
        }
    }

    /// Runs something that needs no GIL, without. The calling thread has it
    /// again afterwards, also if there was a panic.
    pub fn without<T>(self, work: impl FnOnce() -> T) -> T {
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
    pub fn stop(self, thread: u64, class: &Ref) {
        // SAFETY: an exception class; Python takes a reference of its own.
        unsafe { (self.PyThreadState_SetAsyncExc)(thread, class.as_ptr()) };
    }
}

/// A pointer to nothing, for optional arguments.
pub const NOTHING: *const *mut PyObject = null();
