//! Tasks through pools, without nginx. Also run under Miri (`scripts/test.sh miri`).

use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use nonblocking_ffi_core::client::nested::{self, Refused};
use nonblocking_ffi_core::client::{Client, Posted, Request};
use nonblocking_ffi_core::error::Error;
use nonblocking_ffi_core::pool::source::{TaskSink, TaskSource};
use nonblocking_ffi_core::pool::{self, Pool};
use nonblocking_ffi_core::runtime::{Backend, Options, Outcome, Runtime};
use nonblocking_ffi_core::sync::now_ns;
use nonblocking_ffi_core::task::slot::NO_DEADLINE;
use nonblocking_ffi_core::task::{Kind, Load, Priority, Recipient, Running, Slot, SlotCache, Task};

const COUNT: usize = if cfg!(miri) { 20 } else { 2000 };

/// Responds with the request, in upper case; or with what `inner` responds.
struct Upper {
    inner: Option<&'static str>,
}

impl Backend for Upper {
    fn init(&self, runtime: *const ()) -> Result<(), String> {
        assert_eq!(pool::running(), runtime);
        Ok(())
    }

    fn call(&self, task: &Running) -> Outcome {
        let (data, len) = task.request();
        // SAFETY: the tests keep requests until their tasks are collected.
        let request = unsafe { std::slice::from_raw_parts(data, len) };
        let mut response = request.to_ascii_uppercase();
        if let Some(inner) = self.inner {
            let slot = match nested::call(inner, &response, 60.0, Some(task.handle())) {
                Ok(slot) => slot,
                Err(Refused::Unknown) => return Outcome::Failed(1),
                Err(_) => return Outcome::Failed(2),
            };
            // SAFETY: done, and this thread's until its next call.
            let (data, len) = unsafe { slot.reply() }.data();
            // SAFETY: as above.
            response = unsafe { std::slice::from_raw_parts(data, len) }.to_vec();
            response.push(b'!');
        }
        task.handle().end(|reply| reply.copy(&response).unwrap());
        Outcome::Done
    }

    fn close(&self) {}

    fn may_nest(&self) -> bool {
        self.inner.is_none()
    }
}

fn started(name: &str, threads: usize, max_queue: u64) -> &'static Pool {
    let pool = Pool::new(pool::Config {
        name: name.into(),
        threads,
        max_queue,
        nice: 0,
    });
    pool.start().unwrap();
    pool
}

fn runtime(
    client: &Client,
    pool: &'static Pool,
    name: &str,
    backend: impl Backend + 'static,
) -> Box<Runtime> {
    let options = Options {
        name: name.into(),
        max_response: 1000,
    };
    // Where it is, it stays.
    Box::new(Runtime::new(options, client.place(pool), Box::new(backend)))
}

/// Waits for a task, which must be the only one: its response, or its error.
fn wait(client: &mut Client) -> Result<Vec<u8>, Error> {
    let slot = loop {
        match client.next_done() {
            Some(slot) => break slot,
            None => std::thread::yield_now(),
        }
    };
    // SAFETY: the client has given the slot, once; it is released when it was read.
    unsafe {
        let result = client.collect(slot, now_ns());
        let (data, len) = slot.reply().data();
        let response = std::slice::from_raw_parts(data, len).to_vec();
        client.release(slot);
        result.map(|()| response)
    }
}

fn control(client: &mut Client, runtime: &Runtime, kind: Kind) {
    // SAFETY: the tests keep a runtime until it is closed.
    unsafe { client.post_control(runtime, kind) }.unwrap();
    assert_eq!(wait(client), Ok(Vec::new()));
}

fn post(client: &mut Client, runtime: &Runtime, text: &'static str) {
    let posted = try_post(client, runtime, text);
    assert!(matches!(posted, Ok(Posted::Pending(_))));
}

