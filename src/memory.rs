//! Where the memory of this object's own Rust code comes from.
//!
//! Rust ends the process when an allocation fails, which is no way to treat the
//! worker of a server. So what grows with what users do is allocated in ways that
//! may fail (slots, buffers of responses), and whatever is small and cannot fail
//! (a block of a queue, a message) comes from a *reserve* when the C library has
//! nothing left. From then on memory is *short*, until the system has some megabytes
//! again: no new task and no new runtime is taken, "no memory" is all that they
//! get. So the reserve only has to last for what is under way.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The size of the reserve: address space, of which pages are used when needed.
const RESERVE_BYTES: usize = 4 << 20;
/// Pieces are powers of two, from this ...
const SMALLEST: usize = 64;
/// ... in so many sizes: up to 16 KiB. Whoever wants more can be refused.
const SIZES: usize = 9;
/// If there is so much, memory is not short. It is more than a runtime, a pool or
/// a client takes, beside what its user has given. What is less is left to nginx and
/// to LuaJIT: with many versions of nginx-lua, an error for lack of memory that
/// nobody catches ends the worker.
const ENOUGH: usize = 8 << 20;

/// What the allocator gives memory from.
#[derive(Debug)]
pub struct Memory;

/// Where the reserve begins; no address is that large before there is one.
static START: AtomicUsize = AtomicUsize::new(usize::MAX);
/// Whether the reserve was needed, and nobody has found that memory is there again.
static SHORT: AtomicBool = AtomicBool::new(false);
static RESERVE: Mutex<Reserve> = Mutex::new(Reserve {
    next: 0,
    used: 0,
    free: [0; SIZES],
});

/// Whether memory is short: what can be done without is to be left.
#[inline]
pub fn is_short() -> bool {
    // Relaxed: a hint; who does not see it yet uses the reserve, too.
    SHORT.load(Ordering::Relaxed)
}

/// Whether memory is short, for the main thread: looks whether it still is.
#[inline]
pub fn is_still_short() -> bool {
    is_short() && !has_recovered()
}

#[cold]
fn has_recovered() -> bool {
    let recovered = lock().has_half() && is_there(ENOUGH);
    if recovered {
        SHORT.store(false, Ordering::Relaxed);
    }
    recovered
}

/// Whether something new may be made that needs some memory, of which `more`
/// bytes are for what its user has given. Sees to it that there is a reserve. For
/// the main thread, and not for each task: it takes some system calls.
pub fn is_enough_for(more: usize) -> bool {
    let bytes = more.saturating_mul(2).saturating_add(ENOUGH);
    make_reserve() && !is_still_short() && is_there(bytes)
}

/// Whether the system has so much. The C library is not asked: it would keep what it
/// has got, where LuaJIT and others cannot have it.
fn is_there(bytes: usize) -> bool {
    let start = map(bytes);
    // SAFETY: mapped just now, and not used.
    start.is_some_and(|start| unsafe { libc::munmap(start, bytes) } == 0)
}

/// New memory.
fn map(bytes: usize) -> Option<*mut c_void> {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: new memory, which is nobody's.
    let start = unsafe { libc::mmap(ptr::null_mut(), bytes, access, kind, -1, 0) };
    (start != libc::MAP_FAILED).then_some(start)
}

/// A copy of some bytes, which is not made of the reserve.
pub fn copy(bytes: &[u8]) -> Option<Box<[u8]>> {
    if is_short() {
        return None;
    }
    let mut copied = Vec::new();
    copied.try_reserve_exact(bytes.len()).ok()?;
    copied.extend_from_slice(bytes);
    Some(copied.into())
}

/// Makes the reserve, if there is none. False if there is no room for it.
fn make_reserve() -> bool {
    let _reserve = lock();
    // Relaxed: written under the lock only.
    if START.load(Ordering::Relaxed) != usize::MAX {
        return true;
    }
    let start = map(RESERVE_BYTES);
    if let Some(start) = start {
        START.store(start.expose_provenance(), Ordering::Relaxed);
    }
    start.is_some()
}

fn lock() -> MutexGuard<'static, Reserve> {
    RESERVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a piece is of the reserve.
#[inline]
fn is_reserved(piece: *mut u8) -> bool {
    // Relaxed: whoever has a piece has got it after the reserve was made.
    piece.addr().wrapping_sub(START.load(Ordering::Relaxed)) < RESERVE_BYTES
}

/// The reserve: pieces of equal sizes in lists, and what was never given.
struct Reserve {
    /// What was never given begins here.
    next: usize,
    /// How many pieces are given.
    used: usize,
    /// For each size, the first free piece; in it is the next one. 0: none.
    free: [usize; SIZES],
}

impl Reserve {
    /// Which size a piece has; `None` if there is none so large.
    fn size_of(layout: Layout) -> Option<usize> {
        let bytes = layout.size().max(layout.align()).max(SMALLEST);
        let size = bytes.checked_next_power_of_two()?.ilog2() - SMALLEST.ilog2();
        Some(size as usize).filter(|&size| size < SIZES)
    }

