//! How functions of loaded libraries are unwound, for a signal handler.
//!
//! `unwind.c` must find the return address of the C function that the interrupted
//! thread is in. Compilers describe where it is, for every instruction, in the section
//! `.eh_frame`. A signal handler cannot read that: it would need memory, and the lock of
//! the list of loaded libraries. So a handler that meets unknown code notes its address
//! and gives up. The interrupter reads the one *row* that applies there and tells the
//! handlers before it tries again. A loop meets the same few rows again and again, so
//! they are soon known.
//!
//! Code without such a description (Go's, generated code), and rows that need other
//! registers than the stack pointer and the frame pointer, are never learned: threads
//! in there are left alone.

use std::ffi::{c_int, c_void};
use std::slice;

use gimli::{
    BaseAddresses, CfaRule, EhFrame, EhFrameHdr, EndianSlice, NativeEndian, Operation, Register,
    RegisterRule, UnwindContext, UnwindExpression, UnwindSection,
};

/// The most rows that are kept, as in `unwind.c`. No known loop needs so many.
const MAX_ROWS: usize = 1024;

#[cfg(target_arch = "aarch64")]
mod registers {
    use gimli::{AArch64, Register};
    pub const STACK: Register = AArch64::SP;
    pub const FRAME: Register = AArch64::X29;
    /// Where a call leaves its return address.
    pub const RETURN: Register = AArch64::X30;
    pub const VENDOR: gimli::Vendor = gimli::Vendor::AArch64;
}
#[cfg(not(target_arch = "aarch64"))]
mod registers {
    use gimli::{Register, X86_64};
    pub const STACK: Register = X86_64::RSP;
    pub const FRAME: Register = X86_64::RBP;
    pub const RETURN: Register = X86_64::RA;
    pub const VENDOR: gimli::Vendor = gimli::Vendor::Default;
}

/// Values of [`Row::cfa_base`].
const STACK_POINTER: u8 = 0;
const FRAME_POINTER: u8 = 1;
/// Values of [`Row::frame_base`].
const UNCHANGED: u8 = 0;
const FROM_CFA: u8 = 1;
const FROM_FRAME_POINTER: u8 = 2;

/// How to get from a frame to its caller's, at some instructions. `interrupt.h` has the
/// same structure, and explains the fields.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Row {
    start: usize,
    end: usize,
    cfa_offset: i32,
    return_offset: i32,
    frame_offset: i32,
    cfa_base: u8,
    cfa_in_memory: u8,
    return_in_register: u8,
    frame_base: u8,
}

/// The rows that were needed so far.
#[derive(Debug, Default)]
pub struct Rows {
    sorted: Vec<Row>,
    /// How many libraries the process has unloaded.
    unloaded: u64,
}

impl Rows {
    /// Forgets everything if a library was unloaded, since another one may be at its
    /// address. True if so.
    pub fn forget_unloaded(&mut self) -> bool {
        let mut unloaded = 0;
        for_each_library(&mut |library| {
            unloaded = library.dlpi_subs;
            true
        });
        let changed = unloaded != self.unloaded;
        if changed {
            self.unloaded = unloaded;
            self.sorted.clear();
        }
        changed
    }

    /// Learns the row of an address. True if there is one.
    pub fn learn(&mut self, address: usize) -> bool {
        let Some(row) = read_row(address) else {
            return false;
        };
        if self.sorted.len() >= MAX_ROWS {
            self.sorted.clear();
        }
        let place = self.sorted.partition_point(|other| other.start < row.start);
        // Two VMs may have asked for it.
        if self.sorted.get(place) != Some(&row) {
            self.sorted.insert(place, row);
        }
        true
    }

    /// All of them, sorted by address.
    pub fn as_slice(&self) -> &[Row] {
        &self.sorted
    }
}

/// Calls `visit` for each loaded library until it returns true. No library is loaded or
/// unloaded meanwhile.
fn for_each_library(visit: &mut dyn FnMut(&libc::dl_phdr_info) -> bool) {
    type Visit<'a> = &'a mut dyn FnMut(&libc::dl_phdr_info) -> bool;
    unsafe extern "C" fn callback(
        library: *mut libc::dl_phdr_info,
        _size: usize,
        visit: *mut c_void,
    ) -> c_int {
        // SAFETY: the linker passes a live structure, and the pointer from below. Readers
        // of unwind tables return errors, they do not panic.
        unsafe {
            let visit: *mut Visit = visit.cast();
            (*visit)(&*library).into()
        }
    }
    let mut visit: Visit = visit;
    let data: *mut Visit = &mut visit;
    // SAFETY: `visit` outlives the call, which is all that uses it.
    unsafe { libc::dl_iterate_phdr(Some(callback), data.cast()) };
}

