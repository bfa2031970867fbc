//! The life of a pool thread: find a task, run it, and when there is none spin
//! for a moment and then sleep.

use std::cell::Cell;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use super::queues::Finder;
use super::spin::Window;
use super::{Shared, spawn};
use crate::sync::{Ordering, now_ns};
use crate::task::{Kind, Slot};
use crate::wake::outbox;

/// Starts thread `index` of a pool.
pub fn start(shared: &'static Shared, index: usize) -> Result<(), String> {
    let config = &shared.config;
    spawn::spawn(&config.name, index, config.nice, move || {
        // A thread is started once.
        let Some(finder) = shared.queues.finder(index) else {
            return;
        };
        Thread {
            shared,
            index,
            finder,
            next: None,
            begun: None,
            window: Window::new(shared.cores),
            now_ns: 0,
            bulk: false,
            engaged: false,
            interrupts: 0,
        }
        .live();
    })
}

thread_local! {
    /// The calling thread's own record, null if it is no pool thread. Points
    /// into the frame of `live`, which never ends.
    static CURRENT: Cell<*mut Thread> = const { Cell::new(ptr::null_mut()) };
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
    // SAFETY: a pointer that is not null is to the calling thread's own record;
    // only fields that never change are read.
    let thread = unsafe { CURRENT.get().as_ref() }?;
    Some(thread.id())
}

/// Keeps tasks with keys for the calling pool thread from now on, although it is
/// inside of a runtime: it will be free in a moment.
pub fn keep_inbox() {
    // SAFETY: as in `thread_id`; what is changed is an atomic.
    if let Some(thread) = unsafe { CURRENT.get().as_ref() } {
        thread.shared.queues.disengage(thread.index);
    }
}

/// The task that this thread has begun last, if it is inside `runtime`.
pub fn last_begun(runtime: *const ()) -> Option<(&'static Slot, u32)> {
    // SAFETY: as in `pull`.
    let thread = unsafe { CURRENT.get().as_mut() }?;
    thread.begun.filter(|_| ptr::eq(thread.running(), runtime))
}

/// The runtime that the calling thread is inside of, as [`pull`] knows it; null
/// if it is inside of none, or no pool thread.
pub fn running() -> *const () {
    // SAFETY: as in `thread_id`; the field that is read is an atomic.
    let thread = unsafe { CURRENT.get().as_ref() };
    thread.map_or(ptr::null(), Thread::running)
}

/// Begins the next task for the runtime that the calling pool thread is inside
/// of, if the next task is for it and the thread was not interrupted. It must be run as
/// `Runner::run` says. If there is none, the thread may `wait` for one in here, as it
/// does between tasks.
pub fn pull(runtime: *const (), wait: bool) -> Option<&'static Slot> {
    // SAFETY: the record is the calling thread's own, and `live` holds no
    // reference to it while a runtime runs, which is when this is called.
    let thread = unsafe { CURRENT.get().as_mut() }?;
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
            thread.next = Some(slot);
            return None;
        }
        thread.leave();
        if thread.begin(slot) {
            return Some(slot);
        }
    }
}

struct Thread {
    shared: &'static Shared,
    index: usize,
    finder: Finder,
    /// A task that was found but is not for the runtime that asked.
    next: Option<&'static Slot>,
    /// The task that was begun last.
    begun: Option<(&'static Slot, u32)>,
    /// How long to look for a task before sleeping.
    window: Window,
    /// The time if it is known, 0 if not.
    now_ns: u64,
    /// Whether the last task was one of many short ones.
    bulk: bool,
    /// Whether it counts as engaged in a long task.
    engaged: bool,
    /// How many interrupts it has answered.
    interrupts: u32,
}

impl Thread {
    fn live(mut self) {
        outbox::hold();
        let this: *mut Self = &mut self;
        CURRENT.set(this);
        loop {
            // SAFETY: `self` lives as long as this loop and is only used
            // through `this`. No reference is held while a runtime runs, since
            // `pull` makes one then.
            let (slot, begun) = unsafe {
                let slot = (*this).find_or_wait();
                (slot, (*this).begin(slot))
            };
            if begun {
                // SAFETY: the runtime outlives its tasks, and this one has not
                // ended.
                unsafe { slot.task().runtime.as_ref() }.run(slot);
            }
            // SAFETY: as above.
            unsafe { (*this).end() };
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

    fn find(&mut self) -> Option<&'static Slot> {
        self.next.take().or_else(|| self.finder.find(self.bulk))
    }

    fn find_or_wait(&mut self) -> &'static Slot {
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
        self.interrupts != self.shared.interrupts.load(Ordering::Relaxed)
    }

