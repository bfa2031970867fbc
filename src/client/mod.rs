//! Clients: who posts tasks and takes their completions.
//!
//! | file       | role |
//! |------------|------|
//! | this one   | the main thread's side of one Lua VM: post, spin wait, drain |
//! | [`batch`]  | posts that are held back, to wake a pool once for many |
//! | [`nested`] | a pool thread that calls another runtime |
//!
//! Everything in [`Client`] is called by the VM's thread only, does no system call
//! but to wake a pool thread, and takes a time that does not depend on how many
//! tasks are in flight.

mod batch;
pub mod nested;

use std::ptr::{self, NonNull};

use crate::error::Error;
use crate::memory;
use crate::pool::Pool;
use crate::runtime::{Place, Runtime, SPIN_WAIT_NS, SpinWait, WORTH_NS, cancel};
use crate::sync::{now_ns, spin_loop};
use crate::task::slot::deadline_after;
use crate::task::state::Cancel;
use crate::task::{Kind, Load, Priority, Recipient, Slot, SlotCache, Task, arena};
use crate::wake::completions::Taken;
use crate::wake::socket::Listener;
use crate::wake::{LogQueue, Mailbox, Source};
use batch::Batch;

/// Calls in a row are answered inline for so long; then one yields, so that
/// the event loop, and other coroutines that would call, get their turn.
const INLINE_NS: u64 = 200_000;
/// Looks at a slot between two looks at the clock.
const LOOKS_PER_CLOCK: u32 = 8;

/// A request, as Lua hands it over.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// The bytes; Lua keeps them alive until it has collected the completion.
    pub data: *const u8,
    /// How many.
    pub len: usize,
    /// Seconds until the caller stops waiting.
    pub timeout: f64,
    /// Its queue.
    pub priority: Priority,
    /// Whether the caller is about to wait for the result.
    pub waits: bool,
    /// A number for the runtime, see [`Task::tag`].
    pub tag: u32,
    /// Requests of the same key, other than 0, go to the same thread while it
    /// is free.
    pub key: u32,
}

/// What became of a post.
pub enum Posted {
    /// The task is in this slot; `flush` must be called when the event loop's
    /// turn ends.
    Held(&'static Slot),
    /// The task is in this slot.
    Pending(&'static Slot),
    /// The task is done already; the slot must be collected and released.
    Done(&'static Slot),
}

impl Request {
    /// The task that this asks of a runtime, posted at the time `now`.
    fn task(
        &self,
        runtime: &Runtime,
        recipient: &'static dyn Recipient,
        pool: &'static dyn Load,
        now: u64,
    ) -> Task {
        Task {
            kind: Kind::Call,
            runtime: NonNull::from(runtime),
            recipient,
            pool,
            request: self.data,
            request_len: self.len,
            posted_ns: now,
            deadline_ns: deadline_after(now, self.timeout),
            priority: self.priority,
            bulk: false,
            nested: false,
            tag: self.tag,
        }
    }
}

/// How a task is offered.
#[derive(Clone, Copy)]
struct How {
    /// Where it is counted until it ends.
    load: &'static dyn Load,
    spin_wait: bool,
    bulk: bool,
}

/// The state of one Lua VM.
pub struct Client {
    mailbox: &'static Mailbox,
    log: &'static LogQueue,
    /// What the event loop looks at beside completions.
    sources: Vec<&'static dyn Source>,
    slots: SlotCache,
    /// Whether it allocates slots by itself.
    grows: bool,
    in_flight: u32,
    /// Since when calls have been answered inline without a pause, 0 if the
    /// last one was not.
    inline_since: u64,
    batch: Batch,
    taken: Taken,
    collected: u64,
    listener: Option<Listener>,
    /// Runtimes that are closed but that a pool thread has not left.
    leaving: Vec<NonNull<Runtime>>,
}

impl Default for Client {
    fn default() -> Self {
        // Never freed, see `Mailbox`.
        let mailbox: &'static Mailbox = Box::leak(Box::default());
        let log: &'static LogQueue = Box::leak(Box::new(LogQueue::new(mailbox)));
        Self {
            mailbox,
            log,
            sources: vec![log],
            slots: SlotCache::default(),
            grows: true,
            in_flight: 0,
            inline_since: 0,
            batch: Batch::default(),
            taken: Taken::none(),
            collected: 0,
            listener: None,
            leaving: Vec::new(),
        }
    }
}

impl Client {
    /// What other threads send completions to.
    pub fn mailbox(&self) -> &'static Mailbox {
        self.mailbox
    }

    /// Where other threads' log lines wait.
    pub fn log(&self) -> &'static LogQueue {
        self.log
    }

    /// Where a runtime runs whose results come here.
    pub fn place(&self, pool: &'static Pool) -> Place {
        Place {
            pool,
            log: self.log,
            event_loop: self.mailbox,
        }
    }

    /// Asks for a wake-up as soon as there is something to drain. False if there
    /// already is.
    #[must_use]
    pub fn arm(&self) -> bool {
        self.mailbox.arm(&self.sources)
    }

    /// The socket that the cosocket is to connect to.
    pub fn listener(&mut self) -> &mut Option<Listener> {
        &mut self.listener
    }

    /// Allows or forbids to hold posts back: somebody must call `flush`.
    pub fn set_may_hold(&mut self, may_hold: bool) {
        self.batch.allowed = may_hold;
    }

    /// Says whether a post may allocate slots.
    pub fn set_grows(&mut self, grows: bool) {
        self.grows = grows;
    }

    /// The slots of this client.
    pub fn slots(&mut self) -> &mut SlotCache {
        &mut self.slots
    }

    /// Tasks posted and not collected.
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Slots in all, tasks collected.
    pub fn totals(&self) -> (usize, u64) {
        (self.slots.allocated(), self.collected)
    }

    fn acquire(&mut self) -> Result<&'static Slot, Error> {
        // What waits in queues takes memory that cannot be refused.
        if memory::is_still_short() {
            return Err(Error::NoMemory);
        }
        if self.grows {
            self.slots.reserve()?;
        }
        self.slots.acquire().ok_or(Error::NoMemory)
    }

