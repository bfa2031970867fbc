//! Atomics and blocking primitives behind one facade.
//!
//! The lock-free protocols of this crate (slot state, completion queue, idle
//! threads) use these names only, so that `--cfg loom` replaces them by loom's
//! model-checked ones.

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};

/// Tells the processor that this is a spin loop (under loom: lets another
/// thread run, or the model would never end).
#[inline]
pub fn spin_loop() {
    #[cfg(loom)]
    loom::thread::yield_now();
    #[cfg(not(loom))]
    std::hint::spin_loop();
}

/// A counting semaphore on which threads sleep: one futex word.
///
/// `post` makes a system call only to wake somebody, so it is for callers who
/// know that a thread sleeps or is about to (see `pool::idle`).
#[cfg(not(loom))]
#[derive(Debug, Default)]
pub struct Semaphore {
    permits: AtomicU32,
}

#[cfg(not(loom))]
impl Semaphore {
    /// A semaphore without permits.
    pub const fn new() -> Self {
        Self {
            permits: AtomicU32::new(0),
        }
    }

    /// Adds a permit and wakes one sleeper.
    pub fn post(&self) {
        // Release: pairs with the Acquire in `wait`; what the poster wrote
        // before is visible to the thread that takes the permit.
        self.permits.fetch_add(1, Ordering::Release);
        futex(&self.permits, libc::FUTEX_WAKE, 1);
    }

    /// Whether there is a permit (a hint: somebody may be taking it).
    pub fn is_posted(&self) -> bool {
        self.permits.load(Ordering::Relaxed) > 0
    }

    /// Takes a permit, sleeping until there is one.
    pub fn wait(&self) {
        loop {
            let permits = self.permits.load(Ordering::Relaxed);
            if permits == 0 {
                // Sleeps only if the word still is 0, so a post between the
                // load and this call is not lost.
                futex(&self.permits, libc::FUTEX_WAIT, 0);
            } else if self
                .permits
                // Acquire: pairs with the Release in `post`.
                .compare_exchange_weak(permits, permits - 1, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
            {
                return;
            }
        }
    }
}

#[cfg(not(loom))]
fn futex(word: &AtomicU32, operation: libc::c_int, value: u32) {
    // SAFETY: the word outlives the call, and these two operations read
    // nothing else (no timeout, no second word). Errors (EAGAIN: the word
    // changed; EINTR) mean "look again", which every caller does.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            operation | libc::FUTEX_PRIVATE_FLAG,
            value,
            std::ptr::null::<libc::timespec>(),
        );
    }
}

/// The same semaphore in terms that loom can check.
#[cfg(loom)]
#[derive(Debug)]
pub struct Semaphore {
    permits: loom::sync::Mutex<u32>,
    posted: loom::sync::Condvar,
}

#[cfg(loom)]
impl Semaphore {
    /// A semaphore without permits.
    pub fn new() -> Self {
        Self {
            permits: loom::sync::Mutex::new(0),
            posted: loom::sync::Condvar::new(),
        }
    }

    /// Adds a permit and wakes one sleeper.
    pub fn post(&self) {
        *self.permits.lock().unwrap() += 1;
        self.posted.notify_one();
    }

    /// Whether there is a permit (a hint: somebody may be taking it).
    pub fn is_posted(&self) -> bool {
        *self.permits.lock().unwrap() > 0
    }

    /// Takes a permit, sleeping until there is one.
    pub fn wait(&self) {
        let mut permits = self.permits.lock().unwrap();
        while *permits == 0 {
            permits = self.posted.wait(permits).unwrap();
        }
        *permits -= 1;
    }
}

/// Nanoseconds of `CLOCK_MONOTONIC`, the clock of every deadline and statistic.
#[inline]
pub fn now_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid place to write to, and this clock always
    // exists on Linux, so the call cannot fail.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
