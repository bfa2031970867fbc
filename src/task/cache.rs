//! The free slots of one client: whoever posts tasks acquires their slots here, and
//! releases them once the replies are read. Used by one thread at a time.

use super::{Slot, arena};
use crate::error::Error;
use crate::memory;

/// Response buffers that free slots may keep for their next task, in bytes.
const CACHE_BYTES: usize = 16 << 20;
/// A larger buffer is not kept.
const CACHE_BUFFER_BYTES: usize = 1 << 20;

/// The slots of a client. They are never freed; nor is this, while a task is in
/// flight.
#[derive(Default)]
pub struct SlotCache {
    /// Has room for all slots of this client.
    free: Vec<&'static Slot>,
    /// Slots that are not in use yet, see `grow`.
    fresh: &'static [Slot],
    allocated: usize,
    /// Bytes of the buffers that free slots keep.
    cached_bytes: usize,
}

impl SlotCache {
    /// Slots in all.
    pub fn allocated(&self) -> usize {
        self.allocated
    }

    /// Allocates slots, of which the first one's number is returned. They are used
    /// from `use_fresh` on: until then the caller may make room of its own for so
    /// many tasks, and if it fails, it gets the same slots again.
    pub fn grow(&mut self) -> Result<u32, Error> {
        if self.fresh.is_empty() {
            let wanted = self.allocated + arena::CHUNK_SLOTS - self.free.len();
            if !memory::is_enough_for(0) || self.free.try_reserve(wanted).is_err() {
                return Err(Error::NoMemory);
            }
            self.fresh = arena::grow().ok_or(Error::NoMemory)?;
        }
        Ok(self.fresh[0].index)
    }

    /// From now on, what `grow` has allocated is used.
    pub fn use_fresh(&mut self) {
        let slots = std::mem::take(&mut self.fresh);
        self.allocated += slots.len();
        // There is room: see `grow`.
        self.free.extend(slots.iter().rev());
    }

    /// Sees to it that there is a free slot.
    pub fn reserve(&mut self) -> Result<(), Error> {
        if self.free.is_empty() {
            self.grow()?;
            self.use_fresh();
        }
        Ok(())
    }

    /// A free slot, if there is one.
    #[inline]
    pub fn acquire(&mut self) -> Option<&'static Slot> {
        let slot = self.free.pop()?;
        if let Some(next) = self.free.last() {
            next.prefetch();
        }
        // SAFETY: a free slot is its client's.
        self.cached_bytes -= unsafe { slot.reply() }.cached();
        Some(slot)
    }

    /// Frees a slot.
    ///
    /// # Safety
    /// `acquire` has given it, its task is done, and nobody uses the reply any more.
    #[inline]
    pub unsafe fn release(&mut self, slot: &'static Slot) {
        // SAFETY: the slot is done, so it is this client's.
        let reply = unsafe { slot.reply() };
        let size = reply.cached();
        let keep = size <= CACHE_BUFFER_BYTES && self.cached_bytes + size <= CACHE_BYTES;
        if keep {
            self.cached_bytes += size;
        }
        reply.reset(keep);
        slot.state.release();
        self.free.push(slot);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::task::state::Claim;

    #[test]
    fn slots_come_back_with_the_buffers_that_fit() {
        let mut slots = SlotCache::default();
        assert!(slots.acquire().is_none());
        let first = slots.grow().unwrap();
        assert_eq!(slots.grow(), Ok(first), "the same until they are used");
        slots.use_fresh();
        assert_eq!(slots.allocated(), arena::CHUNK_SLOTS);
        for (size, kept) in [(1000, 1024), (CACHE_BUFFER_BYTES + 1, 0)] {
            slots.reserve().unwrap();
            let slot = slots.acquire().unwrap();
            assert_eq!(slot.index, first, "the one that was used last");
            slot.state.offer(false);
            assert_eq!(slot.state.claim(), Claim::Run);
            slot.state.edit(slot.state.generation()).unwrap();
            slot.state.promote();
            // SAFETY: this thread's, as the state says; released once it is done.
            unsafe {
                slot.reply().allocate(size).unwrap();
                assert!(!slot.state.finish());
                slots.release(slot);
            }
            assert_eq!(slots.cached_bytes, kept);
        }
    }
}
