//! Tells plugins that a task is unwanted: `on_cancel` of the plugin ABI.
//!
//! One thread, the *timer*, does so for all runtimes. It is started when the
//! first plugin asks.
//!
//! - The slot holds what to call; flag `WATCHED` of its state word says that there
//!   is something. The timer takes it out in an edit of the task, so it is called
//!   once, and never for a task that has ended.
//! - A caller that gives up learns by the change of the state word that the task is
//!   watched. Only then does it push the slot onto a stack and wake the timer.
//!   [`Thread::unpark`] makes a system call only if the timer sleeps.
//! - Deadlines are in a heap, whose lock the main thread never takes. A new one
//!   wakes the timer only if it comes before the one that the timer sleeps until.
//!   What the heap holds of tasks that have ended is dropped when it is due, or
//!   when the heap has doubled since the last look through it.
//!
//! # No task is missed
//!
//! Watching and cancelling are changes of one word: the later one sees the former,
//! and pushes the slot. A slot that is on the stack already is not pushed again:
//! the timer takes that mark away before it looks at the slot, so it sees what the
//! one who found the mark had done. Whoever pushed unparks the timer after it, and
//! the timer looks at everything between two parks.
//!
//! # Closing
//!
//! The timer says which runtime it is inside of before it ends the edit. Each task
//! of a runtime that closes has ended by an edit that came later. So the closing
//! thread either sees it, and waits, or the function has returned.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicPtr as RuntimePtr, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::Duration;

use nonblocking_ffi_plugin::sys::nbffi_cancel_fn;

use crate::error::Error;
use crate::pool::spawn_helper;
use crate::sync::{AtomicPtr, now_ns};
use crate::task::reply::Watch;
use crate::task::slot::NO_DEADLINE;
use crate::task::state::{Cancel, Watched};
use crate::task::{Failure, Handle, Slot};

/// The heap is not looked through while it has fewer entries.
const SMALL: usize = 1024;

/// Has `function` called with `arg` and the handle once the task is unwanted.
///
/// # Errors
/// The task is stale, or there is no memory or no thread; it then is as it was.
///
/// # Safety
/// The function may be called so, on another thread, until the runtime closes.
pub unsafe fn watch(
    handle: u64,
    function: nbffi_cancel_fn,
    arg: *mut c_void,
) -> Result<(), Failure> {
    let task = Handle::from_number(handle).ok_or(Failure::Stale)?;
    let (slot, _) = task.parts();
    let timer = Timer::get().ok_or(Failure::Ended(Error::NoMemory))?;
    let mut deadlines = timer.deadlines();
    if !deadlines.reserve() {
        return Err(Failure::Ended(Error::NoMemory));
    }
    let noted = task.edit(|task, reply| {
        reply.watch = Some(Watch { function, arg });
        (slot.state.watch(), task.deadline_ns)
    });
    let wake = match noted.map_err(|_| Failure::Stale)? {
        (Watched::Unwanted, _) => timer.unwanted.push(slot),
        (Watched::Newly, deadline_ns) => deadlines.push(deadline_ns, handle),
        (Watched::Already, _) => false,
    };
    drop(deadlines);
    if wake {
        timer.thread.unpark();
    }
    Ok(())
}

/// Gives a task up, on the thread that posted it.
pub fn cancel(slot: &'static Slot) -> Cancel {
    let found = slot.state.cancel();
    if found == (Cancel::Running { watched: true })
        && let Some(timer) = TIMER.get()
        && timer.unwanted.push(slot)
    {
        timer.thread.unpark();
    }
    found
}

/// Waits until no function of a runtime is being called. None will be: all its
/// tasks have ended.
pub fn leave(runtime: *const ()) {
    // Acquire: pairs with the Release in `Timer::look`, so what the function did
    // has happened.
    while TIMER
        .get()
        .is_some_and(|timer| ptr::eq(timer.inside.load(Ordering::Acquire), runtime))
    {
        thread::yield_now();
    }
}

struct Timer {
    thread: Thread,
    deadlines: Mutex<Deadlines>,
    unwanted: Unwanted,
    /// The runtime whose function is being called, or null.
    inside: RuntimePtr<()>,
}

static TIMER: OnceLock<Timer> = OnceLock::new();

