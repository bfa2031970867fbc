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
//! - Deadlines are in a heap that only the timer touches. It holds slots, not tasks:
//!   most tasks end long before their deadline, and the next task of the slot has a
//!   later one. So the slot stays in the heap, with the time at which the timer
//!   looks at it: its *alarm*. Only then, if a task is watched, does the timer set
//!   the alarm to the deadline of that task. To watch a task whose slot has an early
//!   enough alarm takes no lock and wakes nobody. Another slot goes onto the stack.
//!
//! # No task is missed
//!
//! Watching and cancelling are changes of one word: the later one sees the former,
//! and pushes the slot. A slot that is on the stack already is not pushed again:
//! the timer takes that mark away before it looks at the slot, so it sees what the
//! one who found the mark had done. Whoever pushed unparks the timer after it, and
//! the timer looks at everything between two parks.
//!
//! Before it looks at a slot whose alarm is due, the timer takes the alarm away. A
//! thread that watches a task looks for the alarm afterwards. So either the timer
//! sees that the task is watched, or the thread finds no alarm and pushes the slot.
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
use std::sync::atomic::{AtomicBool, AtomicPtr as RuntimePtr, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::Duration;

use nonblocking_ffi_plugin::sys::nbffi_cancel_fn;

use crate::error::Error;
use crate::pool::spawn_helper;
use crate::sync::{AtomicPtr, now_ns};
use crate::task::reply::Watch;
use crate::task::slot::NO_DEADLINE;
use crate::task::state::{Cancel, Watched};
use crate::task::{Failure, Handle, Slot, arena};

/// The heap is not looked through while it has fewer entries.
const SMALL: usize = 1024;

/// When the timer tries again what there was no memory for.
const RETRY: Duration = Duration::from_millis(10);

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
    let timer = Timer::get().ok_or(Failure::Ended(Error::NoMemory))?;
    let watched = task.watch(Watch { function, arg });
    let (found, deadline_ns) = watched.map_err(|_| Failure::Stale)?;
    let (slot, _) = task.parts();
    match found {
        Watched::Newly if !slot.is_armed(deadline_ns) => timer.show(slot),
        Watched::Newly | Watched::Already => {}
        Watched::Unwanted => timer.show(slot),
    }
    Ok(())
}

/// Gives a task up, on the thread that posted it.
pub fn cancel(slot: &'static Slot) -> Cancel {
    let found = slot.state.cancel();
    if found == (Cancel::Running { watched: true })
        && let Some(timer) = TIMER.get()
    {
        timer.show(slot);
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

/// This is a child that has been forked: it has no timer, and the thread that holds
/// a lock or edits a task may not exist.
static FORKED: AtomicBool = AtomicBool::new(false);

/// In a forked child: nothing can be watched any more.
pub fn forked() {
    // Relaxed: the child has this thread alone. Those that it starts see it.
    FORKED.store(true, Ordering::Relaxed);
}

struct Timer {
    thread: Thread,
    stack: Stack,
    /// The runtime whose function is being called, or null.
    inside: RuntimePtr<()>,
}

static TIMER: OnceLock<Timer> = OnceLock::new();

impl Timer {
    /// The timer, whose thread is running; `None` if it cannot be started.
    fn get() -> Option<&'static Self> {
        static STARTING: Mutex<()> = Mutex::new(());
        // Relaxed: see `forked`.
        if FORKED.load(Ordering::Relaxed) {
            return None;
        }
        if TIMER.get().is_none() {
            let _one_at_a_time = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
            if TIMER.get().is_none() {
                let thread = spawn_helper("timer", || TIMER.wait().run()).ok()?;
                let timer = Self {
                    thread,
                    stack: Stack::default(),
                    inside: RuntimePtr::default(),
                };
                // Nobody else sets it: the lock is held.
                let _ = TIMER.set(timer);
            }
        }
        TIMER.get()
    }

    /// Has the timer look at a slot.
    fn show(&self, slot: &'static Slot) {
        if self.stack.push(slot) {
            self.thread.unpark();
        }
    }

    /// What its thread does.
    fn run(&self) -> ! {
        let mut deadlines = Deadlines::default();
        loop {
            for slot in self.stack.take() {
                self.look(slot, &mut deadlines);
            }
            let next_ns = loop {
                match deadlines.next(now_ns()) {
                    Ok(slot) => self.look(slot, &mut deadlines),
                    Err(next_ns) => break next_ns,
                }
            };
            let sleep = next_ns.saturating_sub(now_ns());
            thread::park_timeout(Duration::from_nanos(sleep));
        }
    }

    /// Tells the plugin if the task in the slot is watched and unwanted, or notes its
    /// deadline.
    fn look(&self, slot: &'static Slot, deadlines: &mut Deadlines) {
        let task = slot.handle();
        if !slot.state.is_watched(task.parts().1) {
            return;
        }
        let now = now_ns();
        let found = task.edit(|task, reply| {
            if !slot.state.was_cancelled() && task.deadline_ns > now {
                return Err(task.deadline_ns);
            }
            slot.state.tell();
            // Relaxed: the end of this edit publishes it, see above.
            let runtime = task.runtime.as_ptr().cast();
            self.inside.store(runtime, Ordering::Relaxed);
            Ok(reply.watch.take())
        });
        match found {
            Ok(Err(deadline_ns)) if !deadlines.arm(slot, deadline_ns) => {
                thread::sleep(RETRY);
                self.show(slot);
            }
            Ok(Ok(Some(watch))) => {
                // SAFETY: by the contract of `watch`; the runtime does not close
                // while this thread is said to be inside of it.
                unsafe { (watch.function)(watch.arg, task.number()) };
            }
            _ => {}
        }
        // Release: pairs with the Acquire in `leave`.
        self.inside.store(ptr::null_mut(), Ordering::Release);
    }
}

/// When the timer looks at slots: times and indexes.
struct Deadlines {
    heap: BinaryHeap<Reverse<(u64, u32)>>,
    /// At this length, what no alarm stands for is dropped.
    limit: usize,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            heap: BinaryHeap::new(),
            limit: SMALL,
        }
    }
}