    fn answer_interrupt(&mut self) {
        // Acquire: pairs with the Release in `Pool::interrupt`.
        let interrupts = self.shared.interrupts.load(Ordering::Acquire);
        if self.interrupts != interrupts {
            self.interrupts = interrupts;
            outbox::flush();
            if let Some(broadcast) = self.shared.broadcast.get() {
                // Unwind safety: nothing of this thread's is used in there.
                let _ = catch_unwind(AssertUnwindSafe(|| broadcast(self.id())));
            }
        }
    }

    /// Whether there is something to do before it sleeps. Not inside of a runtime,
    /// where the thread may not be fit for it.
    fn has_chores(&self) -> bool {
        let is_due = self.shared.chores.get().map(|chores| chores.is_due);
        self.running().is_null() && is_due.is_some_and(|is_due| is_due())
    }

    /// Does some of that, as a thread that is busy: others are woken for what is
    /// posted meanwhile. Searches again when this returns; true if no other does.
    fn do_chores(&self) -> bool {
        let shared = self.shared;
        if shared.idle.stop_searching() && !shared.queues.is_empty() {
            shared.idle.notify();
        }
        if let Some(chores) = shared.chores.get() {
            // Unwind safety: nothing of this thread's is used in there.
            let _ = catch_unwind(AssertUnwindSafe(|| (chores.some)(self.id())));
        }
        shared.idle.start_searching()
    }

    /// Begins a task that this thread found. True if it is to run; else it has
    /// ended.
    fn begin(&mut self, slot: &'static Slot) -> bool {
        // SAFETY: this thread found the slot in the queue, so it will claim it.
        let task = unsafe { slot.task() };
        self.bulk = task.bulk;
        let mut help = self.shared.queues.engage(self.index, !self.bulk);
        if !self.bulk {
            // What this thread holds must not wait for a long task.
            outbox::flush();
            // Relaxed: a hint; see `Shared::call_for_help`.
            self.shared.engaged.fetch_add(1, Ordering::Relaxed);
            self.engaged = true;
            help |= self.finder.holds_tasks();
        }
        if help {
            self.shared.idle.notify();
        }
        let started = match self.now_ns {
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
        if !unsafe { slot.begin(started) } {
            return false;
        }
        self.begun = Some((slot, slot.state.generation()));
        true
    }

    /// The task that was begun is over for this thread.
    fn leave(&mut self) {
        if mem::take(&mut self.engaged) {
            self.shared.engaged.fetch_sub(1, Ordering::Relaxed);
        }
        self.now_ns = outbox::take_last_end();
    }

    /// The task is over, and there is no other yet.
    fn retire(&mut self) {
        self.leave();
        self.begun = None;
        self.shared.queues.disengage(self.index);
    }

    fn end(&mut self) {
        // Release: pairs with the Acquire in `Pool::users`; this thread's use
        // of the runtime is over.
        self.shared.threads[self.index]
            .runtime
            .store(ptr::null_mut(), Ordering::Release);
        self.retire();
    }

    /// Waits for a task: spins if that has paid lately, then sleeps. `None` if
    /// it has been interrupted.
    fn wait(&mut self) -> Option<&'static Slot> {
        let idle_since = match self.now_ns {
            0 => now_ns(),
            known => known,
        };
        self.now_ns = 0;
        let shared = self.shared;
        // One spinning thread is enough: the one that was first.
        let mut first = shared.idle.start_searching();
        // Who gets a completion may post the next task before this returns, and
        // need not wake another thread for it.
        outbox::flush();
        let found = loop {
            let (finder, bulk) = (&mut self.finder, self.bulk);
            let found = self.window.look(idle_since, first, || finder.find(bulk));
            if found.is_some() || self.is_interrupted() {
                break found;
            }
            if self.has_chores() {
                first = self.do_chores();
                continue;
            }
            shared.idle.sleep(self.index, || {
                shared.queues.is_empty_for(self.index) && !self.is_interrupted()
            });
            shared.threads[self.index].wakeups.bump();
            self.window.adapt(now_ns().saturating_sub(idle_since));
            first = shared.idle.searchers() == 1;
        };
        if shared.idle.stop_searching() && !shared.queues.is_empty() {
            match found {
                // SAFETY: this thread found the slot, and has not claimed it yet.
                Some(slot) => shared.call_for_help(unsafe { slot.task() }),
                // It is expected to come, but may take its time.
                None => shared.idle.notify(),
            }
        }
        found
    }
}
