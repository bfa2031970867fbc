//! Tasks that come from elsewhere, or go there: other queues that the threads of a pool
//! search, and who takes tasks instead of a pool.

use std::fmt;
use std::sync::OnceLock;

use crate::error::Error;
use crate::task::{Load, Slot};

/// Where threads look for tasks: the queues of a pool, what the threads of a plugin
/// poll, or a source that a pool was given. Its functions do not block.
///
/// Each task of a source that a pool was given is of a runtime in that pool, and is
/// counted there by [`Pool::reserve`](super::Pool::reserve) or
/// [`Pool::reserve_always`](super::Pool::reserve_always) before `take` returns it: its
/// end goes to [`Pool::load`](super::Pool::load). After a push, the source calls
/// [`Pool::notify`](super::Pool::notify), on any thread. The arguments in [`super::idle`]
/// hold for such a push as for one to the pool's own queues, because every look at these
/// also looks at the sources.
pub trait TaskSource {
    /// Takes a task, if there is one.
    fn take(&self) -> Option<&'static Slot>;
    /// Whether there is nothing that this thread may take. Ordered by the fences of
    /// [`Idle`](super::idle::Idle).
    fn is_empty(&self) -> bool;
}

/// Takes tasks from the main thread, instead of a pool: all tasks of a runtime whose
/// backend has threads that ask for them, or those that would wait in a pool
/// ([`Pool::overflow_to`](super::Pool::overflow_to)). A thread begins such a task with
/// [`Slot::begin`], and does not use its runtime after its end. The main thread calls
/// all functions except those of `Load`; they do not block.
pub trait TaskSink: Load {
    /// Reserves room for one task, which is pushed next, or declines it.
    fn reserve(&self) -> Result<(), Error>;
    /// Takes an offered task, and wakes a thread that waits for it.
    ///
    /// # Safety
    /// The slot was offered, and is in no other queue.
    unsafe fn push(&self, slot: &'static Slot);
    /// Whether a thread is searching at this moment.
    fn is_searching(&self) -> bool {
        false
    }
    /// No more tasks will come: threads that ask when none is left are told so.
    fn finish(&self) {}
}

/// A source that any thread may use.
pub type SharedSource = &'static (dyn TaskSource + Sync);

/// The sources that a pool was given: a list that only grows.
#[derive(Default)]
pub struct Sources(OnceLock<Box<(SharedSource, Sources)>>);

impl fmt::Debug for Sources {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_list()
            .entries(self.iter().map(|_| ()))
            .finish()
    }
}

impl Sources {
    /// Adds one at the end.
    pub fn add(&self, source: SharedSource) {
        let mut entry = Box::new((source, Self::default()));
        let mut end = self;
        while let Err(refused) = end.0.set(entry) {
            entry = refused;
            end = end.0.get().map_or(end, |entry| &entry.1);
        }
    }

    fn iter(&self) -> impl Iterator<Item = SharedSource> + '_ {
        let entries = std::iter::successors(self.0.get(), |entry| entry.1.0.get());
        entries.map(|entry| entry.0)
    }

    /// Takes a task from the first source that has one.
    #[inline]
    pub fn take(&self) -> Option<&'static Slot> {
        self.iter().find_map(|source| source.take())
    }

    /// Whether no source has a task.
    pub fn is_empty(&self) -> bool {
        self.iter().all(|source| source.is_empty())
    }
}