impl Timer {
    /// The timer, whose thread is running; `None` if it cannot be started.
    fn get() -> Option<&'static Self> {
        static STARTING: Mutex<()> = Mutex::new(());
        if TIMER.get().is_none() {
            let _one_at_a_time = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
            if TIMER.get().is_none() {
                let thread = spawn_helper("timer", || TIMER.wait().run()).ok()?;
                let timer = Self {
                    thread,
                    deadlines: Mutex::default(),
                    unwanted: Unwanted::default(),
                    inside: RuntimePtr::default(),
                };
                // Nobody else sets it: the lock is held.
                let _ = TIMER.set(timer);
            }
        }
        TIMER.get()
    }

    fn deadlines(&self) -> MutexGuard<'_, Deadlines> {
        self.deadlines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What its thread does.
    fn run(&self) -> ! {
        loop {
            for slot in self.unwanted.take() {
                self.look(slot.handle());
            }
            let sleep = loop {
                let next = self.deadlines().next(now_ns());
                match next {
                    Ok(handle) => {
                        if let Some(task) = Handle::from_number(handle) {
                            self.look(task);
                        }
                    }
                    Err(sleep) => break sleep,
                }
            };
            match sleep {
                Some(time) => thread::park_timeout(time),
                None => thread::park(),
            }
        }
    }

    /// Tells the plugin if the task of this generation is watched and unwanted.
    fn look(&self, task: Handle) {
        let (slot, generation) = task.parts();
        if !slot.state.is_watched(generation) {
            return;
        }
        let now = now_ns();
        let taken = task.edit(|task, reply| {
            let unwanted = slot.state.was_cancelled() || task.deadline_ns <= now;
            if !unwanted || !slot.state.is_watched(generation) {
                return None;
            }
            slot.state.tell();
            // Relaxed: the end of this edit publishes it, see above.
            let runtime = task.runtime.as_ptr().cast();
            self.inside.store(runtime, Ordering::Relaxed);
            reply.watch.take()
        });
        if let Ok(Some(watch)) = taken {
            // SAFETY: by the contract of `watch`; the runtime does not close
            // while this thread is said to be inside of it.
            unsafe { (watch.function)(watch.arg, task.number()) };
        }
        // Release: pairs with the Acquire in `leave`.
        self.inside.store(ptr::null_mut(), Ordering::Release);
    }
}

/// When watched tasks become unwanted: times and handles.
struct Deadlines {
    heap: BinaryHeap<Reverse<(u64, u64)>>,
    /// At this length, what has ended is dropped.
    limit: usize,
    /// When the timer wakes by itself.
    alarm_ns: u64,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            heap: BinaryHeap::new(),
            limit: SMALL,
            alarm_ns: NO_DEADLINE,
        }
    }
}

impl Deadlines {
    /// Makes room for one more. False if there is no memory.
    fn reserve(&mut self) -> bool {
        if self.heap.len() >= self.limit {
            self.heap.retain(|Reverse((_, handle))| {
                let found = Handle::from_number(*handle).map(Handle::parts);
                found.is_some_and(|(slot, generation)| slot.state.is_watched(generation))
            });
            self.limit = SMALL.max(2 * self.heap.len());
            self.heap.shrink_to(self.limit);
        }
        self.heap.try_reserve(1).is_ok()
    }

    /// Adds a task, for which there is room. True if the timer must wake for it.
    fn push(&mut self, deadline_ns: u64, handle: u64) -> bool {
        if deadline_ns == NO_DEADLINE {
            return false;
        }
        self.heap.push(Reverse((deadline_ns, handle)));
        let is_next = deadline_ns < self.alarm_ns;
        self.alarm_ns = self.alarm_ns.min(deadline_ns);
        is_next
    }

    /// The next task whose deadline has passed; or how long to sleep, `None` for
    /// as long as nobody wakes.
    fn next(&mut self, now: u64) -> Result<u64, Option<Duration>> {
        match self.heap.peek() {
            Some(&Reverse((deadline_ns, handle))) if deadline_ns <= now => {
                self.heap.pop();
                Ok(handle)
            }
            Some(&Reverse((deadline_ns, _))) => {
                self.alarm_ns = deadline_ns;
                Err(Some(Duration::from_nanos(deadline_ns - now)))
            }
            None => {
                self.alarm_ns = NO_DEADLINE;
                Err(None)
            }
        }
    }
}

/// Slots that the timer should look at: a stack that it takes as a whole.
struct Unwanted(AtomicPtr<Slot>);

impl Default for Unwanted {
    fn default() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }
}

