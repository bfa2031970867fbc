//! How a thread looks for a task: it spins if that has paid lately, then it parks.

use super::idle::Idle;
use super::source::TaskSource;
use super::spin::Window;
use crate::sync::now_ns;
use crate::task::Slot;

/// A thread that looks for tasks, and where it does.
pub trait Searcher: TaskSource {
    /// Whether the search is to end, found or not.
    fn is_over(&self) -> bool;
    /// Does what is due before the thread parks. `None` if nothing is; else whether
    /// the thread is the only searcher now.
    fn before_park(&self) -> Option<bool> {
        None
    }
    /// The thread was woken.
    fn woken(&self) {}
}

/// Looks for a task until there is one or the search is over. The calling thread has
/// been idle `since`, counts as searching, and as the `first` that does or not; it
/// parks as number `parker`. It still counts as searching when this returns.
pub fn search(
    searcher: &impl Searcher,
    idle: &Idle,
    parker: usize,
    window: &Window,
    since: u64,
    mut first: bool,
) -> Option<&'static Slot> {
    loop {
        // One spinning thread is enough: the one that was first.
        let found = window.look(since, first, || searcher.take());
        if found.is_some() {
            return found;
        }
        if searcher.is_over() {
            // What was pushed before that is seen now.
            return searcher.take();
        }
        if let Some(alone) = searcher.before_park() {
            first = alone;
            continue;
        }
        idle.sleep(parker, || searcher.is_empty() && !searcher.is_over());
        searcher.woken();
        window.adapt(now_ns().saturating_sub(since));
        first = idle.searchers() == 1;
    }
}
