//! The main thread's side of one Lua VM: post, spin wait, drain.
//!
//! Everything here is called by the VM's thread only, does no system call but
//! to wake a pool thread, and takes a time that does not depend on how many
//! tasks are in flight.
//!
//! # Waking pool threads
//!
//! A wake-up costs the main thread about a microsecond, which is as much as
//! all the rest of a call. So while several short tasks are in flight at a
//! time (many requests are served at once), posts are *held back* until
//! [`Client::flush`], which Lua calls at the end of the event loop's turn, or
//! until [`MAX_HELD`] are there: one wake-up for all of them. A task that is
//! not short, or is alone, goes to the pool at once.

use std::ptr::{self, NonNull};

use crate::error::Error;
use crate::memory;
use crate::pool::Pool;
use crate::runtime::{Runtime, SPIN_WAIT_NS, SpinWait, WORTH_NS, cancel};
use crate::sync::{now_ns, spin_loop};
use crate::task::slot::deadline_after;
use crate::task::state::Cancel;
use crate::task::{Kind, Load, Priority, Recipient, Runner, Slot, Task, arena};
use crate::wake::Mailbox;
use crate::wake::completions::Taken;
use crate::wake::socket::Listener;

/// Tasks are short if they run for less than this on average: handing one to
/// another thread costs about as much.
const SHORT_NS: u64 = 20_000;
/// Posts are held back up to this many ...
const MAX_HELD: usize = 64;
/// ... or up to this many if they came within this time, so that running them
/// meanwhile pays. (45 us are a tenth better for tables, but requests of HTTP then
/// cost a third more: 16 of them come in that time.)
const DENSE_HELD: usize = 16;
const DENSE_NS: u64 = 16_000;
/// Posts are held back while on average this many tasks are in flight.
const HOLD_DEPTH: u32 = 2;
/// The running mean of tasks in flight is kept in 1/16ths ...
const DEPTH_UNIT: u32 = 16;
/// ... and moves by 1/8 of the difference with each post.
const DEPTH_SHIFT: u32 = 3;
/// Calls in a row are answered inline for so long; then one yields, so that
/// the event loop, and other coroutines that would call, get their turn.
const INLINE_NS: u64 = 200_000;
/// Response buffers that free slots may keep for their next task, in bytes.
const CACHE_BYTES: usize = 16 << 20;
/// A larger buffer is not kept.
const CACHE_BUFFER_BYTES: usize = 1 << 20;
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

struct Held {
    slot: &'static Slot,
    pool: &'static Pool,
    task: Task,
}

/// How a task is offered.
#[derive(Debug, Clone, Copy, Default)]
struct How {
    spin_wait: bool,
    bulk: bool,
}

/// The state of one Lua VM.
pub struct Client {
    mailbox: &'static Mailbox,
    /// Has room for all slots of this client.
    free: Vec<&'static Slot>,
    /// Whether it allocates slots by itself.
    grows: bool,
    /// Slots that are not in use yet, see `grow`.
    fresh: &'static [Slot],
    allocated: usize,
    in_flight: u32,
    /// A running mean of `in_flight` at posts, in units of 1/`DEPTH_UNIT`.
    depth: u32,
    cached_bytes: usize,
    may_hold: bool,
    /// Since when calls have been answered inline without a pause, 0 if the
    /// last one was not.
    inline_since: u64,
    held: Vec<Held>,
    /// The pool that many short tasks were posted to.
    watched: Option<&'static Pool>,
    taken: Taken,
    collected: u64,
    listener: Option<Listener>,
    /// Runtimes that are closed but that a pool thread has not left.
    leaving: Vec<NonNull<Runtime>>,
}

impl Default for Client {
    fn default() -> Self {
        Self {
            // Never freed, see `Mailbox`.
            mailbox: Box::leak(Box::default()),
            free: Vec::new(),
            grows: true,
            fresh: &[],
            allocated: 0,
            in_flight: 0,
            depth: 0,
            cached_bytes: 0,
            may_hold: false,
            inline_since: 0,
            held: Vec::with_capacity(MAX_HELD),
            watched: None,
            taken: Taken::none(),
            collected: 0,
            listener: None,
            leaving: Vec::new(),
        }
    }
}