/// Reads the row of an address from the tables of the library that it is in.
fn read_row(address: usize) -> Option<Row> {
    let mut row = None;
    for_each_library(&mut |library| {
        // SAFETY: a loaded library has its program headers in memory.
        let headers =
            unsafe { slice::from_raw_parts(library.dlpi_phdr, library.dlpi_phnum.into()) };
        let base = library.dlpi_addr as usize;
        let bounds = |header: &libc::Elf64_Phdr| {
            let start = base.wrapping_add(header.p_vaddr as usize);
            start..start.saturating_add(header.p_memsz as usize)
        };
        let segment_of = |address| {
            let mut segments = headers
                .iter()
                .filter(|header| header.p_type == libc::PT_LOAD);
            segments.find(|header| bounds(header).contains(&address))
        };
        // The memory from an address to the end of its segment, if nobody writes there.
        let memory = |address: usize| {
            let segment = segment_of(address)?;
            let is_constant = segment.p_flags & (libc::PF_R | libc::PF_W) == libc::PF_R;
            let len = bounds(segment).end - address;
            // SAFETY: mapped and never written, as long as the library is loaded, which
            // is while this runs.
            is_constant.then(|| unsafe { slice::from_raw_parts(address as *const u8, len) })
        };
        if segment_of(address).is_none() {
            return false;
        }
        let index = headers
            .iter()
            .find(|header| header.p_type == libc::PT_GNU_EH_FRAME);
        row = index.and_then(|index| {
            let start = bounds(index).start;
            read_row_of_library(address, start, memory(start)?, memory)
        });
        true
    });
    row
}

/// The same, given the address and the bytes of the section `.eh_frame_hdr`, and a
/// function that returns the memory from an address on.
fn read_row_of_library<'a>(
    address: usize,
    index_address: usize,
    index: &'a [u8],
    memory: impl Fn(usize) -> Option<&'a [u8]>,
) -> Option<Row> {
    let bases = BaseAddresses::default().set_eh_frame_hdr(index_address as u64);
    let index = EhFrameHdr::new(index, NativeEndian).parse(&bases, 8).ok()?;
    let frames_address = index.eh_frame_ptr().direct().ok()?;
    let mut frames = EhFrame::new(memory(frames_address as usize)?, NativeEndian);
    frames.set_vendor(registers::VENDOR);
    let bases = bases.set_eh_frame(frames_address);
    let function = index
        .table()?
        .fde_for_address(&frames, &bases, address as u64, EhFrame::cie_from_offset)
        .ok()?;
    if function.is_signal_trampoline() {
        return None;
    }
    let mut context = UnwindContext::new();
    let found = function
        .unwind_info_for_address(&frames, &bases, &mut context, address as u64)
        .ok()?;
    let mut row = Row {
        start: found.start_address() as usize,
        end: found.end_address() as usize,
        ..Row::default()
    };
    row.set_cfa(found.cfa(), &frames)?;
    row.set_return(found.register(registers::RETURN))?;
    row.set_frame(found.register(registers::FRAME), &frames)?;
    let signs = found.register(gimli::AArch64::RA_SIGN_STATE);
    // A signed return address cannot be replaced.
    let signed =
        cfg!(target_arch = "aarch64") && !matches!(signs, None | Some(RegisterRule::Constant(0)));
    (!signed).then_some(row)
}

type Slice<'a> = EndianSlice<'a, NativeEndian>;

impl Row {
    fn set_cfa(&mut self, rule: &CfaRule<usize>, frames: &EhFrame<Slice>) -> Option<()> {
        let (register, offset) = match *rule {
            CfaRule::RegisterAndOffset { register, offset } => (register, offset),
            // A stack that was aligned for large vectors.
            CfaRule::Expression(expression) => {
                self.cfa_in_memory = 1;
                register_plus_offset(expression, frames, true)?
            }
        };
        self.cfa_base = match register {
            registers::STACK => STACK_POINTER,
            registers::FRAME => FRAME_POINTER,
            _ => return None,
        };
        self.cfa_offset = offset.try_into().ok()?;
        Some(())
    }

    fn set_return(&mut self, rule: Option<RegisterRule<usize>>) -> Option<()> {
        match rule {
            Some(RegisterRule::Offset(offset)) => self.return_offset = offset.try_into().ok()?,
            None | Some(RegisterRule::SameValue) if cfg!(target_arch = "aarch64") => {
                self.return_in_register = 1;
            }
            _ => return None,
        }
        Some(())
    }

