//! The state word of a slot: `generation (32 bits) | flags | phase`.
//!
//! ```text
//!          offer           claim             edit            promote
//!   FREE --------> QUEUED ------> RUNNING <------> EDITING -------> COMPLETING
//!    ^                |                   end_edit                    ^    |
//!    |                |  claim, cancelled                             |    |
//!    |                +-----------------------------------------------+    |
//!    |                                                                     |
//!    +-------------------------------- DONE <------------------------------+
//!        release (generation + 1)                      finish
//! ```
//!
//! * The main thread offers, cancels and releases. A pool thread claims. Who
//!   completes may be any thread: the first that edits the task and, having
//!   found its arguments in order, promotes it. There is no way back from
//!   `COMPLETING`, so whoever meets that phase knows that the task ends. The
//!   generation makes handles of tasks that are gone fail every step.
//! * `EDITING` and `COMPLETING` are exclusive: the thread that got there may
//!   write the slot's reply. An edit is short, and others wait for its end; a
//!   completion may copy for long, and nobody waits for it.
//! * Flag `CANCELLED`: nobody waits any more. Set while `QUEUED`, the task will
//!   not run; set later, the task can ask.
//! * Flag `WATCHED`: a plugin wants to be told when the task is unwanted, and
//!   has not been. The canceller learns of it by the change of the word that
//!   cancels. Flag `TOLD`: the plugin has been told.
//! * Flag `INLINE`: the caller spins on this word (the spin wait). The thread that
//!   finishes the task sees the flag and leaves the completion queue alone, or the
//!   caller ends the spin wait, sees `DONE` and takes the reply. Both are one
//!   read-modify-write of one word, so exactly one of the two delivers.

use crate::sync::{AtomicU64, Ordering, spin_loop};

const PHASE: u64 = 0xff;
const FREE: u64 = 0;
const QUEUED: u64 = 1;
const RUNNING: u64 = 2;
const EDITING: u64 = 3;
const COMPLETING: u64 = 4;
const DONE: u64 = 5;

const CANCELLED: u64 = 0x100;
const INLINE: u64 = 0x200;
const WATCHED: u64 = 0x400;
const TOLD: u64 = 0x800;

const GENERATION_SHIFT: u32 = 32;

/// The task is not (any more) in a phase that allows the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stale;

/// What a pool thread got by claiming a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// The task is now running.
    Run,
    /// It was cancelled before it ran; the claimer must complete it.
    Cancelled,
}

/// What cancelling found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancel {
    /// The task will never run.
    BeforeRun,
    /// It runs; it can ask, and its result will be dropped.
    Running {
        /// Whether its plugin must be told.
        watched: bool,
    },
    /// It is complete already.
    TooLate,
}

/// What a plugin that wants to be told about a task found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watched {
    /// Nobody had asked.
    Newly,
    /// The plugin had asked before.
    Already,
    /// The task is unwanted already.
    Unwanted,
}

/// The state word.
#[derive(Debug)]
pub struct State(AtomicU64);

impl Default for State {
    fn default() -> Self {
        // Generations start at 1, so that no handle is 0.
        Self(AtomicU64::new(1 << GENERATION_SHIFT))
    }
}

impl State {
    /// The generation of the task that the slot holds or will hold next.
    pub fn generation(&self) -> u32 {
        // Relaxed: for the owner of the task, which changes only by `release`
        // on the main thread.
        (self.0.load(Ordering::Relaxed) >> GENERATION_SHIFT) as u32
    }

    /// FREE -> QUEUED, on the main thread. `inline` starts the spin wait.
    pub fn offer(&self, inline: bool) {
        let word = self.0.load(Ordering::Relaxed);
        debug_assert_eq!(word & PHASE, FREE);
        let flags = if inline { INLINE } else { 0 };
        // Release: pairs with the Acquire in `claim`, which lets the claimer
        // read the task. A plain store is enough: no stale handle changes a
        // word whose generation is not its own.
        self.0.store(word | QUEUED | flags, Ordering::Release);
    }

