//! Which queue belongs to which runtime.
//!
//! A plugin may poll a queue once more than it should, and at any time: so the
//! memory of a queue must stay a queue's. But a worker may load and unload runtimes
//! for months. So queues are used again, and what a plugin is given for `tq` is a
//! *ticket*: the number of a queue and its generation, as with tasks and slots. A
//! ticket of a generation that is over gets nothing, ever.
//!
//! A queue is used again when its runtime is gone and no thread is in it any more.
//! A thread counts itself in and then looks at the generation; here the generation
//! is raised first, and then the threads in there are looked at. One of the two
//! sees the other.

use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::queue::TaskQueue;

/// Queues per process.
const MAX_QUEUES: usize = 16_384;
/// As for a task's pointer (see the parent module), but others.
const MARK: u64 = 0xa6 << 56;
const NUMBER_SHIFT: u32 = 4;
const NUMBER_BITS: u32 = 20;
const GENERATION_SHIFT: u32 = NUMBER_SHIFT + NUMBER_BITS;

const _: () = assert!(MAX_QUEUES <= 1 << NUMBER_BITS);

static QUEUES: [AtomicPtr<TaskQueue>; MAX_QUEUES] =
    [const { AtomicPtr::new(ptr::null_mut()) }; MAX_QUEUES];

static KNOWN: Mutex<Known> = Mutex::new(Known {
    made: 0,
    free: Vec::new(),
});

struct Known {
    /// How many queues there are.
    made: usize,
    /// The numbers of those that no runtime has. Threads may still be in there.
    free: Vec<usize>,
}

fn known() -> MutexGuard<'static, Known> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn queue(number: usize) -> Option<&'static TaskQueue> {
    // Acquire: pairs with the Release in `Lease::new`.
    let queue = QUEUES.get(number)?.load(Ordering::Acquire);
    // SAFETY: null, or a queue, which is never freed.
    unsafe { queue.as_ref() }
}

/// A queue, for as long as this lives.
#[derive(Debug)]
pub struct Lease {
    number: usize,
    queue: &'static TaskQueue,
}

impl Lease {
    /// A queue in which so many tasks may wait. `None` if too many are in use.
    pub fn new(max_queue: i64) -> Option<Self> {
        let mut known = known();
        let is_empty = |&number: &usize| queue(number).is_some_and(TaskQueue::is_left);
        let place = known.free.iter().position(is_empty);
        if let Some(place) = place {
            let number = known.free.swap_remove(place);
            let queue = queue(number)?;
            queue.reopen(max_queue);
            return Some(Self { number, queue });
        }
        let number = known.made;
        let place = QUEUES.get(number)?;
        known.made += 1;
        let queue: &'static mut TaskQueue = Box::leak(Box::new(TaskQueue::new(max_queue)));
        // Release: pairs with the Acquire in `queue`.
        place.store(queue, Ordering::Release);
        Some(Self { number, queue })
    }

    /// The queue.
    pub fn queue(&self) -> &'static TaskQueue {
        self.queue
    }

    /// What a plugin is given for it.
    pub fn ticket(&self) -> *mut c_void {
        to_ticket(self.number as u64, self.queue.generation())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.queue.retire();
        known().free.push(self.number);
    }
}

fn to_ticket(number: u64, generation: u32) -> *mut c_void {
    let address = MARK | u64::from(generation) << GENERATION_SHIFT | number << NUMBER_SHIFT;
    ptr::without_provenance_mut(address as usize)
}

/// The queue and the generation of a ticket; `None` for what is none.
pub fn resolve(ticket: *mut c_void) -> Option<(&'static TaskQueue, u32)> {
    let address = ticket.addr() as u64;
    let number = address >> NUMBER_SHIFT & ((1 << NUMBER_BITS) - 1);
    let generation = (address >> GENERATION_SHIFT & u64::from(u32::MAX)) as u32;
    if to_ticket(number, generation) != ticket {
        return None;
    }
    Some((queue(number as usize)?, generation))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_queue_is_used_again_when_nobody_is_in_it() {
        let first = Lease::new(5).unwrap();
        let (number, ticket) = (first.number, first.ticket());
        let (queue, generation) = resolve(ticket).unwrap();
        let waits = std::thread::spawn(move || queue.poll(generation).is_none());
        while queue.is_left() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let other = Lease::new(5).unwrap();
        assert_ne!(other.number, number);
        drop(first);
        assert!(waits.join().unwrap(), "it ends without a task");
        // Nobody is in it: the next one gets it.
        let second = Lease::new(5).unwrap();
        assert_eq!(second.number, number);
        assert_ne!(second.ticket(), ticket);
        // The old ticket is good for nothing.
        let (queue, generation) = resolve(ticket).unwrap();
        assert!(queue.poll(generation).is_none());
    }

    #[test]
    fn only_tickets_are_tickets() {
        let lease = Lease::new(5).unwrap();
        let ticket = lease.ticket();
        assert!(resolve(ticket).is_some());
        assert!(resolve(ticket.map_addr(|address| address | 1)).is_none());
        assert!(resolve(ticket.map_addr(|address| address & !(1 << 63))).is_none());
        assert!(resolve(to_ticket(MAX_QUEUES as u64 - 1, 0)).is_none());
        assert!(resolve(ptr::null_mut()).is_none());
        assert!(resolve(ptr::from_ref(&0).cast_mut().cast()).is_none());
    }
}