impl Unwanted {
    /// Adds a slot. False if it is there already: then whoever has added it wakes
    /// the timer.
    #[must_use]
    fn push(&self, slot: &'static Slot) -> bool {
        // AcqRel: Release pairs with the Acquire of this swap in `take`; Acquire
        // with its Release, so that the link is free again.
        if slot.unwanted.swap(1, Ordering::AcqRel) != 0 {
            return false;
        }
        let new = ptr::from_ref(slot).cast_mut();
        let mut head = self.0.load(Ordering::Relaxed);
        loop {
            // Relaxed: published by the exchange below.
            slot.below.store(head, Ordering::Relaxed);
            // Release: pairs with the Acquire in `take`.
            match self
                .0
                .compare_exchange_weak(head, new, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => return true,
                Err(now) => head = now,
            }
        }
    }

    /// Takes all slots. Each can be pushed again from when it is given out.
    fn take(&self) -> impl Iterator<Item = &'static Slot> {
        // Acquire: pairs with the Release of every `push` in the stack.
        let mut top = self.0.swap(ptr::null_mut(), Ordering::Acquire);
        std::iter::from_fn(move || {
            // SAFETY: links lead to slots, which are never freed.
            let slot: &'static Slot = unsafe { top.as_ref() }?;
            top = slot.below.load(Ordering::Relaxed);
            // AcqRel: as in `push`.
            slot.unwanted.swap(0, Ordering::AcqRel);
            Some(slot)
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::task::arena;

    #[test]
    fn what_has_ended_does_not_pile_up() {
        let slots = arena::grow().unwrap();
        let mut deadlines = Deadlines::default();
        let mut longest = 0;
        for round in 0..100_000 {
            // Nobody watches it: it is as if it had ended.
            let slot = &slots[round % slots.len()];
            assert!(deadlines.reserve());
            deadlines.push(60_000_000_000 + round as u64, slot.handle().number());
            longest = longest.max(deadlines.heap.len());
        }
        assert!(longest <= SMALL, "{longest} entries");
        assert!(deadlines.heap.capacity() <= 2 * SMALL);
    }

    #[test]
    fn the_timer_wakes_for_what_comes_first() {
        let handle = arena::grow().unwrap()[0].handle().number();
        let mut deadlines = Deadlines::default();
        assert!(!deadlines.push(NO_DEADLINE, handle));
        assert_eq!(deadlines.next(0), Err(None));
        assert!(deadlines.push(500, handle));
        assert!(!deadlines.push(700, handle), "it wakes before");
        assert!(deadlines.push(300, handle));
        assert_eq!(deadlines.next(100), Err(Some(Duration::from_nanos(200))));
        assert_eq!(deadlines.next(500), Ok(handle));
        assert_eq!(deadlines.next(500), Ok(handle));
        assert_eq!(deadlines.next(500), Err(Some(Duration::from_nanos(200))));
        assert!(!deadlines.push(700, handle));
        assert!(deadlines.push(699, handle));
    }

    #[test]
    fn a_slot_is_on_the_stack_once() {
        let slots = arena::grow().unwrap();
        let unwanted = Unwanted::default();
        assert!(unwanted.push(&slots[0]));
        assert!(!unwanted.push(&slots[0]));
        assert!(unwanted.push(&slots[1]));
        let taken: Vec<u32> = unwanted.take().map(|slot| slot.index).collect();
        assert_eq!(taken, [slots[1].index, slots[0].index]);
        assert_eq!(unwanted.take().count(), 0);
        assert!(unwanted.push(&slots[0]), "it can come again");
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use crate::sync::AtomicU32;
    use loom::sync::Arc;
    use loom::thread;

    /// Two cancel tasks in one slot, one after the other: whoever finds the slot on
    /// the stack relies on the timer to see what it has done before.
    #[test]
    fn loom_what_was_done_before_a_push_is_seen() {
        loom::model(|| {
            let slot: &'static Slot = Box::leak(Box::new(Slot::new(0)));
            let unwanted = Arc::new(Unwanted::default());
            let done = Arc::new([AtomicU32::new(0), AtomicU32::new(0)]);
            let cancellers: Vec<_> = (0..2)
                .map(|number| {
                    let (unwanted, done) = (unwanted.clone(), done.clone());
                    thread::spawn(move || {
                        done[number].store(1, Ordering::Relaxed);
                        unwanted.push(slot)
                    })
                })
                .collect();
            // Of the looks at the slot, the last one counts.
            let mut seen = 0;
            let mut look = || {
                for _ in unwanted.take() {
                    seen = done.iter().map(|done| done.load(Ordering::Relaxed)).sum();
                }
            };
            look();
            let woken = cancellers.into_iter().map(|c| c.join().unwrap());
            assert!(woken.fold(false, |any, woken| any | woken));
            look();
            assert_eq!(seen, 2);
        });
    }
}
