//! At most one Go library in a process.
//!
//! A library that Go has built brings a Go runtime of its own. Two of these do
//! not know of each other: the one that came last takes the signals with which
//! the other one stops its goroutines, and is asked about faults in code that it
//! does not know. So the second one is refused before it is opened; its
//! constructors would start it.
//!
//! Whether an ELF file is Go's is in its section headers: the linker puts what
//! `go version` reads into `.go.buildinfo`, and `strip` keeps it.

use std::ffi::{c_int, c_void, CStr};
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nonblocking_ffi_plugin::threads;

use crate::pool::cores;

/// Where the dynamic linker looks for a name without a slash, besides
/// `LD_LIBRARY_PATH`: the usual folders.
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

/// The first Go library that was opened by this process.
static FIRST: First = First(Mutex::new(None));

/// A file, by name and by what the kernel knows it by.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Library {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Library {
    fn new(path: &Path, metadata: &Metadata) -> Self {
        Self {
            path: path.to_owned(),
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }

    /// Whether the dynamic linker would take one for the other.
    fn is(&self, other: &Self) -> bool {
        self.path == other.path || (self.device, self.inode) == (other.device, other.inode)
    }
}

#[derive(Debug)]
struct First(Mutex<Option<Library>>);

/// Leave to open a library. What was the first Go library, and then could not
/// be opened, is not the first one any more.
#[derive(Debug)]
#[must_use]
pub struct Leave<'a> {
    first: &'a First,
    took_place: bool,
}

impl Leave<'_> {
    /// The library was opened.
    pub fn use_up(mut self) {
        self.took_place = false;
    }
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        if self.took_place {
            *self.first.lock() = None;
        }
    }
}

/// Asks for leave to open a library, which is given to all but the second one
/// that is written in Go. The error names both.
///
/// `library` is what `dlopen` is to be given. One that cannot be found or read
/// is not Go's: `dlopen` will say what is wrong with it.
pub fn ask(library: &str) -> Result<Leave<'static>, String> {
    let leave = FIRST.ask(Path::new(library), others)?;
    if leave.took_place {
        // Go ends the process when a thread is refused to it.
        let wanted = cores() + MORE_THREADS;
        threads::can_start(wanted).map_err(|error| {
            format!(
                "cannot load library \"{library}\": it is written in Go, whose runtime needs up \
                 to {wanted} threads: {error}"
            )
        })?;
    }
    Ok(leave)
}

impl First {
    fn lock(&self) -> MutexGuard<'_, Option<Library>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As `ask`; `others` finds Go libraries that somebody else has opened.
    fn ask(&self, path: &Path, others: fn() -> Vec<Library>) -> Result<Leave<'_>, String> {
        let mut leave = Leave {
            first: self,
            took_place: false,
        };
        let Some(library) = find(path) else {
            return Ok(leave);
        };
        let mut first = self.lock();
        let known = first.clone().or_else(|| {
            let others = others();
            let same = others.iter().find(|other| other.is(&library));
            same.or(others.first()).cloned()
        });
        if let Some(known) = known {
            if known.is(&library) {
                return Ok(leave);
            }
            return Err(format!(
                "cannot load library \"{}\": it is written in Go, and so is \"{}\", which this \
                 process has loaded already; two Go runtimes in one process disturb each other, \
                 so register all functions in one library",
                path.display(),
                known.path.display(),
            ));
        }
        *first = Some(library);
        leave.took_place = true;
        Ok(leave)
    }
}

/// The file that `dlopen` would open, if it is a Go library.
fn find(path: &Path) -> Option<Library> {
    if path.components().count() > 1 {
        return examine(path);
    }
    let listed = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
    let mut folders = listed.split([':', ';']).chain(FOLDERS);
    folders.find_map(|folder| examine(&Path::new(folder).join(path)))
}

/// A file, if it is a Go library.
fn examine(path: &Path) -> Option<Library> {
    let file = File::open(path).ok()?;
    let metadata = file.metadata().ok()?;
    let is_go = metadata.is_file() && has_section(&file, b".go.buildinfo").unwrap_or(false);
    is_go.then(|| Library::new(path, &metadata))
}

