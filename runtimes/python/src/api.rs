//! libpython: opening it, and its functions.
//!
//! All functions but a few are of the stable ABI, so that their names and
//! signatures hold for every CPython from 3.9 on. The others are said to be so
//! below. Nothing of Python's structures is looked into, but for those that the
//! caller of a function fills in himself.

use std::ffi::{CStr, c_char, c_int, c_long, c_ulong, c_void};
use std::path::{Path, PathBuf};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_LAZY, RTLD_LOCAL, RTLD_NOW};

/// The oldest minor version of Python 3 that works.
pub const OLDEST_MINOR: u32 = 9;
/// The newest one that this was written for; newer ones are taken too, as the
/// stable ABI promises that they work.
pub const NEWEST_MINOR: u32 = 14;

/// Any object of Python's.
#[repr(C)]
#[derive(Debug)]
pub struct PyObject {
    _opaque: [u8; 0],
}

/// What Python knows of a thread.
#[repr(C)]
#[derive(Debug)]
pub struct PyThreadState {
    _opaque: [u8; 0],
}

/// How initialisation ended.
#[repr(C)]
#[derive(Debug)]
pub struct PyStatus {
    /// 0 if it worked.
    pub kind: c_int,
    /// The function that says so; may be NULL.
    pub func: *const c_char,
    /// Why not; may be NULL.
    pub err_msg: *const c_char,
    /// What a program would exit with.
    pub exitcode: c_int,
}

/// Bytes of an object that has some.
#[repr(C)]
#[derive(Debug)]
#[allow(missing_docs, reason = "documented by Python")]
pub struct Py_buffer {
    pub buf: *mut c_void,
    pub obj: *mut PyObject,
    pub len: isize,
    pub itemsize: isize,
    pub readonly: c_int,
    pub ndim: c_int,
    pub format: *mut c_char,
    pub shape: *mut isize,
    pub strides: *mut isize,
    pub suboffsets: *mut isize,
    pub internal: *mut c_void,
}

/// A function written here that Python code calls with its arguments in an
/// array.
pub type FastCall = unsafe extern "C" fn(
    this: *mut PyObject,
    args: *const *mut PyObject,
    n: isize,
) -> *mut PyObject;

/// Describes such a function to Python.
#[repr(C)]
#[derive(Debug)]
pub struct PyMethodDef {
    /// Its name.
    pub name: *const c_char,
    /// The function.
    pub meth: FastCall,
    /// [`METH_FASTCALL`].
    pub flags: c_int,
    /// Its documentation, or NULL.
    pub doc: *const c_char,
}

/// `meth` is a [`FastCall`].
pub const METH_FASTCALL: c_int = 0x80;
/// `Py_CompileString`: a file.
pub const PY_FILE_INPUT: c_int = 257;
/// `PyObject_GetBuffer`: contiguous bytes, to be read.
pub const PY_BUF_SIMPLE: c_int = 0;
/// `PyObject_Vectorcall`: the place before the arguments may be used.
pub const VECTORCALL_OFFSET: usize = 1 << (usize::BITS - 1);

macro_rules! api {
    ($(fn $name:ident($($arg:ty),*) $(-> $ret:ty)?;)*
     $(optional fn $maybe:ident($($marg:ty),*) $(-> $mret:ty)?;)*
     $(static $data:ident;)*) => {
        /// The functions and objects of libpython that are used.
        #[allow(non_snake_case, missing_docs, reason = "documented by Python")]
        pub struct Api {
            $(pub $name: unsafe extern "C" fn($($arg),*) $(-> $ret)?,)*
            $(pub $maybe: Option<unsafe extern "C" fn($($marg),*) $(-> $mret)?>,)*
            /// Variadic: the function, its arguments, NULL.
            pub PyObject_CallFunctionObjArgs:
                unsafe extern "C" fn(*mut PyObject, ...) -> *mut PyObject,
            $(pub $data: *mut PyObject,)*
        }

        impl Api {
            fn from(library: &Library) -> Result<Self, String> {
                // SAFETY: the symbols have these types in every version; see
                // the module's comment.
                unsafe {
                    Ok(Self {
                        $($name: *symbol(library, stringify!($name))?,)*
                        $($maybe: symbol(library, stringify!($maybe)).ok().map(|s| *s),)*
                        PyObject_CallFunctionObjArgs:
                            *symbol(library, "PyObject_CallFunctionObjArgs")?,
                        $($data: *symbol::<*mut PyObject>(library, stringify!($data))?,)*
                    })
                }
            }
        }
    };
}

