//! Opening a shared object, and finding functions in it.
//!
//! Opened by the pool thread that initialises a runtime, and never closed: the
//! threads, thread-locals and signal handlers of a language runtime do not survive
//! that.
//!
//! The file is looked at before the dynamic linker opens it ([`elf`]), so it is
//! found here, where the linker would find it. A function is one that the library
//! itself has: `dlsym` also finds what the libraries have that it is linked with,
//! `system` of the C library for instance. Libraries that it is linked with are
//! the dynamic linker's business alone.

use std::collections::BTreeMap;
use std::ffi::{CStr, OsStr, OsString, c_char, c_int, c_uint, c_void};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

#[cfg(target_pointer_width = "32")]
use libc::Elf32_Phdr as Segment;
#[cfg(target_pointer_width = "64")]
use libc::Elf64_Phdr as Segment;
use libloading::os::unix as linker;
use libloading::os::unix::{RTLD_GLOBAL, RTLD_LAZY, RTLD_LOCAL, RTLD_NOW};
use nonblocking_ffi_plugin::threads;

use super::elf::{self, Unfit};
use super::golang;
use crate::exit;
use crate::pool::cores;

/// The folders of libraries that the dynamic linker's cache usually lists.
const FOLDERS: [&str; 7] = [
    "/usr/local/lib",
    "/lib",
    "/usr/lib",
    "/lib64",
    "/usr/lib64",
    "/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
];

/// Go's runtime starts a thread for each processor, and some others.
const MORE_THREADS: usize = 8;

/// What was opened by each name: the path, by which the dynamic linker knows it,
/// whatever file is there now. One library is opened at a time: each Go runtime takes
/// a signal, and it has to be seen from whom.
static OPENED: Mutex<BTreeMap<OsString, OsString>> = Mutex::new(BTreeMap::new());

/// Who sees the symbols of a library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visibility {
    /// The library, and what asks for one by this handle.
    Own,
    /// All that is opened later. Functions that nobody has may be missing until
    /// they are called.
    Everybody,
    /// As `Own`, with functions that may be missing until they are called.
    OwnLazy,
}

/// A library that is open for the rest of the process's life.
#[derive(Debug)]
pub struct Library {
    handle: *mut c_void,
    shown: String,
    /// What whoever runs the server should know about it.
    pub warning: Option<String>,
}

impl Library {
    /// Opens a library by its path, or by its name, if the dynamic linker finds
    /// that.
    pub fn open(name: &OsStr, visibility: Visibility) -> Result<Self, String> {
        let shown = name.to_string_lossy().into_owned();
        let fail = |why: &str| format!("cannot load library \"{shown}\": {why}");
        let mut names = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
        let (path, is_go) = match names.get(name) {
            Some(path) => (path.clone(), false),
            None => look_at(name).map_err(|why| fail(&why))?,
        };
        let flags = match visibility {
            Visibility::Own => RTLD_NOW | RTLD_LOCAL,
            Visibility::OwnLazy => RTLD_LAZY | RTLD_LOCAL,
            Visibility::Everybody => RTLD_LAZY | RTLD_GLOBAL,
        };
        // SAFETY: opening a library runs its constructors, which is what the user
        // asked for; nothing of ours depends on what they do.
        let opened = unsafe { linker::Library::open(Some(&path), flags) };
        let opened = opened.map_err(|error| fail(&detail(&error)))?;
        settle();
        let warning = if is_go {
            golang::note(Path::new(&path))
        } else {
            None
        };
        names.insert(name.to_owned(), path);
        Ok(Self {
            handle: opened.into_raw(),
            warning,
            shown,
        })
    }

