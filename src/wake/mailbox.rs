//! Where a client's completions arrive, and the wake-up for whatever else has
//! happened: what is recorded where is not this module's business, nor is how the
//! event loop is woken.

use std::sync::atomic::AtomicBool;

use super::completions::Completions;
use super::{Source, Waker, outbox};
use crate::sync::{Ordering, fence};
use crate::task::{Recipient, Slot};

/// The mailbox. Made once per Lua VM and never freed: a plugin's thread may
/// still use it when the VM is gone.
#[derive(Debug, Default)]
pub struct Mailbox {
    completions: Completions,
    waker: Waker,
    closed: AtomicBool,
}

impl Recipient for Mailbox {
    fn deliver(&'static self, slot: &'static Slot, ended_ns: u64) {
        if !outbox::offer(self, slot, ended_ns) {
            self.push(slot, slot);
        }
    }

    fn is_closed(&self) -> bool {
        // Relaxed: a task that starts at the moment of closing is waited for
        // like one that started before (see `exit`).
        self.closed.load(Ordering::Relaxed)
    }
}

impl Mailbox {
    pub(super) fn push(&self, newest: &'static Slot, oldest: &'static Slot) {
        if self.completions.push(newest, oldest) {
            self.waker.wake();
        }
    }

    /// The queue of completions, for the main thread.
    pub fn completions(&self) -> &Completions {
        &self.completions
    }

    /// How the event loop is woken.
    pub fn waker(&self) -> &Waker {
        &self.waker
    }

    /// Has the event loop take a turn if it sleeps; true if it did. From any thread.
    pub fn rouse(&self) -> bool {
        let sleeps = self.completions.disarm();
        if sleeps {
            self.waker.wake();
        }
        sleeps
    }

    /// Wakes the event loop, if it sleeps, for what was put into a source.
    pub fn announce(&self) {
        // SeqCst: orders what was put in before the look at the mark; partner of the
        // fence in `arm`, after which the main thread looks at the sources once more.
        // One of the two sees the other.
        fence(Ordering::SeqCst);
        self.rouse();
    }

    /// Asks for a wake-up. False if there is something to do first: a completion, or
    /// something in one of the sources. On the main thread.
    #[must_use]
    pub fn arm(&self, sources: &[&dyn Source]) -> bool {
        if !self.completions.arm() {
            return false;
        }
        // SeqCst: partner of the fence in `announce`.
        fence(Ordering::SeqCst);
        // If somebody else took the mark meanwhile, a byte is on its way.
        sources.iter().all(|source| source.is_empty()) || !self.completions.disarm()
    }

    /// From now on no task of this mailbox starts to run.
    pub fn close(&self) {
        // Relaxed: see `is_closed`.
        self.closed.store(true, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    struct Flag(AtomicBool);

    impl Source for Flag {
        fn is_empty(&self) -> bool {
            !self.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn any_source_keeps_the_consumer_awake_or_wakes_it() {
        let (mailbox, one, two) = (
            Mailbox::default(),
            Flag(AtomicBool::new(false)),
            Flag(AtomicBool::new(false)),
        );
        let sources: [&dyn Source; 2] = [&one, &two];
        two.0.store(true, Ordering::Relaxed);
        assert!(!mailbox.arm(&sources), "something is there");
        assert!(!mailbox.rouse(), "so it is not armed");
        two.0.store(false, Ordering::Relaxed);
        assert!(mailbox.arm(&sources));
        one.0.store(true, Ordering::Relaxed);
        mailbox.announce();
        assert!(!mailbox.rouse(), "the announcement has taken the mark");
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicU32;
    use loom::thread;

    /// A source whose own orderings are relaxed: only `Mailbox` keeps wake-ups from
    /// being lost.
    struct Count(AtomicU32);

    impl Source for Count {
        fn is_empty(&self) -> bool {
            self.0.load(Ordering::Relaxed) == 0
        }
    }

    /// Whatever is announced is seen before the consumer sleeps, or wakes it.
    #[test]
    fn loom_no_announcement_is_lost() {
        loom::model(|| {
            let mailbox = Arc::new(Mailbox::default());
            let source = Arc::new(Count(AtomicU32::new(0)));
            let producer = {
                let (mailbox, source) = (mailbox.clone(), source.clone());
                thread::spawn(move || {
                    source.0.store(1, Ordering::Relaxed);
                    mailbox.announce();
                })
            };
            let sleeps = mailbox.arm(&[&*source]);
            producer.join().unwrap();
            // Asleep and still armed would be asleep for ever.
            assert!(!(sleeps && mailbox.rouse()), "the wake-up was lost");
        });
    }
}