/// The Go libraries that are in this process. One whose file is gone is not
/// seen.
fn others() -> Vec<Library> {
    unsafe extern "C" fn note(
        info: *mut libc::dl_phdr_info,
        _size: libc::size_t,
        found: *mut c_void,
    ) -> c_int {
        // SAFETY: the linker's record, with a terminated name, and the vector
        // that was passed with this function.
        let (name, found) = unsafe {
            let name = (*info).dlpi_name;
            if name.is_null() {
                return 0;
            }
            (CStr::from_ptr(name), &mut *found.cast::<Vec<PathBuf>>())
        };
        // The program itself has no name.
        if let (Ok(name), false) = (name.to_str(), name.is_empty()) {
            found.push(name.into());
        }
        0
    }
    let mut paths: Vec<PathBuf> = Vec::new();
    // SAFETY: the function is called before this returns, with the vector.
    unsafe { libc::dl_iterate_phdr(Some(note), (&raw mut paths).cast()) };
    paths.iter().filter_map(|path| examine(path)).collect()
}

/// What of the layout of a 64-bit ELF file is needed, as (place, bytes).
mod layout {
    pub type Field = (usize, usize);
    pub const HEADER: usize = 64;
    pub const SECTIONS: Field = (40, 8);
    pub const SECTION_SIZE: Field = (58, 2);
    pub const SECTION_COUNT: Field = (60, 2);
    pub const NAMES_INDEX: Field = (62, 2);
    pub const SECTION: usize = 64;
    pub const NAME: Field = (0, 4);
    pub const OFFSET: Field = (24, 8);
}

/// A number in the byte order of this machine.
fn number(bytes: &[u8], (place, size): layout::Field) -> u64 {
    let digits = bytes[place..place + size].iter();
    let combine = |value: u64, &byte: &u8| value << 8 | u64::from(byte);
    if cfg!(target_endian = "little") {
        digits.rev().fold(0, combine)
    } else {
        digits.fold(0, combine)
    }
}

