//! A frame: the memory that a pool thread and Java share, through which small
//! requests and responses pass. `Worker.java` knows its layout.
//!
//! # Turns
//!
//! Each task that a thread runs is a turn, with a number. The watch
//! (`Watch.java`) interrupts a thread whose task nobody waits for, and the
//! interrupt must not hit the next task. So:
//!
//! - the watch *claims* the turn: one compare-and-swap sets [`CLAIMED`] in its
//!   number, which fails if the turn is over;
//! - it interrupts the thread, and *releases* the turn;
//! - the thread ends a turn by exchanging the number. If that was claimed, it
//!   waits for the release. Then it takes back what interrupt there is, and only
//!   then begins to work on the next task.
//!
//! One word decides: either the claim fails, or the thread knows of it.

use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use nonblocking_ffi_plugin::sys;

use crate::runtime::Runtime;

/// The size of the area for a request, and of that for a response.
pub const SMALL: usize = 4096;
/// In a turn's number: the watch is about to interrupt the thread.
const CLAIMED: u64 = 1;
/// In a turn's number: a task runs.
const RUNNING: u64 = 2;
/// What the number of a turn counts in.
const STEP: u64 = 4;

/// A frame. It is used by one pool thread, and never freed, since the watch may
/// look at it at any time.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Frame {
    /// The number of the turn, with its flags.
    turn: AtomicU64,
    /// The task of the turn. Written by the thread, read by the watch too.
    task: AtomicU64,
    /// The turn that the watch has released last.
    released: AtomicU64,
    /// Whether the watch may interrupt the thread.
    interruptible: AtomicBool,
    /// What only the thread knows.
    own: UnsafeCell<Own>,
    /// A small request, copied.
    request: Area,
    /// A small response.
    response: Area,
}

#[derive(Debug)]
#[repr(C, align(64))]
struct Area(UnsafeCell<[u8; SMALL]>);

impl Area {
    fn start(&self) -> *mut u8 {
        self.0.get().cast()
    }
}

#[derive(Debug, Clone, Copy)]
struct Own {
    runtime: *const Runtime,
    request: *const u8,
    request_len: u64,
}

// What Java relies on.
const _: () = assert!(std::mem::offset_of!(Frame, task) == 8);
const _: () = assert!(std::mem::offset_of!(Frame, request) == 64);
const _: () = assert!(std::mem::offset_of!(Frame, response) == 64 + SMALL);
const _: () = assert!(size_of::<Frame>() == 64 + 2 * SMALL);

// SAFETY: the cells are the owning thread's; it is for the callers of the unsafe
// functions to be on that thread.
unsafe impl Sync for Frame {}
// SAFETY: as above; an unused frame is handed from thread to thread by a lock.
unsafe impl Send for Frame {}

/// Frames that no thread has.
static UNUSED: Mutex<Vec<&'static Frame>> = Mutex::new(Vec::new());

