//! Which memory of the process may have compiled code in it.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;

/// Where the kernel lists the mappings.
const MAPS: &str = "/proc/self/maps";
/// The most executable mappings that are listed.
const MAX_RANGES: usize = 2048;

/// That file, kept open: it may be needed when no descriptors are left.
#[derive(Debug, Default)]
pub struct Maps {
    file: Option<File>,
    /// Whether the failure to open it was reported.
    is_reported: bool,
}

/// Executable memory, and where a function's object is.
#[derive(Debug)]
pub struct Executable {
    /// Starts and ends of executable mappings without a file, in turns.
    pub bounds: Vec<usize>,
    /// The mapping of the function, or all memory if it was not found.
    pub object: (usize, usize),
    /// Whether that mapping belongs to a library, not to the program.
    pub is_library: bool,
}

impl Maps {
    /// Opens the file if it is not open. Returns what to log if that fails the first
    /// time; each VM tries again.
    pub fn open(&mut self) -> Option<String> {
        if self.file.is_some() {
            return None;
        }
        match File::open(MAPS) {
            Ok(file) => self.file = Some(file),
            Err(error) if !self.is_reported => {
                self.is_reported = true;
                return Some(format!(
                    "{MAPS} cannot be read ({error}): until it can, loops that LuaJIT has \
                     compiled are not stopped when their callers have given up"
                ));
            }
            Err(_) => {}
        }
        None
    }

    fn read(&mut self) -> io::Result<String> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(File::open(MAPS)?),
        };
        let mut text = String::new();
        file.rewind()?;
        file.read_to_string(&mut text)?;
        Ok(text)
    }

    /// Reads the present mappings; `function` is an address in the wanted object.
    pub fn executable(&mut self, function: usize) -> io::Result<Executable> {
        let maps = self.read()?;
        let (start, end, file) = mapping_of(&maps, function).unwrap_or((0, usize::MAX, ""));
        let program = std::fs::read_link("/proc/self/exe");
        Ok(Executable {
            bounds: executable_memory(&maps),
            object: (start, end),
            is_library: !file.is_empty() && program.is_ok_and(|program| program != Path::new(file)),
        })
    }
}

/// The bounds and the file of the mapping that contains an address.
fn mapping_of(maps: &str, address: usize) -> Option<(usize, usize, &str)> {
    let hex = |text: &str| usize::from_str_radix(text, 16).ok();
    maps.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let (start, end) = (hex(start)?, hex(end)?);
        let file = fields.nth(4).unwrap_or_default();
        (start..end)
            .contains(&address)
            .then_some((start, end, file))
    })
}

/// The bounds of executable mappings without a file, from /proc/self/maps.
fn executable_memory(maps: &str) -> Vec<usize> {
    let mut bounds: Vec<usize> = Vec::new();
    for line in maps.lines() {
        let mut fields = line.split_ascii_whitespace();
        let (Some(range), Some(flags)) = (fields.next(), fields.next()) else {
            continue;
        };
        // Offset, device, inode; a sixth field names a file or a special
        // mapping such as [vdso].
        if !flags.contains('x') || fields.nth(3).is_some() {
            continue;
        }
        let hex = |text: &str| usize::from_str_radix(text, 16).ok();
        let Some((start, end)) = range.split_once('-') else {
            continue;
        };
        if let (Some(start), Some(end)) = (hex(start), hex(end)) {
            if bounds.last() == Some(&start) {
                bounds.pop();
                bounds.push(end);
            } else if bounds.len() < 2 * MAX_RANGES {
                bounds.extend([start, end]);
            }
        }
    }
    bounds
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn memory_is_found_in_maps() {
        let maps = "\
55d0c0a00000-55d0c0a5c000 r-xp 00000000 fe:01 123 /usr/sbin/nginx
7f0000000000-7f0000010000 r-xp 00000000 00:00 0
7f0000010000-7f0000020000 rwxp 00000000 00:00 0 
7f0000030000-7f0000040000 rw-p 00000000 00:00 0
7f0000040000-7f0000050000 r-xp 00000000 00:00 0
7fff00000000-7fff00002000 r-xp 00000000 00:00 0                  [vdso]
";
        assert_eq!(
            executable_memory(maps),
            [
                0x7f00_0000_0000,
                0x7f00_0002_0000,
                0x7f00_0004_0000,
                0x7f00_0005_0000
            ]
        );
        let nginx = (0x55d0_c0a0_0000, 0x55d0_c0a5_c000, "/usr/sbin/nginx");
        assert_eq!(mapping_of(maps, 0x55d0_c0a0_0001), Some(nginx));
        let nameless = (0x7f00_0000_0000, 0x7f00_0001_0000, "");
        assert_eq!(mapping_of(maps, 0x7f00_0000_0000), Some(nameless));
        assert_eq!(mapping_of(maps, 0x7f00_0002_0000), None);
    }
}
