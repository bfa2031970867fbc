//! A process in which somebody else has started Python already, as another host
//! of Python in the same worker may have. In a test binary of its own, since a
//! process has one Python.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod host;

use std::ffi::{c_int, c_void};
use std::path::PathBuf;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW, Symbol};
use nonblocking_ffi_python::locate::{self, Wanted};

#[test]
fn a_python_that_runs_already_is_used() {
    let python = std::env::var_os("NBFFI_PYTHON").map(PathBuf::from);
    let wanted = Wanted { python, venv: None };
    let path = locate::find(&wanted).unwrap().library.path;
    // SAFETY: libpython; its functions have these types. It is not closed.
    unsafe {
        let library = Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL).unwrap();
        let start: Symbol<unsafe extern "C" fn(c_int)> = library.get(b"Py_InitializeEx").unwrap();
        let leave: Symbol<unsafe extern "C" fn() -> *mut c_void> =
            library.get(b"PyEval_SaveThread").unwrap();
        start(0);
        leave();
        std::mem::forget(library);
    }
    let rt = host::load(&[("entry", "zlib:crc32")]).unwrap();
    let said = rt.call("tea");
    assert!(
        said.failure().1.starts_with("TypeError: int was returned"),
        "{said:?}"
    );
    let other = host::load(&[("entry", "binascii:hexlify")]).unwrap();
    assert_eq!(other.call("tea").text(), "746561");
}