fn try_post(client: &mut Client, runtime: &Runtime, text: &'static str) -> Result<Posted, Error> {
    let request = Request {
        data: text.as_ptr(),
        len: text.len(),
        timeout: 600.0,
        priority: Priority::Normal,
        waits: false,
        tag: 0,
        key: 0,
    };
    // SAFETY: as above; the request is static.
    unsafe { client.post(runtime, request) }
}

/// Waits until no thread is inside of a runtime, and drops it.
fn end(client: &mut Client, runtime: Box<Runtime>) {
    control(client, &runtime, Kind::Close);
    while runtime.pool().users(runtime.address()) > 0 {
        std::thread::yield_now();
    }
}

#[test]
fn every_task_is_answered_and_a_broadcast_reaches_every_thread() {
    static REACHED: AtomicUsize = AtomicUsize::new(0);
    let mut client = Client::default();
    let pool = started("broadcast", 2, 100_000);
    let runtime = runtime(&client, pool, "upper", Upper { inner: None });
    control(&mut client, &runtime, Kind::Init);
    for _ in 0..COUNT {
        post(&mut client, &runtime, "text");
    }
    pool.broadcast(|thread| {
        // What it calls may ask for the thread's own record.
        let asked = pool::thread_id().unwrap();
        assert_eq!((asked.pool, asked.index), (thread.pool, thread.index));
        assert!(pool::pull(std::ptr::null(), false).is_none());
        REACHED.fetch_add(1, Ordering::Relaxed);
    });
    for _ in 0..COUNT {
        assert_eq!(wait(&mut client), Ok(b"TEXT".to_vec()));
    }
    let begun = now_ns();
    while REACHED.load(Ordering::Relaxed) < 2 {
        assert!(
            now_ns() - begun < 600_000_000_000,
            "a thread was not reached"
        );
        std::thread::yield_now();
    }
    end(&mut client, runtime);
}

#[test]
fn a_nested_call_runs_on_the_thread_that_makes_it() {
    let mut client = Client::default();
    // One thread: a call that waited for another would wait for ever.
    let pool = started("nested", 1, 100_000);
    let inner = runtime(&client, pool, "inner", Upper { inner: None });
    let names = [Some("inner"), Some("nobody"), Some("outer")];
    let [outer, lost, own] = names.map(|name| {
        let backend = Upper { inner: name };
        runtime(&client, pool, "outer", backend)
    });
    for runtime in [&inner, &outer] {
        control(&mut client, runtime, Kind::Init);
    }
    for _ in 0..COUNT / 10 {
        post(&mut client, &outer, "text");
        assert_eq!(wait(&mut client), Ok(b"TEXT!".to_vec()));
    }
    assert_eq!(inner.stats().nested.get(), COUNT as u64 / 10);
    // No such runtime, and one that must be asked otherwise.
    for refused in [&lost, &own] {
        post(&mut client, refused, "text");
        assert_eq!(wait(&mut client), Err(Error::Runtime));
    }
    end(&mut client, inner);
    post(&mut client, &outer, "text");
    assert_eq!(wait(&mut client), Err(Error::Runtime), "it is closed");
    end(&mut client, outer);
}

/// Responds with nothing while it is open, and otherwise waits.
#[derive(Clone)]
struct Gate(Arc<AtomicBool>);

impl Gate {
    fn new() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }

    fn set_open(&self, is_open: bool) {
        self.0.store(is_open, Ordering::Relaxed);
    }
}

impl Backend for Gate {
    fn init(&self, _runtime: *const ()) -> Result<(), String> {
        Ok(())
    }

    fn call(&self, _task: &Running) -> Outcome {
        while !self.0.load(Ordering::Relaxed) {
            thread::yield_now();
        }
        Outcome::Done
    }

    fn close(&self) {}
}

/// Takes a few tasks instead of a pool.
#[derive(Default)]
struct Elsewhere {
    tasks: Mutex<Vec<&'static Slot>>,
    asked: AtomicUsize,
    reserved: AtomicUsize,
}

impl Elsewhere {
    const ROOM: usize = 3;
}

