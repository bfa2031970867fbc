//! Where the Rust code of this object allocates.
//!
//! Rust ends the process when an allocation fails, and with it a worker that serves
//! others. So structures that grow with use (slots, buffers of responses) are allocated
//! in ways that may fail. Small allocations that cannot fail (a block of a queue, a
//! message) come from a *reserve* when the C library has no memory left. From then on
//! memory is *short*, until the system has some megabytes again: new tasks and new
//! runtimes get "no memory". So the reserve only has to last for the tasks in flight.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The size of the reserve: address space, of which pages are used when needed.
const RESERVE_BYTES: usize = 4 << 20;
/// Pieces are powers of two, from this ...
const SMALLEST: usize = 64;
/// ... in so many sizes: up to 16 KiB. Larger allocations are refused.
const SIZES: usize = 9;
/// With so much free memory, it is not short. A runtime, a pool or a client needs less,
/// besides its user's own data. Below this limit, the memory is left to nginx and to
/// LuaJIT: with many versions of nginx-lua, an uncaught error for lack of memory ends the
/// worker.
const ENOUGH: usize = 8 << 20;

/// The allocator.
#[derive(Debug)]
pub struct Memory;

/// Where the reserve begins. Before it is made, the highest address.
static START: AtomicUsize = AtomicUsize::new(usize::MAX);
/// Whether the reserve was used, and no check has found free memory since.
static SHORT: AtomicBool = AtomicBool::new(false);
static RESERVE: Mutex<Reserve> = Mutex::new(Reserve {
    next: 0,
    used: 0,
    free: [0; SIZES],
});

/// Whether memory is short: optional allocations are to be left out.
#[inline]
pub fn is_short() -> bool {
    // Relaxed: a hint; a thread that does not see it yet uses the reserve, too.
    SHORT.load(Ordering::Relaxed)
}

/// Whether memory is short, for the main thread: if it was, checks it again.
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

/// Whether there is memory for a new client, pool or runtime with `more` bytes of its
/// user's data. Makes the reserve if there is none. For the main thread, and not for
/// each task: it makes some system calls.
pub fn is_enough_for(more: usize) -> bool {
    let bytes = more.saturating_mul(2).saturating_add(ENOUGH);
    make_reserve() && !is_still_short() && is_there(bytes)
}

/// Whether the system has so much. It does not ask the C library, which would keep the
/// memory from LuaJIT and others.
fn is_there(bytes: usize) -> bool {
    let start = map(bytes);
    // SAFETY: mapped just now, and not used.
    start.is_some_and(|start| unsafe { libc::munmap(start, bytes) } == 0)
}

/// New memory.
fn map(bytes: usize) -> Option<*mut c_void> {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: new memory, which nobody uses yet.
    let start = unsafe { libc::mmap(ptr::null_mut(), bytes, access, kind, -1, 0) };
    (start != libc::MAP_FAILED).then_some(start)
}

/// A copy of some bytes, never in the reserve.
pub fn copy(bytes: &[u8]) -> Option<Box<[u8]>> {
    if is_short() {
        return None;
    }
    let mut copied = Vec::new();
    copied.try_reserve_exact(bytes.len()).ok()?;
    copied.extend_from_slice(bytes);
    Some(copied.into())
}

/// Makes the reserve, if there is none. False if that fails.
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
    // Relaxed: a thread that has a piece got it after the reserve was made.
    piece.addr().wrapping_sub(START.load(Ordering::Relaxed)) < RESERVE_BYTES
}

/// The reserve: lists of free pieces by size, and the part that was never used.
struct Reserve {
    /// Where the part begins that was never used.
    next: usize,
    /// How many pieces are in use.
    used: usize,
    /// For each size, the first free piece, which holds the address of the next. 0: none.
    free: [usize; SIZES],
}

impl Reserve {
    /// Which size a piece has; `None` if there is none so large.
    fn size_of(layout: Layout) -> Option<usize> {
        let bytes = layout.size().max(layout.align()).max(SMALLEST);
        let size = bytes.checked_next_power_of_two()?.ilog2() - SMALLEST.ilog2();
        Some(size as usize).filter(|&size| size < SIZES)
    }

    /// Whether half of it was never used.
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
                // The reserve begins at a page; a larger alignment is refused.
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
            // SAFETY: a piece of that size, which the caller does not use any more.
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

// SAFETY: blocks are `System`'s or pieces of the reserve. A piece has one owner at a
// time, and the size and alignment of the layout.
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
        // SAFETY: by the contract of `realloc` the new layout is valid and the old block
        // has the old layout; it is freed after the copy.
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

    /// Uses the reserve as the allocator does; other tests allocate meanwhile.
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
