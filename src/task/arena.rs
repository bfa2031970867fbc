//! Where slots live: chunks that are allocated as needed and never freed.
//!
//! A plugin may use a handle at any time, even long after its task is gone, so
//! a slot's memory must stay a slot's memory. Chunks are handed to one owner
//! (a client) and, when that owner is gone, to the next.

use std::alloc::{Layout, alloc, dealloc};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use super::Slot;

/// Slots per chunk.
pub const CHUNK_SLOTS: usize = 256;
const CHUNK: Layout = Layout::new::<[Slot; CHUNK_SLOTS]>();
/// Chunks per process: a million tasks in flight.
const MAX_CHUNKS: usize = 4096;
/// Slots per process.
pub const MAX_SLOTS: usize = MAX_CHUNKS * CHUNK_SLOTS;

static CHUNKS: [AtomicPtr<Slot>; MAX_CHUNKS] =
    [const { AtomicPtr::new(ptr::null_mut()) }; MAX_CHUNKS];
static USED: AtomicU32 = AtomicU32::new(0);

/// Allocates a chunk of free slots; `None` if all are in use, or if there is no
/// memory.
pub fn grow() -> Option<&'static [Slot]> {
    // SAFETY: the layout is not empty.
    let first = unsafe { alloc(CHUNK) }.cast::<Slot>();
    if first.is_null() {
        return None;
    }
    let chunk = USED
        // Relaxed: only the number must be unique.
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            ((used as usize) < MAX_CHUNKS).then_some(used + 1)
        });
    let Ok(chunk) = chunk else {
        // SAFETY: allocated above, and not used.
        unsafe { dealloc(first.cast(), CHUNK) };
        return None;
    };
    let number = chunk * CHUNK_SLOTS as u32;
    for offset in 0..CHUNK_SLOTS {
        // SAFETY: there is room for so many.
        unsafe { first.add(offset).write(Slot::new(number + offset as u32)) };
    }
    // Release: pairs with the Acquire in `get`.
    CHUNKS[chunk as usize].store(first, Ordering::Release);
    // SAFETY: so many slots, which are never freed.
    Some(unsafe { std::slice::from_raw_parts(first, CHUNK_SLOTS) })
}

/// The slot of an index, or `None` if no such slot was ever allocated.
#[inline]
pub fn get(index: u32) -> Option<&'static Slot> {
    let index = index as usize;
    let chunk = CHUNKS.get(index / CHUNK_SLOTS)?;
    // Acquire: pairs with the Release in `grow`.
    let slots = chunk.load(Ordering::Acquire);
    // SAFETY: a chunk that is not null has CHUNK_SLOTS slots, for ever.
    (!slots.is_null()).then(|| unsafe { &*slots.add(index % CHUNK_SLOTS) })
}

/// Every slot there is.
pub fn all() -> impl Iterator<Item = &'static Slot> {
    // Relaxed: the caller asks about slots that it has itself.
    (0..USED.load(Ordering::Relaxed) * CHUNK_SLOTS as u32).filter_map(get)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::task::Handle;

    #[test]
    fn handles_find_their_slots_and_garbage_finds_none() {
        let slots = grow().unwrap();
        for slot in slots {
            assert!(ptr::eq(get(slot.index).unwrap(), slot));
            let number = slot.handle().number();
            assert_eq!(Handle::from_number(number).unwrap().number(), number);
        }
        assert!(get(u32::MAX).is_none());
        assert!(get((MAX_SLOTS - 1) as u32).is_none());
    }
}