impl Load for Elsewhere {
    fn task_ended(&self) {
        self.reserved.fetch_sub(1, Ordering::Relaxed);
    }
}

impl TaskSink for Elsewhere {
    fn reserve(&self) -> Result<(), Error> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.reserved.load(Ordering::Relaxed) == Self::ROOM {
            return Err(Error::QueueOverflow);
        }
        self.reserved.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    unsafe fn push(&self, slot: &'static Slot) {
        self.tasks.lock().unwrap().push(slot);
    }
}

#[test]
fn tasks_that_would_wait_go_elsewhere_while_there_is_room() {
    let mut client = Client::default();
    let pool = started("overflow", 1, 2);
    let elsewhere: &'static Elsewhere = Box::leak(Box::default());
    pool.overflow_to(elsewhere);
    let gate = Gate::new();
    let runtime = runtime(&client, pool, "gate", gate.clone());
    control(&mut client, &runtime, Kind::Init);
    for _ in 0..COUNT / 10 {
        post(&mut client, &runtime, "alone");
        assert_eq!(wait(&mut client), Ok(Vec::new()));
    }
    assert_eq!(elsewhere.asked.load(Ordering::Relaxed), 0, "no task waits");
    for _ in 0..2 {
        gate.set_open(false);
        for _ in 0..1 + Elsewhere::ROOM {
            post(&mut client, &runtime, "many");
        }
        assert_eq!(elsewhere.reserved.load(Ordering::Relaxed), Elsewhere::ROOM);
        for _ in 0..2 {
            post(&mut client, &runtime, "more");
        }
        let refused = try_post(&mut client, &runtime, "too many");
        assert!(matches!(refused, Err(Error::QueueOverflow)));
        let tasks = std::mem::take(&mut *elsewhere.tasks.lock().unwrap());
        assert_eq!(tasks.len(), Elsewhere::ROOM);
        thread::spawn(move || {
            for slot in tasks {
                // SAFETY: taken from where `push` has put it.
                let task = unsafe { slot.begin(now_ns()) }.unwrap();
                task.handle().end(|reply| reply.copy(b"elsewhere").unwrap());
            }
        });
        for _ in 0..Elsewhere::ROOM {
            assert_eq!(wait(&mut client), Ok(b"elsewhere".to_vec()));
        }
        gate.set_open(true);
        for _ in 0..1 + 2 {
            assert_eq!(wait(&mut client), Ok(Vec::new()));
        }
        assert_eq!(elsewhere.reserved.load(Ordering::Relaxed), 0);
    }
    end(&mut client, runtime);
}

/// Tasks that come from elsewhere. `take` finds none before `is_empty` was called: they
/// come at the last moment, so to speak, when the thread still counts as searching and a
/// push wakes no other.
#[derive(Default)]
struct Feed {
    tasks: Mutex<Vec<&'static Slot>>,
    is_late: AtomicBool,
}

impl TaskSource for Feed {
    fn take(&self) -> Option<&'static Slot> {
        let is_late = self.is_late.load(Ordering::Relaxed);
        (!is_late).then(|| self.tasks.lock().unwrap().pop())?
    }

    fn is_empty(&self) -> bool {
        self.is_late.store(false, Ordering::Relaxed);
        self.tasks.lock().unwrap().is_empty()
    }
}