    /// Whether half of it was never given.
    fn has_half(&self) -> bool {
        self.next <= RESERVE_BYTES / 2
    }

    fn take(&mut self, layout: Layout) -> Option<*mut u8> {
        // Relaxed: written under the lock, which is held.
        let start = START.load(Ordering::Relaxed);
        let size = Self::size_of(layout).filter(|_| start != usize::MAX)?;
        let address = match self.free[size] {
            0 => {
                let bytes = SMALLEST << size;
                // The reserve begins at a page, and nobody asks for more.
                let place = self.next.next_multiple_of(bytes.min(4096));
                if place + bytes > RESERVE_BYTES || layout.align() > 4096 {
                    return None;
                }
                self.next = place + bytes;
                start + place
            }
            first => {
                // SAFETY: a free piece, which holds the next one's address.
                self.free[size] = unsafe { *ptr::with_exposed_provenance::<usize>(first) };
                first
            }
        };
        self.used += 1;
        SHORT.store(true, Ordering::Relaxed);
        Some(ptr::with_exposed_provenance_mut(address))
    }

    fn give_back(&mut self, piece: *mut u8, layout: Layout) {
        if let Some(size) = Self::size_of(layout) {
            // SAFETY: a piece of that size, of which the caller is done.
            unsafe { *piece.cast::<usize>() = self.free[size] };
            self.free[size] = piece.expose_provenance();
            self.used -= 1;
        }
        if self.used == 0 {
            self.next = 0;
            self.free = [0; SIZES];
        }
    }
}

#[cold]
fn reserved(layout: Layout) -> *mut u8 {
    lock().take(layout).unwrap_or(ptr::null_mut())
}

// SAFETY: as `System`, of which it is, but for pieces of the reserve. These are
// given to one at a time, and are as large and as aligned as the layout says.
unsafe impl GlobalAlloc for Memory {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: passed on.
        let block = unsafe { System.alloc(layout) };
        if block.is_null() {
            return reserved(layout);
        }
        block
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: passed on.
        let block = unsafe { System.alloc_zeroed(layout) };
        if !block.is_null() {
            return block;
        }
        let piece = reserved(layout);
        if !piece.is_null() {
            // SAFETY: it is that large.
            unsafe { ptr::write_bytes(piece, 0, layout.size()) };
        }
        piece
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if is_reserved(block) {
            lock().give_back(block, layout);
        } else {
            // SAFETY: passed on.
            unsafe { System.dealloc(block, layout) };
        }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !is_reserved(block) {
            // SAFETY: passed on.
            let grown = unsafe { System.realloc(block, layout, size) };
            if !grown.is_null() {
                return grown;
            }
        }
        // SAFETY: as `realloc` has it: a valid layout; the old block is as large as
        // it says, and freed once it is copied.
        unsafe {
            let other = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !other.is_null() {
                ptr::copy_nonoverlapping(block, other, layout.size().min(size));
                self.dealloc(block, layout);
            }
            other
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// As the allocator uses it, beside whatever else the tests allocate.
    #[test]
    fn the_reserve_gives_pieces_until_it_is_used_up_and_takes_them_back() {
        assert!(is_enough_for(0));
        assert!(!is_enough_for(usize::MAX / 2));
        let layout = Layout::from_size_align(3000, 16).unwrap();
        let large = Layout::from_size_align(20 << 10, 16).unwrap();
        assert!(reserved(large).is_null());
        for _ in 0..2 {
            let pieces: Vec<_> = std::iter::from_fn(|| {
                let piece = reserved(layout);
                (!piece.is_null()).then_some(piece)
            })
            .collect();
            assert_eq!(pieces.len(), RESERVE_BYTES / 4096);
            assert!(is_short() && is_still_short() && !is_enough_for(0));
            assert_eq!(copy(b"abc"), None);
            for (number, &piece) in pieces.iter().enumerate() {
                assert!(is_reserved(piece) && piece.addr() % 16 == 0);
                // SAFETY: a piece of its own, of that size.
                unsafe { ptr::write_bytes(piece, number as u8, 3000) };
            }
            // A piece that grows keeps what is in it.
            // SAFETY: pieces of that layout; each is given back once.
            unsafe {
                let grown = Memory.realloc(pieces[7], layout, 100_000);
                assert!(!is_reserved(grown) && *grown.add(2999) == 7);
                let wide = Layout::from_size_align(100_000, 16).unwrap();
                Memory.dealloc(grown, wide);
                for (number, &piece) in pieces.iter().enumerate().filter(|(n, _)| *n != 7) {
                    assert_eq!(*piece.add(2999), number as u8);
                    Memory.dealloc(piece, layout);
                }
            }
            assert!(!is_still_short() && !is_short());
            assert_eq!(copy(b"abc").as_deref(), Some(&b"abc"[..]));
            assert_eq!(copy(b"").as_deref(), Some(&b""[..]));
        }
    }
}
