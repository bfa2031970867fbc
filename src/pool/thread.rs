//! The life of a pool thread: find a task, run it, and when there is none spin
//! for a moment and then sleep.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use super::queues::Finder;
use super::search::{Searcher, search};
use super::source::TaskSource;
use super::spin::Window;
use super::{Shared, spawn};
use crate::sync::{Ordering, now_ns};
use crate::task::{Handle, Kind, Running, Slot};
use crate::wake::outbox;

/// Starts thread `index` of a pool.
pub fn start(shared: &'static Shared, index: usize) -> Result<(), String> {
    let config = &shared.config;
    spawn::spawn(&config.name, index, config.nice, move || {
        // A thread is started once.
        let Some(finder) = shared.queues.finder(index) else {
            return;
        };
        // It never ends.
        let thread: &'static Thread = Box::leak(Box::new(Thread {
            shared,
            index,
            finder,
            next: Cell::new(None),
            begun: Cell::new(None),
            window: Window::new(shared.cores),
            now_ns: Cell::new(0),
            bulk: Cell::new(false),
            engaged: Cell::new(false),
            interrupts: Cell::new(0),
        }));
        CURRENT.set(Some(thread));
        thread.live();
    })
}

thread_local! {
    /// The calling thread's own record, if it is a pool thread.
    static CURRENT: Cell<Option<&'static Thread>> = const { Cell::new(None) };
}

/// Names a thread of a pool.
#[derive(Debug, Clone, Copy)]
pub struct ThreadId {
    /// The pool's name.
    pub pool: &'static str,
    /// The thread's number in the pool, from 0.
    pub index: usize,
}

/// Which pool thread this is, if it is one.
pub fn thread_id() -> Option<ThreadId> {
    CURRENT.get().map(Thread::id)
}

/// Keeps tasks with keys for the calling pool thread from now on, although it is
/// inside of a runtime: it will be free in a moment.
pub fn keep_inbox() {
    if let Some(thread) = CURRENT.get() {
        thread.shared.queues.disengage(thread.index);
    }
}

/// The task that this thread has begun last, if it is inside `runtime`.
pub fn last_begun(runtime: *const ()) -> Option<Handle> {
    let thread = CURRENT.get()?;
    let begun = thread.begun.get();
    begun.filter(|_| ptr::eq(thread.running(), runtime))
}

/// The runtime that the calling thread is inside of, as [`pull`] knows it; null
/// if it is inside of none, or no pool thread.
pub fn running() -> *const () {
    CURRENT.get().map_or(ptr::null(), Thread::running)
}

/// Begins the next task for the runtime that the calling pool thread is inside
/// of, if the next task is for it and the thread was not interrupted. It must be run
/// as `Runner::run` says. If there is none, the thread may `wait` for one in here, as
/// it does between tasks.
pub fn pull(runtime: *const (), wait: bool) -> Option<Running> {
    let thread = CURRENT.get()?;
    if !ptr::eq(thread.running(), runtime) || thread.is_interrupted() {
        return None;
    }
    loop {
        let slot = match thread.find() {
            Some(slot) => slot,
            None if wait => {
                thread.retire();
                thread.wait()?
            }
            None => return None,
        };
        // SAFETY: this thread found the slot in the queue, so it will claim it.
        let task = unsafe { slot.task() };
        let is_for_it = ptr::eq(task.runtime.as_ptr().cast(), runtime);
        if !is_for_it || task.kind != Kind::Call {
            thread.next.set(Some(slot));
            return None;
        }
        thread.leave();
        let begun = thread.begin(slot);
        if begun.is_some() {
            return begun;
        }
    }
}

/// The record of a thread, which alone uses it. Its fields are cells, since code that
/// the thread calls comes back to it: a runtime that pulls, a broadcast that asks
/// which thread it is on.
struct Thread {
    shared: &'static Shared,
    index: usize,
    finder: Finder,
    /// A task that was found but is not for the runtime that asked.
    next: Cell<Option<&'static Slot>>,
    /// The task that was begun last.
    begun: Cell<Option<Handle>>,
    /// How long to look for a task before sleeping.
    window: Window,
    /// The time if it is known, 0 if not.
    now_ns: Cell<u64>,
    /// Whether the last task was one of many short ones.
    bulk: Cell<bool>,
    /// Whether it counts as engaged in a long task.
    engaged: Cell<bool>,
    /// How many interrupts it has answered.
    interrupts: Cell<u32>,
}

impl Thread {
    fn live(&self) -> ! {
        outbox::hold();
        loop {
            let slot = self.find_or_wait();
            if let Some(task) = self.begin(slot) {
                // SAFETY: the runtime outlives its tasks, and this one, which this
                // thread has claimed, has not ended.
                let runtime = unsafe { slot.task().runtime.as_ref() };
                runtime.run(&task);
            }
            self.end();
        }
    }

    fn id(&self) -> ThreadId {
        ThreadId {
            pool: &self.shared.config.name,
            index: self.index,
        }
    }

    /// The runtime that this thread is inside of, or null.
    fn running(&self) -> *const () {
        // Relaxed: this thread wrote it.
        let running = &self.shared.threads[self.index].runtime;
        running.load(Ordering::Relaxed)
    }

