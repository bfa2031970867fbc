//! Where tasks wait, and which one a thread takes next.
//!
//! One injector per priority, filled by the main thread, and one deque per
//! thread for what it took from the normal injector in a batch; others steal
//! from there. Batches are taken only while tasks are short: a task must not
//! wait behind a long one while another thread has nothing to do.
//!
//! A task with a key goes to the *inbox* of one thread, which is warm for that
//! key. Others take it from there only while that thread is engaged in a task.
//!
//! # Fairness
//!
//! `high` goes first, then the thread's inbox and `normal`, then `low`. Every [`LOW_TURN`]th search
//! looks at `low` first, and every [`NORMAL_TURN`]th at `normal` first, so
//! neither starves: under any load, at least one in [`LOW_TURN`] tasks that
//! start is a low one if there is any.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Mutex, PoisonError};

use crossbeam_deque::{Injector, Steal, Stealer, Worker};
use crossbeam_utils::CachePadded;

use crate::task::{Priority, Slot};

type Entry = &'static Slot;

/// The turn at which a thread looks at `low` first.
const LOW_TURN: u32 = 16;
/// The turn at which a thread looks at `normal` first.
const NORMAL_TURN: u32 = 4;
/// How many short tasks a thread takes at once.
const BATCH: usize = 16;

/// The queues of a pool.
#[derive(Debug)]
pub struct Queues {
    injectors: [Injector<Entry>; Priority::COUNT],
    stealers: Box<[Stealer<Entry>]>,
    inboxes: Box<[CachePadded<Inbox>]>,
    /// The deques of threads that have not been started.
    locals: Mutex<Vec<Option<Worker<Entry>>>>,
}

/// Tasks for one thread.
#[derive(Debug, Default)]
struct Inbox {
    tasks: Injector<Entry>,
    /// Whether the thread runs a task, so that others may help it out.
    engaged: AtomicBool,
}

impl Inbox {
    fn may_be_taken(&self) -> bool {
        // Relaxed: a hint here. That no task is forgotten follows from the
        // fences in `Queues::is_engaged` and `Queues::engage`.
        self.engaged.load(Ordering::Relaxed) && !self.tasks.is_empty()
    }
}

/// A thread's own end of the queues.
#[derive(Debug)]
pub struct Finder {
    queues: &'static Queues,
    local: Worker<Entry>,
    index: usize,
    turn: Cell<u32>,
}

/// One place to look for a task.
#[derive(Debug, Clone, Copy)]
enum Place {
    High,
    Inbox,
    Normal,
    Others,
    Low,
}

impl Queues {
    /// Queues for so many threads.
    pub fn new(threads: usize) -> Self {
        let locals: Vec<_> = (0..threads).map(|_| Worker::new_fifo()).collect();
        Self {
            injectors: Default::default(),
            stealers: locals.iter().map(Worker::stealer).collect(),
            inboxes: locals.iter().map(|_| CachePadded::default()).collect(),
            locals: Mutex::new(locals.into_iter().map(Some).collect()),
        }
    }

    /// The end of thread `index`, which is given once: to that thread.
    pub fn finder(&'static self, index: usize) -> Option<Finder> {
        let mut locals = self.locals.lock().unwrap_or_else(PoisonError::into_inner);
        let local = locals.get_mut(index)?.take()?;
        Some(Finder {
            queues: self,
            local,
            index,
            turn: Cell::new(0),
        })
    }

    /// Adds an offered task; it knows its priority.
    #[inline]
    pub fn push(&self, slot: Entry, priority: Priority) {
        self.injectors[priority as usize].push(slot);
    }

    /// Adds an offered task to the inbox of a thread.
    pub fn push_to(&self, slot: Entry, index: usize) {
        self.inboxes[index].tasks.push(slot);
    }

    /// Notes that thread `index` runs a task. If `wants_help`, true if there
    /// is something in its inbox that another thread should look after.
    #[inline]
    pub fn engage(&self, index: usize, wants_help: bool) -> bool {
        let inbox = &self.inboxes[index];
        inbox.engaged.store(true, Ordering::Relaxed);
        if !wants_help {
            return false;
        }
        // SeqCst: partner of the fence in `is_engaged`. Either the poster sees
        // this thread engaged, or this thread sees the poster's task.
        fence(Ordering::SeqCst);
        !inbox.tasks.is_empty()
    }

    /// Notes that thread `index` is between tasks.
    #[inline]
    pub fn disengage(&self, index: usize) {
        // Relaxed: see `may_be_taken`.
        self.inboxes[index].engaged.store(false, Ordering::Relaxed);
    }

    /// After `push_to`: whether the thread is running a task, so that another
    /// must be told.
    pub fn is_engaged(&self, index: usize) -> bool {
        // SeqCst: partner of the fence in `engage`.
        fence(Ordering::SeqCst);
        self.inboxes[index].engaged.load(Ordering::Relaxed)
    }

    /// Whether there is nothing to find for thread `index`.
    pub fn is_empty_for(&self, index: usize) -> bool {
        self.is_empty() && self.inboxes[index].tasks.is_empty()
    }

    /// Whether there is nothing that any thread may take.
    pub fn is_empty(&self) -> bool {
        self.injectors.iter().all(Injector::is_empty)
            && self.stealers.iter().all(Stealer::is_empty)
            && !self.inboxes.iter().any(|inbox| inbox.may_be_taken())
    }
}

