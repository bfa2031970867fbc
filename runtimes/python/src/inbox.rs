//! Tasks on their way from pool threads to a runtime's asyncio loop.
//!
//! Pool threads push without the GIL. The loop sleeps on an event descriptor,
//! like on any socket of its own; it is written to only if the loop may be
//! asleep. *Armed* means that the loop has found nothing and will sleep: who
//! pushes takes that flag away, and alone has to wake it.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_queue::SegQueue;
use nonblocking_ffi_runtimes_common::host::Request;

/// The inboxes of all runtimes that are open, by the runtime's number.
static INBOXES: Mutex<BTreeMap<u64, Arc<Inbox>>> = Mutex::new(BTreeMap::new());

fn inboxes() -> MutexGuard<'static, BTreeMap<u64, Arc<Inbox>>> {
    INBOXES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The inbox of a runtime.
pub fn of(runtime: u64) -> Option<Arc<Inbox>> {
    inboxes().get(&runtime).cloned()
}

/// A runtime's inbox, which [`of`] finds until this is dropped.
#[derive(Debug)]
pub struct Registered {
    runtime: u64,
    inbox: Arc<Inbox>,
}

impl Registered {
    /// An empty one.
    ///
    /// # Errors
    ///
    /// If there is no descriptor left.
    pub fn new(runtime: u64) -> Result<Self, String> {
        let inbox = Arc::new(Inbox::new()?);
        inboxes().insert(runtime, inbox.clone());
        Ok(Self { runtime, inbox })
    }
}

impl std::ops::Deref for Registered {
    type Target = Inbox;

    fn deref(&self) -> &Inbox {
        &self.inbox
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        inboxes().remove(&self.runtime);
    }
}

/// The tasks that wait for one loop.
#[derive(Debug)]
pub struct Inbox {
    queue: SegQueue<Request>,
    armed: AtomicBool,
    event: OwnedFd,
}

impl Inbox {
    /// An empty one.
    ///
    /// # Errors
    ///
    /// If there is no descriptor left.
    pub fn new() -> Result<Self, String> {
        // SAFETY: plain numbers.
        let event = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if event < 0 {
            let error = std::io::Error::last_os_error();
            return Err(format!("cannot make an event descriptor: {error}"));
        }
        Ok(Self {
            queue: SegQueue::new(),
            armed: AtomicBool::new(false),
            // SAFETY: a descriptor that nobody else has.
            event: unsafe { OwnedFd::from_raw_fd(event) },
        })
    }

    /// What the loop waits for to become readable.
    pub fn descriptor(&self) -> i32 {
        self.event.as_raw_fd()
    }

    /// Gives the loop a task.
    pub fn push(&self, request: Request) {
        self.queue.push(request);
        // SeqCst: after the push, and partner of the store in `take`, which
        // comes before a last look at the queue: either that look sees the
        // task, or the flag is seen here.
        if self.armed.swap(false, Ordering::SeqCst) {
            let one = 1_u64.to_ne_bytes();
            // SAFETY: eight readable bytes. It cannot be full: it is written
            // to once for each time that it was read.
            unsafe { libc::write(self.descriptor(), one.as_ptr().cast(), one.len()) };
        }
    }

    /// The next task; `None` if there is none, and the descriptor will tell.
    pub fn take(&self) -> Option<Request> {
        if let Some(waiting) = self.queue.pop() {
            return Some(waiting);
        }
        let mut count = [0_u8; 8];
        // SAFETY: eight writable bytes; the descriptor does not block.
        unsafe { libc::read(self.descriptor(), count.as_mut_ptr().cast(), count.len()) };
        // SeqCst: see `push`.
        self.armed.store(true, Ordering::SeqCst);
        let waiting = self.queue.pop()?;
        // If the flag is gone, somebody writes to the descriptor: one look at
        // nothing more.
        self.armed.store(false, Ordering::SeqCst);
        Some(waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(task: u64) -> Request {
        Request::new(task, std::ptr::null(), 0)
    }

    fn readable(inbox: &Inbox, timeout: i32) -> bool {
        let mut poll = libc::pollfd {
            fd: inbox.descriptor(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one entry.
        unsafe { libc::poll(&mut poll, 1, timeout) == 1 }
    }

    #[test]
    fn wakes_once_for_many() {
        let inbox = Inbox::new().unwrap();
        assert!(inbox.take().is_none());
        for task in 1..=3 {
            inbox.push(request(task));
        }
        assert!(readable(&inbox, 0));
        let taken: Vec<u64> = std::iter::from_fn(|| inbox.take())
            .map(|w| w.task)
            .collect();
        assert_eq!(taken, [1, 2, 3]);
        assert!(!readable(&inbox, 0));
    }

    /// A consumer that only takes when it was told to gets everything.
    #[test]
    fn no_task_is_forgotten() {
        const THREADS: u64 = 4;
        const EACH: u64 = 20_000;
        let inbox = Arc::new(Inbox::new().unwrap());
        assert!(inbox.take().is_none());
        let pushers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let inbox = inbox.clone();
                std::thread::spawn(move || {
                    for number in 0..EACH {
                        inbox.push(request(thread * EACH + number));
                    }
                })
            })
            .collect();
        let mut sum = 0;
        let mut count = 0;
        while count < THREADS * EACH {
            assert!(readable(&inbox, 20_000), "{count} tasks, and then nothing");
            while let Some(waiting) = inbox.take() {
                sum += waiting.task;
                count += 1;
            }
        }
        let all = THREADS * EACH;
        assert_eq!(sum, all * (all - 1) / 2);
        for pusher in pushers {
            pusher.join().unwrap();
        }
    }
}
