//! The queue of done slots: many producers, one consumer (the main thread).
//!
//! A stack that the consumer takes whole and reverses (R. K. Treiber, "Systems
//! Programming: Coping with Parallelism", 1986). Its head also is the *armed*
//! flag: the consumer that found nothing puts the mark `ARMED` where the first
//! slot would be, and the producer that replaces the mark must wake it.
//!
//! # No wake-up is lost
//!
//! Both "is there anything?" and "does the consumer sleep?" are one word, so
//! there is no window between the two questions. `arm` succeeds only if the
//! queue is empty at that instant. Whatever is pushed later replaces the mark,
//! and its producer, alone, learns that it did.

use std::ptr;

use crate::sync::{AtomicPtr, Ordering};
use crate::task::Slot;

/// The head of an armed queue: an address that no slot has.
fn armed() -> *mut Slot {
    ptr::without_provenance_mut(1)
}

/// The queue.
#[derive(Debug)]
pub struct Completions {
    head: AtomicPtr<Slot>,
}

impl Default for Completions {
    fn default() -> Self {
        Self {
            head: AtomicPtr::new(ptr::null_mut()),
        }
    }
}

impl Completions {
    /// Pushes a chain of slots, linked from `newest` to `oldest`. True if the
    /// consumer must be woken.
    ///
    /// The slots are done, in no other list, and linked by `next`.
    #[must_use]
    pub fn push(&self, newest: &'static Slot, oldest: &'static Slot) -> bool {
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            let below = if head == armed() {
                ptr::null_mut()
            } else {
                head
            };
            // Relaxed: published by the exchange below.
            oldest.next.store(below, Ordering::Relaxed);
            let newest = ptr::from_ref(newest).cast_mut();
            // Release: pairs with the Acquire in `take`, which reads the links
            // and the replies.
            match self.head.compare_exchange_weak(
                head,
                newest,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return head == armed(),
                Err(now) => head = now,
            }
        }
    }

    /// Takes all slots, oldest first; an armed queue stays armed. Only for the
    /// consumer.
    pub fn take(&self) -> Taken {
        let head = self.head.load(Ordering::Relaxed);
        if head.is_null() || head == armed() {
            return Taken(ptr::null_mut());
        }
        // Only the consumer arms, so what it takes here is slots. Acquire:
        // pairs with the Release of every `push` in the chain.
        let mut newest = self.head.swap(ptr::null_mut(), Ordering::Acquire);
        let mut oldest = ptr::null_mut();
        // SAFETY: a non-null, non-armed link is a slot in this queue, and
        // slots are never freed.
        while let Some(slot) = unsafe { newest.as_ref() } {
            newest = slot.next.load(Ordering::Relaxed);
            slot.next.store(oldest, Ordering::Relaxed);
            oldest = ptr::from_ref(slot).cast_mut();
        }
        Taken(oldest)
    }

    /// Asks for a wake-up at the next push. False if the queue is not empty:
    /// the consumer should take again. Only for the consumer.
    #[must_use]
    pub fn arm(&self) -> bool {
        // SeqCst: orders the mark before the consumer's look at the sources,
        // partner of the fence in `Mailbox::announce`.
        let armed_now = self.head.compare_exchange(
            ptr::null_mut(),
            armed(),
            Ordering::SeqCst,
            Ordering::Relaxed,
        );
        armed_now.is_ok() || armed_now == Err(armed())
    }

    /// Takes the mark away if it is there. True if it was: the consumer must
    /// be woken.
    #[must_use]
    pub fn disarm(&self) -> bool {
        // SeqCst: as in `arm`.
        self.head
            .compare_exchange(
                armed(),
                ptr::null_mut(),
                Ordering::SeqCst,
                Ordering::Relaxed,
            )
            .is_ok()
    }

    /// Whether `take` would give something (a hint for other threads).
    pub fn is_empty(&self) -> bool {
        let head = self.head.load(Ordering::Relaxed);
        head.is_null() || head == armed()
    }
}

/// Slots that were taken, oldest first.
#[derive(Debug)]
pub struct Taken(*mut Slot);

impl Taken {
    /// An empty list.
    pub const fn none() -> Self {
        Self(ptr::null_mut())
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_null()
    }

    /// The slot that `next` will give.
    pub fn peek(&self) -> Option<&'static Slot> {
        // SAFETY: links lead to slots, which are never freed.
        unsafe { self.0.as_ref() }
    }
}

impl Iterator for Taken {
    type Item = &'static Slot;

    fn next(&mut self) -> Option<&'static Slot> {
        let slot = self.peek()?;
        self.0 = slot.next.load(Ordering::Relaxed);
        Some(slot)
    }
}

#[cfg(test)]
mod support {
    use super::*;

    /// A slot for a test, never freed, as the queue demands.
    pub fn slot(index: u32) -> &'static Slot {
        Box::leak(Box::new(Slot::new(index)))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn indices(queue: &Completions) -> Vec<u32> {
        queue.take().map(|slot| slot.index).collect()
    }

    #[test]
    fn slots_come_out_in_the_order_of_completion() {
        let queue = Completions::default();
        for index in 0..5 {
            let slot = support::slot(index);
            assert!(!queue.push(slot, slot));
        }
        assert_eq!(indices(&queue), [0, 1, 2, 3, 4]);
        assert_eq!(indices(&queue), []);
    }

    #[test]
    fn a_chain_is_pushed_as_one() {
        let queue = Completions::default();
        let (older, newer) = (support::slot(1), support::slot(2));
        newer
            .next
            .store(ptr::from_ref(older).cast_mut(), Ordering::Relaxed);
        let first = support::slot(0);
        assert!(!queue.push(first, first));
        assert!(!queue.push(newer, older));
        assert_eq!(indices(&queue), [0, 1, 2]);
    }

    #[test]
    fn only_the_push_that_meets_the_mark_wakes() {
        let queue = Completions::default();
        assert!(queue.arm());
        assert!(queue.arm(), "arming twice is arming");
        assert_eq!(indices(&queue), [], "taking leaves the mark");
        let (one, two) = (support::slot(1), support::slot(2));
        assert!(queue.push(one, one));
        assert!(!queue.arm(), "not empty");
        assert!(!queue.push(two, two));
        assert_eq!(indices(&queue), [1, 2]);
        assert!(queue.arm());
        assert!(queue.disarm());
        assert!(!queue.disarm());
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    /// The consumer sleeps only if armed, and every sleep is ended: with two
    /// producers, all slots arrive, and the number of wake-ups is exactly what
    /// the consumer waits for.
    #[test]
    fn loom_no_lost_wake_up() {
        let mut model = loom::model::Builder::new();
        // Every interleaving with up to three preemptions; without a bound
        // the model does not end.
        model.preemption_bound = Some(3);
        model.check(|| {
            let queue = Arc::new(Completions::default());
            let bell = Arc::new(crate::sync::Semaphore::new());
            let producers: Vec<_> = (0..2)
                .map(|index| {
                    let (queue, bell) = (queue.clone(), bell.clone());
                    thread::spawn(move || {
                        // Leaked as the arena does; loom does not mind.
                        let slot = support::slot(index);
                        if queue.push(slot, slot) {
                            bell.post();
                        }
                    })
                })
                .collect();
            let mut arrived = 0;
            while arrived < 2 {
                arrived += queue.take().count();
                if arrived < 2 && queue.arm() {
                    // A lost wake-up is a deadlock here, which loom reports.
                    bell.wait();
                }
            }
            for producer in producers {
                producer.join().unwrap();
            }
            assert!(queue.is_empty());
        });
    }
}