api! {
    // Starting. Those of PEP 587 are public but not of the stable ABI; their
    // arguments are structures that they fill in themselves (see interpreter).
    fn Py_IsInitialized() -> c_int;
    fn PyPreConfig_InitIsolatedConfig(*mut c_void);
    fn Py_PreInitialize(*const c_void) -> PyStatus;
    fn PyConfig_InitIsolatedConfig(*mut c_void);
    fn Py_InitializeFromConfig(*const c_void) -> PyStatus;
    fn PyConfig_Clear(*mut c_void);
    fn Py_DecodeLocale(*const c_char, *mut usize) -> *mut i32;

    // Threads.
    fn PyGILState_Ensure() -> c_int;
    fn PyEval_SaveThread() -> *mut PyThreadState;
    fn PyEval_RestoreThread(*mut PyThreadState);
    fn PyThread_get_thread_ident() -> c_ulong;
    fn PyThreadState_SetAsyncExc(c_ulong, *mut PyObject) -> c_int;

    // Objects.
    fn Py_IncRef(*mut PyObject);
    fn Py_DecRef(*mut PyObject);
    fn PyObject_GetAttrString(*mut PyObject, *const c_char) -> *mut PyObject;
    fn PyObject_SetAttrString(*mut PyObject, *const c_char, *mut PyObject) -> c_int;
    fn PyObject_IsInstance(*mut PyObject, *mut PyObject) -> c_int;
    fn PyObject_Str(*mut PyObject) -> *mut PyObject;
    fn PyObject_Type(*mut PyObject) -> *mut PyObject;
    fn PyObject_CallObject(*mut PyObject, *mut PyObject) -> *mut PyObject;
    // Of the stable ABI since 3.11, unchanged since long before.
    fn PyObject_GetBuffer(*mut PyObject, *mut Py_buffer, c_int) -> c_int;
    fn PyBuffer_Release(*mut Py_buffer);

    // Values.
    fn PyBytes_FromStringAndSize(*const c_char, isize) -> *mut PyObject;
    fn PyBytes_AsStringAndSize(*mut PyObject, *mut *mut c_char, *mut isize) -> c_int;
    fn PyUnicode_DecodeUTF8(*const c_char, isize, *const c_char) -> *mut PyObject;
    fn PyUnicode_DecodeFSDefaultAndSize(*const c_char, isize) -> *mut PyObject;
    fn PyUnicode_AsEncodedString(*mut PyObject, *const c_char, *const c_char) -> *mut PyObject;
    fn PyLong_FromUnsignedLongLong(u64) -> *mut PyObject;
    fn PyLong_AsUnsignedLongLong(*mut PyObject) -> u64;
    fn PyLong_AsLongLong(*mut PyObject) -> i64;
    fn PyBool_FromLong(c_long) -> *mut PyObject;
    fn PyList_New(isize) -> *mut PyObject;
    fn PyList_Append(*mut PyObject, *mut PyObject) -> c_int;
    fn PyTuple_New(isize) -> *mut PyObject;
    fn PyTuple_SetItem(*mut PyObject, isize, *mut PyObject) -> c_int;
    fn PyTuple_GetItem(*mut PyObject, isize) -> *mut PyObject;
    fn PyDict_New() -> *mut PyObject;
    fn PyDict_SetItemString(*mut PyObject, *const c_char, *mut PyObject) -> c_int;

    // Modules.
    fn Py_CompileString(*const c_char, *const c_char, c_int) -> *mut PyObject;
    fn PyImport_ExecCodeModule(*const c_char, *mut PyObject) -> *mut PyObject;
    fn PyImport_AddModule(*const c_char) -> *mut PyObject;
    fn PyCFunction_NewEx(*mut PyMethodDef, *mut PyObject, *mut PyObject) -> *mut PyObject;

    // Errors. The three of Fetch are deprecated since 3.12, and stay.
    fn PyErr_Fetch(*mut *mut PyObject, *mut *mut PyObject, *mut *mut PyObject);
    fn PyErr_NormalizeException(*mut *mut PyObject, *mut *mut PyObject, *mut *mut PyObject);
    fn PyException_SetTraceback(*mut PyObject, *mut PyObject) -> c_int;
    fn PyErr_Occurred() -> *mut PyObject;
    fn PyErr_Clear();
    fn PyErr_SetString(*mut PyObject, *const c_char);

    // Of the stable ABI since 3.12; there since 3.11 (before, a macro).
    optional fn PyObject_Vectorcall(*mut PyObject, *const *mut PyObject, usize, *mut PyObject)
        -> *mut PyObject;
    // Deprecated since 3.11, to be removed in 3.15.
    optional fn Py_SetProgramName(*const i32);

    static _Py_NoneStruct;
    static PyUnicode_Type;
    static PyExc_TypeError;
    static PyExc_ValueError;
}

impl Api {
    /// The exception class behind one of the `PyExc_` symbols, which are
    /// variables that hold it.
    ///
    /// # Safety
    ///
    /// Python is initialised, and `class` is such a symbol.
    pub unsafe fn class(&self, class: *mut PyObject) -> *mut PyObject {
        // SAFETY: by the contract.
        unsafe { *class.cast::<*mut PyObject>() }
    }
}