    /// QUEUED -> RUNNING, or -> COMPLETING if the task was cancelled.
    pub fn claim(&self) -> Claim {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            debug_assert_eq!(word & PHASE, QUEUED);
            let (phase, claim) = if word & CANCELLED == 0 {
                (RUNNING, Claim::Run)
            } else {
                (COMPLETING, Claim::Cancelled)
            };
            // Acquire: pairs with the Release in `offer`.
            match self.0.compare_exchange_weak(
                word,
                word - QUEUED + phase,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return claim,
                Err(now) => word = now,
            }
        }
    }

    /// RUNNING -> EDITING: the winner alone may write the reply, and must
    /// `end_edit` or `promote` soon: others wait for it.
    pub fn edit(&self, generation: u32) -> Result<(), Stale> {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            if word >> GENERATION_SHIFT != u64::from(generation) {
                return Err(Stale);
            }
            match word & PHASE {
                RUNNING => {}
                EDITING => {
                    spin_loop();
                    word = self.0.load(Ordering::Relaxed);
                    continue;
                }
                _ => return Err(Stale),
            }
            // Acquire: pairs with the Release in `end_edit`, so that what an
            // edit wrote is seen by the next one.
            match self.0.compare_exchange_weak(
                word,
                word - RUNNING + EDITING,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Ok(()),
                Err(now) => word = now,
            }
        }
    }

    /// EDITING -> RUNNING.
    pub fn end_edit(&self) {
        // Release: pairs with the Acquire in `edit`.
        self.0.fetch_sub(EDITING - RUNNING, Ordering::Release);
    }

    /// EDITING -> COMPLETING: the task ends, and the editor writes how.
    pub fn promote(&self) {
        // Relaxed: nobody else reads the reply before `finish` releases it.
        self.0.fetch_add(COMPLETING - EDITING, Ordering::Relaxed);
    }

    /// COMPLETING -> DONE. True if the caller waits inline and takes the reply
    /// itself; otherwise the slot must go to the completion queue.
    #[must_use]
    pub fn finish(&self) -> bool {
        // AcqRel: Release pairs with the Acquire in `is_done` and
        // `leave_inline`; Acquire with the Release in `leave_inline`, after
        // which the main thread no longer looks.
        let before = self.0.fetch_add(DONE - COMPLETING, Ordering::AcqRel);
        debug_assert_eq!(before & PHASE, COMPLETING);
        before & INLINE != 0
    }

    /// Whether the reply is there, for the caller that waits inline.
    pub fn is_done(&self) -> bool {
        // Acquire: pairs with the Release in `finish`.
        self.0.load(Ordering::Acquire) & PHASE == DONE
    }

    /// Ends the spin wait. True if the task is done and the caller must take it;
    /// false if it will come through the completion queue.
    #[must_use]
    pub fn leave_inline(&self) -> bool {
        // AcqRel: Acquire pairs with the Release in `finish` when it is done;
        // Release with the Acquire there when it is not.
        let before = self.0.fetch_and(!INLINE, Ordering::AcqRel);
        before & PHASE == DONE
    }

    /// Notes that nobody waits for the task, on the main thread.
    pub fn cancel(&self) -> Cancel {
        // Relaxed: the flag carries no data. A claim either sees it or has
        // happened before in this word's order.
        let before = self.0.fetch_or(CANCELLED, Ordering::Relaxed);
        match before & PHASE {
            QUEUED => Cancel::BeforeRun,
            DONE => Cancel::TooLate,
            _ => Cancel::Running {
                watched: before & WATCHED != 0,
            },
        }
    }

    /// EDITING -> RUNNING, and notes that the plugin wants to be told when the task
    /// is unwanted. Returns how it was before.
    pub fn end_edit_watched(&self) -> Watched {
        // Only edits change the flag.
        let flag = WATCHED & !self.0.load(Ordering::Relaxed);
        let change = flag.wrapping_sub(EDITING - RUNNING);
        // Release: as in `end_edit`. A cancellation either sees the flag or is seen
        // here, in this word's order. SeqCst: see `Slot::is_armed`.
        let before = self.0.fetch_add(change, Ordering::SeqCst);
        match before {
            _ if before & (CANCELLED | TOLD) != 0 => Watched::Unwanted,
            _ if before & WATCHED != 0 => Watched::Already,
            _ => Watched::Newly,
        }
    }

    /// Notes, in an edit, that the plugin is being told.
    pub fn tell(&self) {
        // Relaxed: `end_edit` publishes who is told what. In two steps: only one of
        // them matters to others, who may cancel between them.
        self.0.fetch_or(TOLD, Ordering::Relaxed);
        self.0.fetch_and(!WATCHED, Ordering::Relaxed);
    }

    /// Whether the plugin of the task of this generation waits to be told.
    pub fn is_watched(&self, generation: u32) -> bool {
        let word = self.0.load(Ordering::Relaxed);
        word & WATCHED != 0
            && word & PHASE < COMPLETING
            && word >> GENERATION_SHIFT == u64::from(generation)
    }

    /// Whether nobody waits for the result of the task of this generation any
    /// more: it was cancelled, is complete, or gone.
    pub fn is_unwanted(&self, generation: u32) -> bool {
        let word = self.0.load(Ordering::Relaxed);
        word & (CANCELLED | TOLD) != 0
            || word & PHASE >= COMPLETING
            || word >> GENERATION_SHIFT != u64::from(generation)
    }

    /// Whether the task was cancelled, on the main thread.
    pub fn was_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed) & CANCELLED != 0
    }

    /// Whether a thread may be reading the request (main thread; at exit).
    pub fn is_running(&self) -> bool {
        // Acquire: pairs with the Release in `finish`; once this says no, the
        // runtime's reads of the request have happened.
        matches!(
            self.0.load(Ordering::Acquire) & PHASE,
            RUNNING | EDITING | COMPLETING
        )
    }

    /// Whether a task waits in a queue (main thread; at exit).
    pub fn is_queued(&self) -> bool {
        let word = self.0.load(Ordering::Relaxed);
        word & PHASE == QUEUED && word & CANCELLED == 0
    }

    /// DONE -> FREE with the next generation, on the main thread.
    pub fn release(&self) {
        let generation = self.generation().wrapping_add(1).max(1);
        // Release: pairs with the Acquire CAS of a stale handle that happens
        // to meet the next task; it must not see this one's reply.
        self.0
            .store(u64::from(generation) << GENERATION_SHIFT, Ordering::Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_task_goes_round_once_per_generation() {
        let state = State::default();
        let first = state.generation();
        state.offer(false);
        assert_eq!(state.edit(first), Err(Stale), "not claimed yet");
        assert_eq!(state.claim(), Claim::Run);
        assert_eq!(state.edit(first), Ok(()));
        state.end_edit();
        assert_eq!(state.edit(first), Ok(()));
        state.promote();
        assert_eq!(state.edit(first), Err(Stale), "second completion");
        assert!(!state.finish());
        assert!(state.is_done());
        assert_eq!(state.cancel(), Cancel::TooLate);
        state.release();
        assert_ne!(state.generation(), first);
        assert!(state.is_unwanted(first));
        state.offer(false);
        assert_eq!(state.claim(), Claim::Run);
        assert_eq!(state.edit(first), Err(Stale), "handle of the last task");
    }

    #[test]
    fn a_task_cancelled_in_the_queue_does_not_run() {
        let state = State::default();
        state.offer(false);
        assert!(state.is_queued());
        assert_eq!(state.cancel(), Cancel::BeforeRun);
        assert!(!state.is_queued());
        assert_eq!(state.claim(), Claim::Cancelled);
        assert!(!state.finish());
    }

    #[test]
    fn a_watched_task_is_told_once() {
        let state = State::default();
        state.offer(false);
        assert_eq!(state.claim(), Claim::Run);
        assert_eq!(state.edit(1), Ok(()));
        assert_eq!(state.end_edit_watched(), Watched::Newly);
        assert_eq!(state.edit(1), Ok(()));
        assert_eq!(state.end_edit_watched(), Watched::Already);
        assert!(state.is_watched(1) && !state.is_watched(2));
        assert_eq!(state.cancel(), Cancel::Running { watched: true });
        assert_eq!(state.edit(1), Ok(()));
        state.tell();
        assert!(!state.is_watched(1));
        assert_eq!(state.cancel(), Cancel::Running { watched: false });
        assert_eq!(state.end_edit_watched(), Watched::Unwanted);
        assert_eq!(state.edit(1), Ok(()));
        state.promote();
        assert!(!state.is_watched(1), "nobody is told about the end");
        assert!(!state.finish());
        state.release();
        state.offer(false);
        assert!(!state.is_unwanted(2), "flags are of one task");
    }

    #[test]
    fn generations_skip_zero() {
        let state = State(AtomicU64::new(u64::from(u32::MAX) << 32));
        state.offer(false);
        state.release();
        assert_eq!(state.generation(), 1);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::thread;

    struct Cell {
        state: State,
        reply: UnsafeCell<u32>,
    }

    // SAFETY: access to `reply` is what the models check.
    unsafe impl Sync for Cell {}
    // SAFETY: as above.
    unsafe impl Send for Cell {}

    fn cell() -> Arc<Cell> {
        Arc::new(Cell {
            state: State::default(),
            reply: UnsafeCell::new(0),
        })
    }

    /// The spin wait: the reply is delivered inline or by the queue, never both,
    /// never neither.
    #[test]
    fn loom_inline_or_queued_exactly_once() {
        loom::model(|| {
            let cell = cell();
            cell.state.offer(true);
            let completer = {
                let cell = cell.clone();
                thread::spawn(move || {
                    assert_eq!(cell.state.claim(), Claim::Run);
                    cell.state.edit(1).unwrap();
                    cell.state.promote();
                    // SAFETY: COMPLETING is exclusive.
                    cell.reply.with_mut(|reply| unsafe { *reply = 7 });
                    !cell.state.finish()
                })
            };
            let taken = cell.state.is_done() || cell.state.leave_inline();
            if taken {
                // SAFETY: DONE, and only the main thread reads then.
                assert_eq!(cell.reply.with(|reply| unsafe { *reply }), 7);
            }
            let queued = completer.join().unwrap();
            assert!(taken != queued, "taken {taken}, queued {queued}");
        });
    }

    /// Two threads respond to one task: one wins, and the reply is whole.
    #[test]
    fn loom_one_completion() {
        loom::model(|| {
            let cell = cell();
            cell.state.offer(false);
            assert_eq!(cell.state.claim(), Claim::Run);
            let respond = |value: u32| {
                let cell = cell.clone();
                move || {
                    cell.state.edit(1).is_ok() && {
                        cell.state.promote();
                        // SAFETY: COMPLETING is exclusive.
                        cell.reply.with_mut(|reply| unsafe { *reply = value });
                        let _ = cell.state.finish();
                        true
                    }
                }
            };
            let other = thread::spawn(respond(1));
            let here = respond(2)();
            let there = other.join().unwrap();
            assert!(here != there);
            // SAFETY: both threads are past their access.
            let reply = cell.reply.with(|reply| unsafe { *reply });
            assert_eq!(reply, if here { 2 } else { 1 });
        });
    }

    /// Cancelling races with claiming: the task runs, or it does not, and the
    /// canceller is told which.
    #[test]
    fn loom_cancelled_or_run() {
        loom::model(|| {
            let cell = cell();
            cell.state.offer(false);
            let claimer = {
                let cell = cell.clone();
                thread::spawn(move || cell.state.claim())
            };
            let cancel = cell.state.cancel();
            let claim = claimer.join().unwrap();
            assert_eq!(cancel == Cancel::BeforeRun, claim == Claim::Cancelled);
        });
    }

    /// A task is watched, cancelled and ended at the same time: its plugin is told
    /// once, or the task had ended. Either the canceller or the plugin that asks
    /// has it told.
    #[test]
    fn loom_told_exactly_once() {
        loom::model(|| {
            let cell = cell();
            cell.state.offer(false);
            assert_eq!(cell.state.claim(), Claim::Run);
            // The timer's part, done by whoever would wake it.
            fn tell(cell: &Cell) -> u32 {
                if !cell.state.is_watched(1) || cell.state.edit(1).is_err() {
                    return 0;
                }
                let told = cell.state.is_watched(1) && cell.state.was_cancelled();
                if told {
                    // SAFETY: EDITING is exclusive.
                    assert_eq!(cell.reply.with(|watch| unsafe { *watch }), 7);
                    cell.state.tell();
                }
                cell.state.end_edit();
                told.into()
            }
            let plugin = {
                let cell = cell.clone();
                thread::spawn(move || {
                    cell.state.edit(1).unwrap();
                    // SAFETY: EDITING is exclusive.
                    cell.reply.with_mut(|watch| unsafe { *watch = 7 });
                    if cell.state.end_edit_watched() == Watched::Unwanted {
                        tell(&cell)
                    } else {
                        0
                    }
                })
            };
            let mut told = match cell.state.cancel() {
                Cancel::Running { watched: true } => tell(&cell),
                _ => 0,
            };
            told += plugin.join().unwrap();
            assert_eq!(told, 1);
            assert_eq!(tell(&cell), 0, "once");
        });
    }

    /// An edit and a completion exclude each other, and a stale handle that
    /// meets the next generation touches nothing.
    #[test]
    fn loom_edits_are_exclusive() {
        loom::model(|| {
            let cell = cell();
            cell.state.offer(false);
            assert_eq!(cell.state.claim(), Claim::Run);
            let editor = {
                let cell = cell.clone();
                thread::spawn(move || {
                    if cell.state.edit(1).is_ok() {
                        // SAFETY: EDITING is exclusive.
                        cell.reply.with_mut(|reply| unsafe { *reply += 1 });
                        cell.state.end_edit();
                    }
                })
            };
            // Never stale: an edit that completes nothing is waited for.
            cell.state.edit(1).unwrap();
            cell.state.promote();
            // SAFETY: COMPLETING is exclusive.
            cell.reply.with_mut(|reply| unsafe { *reply += 10 });
            let _ = cell.state.finish();
            cell.state.release();
            editor.join().unwrap();
        });
    }
}