    fn set_frame(
        &mut self,
        rule: Option<RegisterRule<usize>>,
        frames: &EhFrame<Slice>,
    ) -> Option<()> {
        let (base, offset) = match rule {
            None | Some(RegisterRule::SameValue) => (UNCHANGED, 0),
            Some(RegisterRule::Offset(offset)) => (FROM_CFA, offset),
            Some(RegisterRule::Expression(expression)) => {
                let (register, offset) = register_plus_offset(expression, frames, false)?;
                (register == registers::FRAME).then_some((FROM_FRAME_POINTER, offset))?
            }
            _ => return None,
        };
        self.frame_base = base;
        self.frame_offset = offset.try_into().ok()?;
        Some(())
    }
}

/// Reads the expression "a register plus a number" or, if `loaded`, "the word in memory
/// at a register plus a number". `None` for others.
fn register_plus_offset(
    expression: UnwindExpression<usize>,
    frames: &EhFrame<Slice>,
    loaded: bool,
) -> Option<(Register, i64)> {
    let encoding = gimli::Encoding {
        address_size: 8,
        format: gimli::Format::Dwarf32,
        version: 4,
    };
    let mut operations = expression.get(frames).ok()?.operations(encoding);
    let Some(Operation::RegisterOffset {
        register, offset, ..
    }) = operations.next().ok()?
    else {
        return None;
    };
    if loaded {
        let loads = matches!(
            operations.next().ok()?,
            Some(Operation::Deref { size: 8, .. })
        );
        loads.then_some(())?;
    }
    operations
        .next()
        .ok()?
        .is_none()
        .then_some((register, offset))
}

#[cfg(all(test, not(loom), any(target_arch = "x86_64", target_arch = "aarch64")))]
mod tests {
    use super::*;

    /// Nothing is on the stack yet but what the call itself has put there.
    fn is_entry(row: &Row) -> bool {
        let call = if cfg!(target_arch = "aarch64") {
            row.return_in_register == 1 && row.cfa_offset == 0
        } else {
            row.return_in_register == 0 && row.cfa_offset == 8 && row.return_offset == -8
        };
        call && row.cfa_base == STACK_POINTER && row.frame_base == UNCHANGED
    }

    #[test]
    fn a_function_has_a_row_at_its_first_instruction() {
        let functions = [
            libc::usleep as *const () as usize,
            libc::ppoll as *const () as usize,
            libc::clock_nanosleep as *const () as usize,
            read_row as *const () as usize,
        ];
        let mut rows = Rows::default();
        for function in functions {
            assert!(rows.learn(function), "{function:#x}");
            let found = rows.as_slice().iter();
            let covering = |row: &&Row| (row.start..row.end).contains(&function);
            let covering: Vec<_> = found.filter(covering).collect();
            assert!(
                matches!(covering[..], [row] if is_entry(row)),
                "{covering:?}"
            );
        }
        let count = rows.as_slice().len();
        for function in functions {
            assert!(rows.learn(function));
        }
        assert_eq!(rows.as_slice().len(), count);
        assert!(rows.as_slice().is_sorted_by(|a, b| a.end <= b.start));
    }

    #[test]
    fn what_is_no_code_has_no_row() {
        let mut rows = Rows::default();
        let (boxed, variable) = (Box::new(0_u64), 0_u64);
        for address in [
            0,
            usize::MAX,
            std::ptr::from_ref(&*boxed) as usize,
            std::ptr::from_ref(&variable) as usize,
            std::ptr::from_ref(&registers::STACK) as usize,
        ] {
            assert!(!rows.learn(address), "{address:#x}");
        }
        assert!(rows.as_slice().is_empty());
    }

    #[test]
    fn there_are_never_more_rows_than_the_handler_has_room_for() {
        let mut rows = Rows::default();
        // This program, from this function on: more rows than that.
        let start = read_row as *const () as usize;
        let mut learned = 0;
        for address in (start..).take(4 << 20) {
            let last = rows.as_slice().last().map_or(0, |row| row.end);
            if address >= last || rows.as_slice().is_empty() {
                learned += usize::from(rows.learn(address));
            }
            assert!(rows.as_slice().len() <= MAX_ROWS);
            if learned > MAX_ROWS + 10 {
                break;
            }
        }
        assert!(learned > MAX_ROWS, "{learned}");
        assert!(rows.as_slice().len() < MAX_ROWS);
    }
}