// SAFETY: addresses of functions and of objects that live as long as the
// library, which is never closed. What may be done with them in which thread is
// said where it is done.
unsafe impl Send for Api {}
// SAFETY: as above.
unsafe impl Sync for Api {}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").finish_non_exhaustive()
    }
}

/// # Safety
///
/// The symbol has the type `T`.
unsafe fn symbol<T>(
    library: &Library,
    name: &str,
) -> Result<libloading::os::unix::Symbol<T>, String> {
    // SAFETY: by the contract.
    unsafe { library.get(name.as_bytes()) }.map_err(|_| format!("it has no function {name}"))
}

/// A libpython that is open.
#[derive(Debug)]
pub struct LibPython {
    /// Its file.
    pub path: PathBuf,
    /// Its version, for example `3.11.2`.
    pub version: String,
    /// Its minor version.
    pub minor: u32,
    /// Its functions.
    pub api: Api,
}

impl LibPython {
    /// Opens a libpython, by its path, or by its name if the dynamic linker
    /// knows where it is. It is never closed.
    ///
    /// # Errors
    ///
    /// If it cannot be opened, or is of a version that does not work.
    pub fn open(file: &Path) -> Result<Self, String> {
        // What is not wanted must not leave its symbols to all the world: a
        // look first.
        // SAFETY: opening a library runs its constructors; libpython has none
        // that matter, and it is what the user asked for.
        let look = unsafe { Library::open(Some(file), RTLD_LAZY | RTLD_LOCAL) }
            .map_err(|error| detail(&error))?;
        // SAFETY: the function has this type.
        let (version, path) = unsafe {
            let get: libloading::os::unix::Symbol<unsafe extern "C" fn() -> *const c_char> =
                symbol(&look, "Py_GetVersion")?;
            let text = CStr::from_ptr(get()).to_string_lossy().into_owned();
            (text, file_of(*get as *const c_void))
        };
        if version.contains("free-threading build") {
            return Err("is a free-threaded build, which is not supported".to_owned());
        }
        let version = first_word(&version);
        let minor = minor_of(&version)?;
        // C extensions (numpy, ctypes) find Python's symbols among the global
        // ones.
        // SAFETY: as above.
        let library = unsafe { Library::open(Some(file), RTLD_NOW | RTLD_GLOBAL) }
            .map_err(|error| detail(&error))?;
        let api = Api::from(&library)?;
        // Never closed: its threads and thread-local data would not survive.
        std::mem::forget(library);
        std::mem::forget(look);
        Ok(Self {
            path: path.unwrap_or_else(|| file.to_owned()),
            version,
            minor,
            api,
        })
    }
}

fn first_word(text: &str) -> String {
    text.split_whitespace().next().unwrap_or("").to_owned()
}

fn minor_of(version: &str) -> Result<u32, String> {
    let mut numbers = version.split('.');
    let major = numbers.next();
    // `3.13.0rc2+`: digits only.
    let minor = numbers.next().and_then(|text| text.parse::<u32>().ok());
    match (major, minor) {
        (Some("3"), Some(minor)) if minor >= OLDEST_MINOR => Ok(minor),
        _ => Err(format!(
            "is Python {version}; 3.{OLDEST_MINOR} or later is needed"
        )),
    }
}

/// What dlopen said.
fn detail(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// The file that an address is loaded from.
fn file_of(address: *const c_void) -> Option<PathBuf> {
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: `info` is writable; any address may be asked for.
    let found = unsafe { libc::dladdr(address, info.as_mut_ptr()) };
    // SAFETY: zeroed before, and filled in if something was found.
    let name = unsafe { info.assume_init() }.dli_fname;
    if found == 0 || name.is_null() {
        return None;
    }
    // SAFETY: the name of a loaded object, which lives as long as it does.
    let name = unsafe { CStr::from_ptr(name) };
    let path = Path::new(name.to_str().ok()?);
    Some(path.canonicalize().unwrap_or_else(|_| path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(minor_of("3.9.18"), Ok(9));
        assert_eq!(minor_of("3.14.0a1+"), Ok(14));
        for version in ["3.8.18", "2.7.18", "4.1", "", "3"] {
            let said = minor_of(version).unwrap_err();
            assert!(said.contains("3.9 or later"), "{said}");
        }
    }

    #[test]
    fn what_is_no_libpython_is_refused() {
        let said = LibPython::open(Path::new("libc.so.6")).unwrap_err();
        assert!(said.contains("Py_GetVersion"), "{said}");
        let said = LibPython::open(Path::new("/nonexistent/libpython3.11.so")).unwrap_err();
        assert!(said.contains("No such file"), "{said}");
    }
}