    /// The address of a function that the library itself has. The error says what
    /// there is instead.
    pub fn function(&self, name: &CStr) -> Result<*const c_void, String> {
        // SAFETY: any name may be looked up in an open library; the two calls of
        // `dlerror` tell a failure from a symbol that is null.
        let (found, error) = unsafe {
            libc::dlerror();
            let found = libc::dlsym(self.handle, name.as_ptr());
            (found, libc::dlerror())
        };
        if found.is_null() {
            if error.is_null() {
                return Err("its address is null".to_owned());
            }
            // SAFETY: a C string of the dynamic linker's, until the next call.
            return Err(unsafe { CStr::from_ptr(error) }.to_string_lossy().into());
        }
        match self.part_of(found) {
            Some(Part::Code) => Ok(found),
            Some(Part::Data) => Err("it is data, not a function".to_owned()),
            None => {
                let other = file_of(found).unwrap_or_default();
                Err(format!(
                    "{} has one, but it has none itself",
                    other.display()
                ))
            }
        }
    }

    /// What of the library an address belongs to, if to any.
    fn part_of(&self, address: *const c_void) -> Option<Part> {
        let mut search = Search {
            base: link_map(self.handle)?,
            address: address as usize,
            found: None,
        };
        // SAFETY: the function is called before this returns, with `search`.
        unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut search).cast()) };
        search.found
    }

    /// Its name or path, as it was opened.
    pub fn shown(&self) -> &str {
        &self.shown
    }
}

/// After whatever may have opened a library: what it registered to run at exit
/// must not run under threads that use it, and the signal of Go's runtimes is for
/// all of them.
pub fn settle() {
    exit::install();
    golang::share_signal();
}

