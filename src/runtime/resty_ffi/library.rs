//! Opening a library that was written for lua-resty-ffi.
//!
//! Such a library calls functions that nobody defined when it was linked: the
//! three that this shared object exports. LuaJIT has opened this object for
//! itself alone, so it is opened once more here, *globally*, before the first
//! library is; then the dynamic linker finds them.
//!
//! Nothing that was opened is ever closed (see `runtime::library`). A library that
//! is to be loaded anew after its file has changed (`unpin`) is therefore opened
//! from a copy: to the dynamic linker, which knows files by name and number, that
//! is another library. The copy is made beside the file, and removed as soon as it
//! is open, since `$ORIGIN`, where the library may have what it is linked with, is
//! the folder that it is opened in. Where the worker may not write, a new file is
//! opened as it is, by its path in other words; a file that was written to while it
//! was open is copied into memory, where `$ORIGIN` means nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, OsStr, OsString, c_char, c_int, c_void};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::fd::FromRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use libloading::os::unix::{RTLD_GLOBAL, RTLD_LAZY};

use crate::runtime::library::{Library, Visibility, detail, file_of, this};

/// `libffi_init` of a library.
pub type InitFn = unsafe extern "C" fn(cfg: *mut c_char, tq: *mut c_void) -> c_int;

/// Which library, and how to open it.
#[derive(Debug)]
pub struct Source {
    /// Its name, for the search of the dynamic linker, or its path.
    pub name: OsString,
    /// Another path, in case that there is none of this name.
    pub otherwise: Option<OsString>,
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

/// What was opened.
#[derive(Default)]
struct Record {
    /// The version that was opened last, by path.
    last: BTreeMap<PathBuf, Opened>,
    /// The files that are mapped, by device and inode.
    mapped: BTreeSet<(u64, u64)>,
}

static RECORD: Mutex<Record> = Mutex::new(Record {
    last: BTreeMap::new(),
    mapped: BTreeSet::new(),
});

impl Source {
    /// Opens the library, if it is not open, and finds its `libffi_init`. `warn` is
    /// told what whoever runs the server should know.
    pub fn open(&self, warn: &dyn Fn(&str)) -> Result<InitFn, String> {
        let init = self.open_by_name(warn)?;
        let Some(path) = file_of(init as *const c_void) else {
            return Ok(init);
        };
        let version = fs::metadata(&path).ok().map(|file| Version::of(&file));
        let mut record = RECORD.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = record.last.get(&path).copied() else {
            record.mapped.extend(version.map(Version::file));
            record.last.insert(path, Opened { init, version });
            return Ok(init);
        };
        let Some(version) = version.filter(|_| self.fresh && known.version != version) else {
            // The version that was opened last, which need not be what the linker
            // knows by this name.
            return Ok(known.init);
        };
        let is_mapped = !record.mapped.insert(version.file());
        let init = self.open_anew(&path, is_mapped, warn)?;
        let version = Some(version);
        record.last.insert(path, Opened { init, version });
        Ok(init)
    }

    fn open_by_name(&self, warn: &dyn Fn(&str)) -> Result<InitFn, String> {
        let tried = self.open_as(&self.name, warn);
        match (tried, &self.otherwise) {
            (Ok(init), _) => Ok(init),
            (Err(error), None) => Err(error),
            (Err(error), Some(path)) => self
                .open_as(path, warn)
                .map_err(|second| format!("{error}; {second}")),
        }
    }

    fn open_as(&self, name: &OsStr, warn: &dyn Fn(&str)) -> Result<InitFn, String> {
        let visibility = if self.global {
            Visibility::Everybody
        } else {
            Visibility::OwnLazy
        };
        let library = Library::open(name, visibility)?;
        if let Some(warning) = &library.warning {
            warn(warning);
        }
        let init = library
            .function(c"libffi_init")
            .map_err(|why| format!("library \"{}\" has no libffi_init: {why}", library.shown()))?;
        // SAFETY: a function of the library's own, which has this type in every
        // library of the kind.
        Ok(unsafe { std::mem::transmute::<*const c_void, InitFn>(init) })
    }

    /// Opens what is now at a path that the linker knows. `is_mapped`: it knows the
    /// file, too, which has been written to.
    fn open_anew(
        &self,
        path: &Path,
        is_mapped: bool,
        warn: &dyn Fn(&str),
    ) -> Result<InitFn, String> {
        if let Ok(copy) = Copy::beside(path) {
            return self.open_as(copy.path.as_os_str(), warn);
        }
        // The folder is not this user's to write to.
        if !is_mapped {
            return self.open_as(&unmet(path), warn);
        }
        let copy = Copy::in_memory(path)
            .map_err(|error| format!("cannot copy library \"{}\": {error}", path.display()))?;
        self.open_as(copy.path.as_os_str(), warn)
    }
}

/// A number that is no other call's.
fn unique() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    // Relaxed: only the number matters.
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The same path, as the linker has not been told it yet.
fn unmet(path: &Path) -> OsString {
    let mut name = path
        .parent()
        .unwrap_or(Path::new("."))
        .as_os_str()
        .to_owned();
    name.push("/");
    name.push("./".repeat(unique()));
    name.push(path.file_name().unwrap_or_default());
    name
}

/// A copy of a file, which goes away when the linker has opened it.
struct Copy {
    path: PathBuf,
    /// If it is in memory; else it is a file at `path`.
    memory: Option<File>,
}

impl Copy {
    /// In the same folder.
    fn beside(original: &Path) -> io::Result<Self> {
        let mut name = OsString::from(".");
        name.push(original.file_name().unwrap_or_default());
        name.push(format!(".nbffi-{}-{}", std::process::id(), unique()));
        let path = original.with_file_name(name);
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o700)
            .open(&path)?;
        // From here on it is removed whatever happens.
        let copy = Self { path, memory: None };
        io::copy(&mut File::open(original)?, &mut file)?;
        Ok(copy)
    }

    /// In memory; there, `$ORIGIN` means nothing.
    fn in_memory(original: &Path) -> io::Result<Self> {
        // SAFETY: the name is a C string; the flags are defined.
        let descriptor = unsafe { libc::memfd_create(c"nbffi".as_ptr(), libc::MFD_CLOEXEC) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor of our own, made just now.
        let mut file = unsafe { File::from_raw_fd(descriptor) };
        io::copy(&mut File::open(original)?, &mut file)?;
        // The number of the descriptor will be used again.
        let path = unmet(Path::new(&format!("/proc/self/fd/{descriptor}")));
        Ok(Self {
            path: path.into(),
            memory: Some(file),
        })
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if self.memory.is_none() {
            // If that fails, it stays: a hidden file that says whose it is.
            let _ = fs::remove_file(&self.path);
        }
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

    /// What the linker knows a file by.
    fn file(self) -> (u64, u64) {
        (self.device, self.inode)
    }
}

/// Makes this object's symbols visible to libraries that are opened later.
/// `name` is one of those that they need: fails if they would get it from
/// somebody else.
pub fn show_exports(name: &CStr) -> Result<(), String> {
    let object = this(RTLD_LAZY | RTLD_GLOBAL)?;
    // SAFETY: only the address is asked for.
    let ours = unsafe { object.get::<*const c_void>(name.to_bytes_with_nul()) };
    let ours = ours.map_err(|error| detail(&error))?.into_raw();
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
