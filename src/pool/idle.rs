//! Who searches and who sleeps.
//!
//! One word counts the threads that *search* (look for a task, spinning) and
//! those that *sleep*. A poster wakes a thread only if none searches and one
//! sleeps, so a burst of posts costs one wake-up, as in the schedulers of Go
//! and tokio; the searcher that finds a task and is the last one wakes the
//! next if there is more to do.
//!
//! # No wake-up is lost
//!
//! A poster pushes its task (1) and then reads the word (2). A searcher that
//! gives up changes the word (3) and then looks at the queues again (4), and
//! goes to sleep only if they are empty. All four are sequentially consistent
//! (the pushes and looks by a fence). If (2) precedes (3), the poster saw a
//! searcher and woke nobody, but then (1) precedes (4) and the searcher sees
//! the task. If (3) precedes (2), the poster sees no searcher but a sleeper,
//! and wakes one. The same holds for a searcher that found some other task and
//! then looks whether there is more.
//!
//! A poster that decides to wake moves one thread from sleeping to searching
//! on its behalf (a *grant*), so later posters see a searcher at once. Then it
//! picks the sleeper of the lowest number and posts that one's semaphore: under
//! light load the same thread does all the work, and its caches stay warm. A
//! sleeper sets its bit before it is counted, so there are always at least as
//! many bits as grants; which sleeper a grant ends up with does not matter.

use crate::sync::{AtomicU32, AtomicU64, Ordering, Semaphore, fence, spin_loop};

/// How many threads search and how many sleep: `sleepers << 16 | searchers`.
#[derive(Debug, Clone, Copy)]
struct Counts(u32);

const SEARCHER: u32 = 1;
const SLEEPER: u32 = 1 << 16;

impl Counts {
    fn searchers(self) -> u32 {
        self.0 % SLEEPER
    }

    fn sleepers(self) -> u32 {
        self.0 / SLEEPER
    }

    /// Whether somebody must wake a thread for a new task.
    fn lack_searcher(self) -> bool {
        self.searchers() == 0 && self.sleepers() > 0
    }

    /// With a searcher instead of a sleeper.
    fn with_one_woken(self) -> Self {
        Self(self.0 - SLEEPER + SEARCHER)
    }
}

/// The idle threads of a pool.
#[derive(Debug)]
pub struct Idle {
    /// [`Counts`].
    counts: AtomicU32,
    /// A bit for each thread that may be picked. Set before the thread is
    /// counted as a sleeper.
    asleep: Box<[AtomicU64]>,
    parkers: Box<[Semaphore]>,
}

impl Idle {
    /// For so many threads, numbered from 0.
    pub fn new(threads: usize) -> Self {
        Self {
            counts: AtomicU32::new(0),
            asleep: (0..threads.div_ceil(64))
                .map(|_| AtomicU64::new(0))
                .collect(),
            parkers: (0..threads).map(|_| Semaphore::new()).collect(),
        }
    }

    /// After a push: wakes a thread unless one searches or none sleeps.
    #[inline]
    pub fn notify(&self) {
        // Orders the push before the read: (1) and (2) above.
        fence(Ordering::SeqCst);
        if self.counts().lack_searcher() {
            self.wake_one();
        }
    }

    fn counts(&self) -> Counts {
        Counts(self.counts.load(Ordering::SeqCst))
    }

    /// Wakes a sleeper if there is one and no thread searches.
    #[cold]
    fn wake_one(&self) {
        if self.grant(Counts::lack_searcher) {
            self.parkers[self.pop_sleeper()].post();
        }
    }

    /// Moves a thread from sleeping to searching, if there is one that sleeps
    /// and `wanted` says so of the counts. Which one is still to be picked.
    fn grant(&self, wanted: impl Fn(Counts) -> bool) -> bool {
        let mut counts = self.counts();
        while counts.sleepers() > 0 && wanted(counts) {
            match self.counts.compare_exchange_weak(
                counts.0,
                counts.with_one_woken().0,
                Ordering::SeqCst,
                Ordering::SeqCst,
            ) {
                Ok(_) => return true,
                Err(found) => counts = Counts(found),
            }
        }
        false
    }

