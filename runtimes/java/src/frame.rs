//! A frame: the memory that a pool thread and Java share, through which small
//! requests and responses pass. `Frame.java` knows its layout.
//!
//! # Epochs
//!
//! Each task that the thread runs is an epoch of its frame, with a number. When
//! nobody waits for the task any more, a thread of Java's (`Canceller.java`)
//! interrupts the thread, and the interrupt must not hit the next task. So:
//!
//! - the canceller *claims* the epoch of the task: one compare-and-swap sets
//!   [`CLAIMED`] in its number, which fails if the epoch has ended;
//! - it interrupts the thread, and *releases* the epoch;
//! - the thread ends an epoch by exchanging the number. If that was claimed, it
//!   waits for the release. Then it clears the interrupt, and only then begins
//!   to work on the next task.
//!
//! One word decides: either the claim fails, or the thread knows of it.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use nonblocking_ffi_plugin::sys::nbffi_task;
use nonblocking_ffi_runtimes_common::host::{Host, Request};
use nonblocking_ffi_runtimes_common::task;

use crate::cancelled;

/// The size of the area for a request, and of that for a response.
pub const SMALL: usize = 4096;
/// The code of a failure that has none of its own.
pub const CODE: i64 = 1;
/// The most bytes that an array of Java's can have, or a few less.
const LONGEST_ARRAY: u64 = i32::MAX as u64 - 8;
/// In an epoch's number: the thread is about to be interrupted.
const CLAIMED: u64 = 1;
/// In an epoch's number: a task runs.
const RUNNING: u64 = 2;
/// The difference between the numbers of two epochs.
const STEP: u64 = 4;

/// A frame. One pool thread uses it. It is never freed, since the canceller may
/// look at it at any time.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Frame {
    /// The number of the epoch, with its flags.
    epoch: AtomicU64,
    /// The task of the epoch. The thread writes it, the canceller reads it, too.
    task: AtomicU64,
    /// The epoch that was released last.
    released: AtomicU64,
    /// Whether the thread may be interrupted.
    interruptible: AtomicBool,
    /// For the thread alone.
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
    host: Option<Host>,
    request: Request,
}

// What Java relies on.
const _: () = assert!(std::mem::offset_of!(Frame, task) == 8);
const _: () = assert!(std::mem::offset_of!(Frame, request) == 64);
const _: () = assert!(std::mem::offset_of!(Frame, response) == 64 + SMALL);
const _: () = assert!(size_of::<Frame>() == 64 + 2 * SMALL);

// SAFETY: the cells are the thread's that has the frame; the functions that use
// them are unsafe, and must be called on that thread.
unsafe impl Sync for Frame {}
// SAFETY: as above; an unused frame is handed from thread to thread by a lock.
unsafe impl Send for Frame {}

/// Frames that no thread has.
static UNUSED: Mutex<Vec<&'static Frame>> = Mutex::new(Vec::new());

/// Fails a task whose request is longer than any array of Java's, before the
/// request is read. True if it did.
pub fn refuses(request: &Request) -> bool {
    let len = request.len();
    if len <= LONGEST_ARRAY {
        return false;
    }
    let message = format!("the request has {len} bytes, which is more than Java's arrays can have");
    // SAFETY: nobody has seen the request.
    unsafe { task::fail(request.task, CODE, message.as_bytes()) };
    true
}