impl Client {
    /// What other threads send to.
    pub fn mailbox(&self) -> &'static Mailbox {
        self.mailbox
    }

    /// The socket that the cosocket is to connect to.
    pub fn listener(&mut self) -> &mut Option<Listener> {
        &mut self.listener
    }

    /// Allows or forbids to hold posts back: somebody must call `flush`.
    pub fn set_may_hold(&mut self, may_hold: bool) {
        self.may_hold = may_hold;
    }

    /// Says whether a post may allocate slots.
    pub fn set_grows(&mut self, grows: bool) {
        self.grows = grows;
    }

    /// Tasks posted and not collected.
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Slots in all, tasks collected.
    pub fn totals(&self) -> (usize, u64) {
        (self.allocated, self.collected)
    }

    /// Allocates slots, of which the first one's number is returned. They are used
    /// from `use_fresh` on: until then the caller may make room of its own for so
    /// many tasks, and if it fails, it gets the same slots again.
    pub fn grow(&mut self) -> Result<u32, Error> {
        if self.fresh.is_empty() {
            let wanted = self.allocated + arena::CHUNK_SLOTS - self.free.len();
            if !memory::is_enough_for(0) || self.free.try_reserve(wanted).is_err() {
                return Err(Error::NoMemory);
            }
            self.fresh = arena::grow().ok_or(Error::NoMemory)?;
        }
        Ok(self.fresh[0].index)
    }

    /// From now on, what `grow` has allocated is used.
    pub fn use_fresh(&mut self) {
        let slots = std::mem::take(&mut self.fresh);
        self.allocated += slots.len();
        // There is room: see `grow`.
        self.free.extend(slots.iter().rev());
    }

    fn acquire(&mut self) -> Result<&'static Slot, Error> {
        // What waits in queues takes memory that cannot be refused.
        if memory::is_still_short() {
            return Err(Error::NoMemory);
        }
        if self.free.is_empty() && self.grows {
            self.grow()?;
            self.use_fresh();
        }
        let slot = self.free.pop().ok_or(Error::NoMemory)?;
        if let Some(next) = self.free.last() {
            prefetch(next);
        }
        // SAFETY: a free slot is this thread's.
        self.cached_bytes -= unsafe { slot.reply() }.cached();
        Ok(slot)
    }

    /// Posts a request. If there is no free slot, and the client does not grow by
    /// itself, that is no memory, until `grow` and `use_fresh` have been called.
    ///
    /// # Safety
    /// `runtime` lives until its last task is collected and no pool thread
    /// uses it; the request as [`Request::data`] says.
    #[inline]
    pub unsafe fn post(&mut self, runtime: &Runtime, request: Request) -> Result<Posted, Error> {
        if self.mailbox.is_closed() {
            return Err(Error::ShuttingDown);
        }
        let (pool, source) = (runtime.pool(), runtime.source());
        match source {
            Some(source) => source.reserve()?,
            None => pool.reserve()?,
        }
        let now = now_ns();
        let short = runtime.typical_run_ns() < SHORT_NS;
        let alone = self.in_flight == 0;
        let busy = self.depth >= HOLD_DEPTH * DEPTH_UNIT;
        let hold = self.may_hold && short && busy && request.key == 0 && source.is_none();
        if self.inline_since == 0 {
            self.inline_since = now;
        }
        let spin_wait = request.waits
            && alone
            && !busy
            && now - self.inline_since < INLINE_NS
            && source.map_or_else(|| pool.is_searching(), |source| source.is_searching())
            && runtime.stats().recent_best_ns() < WORTH_NS
            && runtime.spin_wait.is_due();
        let bulk = hold && !spin_wait;
        let how = How { spin_wait, bulk };
        // SAFETY: passed on from this function's contract.
        let slot = unsafe { self.offer(runtime, Kind::Call, request, now, how) }?;
        if bulk {
            // SAFETY: filled just now, and nobody else has the slot.
            let task = *unsafe { slot.task() };
            self.held.push(Held { slot, pool, task });
            if self.is_enough_held(now) {
                self.publish();
            }
            return Ok(Posted::Held(slot));
        }
        if let Some(source) = source {
            source.push(slot);
        } else if request.key == 0 {
            pool.push(slot, request.priority);
            pool.notify();
        } else {
            pool.push_to(slot, request.key);
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
        // SAFETY: passed on; a control task has no request.
        let slot = unsafe { self.offer(runtime, kind, request, now_ns(), How::default()) }?;
        runtime.pool().reserve_always();
        runtime.pool().push(slot, Priority::High);
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
        let load: &'static dyn Load = match runtime.source() {
            Some(source) if kind == Kind::Call => source,
            _ => runtime.pool().load(),
        };
        let slot = self.acquire().inspect_err(|_| {
            if kind == Kind::Call {
                load.task_ended();
            }
        })?;
        // Erases the runtime's lifetime, which the contract puts after that of
        // the task.
        let runner: *const (dyn Runner + '_) = runtime;
        // SAFETY: only the lifetime differs between the two types.
        let runner: *const (dyn Runner + 'static) = unsafe { std::mem::transmute(runner) };
        let task = Task {
            kind,
            // SAFETY: made from a reference.
            runtime: unsafe { NonNull::new_unchecked(runner.cast_mut()) },
            recipient: self.mailbox,
            pool: load,
            request: request.data,
            request_len: request.len,
            posted_ns: now,
            deadline_ns: deadline_after(now, request.timeout),
            priority: request.priority,
            bulk: how.bulk,
            tag: request.tag,
        };
        // SAFETY: the slot is free and this thread's.
        unsafe {
            slot.fill(task);
            slot.set_started_ns(0);
        }
        slot.state.offer(how.spin_wait);
        let depth = self.depth as i32;
        let sample = (self.in_flight * DEPTH_UNIT) as i32;
        self.depth = (depth + ((sample - depth) >> DEPTH_SHIFT)) as u32;
        self.in_flight += 1;
        runtime.stats().posted.bump();
        Ok(slot)
    }

    fn is_enough_held(&self, now: u64) -> bool {
        let count = self.held.len();
        let since = self.held.first().map_or(now, |held| held.task.posted_ns);
        count >= MAX_HELD || (count >= DENSE_HELD && now - since < DENSE_NS)
    }

    fn publish(&mut self) {
        let mut first: Option<Held> = None;
        for held in self.held.drain(..) {
            held.pool.push(held.slot, held.task.priority);
            if first.as_ref().is_some_and(|f| ptr::eq(f.pool, held.pool)) {
                continue;
            }
            if let Some(done) = first.replace(held) {
                done.pool.notify_bulk(&done.task);
            }
        }
        if let Some(last) = first {
            last.pool.notify_bulk(&last.task);
            self.watched = Some(last.pool);
        }
    }

    /// Sends what is held back to the pools. True if `watch` should be called
    /// in some milliseconds.
    pub fn flush(&mut self) -> bool {
        self.publish();
        self.watched.is_some()
    }

    /// Looks whether many short tasks that were posted are taken care of: the
    /// thread that was expected to do so may have met a long one among them.
    /// True if it should be called again in some milliseconds.
    pub fn watch(&mut self) -> bool {
        self.publish();
        if self.in_flight == 0 {
            self.watched = None;
        } else if let Some(pool) = self.watched {
            pool.notify_if_queued();
        }
        self.watched.is_some()
    }

    /// The next task that is done. Each must be released.
    #[inline]
    pub fn next_done(&mut self) -> Option<&'static Slot> {
        if self.taken.is_empty() {
            self.taken = self.mailbox.completions().take();
        }
        let slot = self.taken.next();
        if let Some(next) = self.taken.peek() {
            prefetch(next);
        }
        slot
    }

    /// Counts a done task; `now` is the time. Returns what ended it: its deadline,
    /// if that came before its end.
    #[inline]
    pub fn collect(&mut self, slot: &'static Slot, now: u64) -> Result<(), Error> {
        // SAFETY: the slot is done, so this thread may read all of it.
        let (task, reply, started) = unsafe { (slot.task(), slot.reply(), slot.started_ns()) };
        // SAFETY: a runtime lives until its last task is collected. It is the
        // runtime that `offer` was given.
        let runtime = unsafe { task.runtime.cast::<Runtime>().as_ref() };
        let stats = runtime.stats();
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

    /// Frees a slot that was collected.
    #[inline]
    pub fn release(&mut self, slot: &'static Slot) {
        // SAFETY: the slot is done, so it is this thread's.
        let reply = unsafe { slot.reply() };
        let size = reply.cached();
        let keep = size <= CACHE_BUFFER_BYTES && self.cached_bytes + size <= CACHE_BYTES;
        if keep {
            self.cached_bytes += size;
        }
        reply.reset(keep);
        slot.state.release();
        self.free.push(slot);
    }

    /// Gives a task up: it will not start, or if it runs it can find out.
    pub fn cancel(&mut self, slot: &'static Slot, why: Error) -> Cancel {
        // SAFETY: the slot holds a task, since Lua has not collected it; its
        // runtime is the one that `offer` was given.
        let runtime = unsafe { slot.task().runtime.cast::<Runtime>().as_ref() };
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

/// Brings a slot into the cache. With thousands of tasks in flight, each slot
/// has left it by the time it is used again.
#[inline]
fn prefetch(slot: &'static Slot) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..size_of::<Slot>()).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint; it reads nothing that the program can see.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(ptr::from_ref(slot).cast::<i8>().add(line)) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = slot;
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