impl Frame {
    /// A frame for the calling thread.
    pub fn take() -> &'static Self {
        let unused = UNUSED.lock().unwrap_or_else(PoisonError::into_inner).pop();
        unused.unwrap_or_else(|| {
            Box::leak(Box::new(Self {
                turn: AtomicU64::new(0),
                task: AtomicU64::new(0),
                released: AtomicU64::new(0),
                interruptible: AtomicBool::new(false),
                own: UnsafeCell::new(Own {
                    runtime: std::ptr::null(),
                    request: std::ptr::null(),
                    request_len: 0,
                }),
                request: Area(UnsafeCell::new([0; SMALL])),
                response: Area(UnsafeCell::new([0; SMALL])),
            }))
        })
    }

    /// The thread does not need it any more.
    pub fn give_back(&'static self) {
        let mut unused = UNUSED.lock().unwrap_or_else(PoisonError::into_inner);
        unused.push(self);
    }

    /// The frame behind a number that Java keeps.
    ///
    /// # Safety
    /// `address` is a frame's.
    pub unsafe fn at(address: i64) -> &'static Self {
        // SAFETY: by the contract; frames are never freed.
        unsafe { &*std::ptr::with_exposed_provenance(address as usize) }
    }

    /// All of its memory, for Java.
    pub fn memory(&'static self) -> *mut c_void {
        let memory = std::ptr::from_ref(self).cast_mut().cast::<c_void>();
        // Java hands the address back as a number.
        memory.expose_provenance();
        memory
    }

    /// Begins the first turn of a call.
    ///
    /// # Safety
    /// On the thread that has the frame; the task was given to it, with this
    /// request, for this runtime.
    pub unsafe fn begin(&self, runtime: &Runtime, task: u64, request: *const u8, len: u64) {
        // Relaxed: the swap in `turn` publishes it.
        self.interruptible
            .store(runtime.interrupts(), Ordering::Relaxed);
        // SAFETY: this thread's cell.
        unsafe { (*self.own.get()).runtime = runtime };
        // SAFETY: by the contract.
        unsafe { self.turn(task, request, len) };
    }

    /// Ends the turn and begins the next one. From now on no interrupt comes that
    /// was meant for the one that has ended.
    ///
    /// # Safety
    /// As for `begin`.
    pub unsafe fn turn(&self, task: u64, request: *const u8, len: u64) {
        // SAFETY: this thread's cells; `len` bytes are readable, by the ABI.
        unsafe {
            let own = &mut *self.own.get();
            (own.request, own.request_len) = (request, len);
            if len != 0 && len <= SMALL as u64 {
                std::ptr::copy_nonoverlapping(request, self.request.start(), len as usize);
            }
        }
        // Relaxed: published by the swap. A watch that sees this task with the
        // number of the turn before claims a turn whose work is over, which
        // does no harm.
        self.task.store(task, Ordering::Relaxed);
        self.exchange(RUNNING);
    }

    /// Ends the turn; there is no other. As for `turn`.
    pub fn rest(&self) {
        self.exchange(0);
    }

    fn exchange(&self, flags: u64) {
        // Relaxed: only this thread counts, the flag aside, which is masked.
        let number = self.turn.load(Ordering::Relaxed) & !(STEP - 1);
        // SeqCst: releases the task to the Acquire in `number`, acquires a claim,
        // and comes before the thread's look whether the watch sleeps, which in
        // turn writes that before it looks at the turn.
        let old = self.turn.swap((number + STEP) | flags, Ordering::SeqCst);
        if old & CLAIMED != 0 {
            // Acquire: partner of the Release in `release`; the thread has been
            // interrupted then. A later turn may have been claimed and released
            // before this thread gets to see it.
            while self.released.load(Ordering::Acquire) < old {
                std::thread::yield_now();
            }
        }
    }

    /// The number of the turn, with its flags.
    pub fn number(&self) -> u64 {
        // Acquire: partner of the swap in `exchange`, for the task.
        self.turn.load(Ordering::Acquire)
    }

    /// The task of the turn.
    pub fn task(&self) -> u64 {
        // Relaxed: see `turn`.
        self.task.load(Ordering::Relaxed)
    }

    /// Claims a turn that was seen before, if it still lasts and may be
    /// interrupted. Whoever claims it must release it.
    pub fn claim(&self, turn: u64) -> bool {
        // Relaxed: of a whole call; see `begin`.
        turn & (CLAIMED | RUNNING) == RUNNING
            && self.interruptible.load(Ordering::Relaxed)
            && self
                .turn
                // AcqRel: partner of the swap in `exchange`.
                .compare_exchange(turn, turn | CLAIMED, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
    }

    /// Lets the thread out of a turn that was claimed.
    pub fn release(&self, turn: u64) {
        // Release: partner of the Acquire in `exchange`.
        self.released.store(turn | CLAIMED, Ordering::Release);
    }

    /// The runtime of the turn.
    ///
    /// # Safety
    /// On the thread that has the frame, inside of a call of the runtime.
    pub unsafe fn runtime(&self) -> &Runtime {
        // SAFETY: this thread's cell; the runtime outlives its calls.
        unsafe { &*(*self.own.get()).runtime }
    }

    /// The request of the turn.
    ///
    /// # Safety
    /// On the thread that has the frame, before the task is completed.
    pub unsafe fn request(&self) -> (*const u8, u64) {
        // SAFETY: this thread's cell.
        let own = unsafe { *self.own.get() };
        (own.request, own.request_len)
    }

    /// Responds with the first bytes of the response area.
    ///
    /// # Safety
    /// On the thread that has the frame, inside of a call.
    pub unsafe fn respond(&self, host: &sys::nbffi_host, len: u64) {
        debug_assert!(len <= SMALL as u64);
        // SAFETY: the area is longer, and Java has written to it.
        unsafe { (host.respond)(self.task(), self.response.start().cast(), len) };
    }

    /// For what is in the copy of the request, where it is in the request
    /// itself: the host does not even copy that.
    ///
    /// # Safety
    /// On the thread that has the frame, before the task is completed.
    pub unsafe fn in_request(&self, data: *const u8, len: u64) -> *const u8 {
        // SAFETY: this thread's cell.
        let own = unsafe { *self.own.get() };
        let area = self.request.start();
        let offset = (data as usize).wrapping_sub(area as usize) as u64;
        if own.request_len > SMALL as u64 || offset.saturating_add(len) > own.request_len {
            return data;
        }
        own.request.wrapping_add(offset as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    /// A turn with no request.
    fn turn(frame: &Frame, task: u64) {
        // SAFETY: no byte is read; this thread has the frame.
        unsafe { frame.turn(task, std::ptr::null(), 0) }
    }

    #[test]
    fn a_turn_that_is_over_cannot_be_claimed() {
        let frame = Frame::take();
        frame.interruptible.store(true, Ordering::Relaxed);
        assert!(!frame.claim(frame.number()));
        turn(frame, 7);
        let (number, task) = (frame.number(), frame.task());
        assert_eq!(task, 7);
        turn(frame, 8);
        assert!(!frame.claim(number));
        let number = frame.number();
        assert!(frame.claim(number));
        // Once is enough.
        assert!(!frame.claim(frame.number()));
        frame.release(number);
        frame.rest();
        assert!(!frame.claim(frame.number()));
        turn(frame, 9);
        frame.interruptible.store(false, Ordering::Relaxed);
        assert!(!frame.claim(frame.number()));
        frame.rest();
        frame.give_back();
    }

    /// The thread leaves a claimed turn only when the interrupt has been sent:
    /// one that came later would hit another task.
    #[test]
    fn no_interrupt_comes_after_its_turn() {
        // On a busy machine each takes two changes of thread.
        const CLAIMS: u64 = 2_000;
        const LIMIT: Duration = Duration::from_secs(3);
        let frame = Frame::take();
        frame.interruptible.store(true, Ordering::Relaxed);
        // The turn that is being interrupted, between claim and release.
        let (interrupted, claims) = (AtomicU64::new(0), AtomicU64::new(0));
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let number = frame.number();
                    if frame.claim(number) {
                        interrupted.store(number, Ordering::Relaxed);
                        (0..100).for_each(|_| std::hint::spin_loop());
                        interrupted.store(0, Ordering::Relaxed);
                        frame.release(number);
                        claims.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
            let start = Instant::now();
            let (mut task, mut wrong) = (0, Vec::new());
            loop {
                let claims = claims.load(Ordering::Relaxed);
                if claims >= CLAIMS || claims > 0 && start.elapsed() > LIMIT {
                    break;
                }
                task += 1;
                turn(frame, task);
                let number = frame.number() & !CLAIMED;
                // Long enough to be seen and claimed.
                for _ in 0..200 {
                    let other = interrupted.load(Ordering::Relaxed);
                    if other != 0 && other != number {
                        wrong.push((other, number));
                    }
                    std::hint::spin_loop();
                }
            }
            frame.rest();
            over.store(true, Ordering::Relaxed);
            assert_eq!(wrong, []);
        });
        frame.give_back();
    }

    #[test]
    fn what_is_of_the_request_is_found_in_it() {
        let frame = Frame::take();
        let request = [7_u8; 100];
        // SAFETY: this thread's frame; the request is readable.
        unsafe {
            frame.turn(1, request.as_ptr(), 100);
            let copy = frame.request.start().cast_const();
            assert_eq!(std::slice::from_raw_parts(copy, 100), request);
            let inside = frame.in_request(copy.add(10), 90);
            assert_eq!(inside, request.as_ptr().add(10));
            assert_eq!(frame.in_request(copy.add(10), 91), copy.add(10));
            let before = copy.wrapping_sub(1);
            assert_eq!(frame.in_request(before, 1), before);
            let elsewhere = frame.response.start().cast_const();
            assert_eq!(frame.in_request(elsewhere, 1), elsewhere);
            frame.rest();
        }
        frame.give_back();
    }
}