    fn find(&self) -> Option<&'static Slot> {
        self.next.take().or_else(|| self.take())
    }

    fn find_or_wait(&self) -> &'static Slot {
        loop {
            self.answer_interrupt();
            if let Some(slot) = self.find().or_else(|| self.wait()) {
                return slot;
            }
        }
    }

    /// Whether it has been interrupted.
    fn is_interrupted(&self) -> bool {
        // Relaxed: a hint; `answer_interrupt` looks again.
        self.interrupts.get() != self.shared.interrupts.load(Ordering::Relaxed)
    }

    fn answer_interrupt(&self) {
        // Acquire: pairs with the Release in `Pool::interrupt`.
        let interrupts = self.shared.interrupts.load(Ordering::Acquire);
        if self.interrupts.replace(interrupts) != interrupts {
            outbox::flush();
            if let Some(broadcast) = self.shared.broadcast.get() {
                // Unwind safety: nothing of this thread's is used in there.
                let _ = catch_unwind(AssertUnwindSafe(|| broadcast(self.id())));
            }
        }
    }

    /// Begins a task that this thread found. `None` if it shall not run; then it has
    /// ended.
    #[inline]
    fn begin(&self, slot: &'static Slot) -> Option<Running> {
        // SAFETY: this thread found the slot in the queue, so it will claim it.
        let task = unsafe { slot.task() };
        self.bulk.set(task.bulk);
        let mut help = self.shared.queues.engage(self.index, !task.bulk);
        if !task.bulk {
            // What this thread holds must not wait for a long task.
            outbox::flush();
            // Relaxed: a hint; see `Shared::call_for_help`.
            self.shared.engaged.fetch_add(1, Ordering::Relaxed);
            self.engaged.set(true);
            help |= self.finder.holds_tasks();
        }
        if help {
            self.shared.idle.notify();
        }
        let started = match self.now_ns.get() {
            0 => now_ns(),
            known => known,
        };
        let thread = &self.shared.threads[self.index];
        thread.started.bump();
        // Relaxed: whoever looks for users of a runtime comes after the end of
        // its last task, and so after this.
        let address = task.runtime.as_ptr().cast();
        thread.runtime.store(address, Ordering::Relaxed);
        // SAFETY: as above.
        let begun = unsafe { slot.begin(started) }?;
        self.begun.set(Some(begun.handle()));
        Some(begun)
    }

    /// The task that was begun is over for this thread.
    fn leave(&self) {
        if self.engaged.replace(false) {
            self.shared.engaged.fetch_sub(1, Ordering::Relaxed);
        }
        self.now_ns.set(outbox::take_last_end());
    }

    /// The task is over, and there is no other yet.
    fn retire(&self) {
        self.leave();
        self.begun.set(None);
        self.shared.queues.disengage(self.index);
    }

    fn end(&self) {
        // Release: pairs with the Acquire in `Pool::users`; this thread's use
        // of the runtime is over.
        self.shared.threads[self.index]
            .runtime
            .store(ptr::null_mut(), Ordering::Release);
        self.retire();
    }

    /// Waits for a task: spins if that has paid lately, then sleeps. `None` if
    /// it has been interrupted.
    fn wait(&self) -> Option<&'static Slot> {
        let idle_since = match self.now_ns.take() {
            0 => now_ns(),
            known => known,
        };
        let shared = self.shared;
        let first = shared.idle.start_searching();
        // Who gets a completion may post the next task before this returns, and
        // need not wake another thread for it.
        outbox::flush();
        let (idle, index) = (&shared.idle, self.index);
        let found = search(self, idle, index, &self.window, idle_since, first);
        if shared.idle.stop_searching() && !shared.is_empty() {
            match found {
                // SAFETY: this thread found the slot, and has not claimed it yet.
                Some(slot) if shared.sources.is_empty() => unsafe {
                    shared.call_for_help(slot.task());
                },
                // This thread is expected to come back, but may take its time.
                _ => shared.idle.notify(),
            }
        }
        found
    }
}

impl TaskSource for Thread {
    #[inline]
    fn take(&self) -> Option<&'static Slot> {
        let own = self.finder.find(self.bulk.get());
        own.or_else(|| self.shared.sources.take())
    }

    fn is_empty(&self) -> bool {
        self.shared.queues.is_empty_for(self.index) && self.shared.sources.is_empty()
    }
}

impl Searcher for Thread {
    fn is_over(&self) -> bool {
        self.is_interrupted()
    }

    /// Does some chores, as a thread that is busy: others are woken for what is
    /// posted meanwhile. Not inside of a runtime, where the thread may not be fit
    /// for it.
    fn before_park(&self) -> Option<bool> {
        let shared = self.shared;
        let chores = shared.chores.get()?;
        if !self.running().is_null() || !(chores.is_due)() {
            return None;
        }
        if shared.idle.stop_searching() && !shared.is_empty() {
            shared.idle.notify();
        }
        // Unwind safety: nothing of this thread's is used in there.
        let _ = catch_unwind(AssertUnwindSafe(|| (chores.some)(self.id())));
        Some(shared.idle.start_searching())
    }

    fn woken(&self) {
        self.shared.threads[self.index].wakeups.bump();
    }
}
