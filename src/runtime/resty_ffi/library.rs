//! Opening a library that was written for lua-resty-ffi.
//!
//! Such a library calls functions that nobody defined when it was linked: the
//! three that this shared object exports. LuaJIT has opened this object for
//! itself alone, so it is opened once more here, *globally*, before the first
//! library is; then the dynamic linker finds them.
//!
//! Nothing that was opened is ever closed (see `runtime::c`). A library that is
//! to be loaded anew after its file has changed (`unpin`) is therefore opened
//! from a copy in memory: to the dynamic linker, which knows files by name and
//! number, that is another library.

use std::collections::HashMap;
use std::ffi::{c_char, c_int, c_void, CStr, OsStr};
use std::fs::{self, File, Metadata};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_LAZY, RTLD_LOCAL};

use crate::exit;
use crate::runtime::golang;

/// `libffi_init` of a library.
pub type InitFn = unsafe extern "C" fn(cfg: *mut c_char, tq: *mut c_void) -> c_int;

/// Which library, and how to open it.
#[derive(Debug)]
pub struct Source {
    /// Its name, for the search of the dynamic linker, or its path.
    pub name: String,
    /// Another path, in case that there is none of this name.
    pub otherwise: Option<String>,
    /// Whether its symbols, and those of what it is linked with, are for
    /// everybody.
    pub global: bool,
    /// Whether it is opened anew when its file has changed.
    pub fresh: bool,
}

/// What tells one version of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

/// A library that was opened.
#[derive(Debug, Clone, Copy)]
struct Opened {
    init: InitFn,
    /// `None` if there was no file to look at.
    version: Option<Version>,
}

/// The version of each file that was opened last, by path.
static OPENED: Mutex<Option<HashMap<PathBuf, Opened>>> = Mutex::new(None);

impl Source {
    /// Opens the library, if it is not open, and finds its `libffi_init`.
    pub fn open(&self) -> Result<InitFn, String> {
        let init = self.open_by_name()?;
        let Some(path) = file_of(init as *const c_void) else {
            return Ok(init);
        };
        let version = fs::metadata(&path).ok().map(|file| Version::of(&file));
        let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
        let opened = opened.get_or_insert_default();
        let first = Opened { init, version };
        let known = opened.entry(path.clone()).or_insert(first);
        if self.fresh && version.is_some() && known.version != version {
            let init = self.open_copy(&path)?;
            *known = Opened { init, version };
        }
        Ok(if self.fresh { known.init } else { init })
    }

    fn open_by_name(&self) -> Result<InitFn, String> {
        let tried = self.open_as(&self.name);
        match (tried, &self.otherwise) {
            (Ok(init), _) => Ok(init),
            (Err(error), None) => Err(error),
            (Err(error), Some(path)) => self
                .open_as(path)
                .map_err(|second| format!("{error}; {second}")),
        }
    }

    fn open_as(&self, name: impl AsRef<OsStr>) -> Result<InitFn, String> {
        let name = name.as_ref();
        let scope = if self.global { RTLD_GLOBAL } else { RTLD_LOCAL };
        let shown = name.to_string_lossy();
        let leave = golang::ask(&shown)?;
        // SAFETY: opening a library runs its constructors, which is what the
        // user asked for; nothing of ours depends on what they do.
        let object = unsafe { Library::open(Some(name), RTLD_LAZY | scope) }
            .map_err(|error| format!("cannot load library \"{shown}\": {}", detail(&error)))?;
        leave.use_up();
        // SAFETY: the symbol has this type in every library of the kind.
        let init = unsafe { object.get::<InitFn>(b"libffi_init\0").map(|symbol| *symbol) };
        std::mem::forget(object);
        // What the library registered to run at exit must not run under
        // threads that use it.
        exit::guard();
        init.map_err(|error| format!("library \"{shown}\" has no libffi_init: {}", detail(&error)))
    }

    /// Opens a copy of a file.
    fn open_copy(&self, path: &Path) -> Result<InitFn, String> {
        let copy = copy_of(path)
            .map_err(|error| format!("cannot copy library \"{}\": {error}", path.display()))?;
        // The linker would take a name that it has met before for the library
        // of that time, and the number of the descriptor will be used again.
        static COPIES: AtomicUsize = AtomicUsize::new(0);
        // Relaxed: only the number matters.
        let unique = "./".repeat(COPIES.fetch_add(1, Ordering::Relaxed));
        self.open_as(format!("/proc/self/fd/{unique}{}", copy.as_raw_fd()))
    }
}

impl Version {
    fn of(file: &Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
        }
    }
}

/// A copy of a file, in memory.
fn copy_of(path: &Path) -> io::Result<File> {
    // SAFETY: the name is a C string; the flags are defined.
    let descriptor = unsafe { libc::memfd_create(c"nbffi".as_ptr(), libc::MFD_CLOEXEC) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor of our own, made just now.
    let mut copy = unsafe { File::from_raw_fd(descriptor) };
    io::copy(&mut File::open(path)?, &mut copy)?;
    Ok(copy)
}

/// What dlopen or dlsym said.
fn detail(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// The file of the library that an address belongs to.
fn file_of(address: *const c_void) -> Option<PathBuf> {
    let mut about = MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: any address may be asked about; `about` is writable, and valid
    // when all of it is zero.
    let about = unsafe {
        let found = libc::dladdr(address, about.as_mut_ptr());
        (found != 0).then(|| about.assume_init())
    }?;
    if about.dli_fname.is_null() {
        return None;
    }
    // SAFETY: a C string of the dynamic linker's, which lives as long as the
    // library.
    let name = unsafe { CStr::from_ptr(about.dli_fname) };
    Some(PathBuf::from(OsStr::from_bytes(name.to_bytes())))
}

/// Makes this object's symbols visible to libraries that are opened later.
/// `name` is one of those that they need: fails if they would get it from
/// somebody else.
pub fn show_exports(name: &CStr) -> Result<(), String> {
    // A function that is not exported: another object's cannot stand in for it.
    let here = show_exports as fn(&CStr) -> Result<(), String>;
    let own = file_of(here as *const c_void).ok_or("this library does not know its own file")?;
    let shown = own.display();
    // SAFETY: this object is open already, so nothing of it is run.
    let object = unsafe { Library::open(Some(&own), libc::RTLD_NOLOAD | RTLD_LAZY | RTLD_GLOBAL) };
    let object =
        object.map_err(|error| format!("cannot make {shown} global: {}", detail(&error)))?;
    // SAFETY: only the address is asked for.
    let ours = unsafe { object.get::<*const c_void>(name.to_bytes_with_nul()) };
    let ours = ours.map_err(|error| format!("{shown}: {}", detail(&error)))?;
    let ours = ours.into_raw();
    std::mem::forget(object);
    // SAFETY: any name may be looked up.
    let visible = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    if !std::ptr::eq(visible, ours) {
        let other = file_of(visible).unwrap_or_default();
        return Err(format!(
            "{} has functions of lua-resty-ffi, too: use an nginx that was not patched for it",
            other.display()
        ));
    }
    Ok(())
}
