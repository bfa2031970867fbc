//! A look at a file before the dynamic linker opens it.
//!
//! The linker believes what it is given. It opens a FIFO, and waits for ever for
//! somebody to write to it; it maps what the headers promise, and the process
//! ends on SIGBUS where the file is shorter. So what is no file, no shared object
//! of this machine, or cut short, is refused with a text that says so. A file
//! that is replaced between this look and the linker's, or damaged in another
//! way, is not noticed.

use std::fs::{File, OpenOptions};
use std::mem::MaybeUninit;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

#[cfg(target_pointer_width = "32")]
pub use libc::{Elf32_Ehdr as Header, Elf32_Phdr as Segment, Elf32_Shdr as Section};
#[cfg(target_pointer_width = "64")]
pub use libc::{Elf64_Ehdr as Header, Elf64_Phdr as Segment, Elf64_Shdr as Section};

/// What an ELF file begins with here: the magic bytes, the class, the byte order.
const IDENTITY: [u8; 6] = [
    0x7f,
    b'E',
    b'L',
    b'F',
    if cfg!(target_pointer_width = "64") {
        2
    } else {
        1
    },
    if cfg!(target_endian = "little") { 1 } else { 2 },
];

/// The number of this machine, if it is one that we know.
const MACHINE: Option<u16> = if cfg!(target_arch = "x86_64") {
    Some(libc::EM_X86_64)
} else if cfg!(target_arch = "aarch64") {
    Some(libc::EM_AARCH64)
} else {
    None
};

/// A section that every library has which Go has built: the linker puts there
/// what `go version` reads, and `strip` keeps it.
const GO: &[u8] = b".go.buildinfo";

/// Why a file is not given to the dynamic linker.
#[derive(Debug)]
pub enum Unfit {
    /// It cannot be opened; the linker will say why.
    Unreadable,
    /// What is wrong with it.
    Because(String),
}

impl From<String> for Unfit {
    fn from(text: String) -> Self {
        Self::Because(text)
    }
}

/// A file that the dynamic linker can be given.
#[derive(Debug)]
pub struct Object {
    file: File,
    header: Header,
}

impl Object {
    /// Opens a file, and looks whether it is a whole shared object.
    pub fn open(path: &Path) -> Result<Self, Unfit> {
        // Without O_NONBLOCK, to open a FIFO would wait for a writer.
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
        let file = opened.map_err(|_| Unfit::Unreadable)?;
        let about = file.metadata().map_err(|_| Unfit::Unreadable)?;
        let kind = about.file_type();
        if !kind.is_file() {
            let kind = match () {
                () if kind.is_dir() => "a directory",
                () if kind.is_fifo() => "a FIFO",
                () if kind.is_socket() => "a socket",
                () => "a device",
            };
            return Err(format!("it is {kind}, not a file").into());
        }
        // SAFETY: the header is made of numbers.
        let header = unsafe { read::<Header>(&file, 0) };
        let Some(header) = header.filter(|header| header.e_ident[..4] == IDENTITY[..4]) else {
            return Err("it is not an ELF file".to_owned().into());
        };
        let object = Self { file, header };
        object.check(about.len())?;
        Ok(object)
    }

    /// Whether the headers fit this machine, and what they promise is there.
    #[allow(clippy::useless_conversion)] // the fields of 32-bit files are smaller
    fn check(&self, length: u64) -> Result<(), String> {
        let header = &self.header;
        let other = MACHINE.is_some_and(|machine| machine != header.e_machine);
        if other || header.e_ident[..6] != IDENTITY {
            return Err("it was built for another kind of machine".to_owned());
        }
        if header.e_type != libc::ET_DYN {
            return Err("it is an ELF file, but not a shared object".to_owned());
        }
        let cut = || format!("it is cut short: there are {length} bytes of it");
        let ends = |offset: u64, size: u64| offset.checked_add(size).is_some_and(|e| e <= length);
        if usize::from(header.e_phentsize) != size_of::<Segment>() {
            return Err("its header is damaged".to_owned());
        }
        for index in 0..u64::from(header.e_phnum) {
            let place = index * size_of::<Segment>() as u64;
            let place = u64::from(header.e_phoff).checked_add(place);
            // SAFETY: a segment's header is made of numbers.
            let segment = place.and_then(|place| unsafe { read::<Segment>(&self.file, place) });
            let segment = segment.ok_or_else(cut)?;
            let is_mapped = matches!(segment.p_type, libc::PT_LOAD | libc::PT_DYNAMIC);
            if is_mapped && !ends(segment.p_offset.into(), segment.p_filesz.into()) {
                return Err(cut());
            }
        }
        Ok(())
    }

    /// Whether Go has built it, so that it brings a Go runtime.
    #[allow(clippy::useless_conversion)] // as above
    pub fn is_go(&self) -> bool {
        let header = &self.header;
        let section = |index: u16| {
            let place = u64::from(index) * u64::from(header.e_shentsize);
            let place = u64::from(header.e_shoff).checked_add(place)?;
            // SAFETY: a section's header is made of numbers.
            unsafe { read::<Section>(&self.file, place) }
        };
        let Some(names) = section(header.e_shstrndx) else {
            return false;
        };
        let mut found = [0; GO.len() + 1];
        (0..header.e_shnum).filter_map(section).any(|section| {
            let place = u64::from(names.sh_offset).saturating_add(section.sh_name.into());
            let read = self.file.read_exact_at(&mut found, place);
            // A name at the end of the file may be too short to be this one.
            read.is_ok() && found.split_last() == Some((&0, GO))
        })
    }
}

/// A structure of a file; `None` if the file ends before it does.
///
/// # Safety
/// Any bytes make a `T`.
unsafe fn read<T>(file: &File, place: u64) -> Option<T> {
    let mut found = MaybeUninit::<T>::zeroed();
    // SAFETY: as many bytes as there are, all of them initialised.
    let bytes =
        unsafe { std::slice::from_raw_parts_mut(found.as_mut_ptr().cast::<u8>(), size_of::<T>()) };
    file.read_exact_at(bytes, place).ok()?;
    // SAFETY: by the contract.
    Some(unsafe { found.assume_init() })
}
