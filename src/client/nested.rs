//! Calls from code of one runtime, a Lua VM say, into another runtime.
//!
//! Such a call runs on the very thread that makes it: nothing is queued, so
//! threads that call each other's runtimes cannot wait for each other. If the
//! runtime is asynchronous, the thread waits, until the caller of its own task
//! gives up.

use std::cell::RefCell;
use std::ptr;
use std::thread::{self, Thread};
use std::time::Duration;

use super::Request;
use crate::error::Error;
use crate::memory;
use crate::runtime::cancel;
use crate::runtime::registry::{self, Entered};
use crate::sync::now_ns;
use crate::task::{Handle, Priority, Recipient, Runner, Slot, SlotCache, Task};
use crate::wake::completions::Completions;

/// How often a thread that waits asks whether its own task is still wanted.
const LOOK: Duration = Duration::from_millis(10);

/// Where a thread's nested tasks arrive.
struct Inbox {
    completions: Completions,
    thread: Thread,
}

impl Recipient for Inbox {
    fn deliver(&'static self, slot: &'static Slot, _ended_ns: u64) {
        if self.completions.push(slot, slot) {
            self.thread.unpark();
        }
    }

    fn is_closed(&self) -> bool {
        false
    }
}

/// The calling thread as a client.
struct Nested {
    inbox: &'static Inbox,
    slots: SlotCache,
    /// The task whose reply is being read.
    last: Option<&'static Slot>,
    /// Requests of tasks whose slots are in use.
    kept: Vec<(&'static Slot, Box<[u8]>)>,
}

thread_local! {
    static NESTED: RefCell<Nested> = RefCell::new(Nested {
        // Never freed: another thread may still deliver.
        inbox: Box::leak(Box::new(Inbox {
            completions: Completions::default(),
            thread: thread::current(),
        })),
        slots: SlotCache::default(),
        last: None,
        kept: Vec::new(),
    });
}

/// Why a nested call could not be made.
pub enum Refused {
    /// There is no such runtime.
    Unknown,
    /// The runtime must be asked otherwise: code in a VM requires a Lua module.
    NotNested,
    /// It ended with this error.
    Failed(Error),
}

/// Runs a request on the runtime of a name, for up to `seconds`, or until nobody
/// wants the result of `caller` any more: the task that the thread runs. The
/// slot is done, and its reply can be read until the thread's next nested call.
pub fn call(
    name: &str,
    request: &[u8],
    seconds: f64,
    caller: Option<Handle>,
) -> Result<&'static Slot, Refused> {
    let runtime = registry::enter(name).ok_or(Refused::Unknown)?;
    let made = NESTED.with_borrow_mut(|nested| nested.prepare(&runtime, request, seconds));
    let (slot, task, request) = made?;
    // SAFETY: the slot is free and this thread's, and in no queue but here.
    let begun = unsafe {
        slot.offer(task, false);
        slot.begin(task.posted_ns)
    };
    // Without the borrow: it may come back to here. A task that is late already has
    // ended.
    if let Some(begun) = begun {
        runtime.run(&begun);
    }
    drop(runtime);
    NESTED.with_borrow_mut(|nested| {
        nested.kept.push((slot, request));
        nested.await_end(slot, task.deadline_ns, caller)
    })
}

impl Nested {
    /// A slot, what is to be put into it, and the request, which must outlive the
    /// call if the caller gives up.
    fn prepare(
        &mut self,
        runtime: &Entered,
        request: &[u8],
        seconds: f64,
    ) -> Result<(&'static Slot, Task, Box<[u8]>), Refused> {
        self.tidy();
        if !runtime.may_nest() {
            return Err(Refused::NotNested);
        }
        let copied = memory::copy(request).ok_or(Refused::Failed(Error::NoMemory))?;
        self.slots.reserve().map_err(Refused::Failed)?;
        let slot = self.slots.acquire();
        let slot = slot.ok_or(Refused::Failed(Error::NoMemory))?;
        let request = Request {
            data: copied.as_ptr(),
            len: copied.len(),
            timeout: seconds,
            priority: Priority::Normal,
            waits: true,
            tag: 0,
            key: 0,
        };
        let pool = runtime.pool();
        let task = Task {
            nested: true,
            ..request.task(runtime, self.inbox, pool.load(), now_ns())
        };
        pool.reserve_nested();
        runtime.stats().nested.bump_shared();
        // Until the task has ended.
        runtime.enter_nested();
        Ok((slot, task, copied))
    }

    /// Frees what has been read, and what has come too late.
    fn tidy(&mut self) {
        for slot in self
            .last
            .take()
            .into_iter()
            .chain(self.inbox.completions.take())
        {
            self.release(slot);
        }
    }

    fn release(&mut self, slot: &'static Slot) {
        self.kept.retain(|(other, _)| !ptr::eq(*other, slot));
        // SAFETY: the slot is done, and of this client.
        unsafe { self.slots.release(slot) };
    }

    /// Waits for a task; its request is kept until the slot is used again.
    fn await_end(
        &mut self,
        slot: &'static Slot,
        deadline_ns: u64,
        caller: Option<Handle>,
    ) -> Result<&'static Slot, Refused> {
        loop {
            for done in self.inbox.completions.take() {
                if ptr::eq(done, slot) {
                    self.last = Some(slot);
                } else {
                    self.release(done);
                }
            }
            if self.last.is_some() {
                // SAFETY: the slot is done.
                let reply = unsafe { slot.reply() };
                return match reply.result {
                    _ if deadline_ns <= reply.ended_ns => Err(Refused::Failed(Error::Timeout)),
                    Err(error) if error != Error::Runtime => Err(Refused::Failed(error)),
                    _ => Ok(slot),
                };
            }
            let now = now_ns();
            let why = if now >= deadline_ns {
                Some(Error::Timeout)
            } else if caller.is_some_and(Handle::is_unwanted) {
                Some(Error::Cancelled)
            } else {
                None
            };
            if let Some(why) = why {
                cancel::cancel(slot);
                return Err(Refused::Failed(why));
            }
            if self.inbox.completions.arm() {
                thread::park_timeout(Duration::from_nanos(deadline_ns - now).min(LOOK));
            }
        }
    }
}