impl Deadlines {
    /// Sets the alarm of a slot, if it has none as early. False if there is no memory.
    fn arm(&mut self, slot: &Slot, deadline_ns: u64) -> bool {
        // Relaxed, as in `has_alarm`: only this thread changes alarms.
        if slot.alarm_ns.load(Ordering::Relaxed) <= deadline_ns {
            return true;
        }
        if self.heap.len() >= self.limit {
            self.heap
                .retain(|&Reverse(entry)| has_alarm(entry).is_some());
            self.limit = SMALL.max(2 * self.heap.len());
            self.heap.shrink_to(self.limit);
        }
        if self.heap.try_reserve(1).is_err() {
            return false;
        }
        self.heap.push(Reverse((deadline_ns, slot.index)));
        // Relaxed: whoever reads it relies on this thread alone.
        slot.alarm_ns.store(deadline_ns, Ordering::Relaxed);
        true
    }

    /// The next slot whose alarm is due: it has none any more. Or when the next one
    /// will be.
    fn next(&mut self, now: u64) -> Result<&'static Slot, u64> {
        while let Some(&Reverse(entry)) = self.heap.peek() {
            let slot = has_alarm(entry);
            if slot.is_some() && entry.0 > now {
                return Err(entry.0);
            }
            self.heap.pop();
            if let Some(slot) = slot {
                slot.disarm();
                return Ok(slot);
            }
        }
        Err(NO_DEADLINE)
    }
}

/// The slot of an entry, if its alarm is the one that the entry stands for.
fn has_alarm((alarm_ns, index): (u64, u32)) -> Option<&'static Slot> {
    // Relaxed: the timer asks, which alone changes alarms.
    arena::get(index).filter(|slot| slot.alarm_ns.load(Ordering::Relaxed) == alarm_ns)
}

/// Slots that the timer should look at: a stack that it takes as a whole.
struct Stack(AtomicPtr<Slot>);

impl Default for Stack {
    fn default() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }
}