/// What dlopen or dlsym said.
pub fn detail(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// The file of the library that an address belongs to.
pub fn file_of(address: *const c_void) -> Option<PathBuf> {
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Code,
    Data,
}

/// What [`look`] is to find.
struct Search {
    /// The library's: what its addresses are relative to, and its dynamic section.
    base: (usize, usize),
    address: usize,
    found: Option<Part>,
}

/// For each object of the process: whether it is the one, and has the address.
#[allow(clippy::useless_conversion, clippy::unnecessary_cast)] // 32-bit fields are smaller
unsafe extern "C" fn look(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    search: *mut c_void,
) -> c_int {
    // SAFETY: the linker's record, with as many segments as it says, and what was
    // passed with this function.
    let (base, segments, search) = unsafe {
        let info = &*info;
        let count = info.dlpi_phnum.into();
        let segments: &[Segment] = std::slice::from_raw_parts(info.dlpi_phdr, count);
        (
            info.dlpi_addr as usize,
            segments,
            &mut *search.cast::<Search>(),
        )
    };
    let start = |segment: &Segment| base.wrapping_add(segment.p_vaddr as usize);
    let mut dynamic = segments.iter().filter(|s| s.p_type == libc::PT_DYNAMIC);
    if !dynamic.any(|segment| (base, start(segment)) == search.base) {
        return 0;
    }
    let has = |segment: &&Segment| {
        let offset = search.address.wrapping_sub(start(segment));
        segment.p_type == libc::PT_LOAD && offset < segment.p_memsz as usize
    };
    search.found = segments.iter().find(has).map(|segment| {
        if segment.p_flags & libc::PF_X != 0 {
            Part::Code
        } else {
            Part::Data
        }
    });
    1
}

/// What tells an open library from all others: what its addresses are relative to,
/// and where its dynamic section is.
fn link_map(handle: *mut c_void) -> Option<(usize, usize)> {
    /// The beginning of the dynamic linker's record, which is the same everywhere.
    #[repr(C)]
    struct LinkMap {
        base: usize,
        name: *const c_char,
        dynamic: usize,
    }
    unsafe extern "C" {
        fn dlinfo(handle: *mut c_void, request: c_int, info: *mut c_void) -> c_int;
    }
    const RTLD_DI_LINKMAP: c_int = 2;
    let mut map = std::ptr::null::<LinkMap>();
    // SAFETY: an open library; the request writes one pointer, to a record that
    // lives as long as the library.
    unsafe {
        let failed = dlinfo(handle, RTLD_DI_LINKMAP, (&raw mut map).cast()) != 0;
        (!failed).then(|| ((*map).base, (*map).dynamic))
    }
}

/// What the dynamic linker is to be given for a name, and whether that brings a Go
/// runtime; or why it is not to be given that.
fn look_at(name: &OsStr) -> Result<(OsString, bool), String> {
    let path = locate(Path::new(name));
    match elf::check(&path) {
        Ok(is_go) => {
            if is_go {
                // Go ends the process when a thread is refused to it.
                let wanted = cores() + MORE_THREADS;
                threads::can_start(wanted).map_err(|error| {
                    format!(
                        "it is written in Go, whose runtime needs up to {wanted} threads: {error}"
                    )
                })?;
            }
            Ok((path.into(), is_go))
        }
        // The linker will say what is wrong.
        Err(Unfit::Unreadable) => Ok((name.to_owned(), false)),
        Err(Unfit::Because(why)) => Err(why),
    }
}

/// The file that the dynamic linker would open. A name that is found nowhere is
/// returned as it is.
fn locate(name: &Path) -> PathBuf {
    if name.components().count() > 1 || name.has_root() {
        return name.to_owned();
    }
    let mut folders = search_path();
    folders.extend(FOLDERS.map(PathBuf::from));
    let mut candidates = folders.into_iter().map(|folder| folder.join(name));
    let found = candidates.find(|path| std::fs::metadata(path).is_ok());
    found.unwrap_or_else(|| name.to_owned())
}

/// This shared object, opened once more.
pub fn this(flags: c_int) -> Result<linker::Library, String> {
    // A function that is not exported: another object's cannot stand in for it.
    let own = file_of(this as fn(c_int) -> Result<linker::Library, String> as *const c_void);
    let own = own.ok_or("this library does not know its own file")?;
    // SAFETY: this object is open already, so nothing of it is run.
    let opened = unsafe { linker::Library::open(Some(&own), libc::RTLD_NOLOAD | flags) };
    opened.map_err(|error| format!("{}: {}", own.display(), detail(&error)))
}

/// Where the dynamic linker looks for a name, according to itself: nginx has
/// cleared the environment in which LD_LIBRARY_PATH was.
#[cfg(target_env = "gnu")]
fn search_path() -> Vec<PathBuf> {
    #[repr(C)]
    struct Entry {
        name: *const c_char,
        flags: c_uint,
    }
    #[repr(C)]
    struct Info {
        size: usize,
        count: c_uint,
        entries: [Entry; 0],
    }
    let Ok(library) = this(RTLD_LAZY) else {
        return Vec::new();
    };
    let handle = library.into_raw();
    let mut size = MaybeUninit::<Info>::zeroed();
    // SAFETY: an open library; the request writes the head of the list alone.
    let size = unsafe {
        if libc::dlinfo(handle, libc::RTLD_DI_SERINFOSIZE, size.as_mut_ptr().cast()) != 0 {
            return Vec::new();
        }
        size.assume_init().size
    };
    let mut memory = vec![0_u64; size.div_ceil(8)];
    let info = memory.as_mut_ptr().cast::<Info>();
    // SAFETY: memory of the size that the linker asked for, aligned as it wants,
    // which both requests write; the names are in there, too.
    unsafe {
        if libc::dlinfo(handle, libc::RTLD_DI_SERINFOSIZE, info.cast()) != 0
            || libc::dlinfo(handle, libc::RTLD_DI_SERINFO, info.cast()) != 0
        {
            return Vec::new();
        }
        let entries = (&raw const (*info).entries).cast::<Entry>();
        let entries = std::slice::from_raw_parts(entries, (*info).count as usize);
        let names = entries.iter().map(|entry| CStr::from_ptr(entry.name));
        names
            .map(|name| PathBuf::from(OsStr::from_bytes(name.to_bytes())))
            .collect()
    }
}

/// Other linkers do not tell.
#[cfg(not(target_env = "gnu"))]
fn search_path() -> Vec<PathBuf> {
    let listed = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    std::env::split_paths(&listed).collect()
}