impl Finder {
    /// The task to run next. `batch` allows to take more than one from the
    /// normal injector.
    #[inline]
    pub fn find(&self, batch: bool) -> Option<Entry> {
        use Place::{High, Inbox, Low, Normal, Others};
        let turn = self.turn.get().wrapping_add(1);
        self.turn.set(turn);
        let places = if turn.is_multiple_of(LOW_TURN) {
            [Low, Others, Inbox, Normal, High]
        } else if turn.is_multiple_of(NORMAL_TURN) {
            [Inbox, Others, Normal, High, Low]
        } else {
            [High, Inbox, Normal, Others, Low]
        };
        places.into_iter().find_map(|place| self.look(place, batch))
    }

    fn look(&self, place: Place, batch: bool) -> Option<Entry> {
        let queues = self.queues;
        let injector = |priority: Priority| &queues.injectors[priority as usize];
        match place {
            Place::High => steal_some(|| injector(Priority::High).steal()),
            Place::Low => steal_some(|| injector(Priority::Low).steal()),
            Place::Inbox => {
                let tasks = &queues.inboxes[self.index].tasks;
                // The look is cheaper than the attempt.
                (!tasks.is_empty()).then(|| steal_some(|| tasks.steal()))?
            }
            Place::Normal => self.local.pop().or_else(|| {
                let normal = injector(Priority::Normal);
                if batch {
                    steal_some(|| normal.steal_batch_with_limit_and_pop(&self.local, BATCH))
                } else {
                    steal_some(|| normal.steal())
                }
            }),
            Place::Others => {
                let (before, after) = queues.stealers.split_at(self.index);
                let mut others = after[1..].iter().chain(before);
                let held = others.find_map(|other| steal_some(|| other.steal()));
                held.or_else(|| {
                    let mut inboxes = queues.inboxes.iter();
                    inboxes.find_map(|inbox| {
                        let may_be_taken = inbox.may_be_taken();
                        may_be_taken.then(|| steal_some(|| inbox.tasks.steal()))?
                    })
                })
            }
        }
    }

    /// Whether others could take tasks from this thread.
    pub fn holds_tasks(&self) -> bool {
        !self.local.is_empty()
    }
}

/// Steals until that succeeds or there is nothing. A retry means that another
/// thread got a task, so somebody always advances.
fn steal_some(mut steal: impl FnMut() -> Steal<Entry>) -> Option<Entry> {
    loop {
        match steal() {
            Steal::Success(slot) => return Some(slot),
            Steal::Empty => return None,
            Steal::Retry => {}
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn setup(threads: usize) -> (&'static Queues, Vec<Finder>) {
        let queues: &'static Queues = Box::leak(Box::new(Queues::new(threads)));
        let finders = (0..threads).map(|index| queues.finder(index).unwrap());
        (queues, finders.collect())
    }

    fn fill(queues: &Queues, priority: Priority, indices: std::ops::Range<u32>) {
        for index in indices {
            queues.push(Box::leak(Box::new(Slot::new(index))), priority);
        }
    }

    #[test]
    fn high_goes_first_and_nobody_starves() {
        let (queues, finders) = setup(1);
        fill(queues, Priority::Low, 2000..3000);
        fill(queues, Priority::Normal, 1000..2000);
        fill(queues, Priority::High, 0..1000);
        let mut counts = [0; Priority::COUNT];
        for _ in 0..320 {
            let slot = finders[0].find(true).unwrap();
            counts[slot.index as usize / 1000] += 1;
        }
        assert_eq!(counts, [240, 60, 20]);
    }

    #[test]
    fn every_task_is_found_once_whatever_the_batches() {
        let (queues, finders) = setup(3);
        fill(queues, Priority::Normal, 0..100);
        fill(queues, Priority::Low, 100..120);
        let mut found = Vec::new();
        for round in 0.. {
            let slots = finders.iter().filter_map(|f| f.find(round % 2 == 0));
            let before = found.len();
            found.extend(slots.map(|slot| slot.index));
            if found.len() == before {
                break;
            }
        }
        found.sort_unstable();
        assert_eq!(found, (0..120).collect::<Vec<_>>());
        assert!(queues.is_empty());
    }

    #[test]
    fn an_inbox_is_its_threads_unless_that_is_engaged() {
        let (queues, finders) = setup(2);
        let post = |index| queues.push_to(Box::leak(Box::new(Slot::new(index))), 0);
        post(1);
        assert!(finders[1].find(false).is_none());
        assert!(queues.is_empty_for(1) && !queues.is_empty_for(0));
        assert!(queues.engage(0, true), "its thread should call for help");
        assert!(queues.is_engaged(0) && !queues.is_empty_for(1));
        assert_eq!(finders[1].find(false).unwrap().index, 1);
        queues.disengage(0);
        post(2);
        assert!(!queues.is_engaged(0));
        assert!(finders[1].find(false).is_none());
        assert_eq!(finders[0].find(false).unwrap().index, 2);
    }

    #[test]
    fn one_thread_takes_what_another_holds() {
        let (queues, finders) = setup(2);
        fill(queues, Priority::Normal, 0..4);
        assert_eq!(finders[0].find(true).unwrap().index, 0);
        assert!(finders[0].holds_tasks());
        let rest: Vec<_> = std::iter::from_fn(|| finders[1].find(false)).collect();
        assert_eq!(rest.len(), 3);
        assert!(!finders[0].holds_tasks());
    }
}
