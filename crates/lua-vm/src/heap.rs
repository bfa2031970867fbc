//! The memory of one Lua VM: a heap of its own, with a limit.
//!
//! A heap of its own can be released as a whole. That is the only way to free a VM
//! that was abandoned (see `interrupt.c`). It also keeps VMs out of the C library's
//! arenas, which many threads make grow and which never shrink.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::Once;

use libmimalloc_sys as mimalloc;

/// `mi_option_allow_thp` of the mimalloc that this crate's version of
/// libmimalloc-sys builds, which has no name for it.
const ALLOW_HUGE_PAGES: mimalloc::mi_option_t = 43;

/// Makes mimalloc use no huge pages: a small VM would take 5 MB of them instead of some
/// hundred KB. (mimalloc's environment variable for that would change the memory of the
/// whole process, including nginx's.)
fn allow_no_huge_pages() {
    static ONCE: Once = Once::new();
    // SAFETY: a number that the linked mimalloc knows; it is read when memory is
    // next asked for.
    ONCE.call_once(|| unsafe { mimalloc::mi_option_set(ALLOW_HUGE_PAGES, 0) });
}

/// A heap. It belongs to the thread that made it.
#[derive(Debug)]
pub struct Heap {
    heap: NonNull<mimalloc::mi_heap_t>,
    limit: usize,
    used: Cell<usize>,
    exceeded: Cell<bool>,
}

impl Heap {
    /// A heap that gives up to `limit` bytes; `None` if there is no memory.
    pub fn new(limit: usize) -> Option<Box<Self>> {
        allow_no_huge_pages();
        // SAFETY: may be called by any thread, which then owns the heap.
        let heap = NonNull::new(unsafe { mimalloc::mi_heap_new() })?;
        Some(Box::new(Self {
            heap,
            limit,
            used: Cell::new(0),
            exceeded: Cell::new(false),
        }))
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.used.get()
    }

    /// Whether it has ever refused memory.
    pub fn has_refused(&self) -> bool {
        self.exceeded.get()
    }

    /// Returns unused memory to the system.
    pub fn trim(&self) {
        // SAFETY: the heap is the calling thread's.
        unsafe { mimalloc::mi_heap_collect(self.heap.as_ptr(), true) };
    }

    /// What `lua_newstate` is given beside [`allocate`].
    pub fn as_ptr(&self) -> *mut c_void {
        ptr::from_ref(self).cast_mut().cast()
    }

    /// # Safety
    /// `block` is null, or a live block of this heap, of `old` bytes.
    unsafe fn resize(&self, block: *mut c_void, old: usize, new: usize) -> *mut c_void {
        if new == 0 {
            // SAFETY: by the contract.
            unsafe { mimalloc::mi_free(block) };
            self.used.set(self.used.get() - old);
            return ptr::null_mut();
        }
        let used = self.used.get() - old + new;
        if new > old && used > self.limit {
            self.exceeded.set(true);
            return ptr::null_mut();
        }
        // SAFETY: by the contract; the calling thread owns the heap.
        let resized = unsafe { mimalloc::mi_heap_realloc(self.heap.as_ptr(), block, new) };
        if resized.is_null() {
            self.exceeded.set(true);
        } else {
            self.used.set(used);
        }
        resized
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        // SAFETY: dropped by the thread that made it. Only a VM has blocks, by the
        // contract of `allocate`, and the heap outlives it.
        unsafe { mimalloc::mi_heap_destroy(self.heap.as_ptr()) };
    }
}

/// Lua's allocator: `heap` is what [`Heap::as_ptr`] gave.
///
/// # Safety
/// Called by a VM that was made with it, on the heap's thread, while the heap lives.
pub unsafe extern "C" fn allocate(
    heap: *mut c_void,
    block: *mut c_void,
    old: usize,
    new: usize,
) -> *mut c_void {
    let old = if block.is_null() { 0 } else { old };
    // SAFETY: by the contract. Nothing in `resize` can panic: `old` is part of `used`.
    unsafe { (*heap.cast::<Heap>()).resize(block, old, new) }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn memory_is_counted_and_limited() {
        let heap = Heap::new(1000).unwrap();
        let allocate = |block, old, new| {
            // SAFETY: as Lua would do it.
            unsafe { allocate(heap.as_ptr(), block, old, new) }
        };
        // For a new block, Lua may pass anything as the old size.
        let block = allocate(ptr::null_mut(), 5, 600);
        assert_eq!(heap.used(), 600);
        assert!(allocate(ptr::null_mut(), 0, 500).is_null());
        assert!(heap.has_refused());
        let block = allocate(block, 600, 1000);
        assert!(!block.is_null());
        let block = allocate(block, 1000, 10);
        assert_eq!(heap.used(), 10);
        assert!(allocate(block, 10, 0).is_null());
        assert_eq!(heap.used(), 0);
    }
}