    /// Wakes thread `index` if it sleeps, for something that only it may do.
    ///
    /// It is posted without a grant: a grant could be for a thread that has set
    /// its bit and is not counted yet, so that none is left for the one that is
    /// meant. The thread takes the grant itself, see `sleep`; it may wait for
    /// that, the poster must not.
    pub fn wake(&self, index: usize) {
        // As in `notify`: what the thread is woken for comes before the looks.
        fence(Ordering::SeqCst);
        let bits = self.asleep[index / 64].load(Ordering::SeqCst);
        // A permit that is there already will wake it, too; the fence behind
        // `wait` in `sleep` is the partner.
        if bits & bit(index) != 0 && !self.parkers[index].is_posted() {
            self.parkers[index].post();
        }
    }

    /// Takes the lowest bit; the caller has a grant, so there is one.
    fn pop_sleeper(&self) -> usize {
        loop {
            for (index, word) in self.asleep.iter().enumerate() {
                // Acquire and Release: pairs with itself and with `sleep`; the
                // bits order nothing but who is picked.
                let mut bits = word.load(Ordering::Acquire);
                while bits != 0 {
                    let lowest = bits & bits.wrapping_neg();
                    match word.compare_exchange_weak(
                        bits,
                        bits & !lowest,
                        Ordering::AcqRel,
                        Ordering::Acquire,
                    ) {
                        Ok(_) => return index * 64 + lowest.trailing_zeros() as usize,
                        Err(now) => bits = now,
                    }
                }
            }
            spin_loop();
        }
    }

    /// How many threads are awake. Each of them looks at the queues once more
    /// before it sleeps.
    #[inline]
    pub fn awake(&self) -> usize {
        // As in `notify`: the push before comes before this look.
        fence(Ordering::SeqCst);
        self.parkers.len() - self.counts().sleepers() as usize
    }

    /// How many threads search (a hint).
    #[inline]
    pub fn searchers(&self) -> u32 {
        Counts(self.counts.load(Ordering::Relaxed)).searchers()
    }

    /// The calling thread starts to search. True if no other does.
    pub fn start_searching(&self) -> bool {
        Counts(self.counts.fetch_add(SEARCHER, Ordering::SeqCst)).searchers() == 0
    }

    /// The calling thread has found a task. True if it was the last searcher:
    /// it must `notify` if there is more to do.
    #[must_use]
    pub fn stop_searching(&self) -> bool {
        // (3) above, with the fence of the look that follows.
        let before = Counts(self.counts.fetch_sub(SEARCHER, Ordering::SeqCst));
        fence(Ordering::SeqCst);
        before.searchers() == 1
    }