    /// Posts a request. If there is no free slot, and the client does not grow by
    /// itself, that is no memory, until its slots have grown.
    ///
    /// # Safety
    /// `runtime` lives, and stays where it is, until its last task is collected and no
    /// pool thread uses it; the request as [`Request::data`] says.
    #[inline]
    pub unsafe fn post(&mut self, runtime: &Runtime, request: Request) -> Result<Posted, Error> {
        if self.mailbox.is_closed() {
            return Err(Error::ShuttingDown);
        }
        let pool = runtime.pool();
        let sink = match runtime.sink() {
            Some(sink) => sink.reserve().map(|()| Some(sink)),
            None => pool.reserve(),
        }?;
        let now = now_ns();
        let alone = self.in_flight == 0;
        let stats = runtime.stats();
        let hold = request.key == 0 && sink.is_none() && self.batch.suits(stats.recent_mean_ns());
        if self.inline_since == 0 {
            self.inline_since = now;
        }
        let spin_wait = request.waits
            && alone
            && !self.batch.is_busy()
            && now - self.inline_since < INLINE_NS
            && sink.map_or_else(|| pool.is_searching(), |sink| sink.is_searching())
            && stats.recent_best_ns() < WORTH_NS
            && runtime.spin_wait.is_due();
        let bulk = hold && !spin_wait;
        let load: &'static dyn Load = match sink {
            Some(sink) => sink,
            None => pool.load(),
        };
        let how = How {
            load,
            spin_wait,
            bulk,
        };
        // SAFETY: passed on from this function's contract.
        let slot = unsafe { self.offer(runtime, Kind::Call, request, now, how) }?;
        if bulk {
            // SAFETY: offered just now, and nobody else has the slot.
            unsafe { self.batch.hold(slot, pool, *slot.task(), now) };
            return Ok(Posted::Held(slot));
        }
        // SAFETY: offered just now, and put into one queue.
        unsafe {
            if let Some(sink) = sink {
                sink.push(slot);
            } else if request.key == 0 {
                pool.push(slot, request.priority);
                pool.notify();
            } else {
                pool.push_to(slot, request.key);
            }
        }
        if spin_wait && wait_inline(slot, now + SPIN_WAIT_NS, &runtime.spin_wait, runtime) {
            return Ok(Posted::Done(slot));
        }
        self.inline_since = 0;
        Ok(Posted::Pending(slot))
    }

    /// Posts the initialisation or the closing of a runtime, which is not
    /// bounded by the pool's queue. Starts threads of the pool that are missing.
    ///
    /// # Safety
    /// As for [`Client::post`].
    pub unsafe fn post_control(
        &mut self,
        runtime: &Runtime,
        kind: Kind,
    ) -> Result<&'static Slot, Error> {
        let request = Request {
            data: ptr::null(),
            len: 0,
            timeout: f64::INFINITY,
            priority: Priority::High,
            waits: false,
            tag: 0,
            key: 0,
        };
        // It has threads; some may be missing.
        let _ = runtime.pool().start();
        let how = How {
            load: runtime.pool().load(),
            spin_wait: false,
            bulk: false,
        };
        // SAFETY: passed on; a control task has no request.
        let slot = unsafe { self.offer(runtime, kind, request, now_ns(), how) }?;
        runtime.pool().reserve_always();
        // SAFETY: offered just now, and in no other queue.
        unsafe { runtime.pool().push(slot, Priority::High) };
        runtime.pool().notify();
        Ok(slot)
    }

    /// # Safety
    /// As for [`Client::post`].
    unsafe fn offer(
        &mut self,
        runtime: &Runtime,
        kind: Kind,
        request: Request,
        now: u64,
        how: How,
    ) -> Result<&'static Slot, Error> {
        let slot = self.acquire().inspect_err(|_| {
            if kind == Kind::Call {
                how.load.task_ended();
            }
        })?;
        let task = Task {
            kind,
            bulk: how.bulk,
            ..request.task(runtime, self.mailbox, how.load, now)
        };
        // SAFETY: the slot is free and this thread's.
        unsafe { slot.offer(task, how.spin_wait) };
        self.batch.note_depth(self.in_flight);
        self.in_flight += 1;
        runtime.stats().posted.bump();
        Ok(slot)
    }

    /// Sends what is held back to the pools. True if `watch` should be called
    /// in some milliseconds.
    pub fn flush(&mut self) -> bool {
        self.batch.publish()
    }

    /// Sees to it that what was held back is taken care of. True if it should be
    /// called again in some milliseconds.
    pub fn watch(&mut self) -> bool {
        self.batch.watch(self.in_flight)
    }

    /// The next task that is done. Each must be released.
    #[inline]
    pub fn next_done(&mut self) -> Option<&'static Slot> {
        if self.taken.is_empty() {
            self.taken = self.mailbox.completions().take();
        }
        let slot = self.taken.next();
        if let Some(next) = self.taken.peek() {
            next.prefetch();
        }
        slot
    }

    /// Counts a done task; `now` is the time. Returns what ended it: its deadline,
    /// if that came before its end.
    ///
    /// # Safety
    /// [`Client::next_done`] or [`Posted::Done`] has given the slot, and it was not
    /// collected before.
    #[inline]
    pub unsafe fn collect(&mut self, slot: &'static Slot, now: u64) -> Result<(), Error> {
        // SAFETY: the slot is done, so this thread may read all of it.
        let (task, reply, started) = unsafe { (slot.task(), slot.reply(), slot.started_ns()) };
        // SAFETY: a runtime lives until its last task is collected.
        let stats = unsafe { task.runtime.as_ref() }.stats();
        // Whether its caller has noticed that yet must make no difference.
        let result = match task.deadline_ns {
            deadline if deadline <= reply.ended_ns => Err(Error::Timeout),
            _ => reply.result,
        };
        self.in_flight -= 1;
        self.collected += 1;
        stats.collected.bump();
        if task.kind == Kind::Call {
            // An abandoned task was counted when its caller went away.
            if !slot.state.was_cancelled() {
                stats.count(result);
                stats.record_total(now.saturating_sub(task.posted_ns));
            }
            if started == 0 && task.deadline_ns <= now {
                stats.expired.bump();
            }
        }
        result
    }

    /// Frees a slot.
    ///
    /// # Safety
    /// It was collected, and not released since; nobody reads its reply any more.
    #[inline]
    pub unsafe fn release(&mut self, slot: &'static Slot) {
        // SAFETY: it was collected, so it is done, and of this client.
        unsafe { self.slots.release(slot) };
    }

    /// Gives a task up: it will not start, or if it runs it can find out.
    ///
    /// # Safety
    /// The slot holds a task of this client that was not collected.
    pub unsafe fn cancel(&mut self, slot: &'static Slot, why: Error) -> Cancel {
        // SAFETY: the slot holds a task, since Lua has not collected it, and a runtime
        // lives until its last task is collected.
        let runtime = unsafe { slot.task().runtime.as_ref() };
        runtime.stats().count(Err(why));
        cancel::cancel(slot)
    }

    /// Frees a closed runtime, or does so later if a pool thread is still on
    /// its way out of it.
    ///
    /// # Safety
    /// `runtime` came from a `Box`, its last task is collected, and it is not
    /// used any more.
    pub unsafe fn free_runtime(&mut self, runtime: NonNull<Runtime>) {
        self.leaving.push(runtime);
        self.leaving.retain(|&runtime| {
            // SAFETY: by the contract, and it is freed once: what is freed is
            // not retained.
            unsafe {
                let runtime = runtime.as_ref();
                if runtime.pool().users(runtime.address()) > 0 {
                    return true;
                }
                drop(Box::from_raw(ptr::from_ref(runtime).cast_mut()));
            }
            false
        });
    }

    /// Tasks that wait, and tasks that may be reading memory of the VM.
    pub fn unfinished(&self) -> (usize, usize) {
        let (mut queued, mut running) = (0, 0);
        for slot in arena::all() {
            // SAFETY: only slots that hold a task of this client are looked
            // into; its tasks are filled and released by this thread alone.
            let ours = |slot: &Slot| unsafe { ptr::addr_eq(slot.task().recipient, self.mailbox) };
            if slot.state.is_queued() && ours(slot) {
                queued += 1;
            } else if slot.state.is_running() && ours(slot) {
                running += 1;
            }
        }
        (queued, running)
    }
}

/// Waits for a task without yielding. True if it is done.
fn wait_inline(slot: &'static Slot, until: u64, spin_wait: &SpinWait, runtime: &Runtime) -> bool {
    let done = loop {
        if (0..LOOKS_PER_CLOCK).any(|_| {
            spin_loop();
            slot.state.is_done()
        }) {
            break true;
        }
        if now_ns() >= until {
            break slot.state.leave_inline();
        }
    };
    spin_wait.note(done);
    let stats = runtime.stats();
    if done {
        stats.spin_hits.bump();
    } else {
        stats.spin_misses.bump();
    }
    done
}