/// Whether an ELF file has a section of this name; an error if it is none, or
/// damaged.
fn has_section(file: &File, name: &[u8]) -> io::Result<bool> {
    let mut header = [0; layout::HEADER];
    file.read_exact_at(&mut header, 0)?;
    // 64 bits, in this machine's byte order.
    let order = if cfg!(target_endian = "little") { 1 } else { 2 };
    if header[..6] != [0x7f, b'E', b'L', b'F', 2, order] {
        return Ok(false);
    }
    let start = number(&header, layout::SECTIONS);
    let size = number(&header, layout::SECTION_SIZE);
    let section = |index: u64| -> io::Result<[u8; layout::SECTION]> {
        let mut section = [0; layout::SECTION];
        file.read_exact_at(&mut section, start.saturating_add(index * size))?;
        Ok(section)
    };
    let names = section(number(&header, layout::NAMES_INDEX))?;
    let names = number(&names, layout::OFFSET);
    let mut found = vec![0; name.len() + 1];
    for index in 0..number(&header, layout::SECTION_COUNT) {
        let place = number(&section(index)?, layout::NAME);
        // A name at the end of the file may be too short to be this one.
        let read = file.read_exact_at(&mut found, names.saturating_add(place));
        if read.is_ok() && found.split_last() == Some((&0, name)) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::fs;

    /// A folder for one test, which goes away with it.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("nbffi-go-{name}-{}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        /// A file that looks like a library with one section.
        fn library(&self, name: &str, section: &str) -> PathBuf {
            let mut elf = vec![0_u8; 64];
            let order = if cfg!(target_endian = "little") { 1 } else { 2 };
            elf[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, order]);
            let mut put = |(place, size): layout::Field, value: u64| {
                let bytes = value.to_ne_bytes();
                let bytes = if cfg!(target_endian = "little") {
                    &bytes[..size]
                } else {
                    &bytes[8 - size..]
                };
                elf[place..place + size].copy_from_slice(bytes);
            };
            put(layout::SECTIONS, 64);
            put(layout::SECTION_SIZE, 64);
            put(layout::SECTION_COUNT, 2);
            put(layout::NAMES_INDEX, 1);
            let mut sections = vec![0_u8; 128];
            sections[0..4].copy_from_slice(&1_u32.to_ne_bytes());
            sections[64 + 24..64 + 32].copy_from_slice(&192_u64.to_ne_bytes());
            elf.extend(sections);
            elf.extend(format!("\0{section}\0").bytes());
            let path = self.0.join(name);
            fs::write(&path, elf).unwrap();
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn nobody() -> Vec<Library> {
        Vec::new()
    }

    #[test]
    fn go_is_told_from_others() {
        let folder = Folder::new("told");
        assert!(examine(&folder.library("go.so", ".go.buildinfo")).is_some());
        assert!(examine(&folder.library("c.so", ".go.buildinfos")).is_none());
        assert!(examine(&folder.library("d.so", "x.go.buildinfo")).is_none());
        assert!(examine(&folder.library("e.so", ".text")).is_none());
        assert!(examine(&folder.0).is_none());
        assert!(examine(&folder.0.join("none.so")).is_none());
        assert!(examine(&std::env::current_exe().unwrap()).is_none());
        // Damaged ones.
        let go = fs::read(folder.library("go.so", ".go.buildinfo")).unwrap();
        for length in 0..go.len() {
            let path = folder.0.join("cut.so");
            fs::write(&path, &go[..length]).unwrap();
            assert!(examine(&path).is_none(), "{length} bytes");
        }
        for place in 6..go.len() {
            let mut broken = go.clone();
            broken[place] ^= 0xff;
            let path = folder.0.join("broken.so");
            fs::write(&path, broken).unwrap();
            let _ = examine(&path);
        }
    }

    #[test]
    fn the_second_one_is_refused() {
        let folder = Folder::new("second");
        let one = folder.library("one.so", ".go.buildinfo");
        let two = folder.library("two.so", ".go.buildinfo");
        let other = folder.library("other.so", ".text");
        let first = First(Mutex::new(None));
        first.ask(&one, nobody).unwrap().use_up();
        first.ask(&one, nobody).unwrap().use_up();
        first.ask(&other, nobody).unwrap().use_up();
        let error = first.ask(&two, nobody).unwrap_err();
        assert!(
            error.contains("one.so") && error.contains("two.so"),
            "{error}"
        );
        // The same file by another name is no other library ...
        let link = folder.0.join("link.so");
        fs::hard_link(&one, &link).unwrap();
        first.ask(&link, nobody).unwrap().use_up();
        // ... but a copy is.
        let copy = folder.0.join("copy.so");
        fs::copy(&one, &copy).unwrap();
        assert!(first.ask(&copy, nobody).is_err());
        // The linker knows a name again, whatever file it is now.
        fs::rename(&copy, &one).unwrap();
        first.ask(&one, nobody).unwrap().use_up();
    }

    #[test]
    fn one_that_could_not_be_opened_was_not_the_first() {
        let folder = Folder::new("withdrawn");
        let one = folder.library("one.so", ".go.buildinfo");
        let two = folder.library("two.so", ".go.buildinfo");
        let first = First(Mutex::new(None));
        let leave = first.ask(&one, nobody).unwrap();
        assert!(first.ask(&two, nobody).is_err());
        drop(leave);
        first.ask(&two, nobody).unwrap().use_up();
        assert!(first.ask(&one, nobody).is_err());
        // A second leave for the one that is open takes nothing away.
        drop(first.ask(&two, nobody).unwrap());
        assert!(first.ask(&one, nobody).is_err());
    }

    #[test]
    fn one_that_somebody_else_has_opened_is_the_first() {
        fn somebody() -> Vec<Library> {
            vec![Library {
                path: "/lib/nginx-module.so".into(),
                device: 0,
                inode: 0,
            }]
        }
        let folder = Folder::new("else");
        let one = folder.library("one.so", ".go.buildinfo");
        let first = First(Mutex::new(None));
        let error = first.ask(&one, somebody).unwrap_err();
        assert!(error.contains("nginx-module.so"), "{error}");
        // This process has none, and knows what it has.
        assert_eq!(others(), []);
    }
}
