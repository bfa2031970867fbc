//! Tasks on their way from pool threads to a runtime's asyncio loop, and word of
//! those that nobody wants any more.
//!
//! Both are pushed without the GIL. The loop sleeps on an event descriptor, like
//! on any socket of its own; it is written to only if the loop may be asleep.
//! *Armed* means that the loop has found nothing and will sleep: who pushes takes
//! that flag away, and alone has to wake it.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_queue::SegQueue;
use nonblocking_ffi_plugin::sys::nbffi_task;
use nonblocking_ffi_runtimes_common::host::Request;
use nonblocking_ffi_runtimes_common::task::{self, OnCancel};

use crate::alarm::{self, Unwanted};

/// What the loop is told.
#[derive(Debug)]
pub enum Item {
    /// To begin a task.
    Begin(Request),
    /// To cancel a task, if it has begun.
    Cancel(nbffi_task),
}

/// What waits for one loop.
#[derive(Debug)]
pub struct Inbox {
    runtime: u64,
    queue: SegQueue<Item>,
    armed: AtomicBool,
    event: OwnedFd,
}

impl Inbox {
    /// An empty one, for the loop of a runtime.
    ///
    /// # Errors
    ///
    /// If there is no descriptor left.
    pub fn new(runtime: u64) -> Result<Self, String> {
        // SAFETY: plain numbers.
        let event = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if event < 0 {
            let error = std::io::Error::last_os_error();
            return Err(format!("cannot make an event descriptor: {error}"));
        }
        Ok(Self {
            runtime,
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

    /// Gives the loop a task, and has the host tell when nobody wants it.
    ///
    /// # Safety
    ///
    /// Inside of the `call` of the inbox's runtime that was given the task.
    pub unsafe fn begin(&self, request: Request) {
        // First, since the task may end as soon as it is pushed.
        // SAFETY: the inbox lives until its runtime is closed.
        unsafe { task::on_cancel(request.task, self) };
        self.push(Item::Begin(request));
    }

    /// Tells the loop something.
    pub fn push(&self, item: Item) {
        self.queue.push(item);
        // SeqCst: after the push, and partner of the store in `take`, which
        // comes before a last look at the queue: either that look sees the
        // item, or the flag is seen here.
        if self.armed.swap(false, Ordering::SeqCst) {
            let one = 1_u64.to_ne_bytes();
            // SAFETY: eight readable bytes. It cannot be full: it is written
            // to once for each time that it was read.
            unsafe { libc::write(self.descriptor(), one.as_ptr().cast(), one.len()) };
        }
    }

    /// The next item; `None` if there is none, and the descriptor will tell.
    pub fn take(&self) -> Option<Item> {
        if let Some(item) = self.queue.pop() {
            return Some(item);
        }
        let mut count = [0_u8; 8];
        // SAFETY: eight writable bytes; the descriptor does not block.
        unsafe { libc::read(self.descriptor(), count.as_mut_ptr().cast(), count.len()) };
        // SeqCst: see `push`.
        self.armed.store(true, Ordering::SeqCst);
        let item = self.queue.pop()?;
        // If the flag is gone, somebody writes to the descriptor: one look at
        // nothing more.
        self.armed.store(false, Ordering::SeqCst);
        Some(item)
    }
}

impl OnCancel for Inbox {
    /// The loop cancels the task, and the main thread stops it if the loop does
    /// not get to that.
    fn on_cancel(&self, task: nbffi_task) {
        self.push(Item::Cancel(task));
        let loop_of = self.runtime;
        alarm::interrupt(Unwanted { task, loop_of });
    }
}

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
pub struct Registered(Arc<Inbox>);

impl Registered {
    /// Makes it, empty.
    ///
    /// # Errors
    ///
    /// If there is no descriptor left.
    pub fn new(runtime: u64) -> Result<Self, String> {
        let inbox = Arc::new(Inbox::new(runtime)?);
        inboxes().insert(runtime, inbox.clone());
        Ok(Self(inbox))
    }
}

impl std::ops::Deref for Registered {
    type Target = Inbox;

    fn deref(&self) -> &Inbox {
        &self.0
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        inboxes().remove(&self.0.runtime);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(task: u64) -> Item {
        Item::Begin(Request::new(task, std::ptr::null(), 0))
    }

    fn task(item: &Item) -> u64 {
        match item {
            Item::Begin(request) => request.task,
            Item::Cancel(task) => *task,
        }
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
        let inbox = Inbox::new(1).unwrap();
        assert!(inbox.take().is_none());
        for task in 1..=3 {
            inbox.push(item(task));
        }
        assert!(readable(&inbox, 0));
        let taken: Vec<u64> = std::iter::from_fn(|| inbox.take())
            .map(|item| task(&item))
            .collect();
        assert_eq!(taken, [1, 2, 3]);
        assert!(!readable(&inbox, 0));
    }

    /// A consumer that only takes when it was told to gets everything.
    #[test]
    fn no_task_is_forgotten() {
        const THREADS: u64 = 4;
        const EACH: u64 = 20_000;
        let inbox = Arc::new(Inbox::new(1).unwrap());
        assert!(inbox.take().is_none());
        let pushers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let inbox = inbox.clone();
                std::thread::spawn(move || {
                    for number in 0..EACH {
                        inbox.push(item(thread * EACH + number));
                    }
                })
            })
            .collect();
        let mut sum = 0;
        let mut count = 0;
        while count < THREADS * EACH {
            assert!(readable(&inbox, 20_000), "{count} tasks, and then nothing");
            while let Some(item) = inbox.take() {
                sum += task(&item);
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
