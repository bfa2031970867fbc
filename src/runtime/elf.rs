//! A check of a file before the dynamic linker opens it.
//!
//! The linker trusts what it is given. It opens a FIFO and waits for ever for somebody to
//! write to it. It maps what the headers say, and if the file is shorter the process ends
//! by SIGBUS. So a file that is not a whole shared object for this machine is refused with
//! a text that says why. A file that is replaced between this check and the linker's use,
//! or damaged in another way, is not noticed.

use std::fs::OpenOptions;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use object::elf;
use object::endian::NativeEndian;
use object::read::elf::{FileHeader, ProgramHeader};
use object::read::{ReadCache, ReadRef};

#[cfg(target_pointer_width = "32")]
type Header = elf::FileHeader32<NativeEndian>;
#[cfg(target_pointer_width = "64")]
type Header = elf::FileHeader64<NativeEndian>;

/// The number of this machine, if it is a known one.
const MACHINE: Option<elf::Machine> = if cfg!(target_arch = "x86_64") {
    Some(elf::EM_X86_64)
} else if cfg!(target_arch = "aarch64") {
    Some(elf::EM_AARCH64)
} else {
    None
};

/// A section of every library that Go has built: the linker writes there what
/// `go version` reads, and `strip` keeps it.
const GO: &[u8] = b".go.buildinfo";

/// Why a file is not passed to the dynamic linker.
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

/// Checks that a file is a whole shared object. Returns whether Go has built it, so that
/// it has a Go runtime.
pub fn check(path: &Path) -> Result<bool, Unfit> {
    // Without O_NONBLOCK, opening a FIFO would wait for a writer.
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
    let length = about.len();
    let file = &ReadCache::new(file);
    let header = file.read_at::<Header>(0).ok();
    let header = header.filter(|header| header.e_ident().magic == elf::ELFMAG);
    let header = header.ok_or_else(|| "it is not an ELF file".to_owned())?;
    let other = MACHINE.is_some_and(|machine| machine != header.e_machine(NativeEndian));
    if other || !header.is_supported() {
        return Err("it was built for another kind of machine".to_owned().into());
    }
    if header.e_type(NativeEndian) != elf::ET_DYN {
        return Err("it is an ELF file, but not a shared object"
            .to_owned()
            .into());
    }
    let is_mapped = |kind| matches!(kind, elf::PT_LOAD | elf::PT_DYNAMIC);
    let is_whole = header
        .program_headers(NativeEndian, file)
        .is_ok_and(|segments| {
            segments.iter().all(|segment| {
                let (offset, size) = segment.file_range(NativeEndian);
                let end = offset.checked_add(size);
                !is_mapped(segment.p_type(NativeEndian)) || end.is_some_and(|end| end <= length)
            })
        });
    if !is_whole {
        return Err(format!("it is cut short: there are {length} bytes of it").into());
    }
    let sections = header.sections(NativeEndian, file);
    Ok(sections.is_ok_and(|sections| sections.section_by_name(NativeEndian, GO).is_some()))
}
