//! Calls from VM code into other runtimes.
//!
//! Such a call runs on the very thread that makes it: nothing is queued, so
//! threads that call each other's runtimes cannot wait for each other. If the
//! runtime is asynchronous, the thread waits, until the caller of its own task
//! gives up.

use std::cell::RefCell;
use std::ptr::{self, NonNull};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nonblocking_ffi_core::error::Error;
use nonblocking_ffi_core::memory;
use nonblocking_ffi_core::runtime::{Runtime, cancel, registry};
use nonblocking_ffi_core::sync::now_ns;
use nonblocking_ffi_core::task::slot::deadline_after;
use nonblocking_ffi_core::task::state::Claim;
use nonblocking_ffi_core::task::{Kind, Priority, Recipient, Runner, Slot, Task, arena};

/// How often a thread that waits asks whether its own task is still wanted.
const LOOK: Duration = Duration::from_millis(10);

/// Who waits for nested tasks: one thread.
#[derive(Default)]
struct Rendezvous {
    done: Mutex<Vec<&'static Slot>>,
    delivered: Condvar,
}

impl Rendezvous {
    fn done(&self) -> MutexGuard<'_, Vec<&'static Slot>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recipient for Rendezvous {
    fn deliver(&'static self, slot: &'static Slot, _ended_ns: u64) {
        // SAFETY: the slot is done and not yet released; the runtime waits for
        // its nested tasks before it closes.
        let runtime = unsafe { slot.task().runtime.cast::<Runtime>().as_ref() };
        self.done().push(slot);
        self.delivered.notify_one();
        runtime.leave_nested();
    }

    fn is_closed(&self) -> bool {
        false
    }
}

/// The calling thread's nested tasks.
struct Nested {
    rendezvous: &'static Rendezvous,
    free: Vec<&'static Slot>,
    /// The task whose reply the VM is reading.
    last: Option<&'static Slot>,
    /// Requests of tasks whose slots are in use.
    kept: Vec<(&'static Slot, Box<[u8]>)>,
}

thread_local! {
    static NESTED: RefCell<Option<Nested>> = const { RefCell::new(None) };
}

impl Nested {
    fn new() -> Self {
        Self {
            // Never freed: another thread may still deliver.
            rendezvous: Box::leak(Box::default()),
            free: Vec::new(),
            last: None,
            kept: Vec::new(),
        }
    }

    fn release(&mut self, slot: &'static Slot) {
        // SAFETY: the slot is done, and this thread's.
        unsafe { slot.reply() }.reset(true);
        slot.state.release();
        self.free.push(slot);
    }

    /// Frees what has been read, and what has come too late.
    fn tidy(&mut self) {
        let mut done = std::mem::take(&mut *self.rendezvous.done());
        done.extend(self.last.take());
        for slot in done {
            self.kept.retain(|(other, _)| !ptr::eq(*other, slot));
            self.release(slot);
        }
    }

    fn acquire(&mut self) -> Result<&'static Slot, Error> {
        if self.free.is_empty() {
            self.free.extend(arena::grow().ok_or(Error::NoMemory)?);
        }
        self.free.pop().ok_or(Error::NoMemory)
    }
}

/// Why a nested call could not be made.
pub enum Refused {
    /// There is no such runtime.
    Unknown,
    /// The runtime is one of Lua's.
    IsLua,
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
    caller: u64,
) -> Result<&'static Slot, Refused> {
    let runtime = registry::enter(name).ok_or(Refused::Unknown)?;
    // SAFETY: entered: it is not freed before `leave_nested` was called twice.
    let runtime: &Runtime = unsafe { runtime.as_ref() };
    let result = NESTED.with_borrow_mut(|nested| {
        let nested = nested.get_or_insert_with(Nested::new);
        nested.tidy();
        if !runtime.may_nest() {
            return Err(Refused::IsLua);
        }
        // A copy, since it must outlive the call if the caller gives up.
        let request = memory::copy(request).ok_or(Refused::Failed(Error::NoMemory))?;
        let slot = nested.acquire().map_err(Refused::Failed)?;
        Ok((slot, request))
    });
    let (slot, request) = match result {
        Ok(made) => made,
        Err(why) => {
            // No task will be delivered, and none runs.
            runtime.leave_nested();
            runtime.leave_nested();
            return Err(why);
        }
    };
    let now = now_ns();
    let deadline_ns = deadline_after(now, seconds);
    run(runtime, slot, &request, now, deadline_ns);
    runtime.leave_nested();
    await_end(slot, request, deadline_ns, caller)
}

/// Runs a task on this thread. It may end later.
fn run(runtime: &Runtime, slot: &'static Slot, request: &[u8], now: u64, deadline_ns: u64) {
    let rendezvous = NESTED.with_borrow(|nested| nested.as_ref().map(|n| n.rendezvous));
    let Some(rendezvous) = rendezvous else {
        return;
    };
    let runner: *const (dyn Runner + '_) = runtime;
    // SAFETY: only the lifetime differs; the runtime waits for the task.
    let runner: *const (dyn Runner + 'static) = unsafe { std::mem::transmute(runner) };
    let task = Task {
        kind: Kind::Call,
        // SAFETY: made from a reference.
        runtime: unsafe { NonNull::new_unchecked(runner.cast_mut()) },
        recipient: rendezvous,
        pool: runtime.pool().load(),
        request: request.as_ptr(),
        request_len: request.len(),
        posted_ns: now,
        deadline_ns,
        priority: Priority::Normal,
        bulk: false,
        tag: 0,
    };
    runtime.pool().reserve_nested();
    runtime.stats().nested.bump_shared();
    runtime.note_start();
    // SAFETY: the slot is free and this thread's.
    unsafe {
        slot.fill(task);
        slot.set_started_ns(now);
    }
    slot.state.offer(false);
    let claim = slot.state.claim();
    debug_assert_eq!(claim, Claim::Run);
    runtime.run(slot);
}

/// Waits for a task; its request is kept until the slot is used again.
fn await_end(
    slot: &'static Slot,
    request: Box<[u8]>,
    deadline_ns: u64,
    caller: u64,
) -> Result<&'static Slot, Refused> {
    NESTED.with_borrow_mut(|nested| {
        let nested = nested.get_or_insert_with(Nested::new);
        let mut done = nested.rendezvous.done();
        loop {
            if let Some(place) = done.iter().position(|other| ptr::eq(*other, slot)) {
                done.swap_remove(place);
                drop(done);
                nested.last = Some(slot);
                // A reply may be a part of the request.
                nested.kept.push((slot, request));
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
            } else if arena::is_unwanted(caller) {
                Some(Error::Cancelled)
            } else {
                None
            };
            if let Some(why) = why {
                drop(done);
                cancel::cancel(slot);
                nested.kept.push((slot, request));
                return Err(Refused::Failed(why));
            }
            let wait = Duration::from_nanos(deadline_ns - now).min(LOOK);
            let woken = nested.rendezvous.delivered.wait_timeout(done, wait);
            done = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    })
}