/// Sends on the slots of tasks that are done.
struct Answers(mpsc::Sender<&'static Slot>);

impl Recipient for Answers {
    fn deliver(&'static self, slot: &'static Slot, _ended_ns: u64) {
        self.0.send(slot).unwrap();
    }

    fn is_closed(&self) -> bool {
        false
    }
}

/// Gives a pool tasks by a source.
struct Feeder {
    source: &'static Feed,
    slots: SlotCache,
    recipient: &'static Answers,
    answers: mpsc::Receiver<&'static Slot>,
}

impl Feeder {
    fn new(pool: &Pool) -> Self {
        let (sender, answers) = mpsc::channel();
        let source: &Feed = Box::leak(Box::default());
        pool.add_source(source);
        Self {
            source,
            slots: SlotCache::default(),
            recipient: Box::leak(Box::new(Answers(sender))),
            answers,
        }
    }

    fn push(&mut self, runtime: &Runtime, bulk: bool) {
        self.slots.reserve().unwrap();
        let slot = self.slots.acquire().unwrap();
        let task = Task {
            kind: Kind::Call,
            runtime: NonNull::from(runtime),
            recipient: self.recipient,
            pool: runtime.pool().load(),
            request: b"fed".as_ptr(),
            request_len: 3,
            posted_ns: now_ns(),
            deadline_ns: NO_DEADLINE,
            priority: Priority::Normal,
            bulk,
            nested: false,
            tag: 0,
        };
        runtime.pool().reserve_always();
        // SAFETY: the slot is free and this feeder's.
        unsafe { slot.offer(task, false) };
        self.source.tasks.lock().unwrap().push(slot);
    }

    fn await_answer(&mut self, expected: &[u8]) {
        let slot = self.answers.recv_timeout(Duration::from_secs(300));
        let slot = slot.expect("the task was forgotten");
        // SAFETY: the slot is done, and this feeder's.
        unsafe {
            let (data, len) = slot.reply().data();
            assert_eq!(std::slice::from_raw_parts(data, len), expected);
            self.slots.release(slot);
        }
    }
}

#[test]
fn threads_run_what_comes_from_elsewhere_beside_what_is_posted() {
    let mut client = Client::default();
    let pool = started("source", 2, 100_000);
    let runtime = runtime(&client, pool, "fed", Upper { inner: None });
    control(&mut client, &runtime, Kind::Init);
    let mut feeders = [Feeder::new(pool), Feeder::new(pool)];
    thread::scope(|scope| {
        for feeder in &mut feeders {
            let runtime = &runtime;
            scope.spawn(move || {
                for round in 0..COUNT {
                    feeder.push(runtime, round % 2 == 0);
                    pool.notify();
                    feeder.await_answer(b"FED");
                }
            });
        }
        for _ in 0..COUNT {
            post(&mut client, &runtime, "text");
            assert_eq!(wait(&mut client), Ok(b"TEXT".to_vec()));
        }
    });
    let stats = pool.stats();
    assert_eq!((stats.in_flight, stats.queued), (0.0, 0.0));
    end(&mut client, runtime);
}

#[test]
fn a_task_that_comes_before_a_thread_parks_is_found() {
    let mut client = Client::default();
    let pool = started("late", 1, 100_000);
    let runtime = runtime(&client, pool, "fed", Upper { inner: None });
    control(&mut client, &runtime, Kind::Init);
    let mut feeder = Feeder::new(pool);
    for _ in 0..COUNT / 10 {
        feeder.source.is_late.store(true, Ordering::Relaxed);
        feeder.push(&runtime, false);
        pool.notify();
        feeder.await_answer(b"FED");
    }
    end(&mut client, runtime);
}

#[test]
fn a_thread_that_finds_one_task_wakes_another_for_the_next() {
    let mut client = Client::default();
    let pool = started("next", 2, 100_000);
    let gate = Gate::new();
    let upper = runtime(&client, pool, "fed", Upper { inner: None });
    let waits = runtime(&client, pool, "gate", gate.clone());
    for runtime in [&upper, &waits] {
        control(&mut client, runtime, Kind::Init);
    }
    let mut feeder = Feeder::new(pool);
    for round in 0..COUNT / 20 {
        // Mostly the threads are parked by then.
        thread::sleep(Duration::from_millis(1));
        gate.set_open(false);
        feeder.push(&upper, false);
        feeder.push(&waits, round % 2 == 0);
        // Once for both, as if the second had come while a thread was searching.
        pool.notify();
        feeder.await_answer(b"FED");
        gate.set_open(true);
        feeder.await_answer(b"");
    }
    end(&mut client, upper);
    end(&mut client, waits);
}