impl Frame {
    /// A frame for the calling thread.
    pub fn take() -> &'static Self {
        let unused = UNUSED.lock().unwrap_or_else(PoisonError::into_inner).pop();
        unused.unwrap_or_else(|| {
            Box::leak(Box::new(Self {
                epoch: AtomicU64::new(0),
                task: AtomicU64::new(0),
                released: AtomicU64::new(0),
                interruptible: AtomicBool::new(false),
                own: UnsafeCell::new(Own {
                    host: None,
                    request: Request::new(0, std::ptr::null(), 0),
                }),
                request: Area(UnsafeCell::new([0; SMALL])),
                response: Area(UnsafeCell::new([0; SMALL])),
            }))
        })
    }

    /// Lets another thread have it.
    ///
    /// # Safety
    /// The thread that has it does not use it afterwards, in Java neither.
    pub unsafe fn give_back(&'static self) {
        let mut unused = UNUSED.lock().unwrap_or_else(PoisonError::into_inner);
        unused.push(self);
    }

    /// The frame behind a number that Java keeps.
    ///
    /// # Safety
    /// `address` is what [`Frame::address`] returned.
    pub unsafe fn at(address: i64) -> &'static Self {
        // SAFETY: by the contract; frames are never freed.
        unsafe { &*std::ptr::with_exposed_provenance(address as usize) }
    }

    /// All of its memory, for Java.
    pub fn memory(&'static self) -> *mut u8 {
        std::ptr::from_ref(self).cast_mut().cast()
    }

    /// The number that Java keeps.
    pub fn address(&'static self) -> i64 {
        self.memory().expose_provenance() as i64
    }

    /// Begins the first epoch of a call.
    ///
    /// # Safety
    /// On the thread that has the frame, inside of the host's call that has given
    /// it this task.
    pub unsafe fn begin(&self, host: Host, interruptible: bool, request: Request) {
        // Relaxed: the swap in `exchange` publishes it.
        self.interruptible.store(interruptible, Ordering::Relaxed);
        // SAFETY: this thread's cell; the rest by the contract.
        unsafe {
            (*self.own.get()).host = Some(host);
            self.advance(request);
        }
    }

    /// Ends the epoch and takes the host's next task, of which it begins that. After
    /// this no interrupt comes that was meant for the task before.
    ///
    /// # Safety
    /// On the thread that has the frame, inside of the call that `begin` was called
    /// in, when its task has ended or is in other hands.
    pub unsafe fn next(&self) -> Option<Request> {
        // SAFETY: this thread's cell; the rest by the contract.
        unsafe {
            let host = (*self.own.get()).host?;
            while let Some(request) = host.next() {
                if !refuses(&request) {
                    self.advance(request);
                    return Some(request);
                }
            }
        }
        self.rest();
        None
    }

    /// # Safety
    /// As for `begin`.
    unsafe fn advance(&self, request: Request) {
        // SAFETY: this thread's cells; the request is readable.
        unsafe {
            (*self.own.get()).request = request;
            if request.len() <= SMALL as u64 {
                let bytes = request.bytes();
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.request.start(), bytes.len());
            }
        }
        self.enter(request.task);
        // Relaxed: of this thread.
        if self.interruptible.load(Ordering::Relaxed) {
            cancelled::subscribe(request.task);
        }
    }

    /// Ends the epoch and begins that of a task.
    fn enter(&self, task: nbffi_task) {
        // Relaxed: the swap in `exchange` publishes it.
        self.task.store(task, Ordering::Relaxed);
        self.exchange(RUNNING);
    }

    /// Ends the epoch; no task follows.
    pub fn rest(&self) {
        self.exchange(0);
    }

    fn exchange(&self, flags: u64) {
        // Relaxed: only this thread counts. Others set a flag, which is masked.
        let number = self.epoch.load(Ordering::Relaxed) & !(STEP - 1);
        // AcqRel: releases the task to the Acquire in `claim`, and acquires a claim.
        let old = self.epoch.swap((number + STEP) | flags, Ordering::AcqRel);
        if old & CLAIMED != 0 {
            // Acquire: partner of the Release in `release`. The thread has been
            // interrupted then. A later epoch may have been claimed and released
            // before this thread sees it.
            while self.released.load(Ordering::Acquire) < old {
                std::thread::yield_now();
            }
        }
    }

    /// The task of the epoch.
    pub fn task(&self) -> nbffi_task {
        // Relaxed: see `enter`.
        self.task.load(Ordering::Relaxed)
    }

    /// Claims the epoch of a task, if the thread is in it and may be interrupted.
    /// Returns what must be released.
    pub fn claim(&self, task: nbffi_task) -> Option<u64> {
        // Acquire: partner of the swap in `exchange`, for the task.
        let epoch = self.epoch.load(Ordering::Acquire);
        let wanted = epoch & (CLAIMED | RUNNING) == RUNNING
            && self.task() == task
            // Relaxed: of a whole call; see `begin`.
            && self.interruptible.load(Ordering::Relaxed);
        let claimed = epoch | CLAIMED;
        (wanted
            && self
                .epoch
                // AcqRel: partner of the swap in `exchange`.
                .compare_exchange(epoch, claimed, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok())
        .then_some(claimed)
    }

    /// Lets the thread out of an epoch that was claimed.
    pub fn release(&self, claimed: u64) {
        // Release: partner of the Acquire in `exchange`.
        self.released.store(claimed, Ordering::Release);
    }

    /// The request of the epoch.
    ///
    /// # Safety
    /// On the thread that has the frame, in a call. The bytes are not used when
    /// the task has ended.
    pub unsafe fn request(&self) -> &[u8] {
        // SAFETY: this thread's cell; the rest by the contract.
        unsafe { (*self.own.get()).request.bytes() }
    }

    /// Responds with the first bytes of the response area.
    ///
    /// # Safety
    /// On the thread that has the frame, in a call whose task has not ended. `len`
    /// is at most [`SMALL`].
    pub unsafe fn respond(&self, len: u64) {
        // SAFETY: the area is long enough, and this thread has written to it.
        unsafe { task::respond(self.task(), self.response.start(), len) };
    }

    /// Where in the request bytes are that lie in the copy of it: the host does
    /// not copy what it is given of the request. Other addresses stay.
    ///
    /// # Safety
    /// As for `request`.
    pub unsafe fn in_request(&self, data: *const u8, len: u64) -> *const u8 {
        // SAFETY: by the contract.
        let request = unsafe { self.request() };
        let offset = (data as usize).wrapping_sub(self.request.start() as usize);
        let end = (offset as u64).saturating_add(len);
        if request.len() > SMALL || end > request.len() as u64 {
            return data;
        }
        request.as_ptr().wrapping_add(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn only_the_epoch_of_the_task_can_be_claimed() {
        let frame = Frame::take();
        frame.interruptible.store(true, Ordering::Relaxed);
        assert_eq!(frame.claim(0), None);
        frame.enter(7);
        frame.enter(8);
        assert_eq!(frame.claim(7), None);
        let claimed = frame.claim(8).unwrap();
        assert_eq!(frame.claim(8), None, "once is enough");
        frame.release(claimed);
        frame.rest();
        assert_eq!(frame.claim(8), None);
        frame.interruptible.store(false, Ordering::Relaxed);
        frame.enter(9);
        assert_eq!(frame.claim(9), None);
        frame.rest();
        // SAFETY: not used any more.
        unsafe { frame.give_back() };
    }

    /// The thread leaves a claimed epoch only when the interrupt has been sent:
    /// one that came later would hit another task.
    #[test]
    fn no_interrupt_comes_after_its_epoch() {
        // On a busy machine each takes two changes of thread.
        const CLAIMS: u64 = 2_000;
        const LIMIT: Duration = Duration::from_secs(3);
        let frame = Frame::take();
        frame.interruptible.store(true, Ordering::Relaxed);
        // The task that is being interrupted, between claim and release.
        let (interrupted, claims) = (AtomicU64::new(0), AtomicU64::new(0));
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let task = frame.task();
                    if let Some(claimed) = frame.claim(task) {
                        interrupted.store(task, Ordering::Relaxed);
                        (0..100).for_each(|_| std::hint::spin_loop());
                        interrupted.store(0, Ordering::Relaxed);
                        frame.release(claimed);
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
                frame.enter(task);
                // Long enough to be seen and claimed.
                for _ in 0..200 {
                    let other = interrupted.load(Ordering::Relaxed);
                    if other != 0 && other != task {
                        wrong.push((other, task));
                    }
                    std::hint::spin_loop();
                }
            }
            frame.rest();
            over.store(true, Ordering::Relaxed);
            assert_eq!(wrong, []);
        });
        // SAFETY: not used any more.
        unsafe { frame.give_back() };
    }

    #[test]
    fn bytes_of_the_request_are_found_in_it() {
        let frame = Frame::take();
        let request = [7_u8; 100];
        // SAFETY: this thread's frame; the request is readable.
        unsafe {
            frame.advance(Request::new(1, request.as_ptr().cast(), 100));
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
            frame.give_back();
        }
    }
}
