//! Opening a shared object, and finding functions in it.
//!
//! The pool thread that initialises a runtime opens the library. It is never closed: the
//! threads, thread-locals and signal handlers of a language runtime do not survive that.
//!
//! The file is checked before the dynamic linker opens it ([`elf`]), so this searches
//! where the linker would search. It does not check the libraries that the file is linked
//! with. A function must be in the library itself: `dlsym` also finds functions of linked
//! libraries, such as `system` of the C library.

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

/// Go's runtime starts so many threads in addition to one for each processor.
const MORE_THREADS: usize = 8;

/// The path that was opened for each name. The dynamic linker knows the library by it,
/// whatever file is there now. One library is opened at a time: each Go runtime takes a
/// signal, and `golang` must see which one did.
static OPENED: Mutex<BTreeMap<OsString, OsString>> = Mutex::new(BTreeMap::new());

/// Which code can use the symbols of a library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visibility {
    /// The library itself, and lookups by its handle.
    Own,
    /// All libraries that are opened later. Functions may be missing until they are
    /// called.
    Everybody,
    /// As `Own`, but functions may be missing until they are called.
    OwnLazy,
}

/// A library that is open for the rest of the process's life.
#[derive(Debug)]
pub struct Library {
    handle: *mut c_void,
    shown: String,
    /// A warning for the operator.
    pub warning: Option<String>,
}

impl Library {
    /// Opens a library by its path, or by a name that the dynamic linker finds.
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
        // SAFETY: opening a library runs its constructors, as the user asked; this
        // library depends on nothing that they change.
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

    /// The address of a function of the library itself. The error says what was found
    /// instead.
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
            // SAFETY: a C string of the dynamic linker, valid until the next call.
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

    /// Which part of the library an address belongs to; `None` if to no part.
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

/// Called after anything that may have opened a library. Its exit handlers must not run
/// while threads use it, and Go's runtimes must share their signal.
pub fn settle() {
    exit::install();
    golang::share_signal();
}

/// The message of dlopen or dlsym.
pub fn detail(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// The file of the library that an address belongs to.
pub fn file_of(address: *const c_void) -> Option<PathBuf> {
    let mut about = MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: takes any address; `about` is writable, and zeros are valid.
    let about = unsafe {
        let found = libc::dladdr(address, about.as_mut_ptr());
        (found != 0).then(|| about.assume_init())
    }?;
    if about.dli_fname.is_null() {
        return None;
    }
    // SAFETY: a C string of the dynamic linker, which lives as long as the library.
    let name = unsafe { CStr::from_ptr(about.dli_fname) };
    Some(PathBuf::from(OsStr::from_bytes(name.to_bytes())))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Code,
    Data,
}

/// What [`look`] searches for.
struct Search {
    /// Of the library: what its addresses are relative to, and its dynamic section.
    base: (usize, usize),
    address: usize,
    found: Option<Part>,
}

/// Called for each object of the process: whether it is the library, and which part of it
/// the address belongs to.
#[allow(clippy::useless_conversion, clippy::unnecessary_cast)] // 32-bit fields are smaller
unsafe extern "C" fn look(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    search: *mut c_void,
) -> c_int {
    // SAFETY: the linker's record, with as many segments as it says, and the `Search` that
    // was passed with this function.
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

/// Identifies an open library: what its addresses are relative to, and where its dynamic
/// section is.
fn link_map(handle: *mut c_void) -> Option<(usize, usize)> {
    /// The start of the dynamic linker's record, which all C libraries have in common.
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

/// The path to pass to the dynamic linker for a name, and whether the library has a Go
/// runtime; or why it must not be opened.
fn look_at(name: &OsStr) -> Result<(OsString, bool), String> {
    let path = locate(Path::new(name));
    match elf::check(&path) {
        Ok(is_go) => {
            if is_go {
                // Go ends the process when it cannot start a thread.
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

/// The file that the dynamic linker would open, or the name itself if there is none.
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
    // This function is not exported, so no other object can replace it.
    let own = file_of(this as fn(c_int) -> Result<linker::Library, String> as *const c_void);
    let own = own.ok_or("this library does not know its own file")?;
    // SAFETY: this object is open already, so no constructor runs.
    let opened = unsafe { linker::Library::open(Some(&own), libc::RTLD_NOLOAD | flags) };
    opened.map_err(|error| format!("{}: {}", own.display(), detail(&error)))
}

/// The dynamic linker's search path, as it reports it: nginx has removed LD_LIBRARY_PATH
/// from the environment.
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
    // SAFETY: an open library; the request only writes the head of the list.
    let size = unsafe {
        if libc::dlinfo(handle, libc::RTLD_DI_SERINFOSIZE, size.as_mut_ptr().cast()) != 0 {
            return Vec::new();
        }
        size.assume_init().size
    };
    let mut memory = vec![0_u64; size.div_ceil(8)];
    let info = memory.as_mut_ptr().cast::<Info>();
    // SAFETY: memory of the size and alignment that the linker asked for. Both requests
    // write it; it contains the names, too.
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

/// Other linkers do not report it.
#[cfg(not(target_env = "gnu"))]
fn search_path() -> Vec<PathBuf> {
    let listed = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    std::env::split_paths(&listed).collect()
}