    /// Thread `index`, a searcher, has found nothing and sleeps until it is
    /// picked, or woken by `wake`; it is a searcher again when this returns.
    /// If `is_empty` says that there is something after all, it does not sleep.
    pub fn sleep(&self, index: usize, is_empty: impl Fn() -> bool) {
        self.asleep[index / 64].fetch_or(bit(index), Ordering::AcqRel);
        // (3) and (4) above.
        self.counts.fetch_add(SLEEPER - SEARCHER, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if is_empty() {
            self.parkers[index].wait();
            // Partner of the fence in `wake`: if that found a permit, it was
            // this one, and what follows sees what it was for.
            fence(Ordering::SeqCst);
            self.cancel_park(index);
        } else if !self.cancel_park(index) {
            // Picked at this moment: the permit is on its way.
            self.parkers[index].wait();
        }
    }

    /// Makes thread `index` a searcher again if it was not picked. False if it
    /// was, and so is one.
    fn cancel_park(&self, index: usize) -> bool {
        let word = &self.asleep[index / 64];
        // Acquire and Release: as in `pop_sleeper`.
        while word.load(Ordering::Acquire) & bit(index) != 0 {
            if !self.grant(|_| true) {
                // Whoever has the last grant picks this thread, or one that is
                // about to be counted.
                spin_loop();
                continue;
            }
            if word.fetch_and(!bit(index), Ordering::AcqRel) & bit(index) != 0 {
                return true;
            }
            // Picked meanwhile: the grant is for somebody else.
            self.parkers[self.pop_sleeper()].post();
        }
        false
    }
}

/// A thread's bit in its word.
fn bit(index: usize) -> u64 {
    1 << (index % 64)
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicU32 as Count;
    use loom::thread;

    /// A queue that holds a number of equal tasks, and a source that other threads
    /// fill. Their own orderings are relaxed, so that only `Idle` keeps wake-ups from
    /// being lost.
    #[derive(Debug)]
    struct Pool {
        idle: Idle,
        queue: Count,
        source: Count,
    }

    impl Pool {
        fn new(threads: usize) -> Arc<Self> {
            Arc::new(Self {
                idle: Idle::new(threads),
                queue: Count::new(0),
                source: Count::new(0),
            })
        }

        fn post(&self) {
            self.post_to(&self.queue);
        }

        fn post_to(&self, queue: &Count) {
            queue.fetch_add(1, Ordering::Relaxed);
            self.idle.notify();
        }

        fn find(&self) -> bool {
            [&self.queue, &self.source].into_iter().any(|queue| {
                queue
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
                    .is_ok()
            })
        }

        fn is_empty(&self) -> bool {
            let mut queues = [&self.queue, &self.source].into_iter();
            queues.all(|queue| queue.load(Ordering::Relaxed) == 0)
        }

        /// What a pool thread does, until it has run `tasks`.
        fn run(&self, index: usize, tasks: u32) {
            let mut done = 0;
            while done < tasks {
                self.idle.start_searching();
                while !self.find() {
                    self.idle.sleep(index, || self.is_empty());
                }
                if self.idle.stop_searching() && !self.is_empty() {
                    self.idle.notify();
                }
                done += 1;
            }
        }
    }

    /// One thread, two posts: both are run. A lost wake-up is a deadlock.
    #[test]
    fn loom_one_thread_sees_every_post() {
        loom::model(|| {
            let pool = Pool::new(1);
            let thread = {
                let pool = pool.clone();
                thread::spawn(move || pool.run(0, 2))
            };
            pool.post();
            pool.post();
            thread.join().unwrap();
            assert!(pool.is_empty());
        });
    }

    /// A source is filled by another thread while the main thread posts.
    #[test]
    fn loom_a_sources_task_is_found_beside_posted_ones() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let pool = Pool::new(1);
            let [runs, fills] = [pool.clone(), pool.clone()];
            let threads = [
                thread::spawn(move || runs.run(0, 2)),
                thread::spawn(move || fills.post_to(&fills.source)),
            ];
            pool.post();
            for thread in threads {
                thread.join().unwrap();
            }
            assert!(pool.is_empty());
        });
    }

    /// Each of two threads has a task that only it may take; whoever posts wakes
    /// just that thread.
    #[test]
    fn loom_a_thread_is_woken_for_what_is_its_own() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let idle = Arc::new(Idle::new(2));
            let inboxes = Arc::new([Count::new(0), Count::new(0)]);
            let threads: Vec<_> = (0..2)
                .map(|index| {
                    let (idle, inboxes) = (idle.clone(), inboxes.clone());
                    thread::spawn(move || {
                        let is_empty = || inboxes[index].load(Ordering::Relaxed) == 0;
                        idle.start_searching();
                        while is_empty() {
                            idle.sleep(index, is_empty);
                        }
                        let _ = idle.stop_searching();
                    })
                })
                .collect();
            for (index, inbox) in inboxes.iter().enumerate() {
                inbox.store(1, Ordering::Relaxed);
                idle.wake(index);
            }
            for thread in threads {
                thread.join().unwrap();
            }
        });
    }

    /// Two threads, one task each, two posts: neither is left asleep beside a
    /// task, although the second post may wake nobody.
    #[test]
    fn loom_a_burst_wakes_all_that_it_needs() {
        let mut model = loom::model::Builder::new();
        // As for the completion queue.
        model.preemption_bound = Some(3);
        model.check(|| {
            let pool = Pool::new(2);
            let threads: Vec<_> = (0..2)
                .map(|index| {
                    let pool = pool.clone();
                    thread::spawn(move || pool.run(index, 1))
                })
                .collect();
            pool.post();
            pool.post();
            for thread in threads {
                thread.join().unwrap();
            }
            assert!(pool.is_empty());
        });
    }
}