impl Stack {
    /// Adds a slot. False if it is there already: then whoever has added it wakes
    /// the timer.
    #[must_use]
    fn push(&self, slot: &'static Slot) -> bool {
        // AcqRel: Release pairs with the Acquire of this swap in `take`; Acquire
        // with its Release, so that the link is free again.
        if slot.stacked.swap(1, Ordering::AcqRel) != 0 {
            return false;
        }
        let new = ptr::from_ref(slot).cast_mut();
        // Relaxed, here and if the exchange fails: only a guess for the exchange.
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
            // Relaxed: the swap above has acquired it.
            top = slot.below.load(Ordering::Relaxed);
            // AcqRel: as in `push`.
            slot.stacked.swap(0, Ordering::AcqRel);
            Some(slot)
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_no_alarm_stands_for_does_not_pile_up() {
        let slots = arena::grow().unwrap();
        let mut deadlines = Deadlines::default();
        let mut longest = 0;
        for round in 0..100_000 {
            // Each comes before the last one of its slot.
            assert!(deadlines.arm(&slots[round % slots.len()], 1_000_000 - round as u64));
            longest = longest.max(deadlines.heap.len());
        }
        assert!(longest <= SMALL, "{longest} entries");
        assert!(deadlines.heap.capacity() <= 2 * SMALL);
        let due: Vec<u32> = std::iter::from_fn(|| deadlines.next(2_000_000).ok())
            .map(|slot| slot.index)
            .collect();
        assert_eq!(due.len(), slots.len(), "one alarm for each");
    }

    #[test]
    fn the_timer_wakes_for_what_comes_first() {
        let [early, late, ..] = arena::grow().unwrap() else {
            unreachable!()
        };
        let index = |found: Result<&Slot, _>| found.map(|slot| slot.index);
        let mut deadlines = Deadlines::default();
        assert!(deadlines.arm(early, NO_DEADLINE));
        assert_eq!(index(deadlines.next(0)), Err(NO_DEADLINE));
        assert!(deadlines.arm(early, 500) && deadlines.arm(late, 700));
        assert!(early.is_armed(500) && early.is_armed(501) && !early.is_armed(499));
        assert!(deadlines.arm(early, 900), "it has an alarm before");
        assert!(deadlines.arm(early, 300), "a task with less time");
        assert_eq!(index(deadlines.next(100)), Err(300));
        assert_eq!(index(deadlines.next(500)), Ok(early.index));
        assert!(!early.is_armed(900), "the alarm is gone");
        assert_eq!(index(deadlines.next(500)), Err(700));
        assert!(deadlines.arm(early, 600), "the next task");
        assert_eq!(index(deadlines.next(500)), Err(600));
        assert_eq!(index(deadlines.next(700)), Ok(early.index));
        assert_eq!(index(deadlines.next(700)), Ok(late.index));
        assert_eq!(index(deadlines.next(700)), Err(NO_DEADLINE));
    }

    #[test]
    fn a_slot_is_on_the_stack_once() {
        let slots = arena::grow().unwrap();
        let stack = Stack::default();
        assert!(stack.push(&slots[0]));
        assert!(!stack.push(&slots[0]));
        assert!(stack.push(&slots[1]));
        let taken: Vec<u32> = stack.take().map(|slot| slot.index).collect();
        assert_eq!(taken, [slots[1].index, slots[0].index]);
        assert_eq!(stack.take().count(), 0);
        assert!(stack.push(&slots[0]), "it can come again");
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use crate::sync::AtomicU32;
    use crate::task::state::Claim;
    use loom::sync::Arc;
    use loom::thread;

    /// Two cancel tasks in one slot, one after the other: whoever finds the slot on
    /// the stack relies on the timer to see what it has done before.
    #[test]
    fn loom_what_was_done_before_a_push_is_seen() {
        loom::model(|| {
            let slot: &'static Slot = Box::leak(Box::new(Slot::new(0)));
            let stack = Arc::new(Stack::default());
            let done = Arc::new([AtomicU32::new(0), AtomicU32::new(0)]);
            let cancellers: Vec<_> = (0..2)
                .map(|number| {
                    let (stack, done) = (stack.clone(), done.clone());
                    thread::spawn(move || {
                        done[number].store(1, Ordering::Relaxed);
                        stack.push(slot)
                    })
                })
                .collect();
            // Of the looks at the slot, the last one counts.
            let mut seen = 0;
            let mut look = || {
                for _ in stack.take() {
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

    /// The alarm of a slot is due while a task is watched that relies on it.
    #[test]
    fn loom_an_alarm_that_is_due_is_seen_or_gone() {
        loom::model(|| {
            let slot: &'static Slot = Box::leak(Box::new(Slot::new(0)));
            slot.alarm_ns.store(1, Ordering::Relaxed);
            slot.state.offer(false);
            assert_eq!(slot.state.claim(), Claim::Run);
            let watcher = thread::spawn(|| {
                slot.state.edit(1).unwrap();
                assert_eq!(slot.state.end_edit_watched(), Watched::Newly);
                slot.is_armed(2)
            });
            slot.disarm();
            let seen = slot.state.is_watched(1);
            assert!(seen || !watcher.join().unwrap());
        });
    }
}
