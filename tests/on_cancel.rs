//! `on_cancel` against everything that may happen to a task at the same time: it
//! is cancelled, its deadline passes, it ends, its slot is used again.
//!
//! Each task is told at most once, and never with a handle that is not its own.
//! Some tasks are ended only after they were told: if one is not, the test stalls.

use std::ffi::{CString, c_void};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nonblocking_ffi_core::client::{Client, Posted, Request};
use nonblocking_ffi_core::error::Error;
use nonblocking_ffi_core::pool::{self, Pool};
use nonblocking_ffi_core::runtime::host_api::HostApi;
use nonblocking_ffi_core::runtime::{Backend, Options, Outcome, Runtime};
use nonblocking_ffi_core::sync::now_ns;
use nonblocking_ffi_core::task::{Kind, Priority, Running, Slot};
use nonblocking_ffi_plugin::sys;

const TASKS: usize = 40_000;
const IN_FLIGHT: u32 = 300;
const STALLED: Duration = Duration::from_secs(60);

/// What happens to a task, by its number.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    /// It is cancelled, and ends when its plugin is told.
    Cancelled,
    /// Its deadline passes, and it ends when its plugin is told.
    Late,
    /// Another thread ends it, soon, while it is cancelled.
    Raced,
    /// It ends, and nobody has given it up.
    Wanted,
    /// The last one: it ends while its plugin is told, and the runtime is closed.
    Last,
}

fn fate(number: usize) -> Fate {
    match number * 7919 % 10 {
        _ if number == TASKS => Fate::Last,
        0..3 => Fate::Cancelled,
        3..5 => Fate::Late,
        5..8 => Fate::Raced,
        _ => Fate::Wanted,
    }
}

/// A plugin that watches all its tasks.
struct Watcher {
    host: Box<HostApi>,
    /// For each task how often it was told.
    told: Vec<AtomicU64>,
    /// The number of the task of each handle, by slot: generation and number.
    known: Mutex<std::collections::HashMap<u64, usize>>,
    ended: Mutex<Sender<u64>>,
    /// The last task has begun.
    begun: AtomicBool,
    /// The function is being called for the last task, and waits until `closing`.
    inside: AtomicBool,
    closing: AtomicBool,
    closed: AtomicBool,
}

/// What `on_cancel` is given.
unsafe extern "C" fn told(arg: *mut c_void, task: u64) {
    // SAFETY: the runtime is not closed, so what `call` passed is there.
    let watcher = unsafe { &*arg.cast::<Watcher>() };
    assert!(!watcher.closed.load(Ordering::SeqCst), "told after close");
    let table = watcher.table();
    let number = watcher.known.lock().unwrap()[&task];
    watcher.told[number].fetch_add(1, Ordering::Relaxed);
    // SAFETY: any handle may be passed.
    let unwanted = unsafe { (table.is_cancelled)(task) };
    assert_eq!(unwanted, 1, "told of a task that is wanted");
    if fate(number) == Fate::Last {
        watcher.inside.store(true, Ordering::SeqCst);
        wait_until(&watcher.closing);
        // Enough for a pool thread to close the runtime, if nothing held it back.
        std::thread::sleep(Duration::from_millis(100));
        watcher.inside.store(false, Ordering::SeqCst);
    }
    if matches!(fate(number), Fate::Cancelled | Fate::Late) {
        // SAFETY: as above; no message.
        unsafe { (table.fail)(task, 0, std::ptr::null(), 0) };
    }
}

impl Watcher {
    fn table(&self) -> &sys::nbffi_host {
        // SAFETY: the table is a part of the host, which lives as long as this.
        unsafe { &*self.host.as_ptr() }
    }
}

/// `Backend` for an `Arc` of it, since the test looks into it too.
struct Shared(Arc<Watcher>);

impl Backend for Shared {
    fn init(&self, _runtime: *const ()) -> Result<(), String> {
        Ok(())
    }

    fn call(&self, running: &Running) -> Outcome {
        let (watcher, task) = (&*self.0, running.handle().number());
        // SAFETY: the test keeps all requests, of eight bytes.
        let number = unsafe { running.request().0.cast::<usize>().read_unaligned() };
        watcher.known.lock().unwrap().insert(task, number);
        let arg = std::ptr::from_ref(watcher).cast_mut().cast();
        let race = fate(number) == Fate::Raced;
        if race {
            watcher.ended.lock().unwrap().send(task).unwrap();
        }
        // SAFETY: the watcher is there until the runtime is closed.
        let status = unsafe { (watcher.table().on_cancel)(task, Some(told), arg) };
        assert!(status == sys::NBFFI_OK || race && status == sys::NBFFI_STALE);
        match fate(number) {
            Fate::Wanted => return Outcome::Done,
            Fate::Last => watcher.begun.store(true, Ordering::SeqCst),
            _ => {}
        }
        Outcome::Pending
    }

    fn close(&self) {
        self.0.closed.store(true, Ordering::SeqCst);
    }
}

/// Ends tasks from another thread.
fn end_raced(watcher: &Watcher, tasks: &Receiver<u64>) {
    for task in tasks {
        // SAFETY: any handle may be passed.
        unsafe { (watcher.table().respond)(task, std::ptr::null(), 0) };
    }
}

fn wait_until(condition: &AtomicBool) {
    let begun = Instant::now();
    while !condition.load(Ordering::SeqCst) {
        assert!(begun.elapsed() < STALLED);
        std::thread::yield_now();
    }
}

fn pool() -> &'static Pool {
    let pool = pool::obtain(pool::Config {
        name: "cancel".into(),
        threads: 3,
        max_queue: u64::from(IN_FLIGHT),
        nice: 0,
    });
    let pool = pool.unwrap();
    pool.start().unwrap();
    pool
}

fn post(
    client: &mut Client,
    runtime: &Runtime,
    requests: &[[u8; 8]],
    number: usize,
) -> &'static Slot {
    let fate = fate(number);
    let request = Request {
        data: requests[number].as_ptr(),
        len: 8,
        timeout: if fate == Fate::Late { 0.05 } else { 3600.0 },
        priority: Priority::Normal,
        waits: false,
        tag: 0,
        key: 0,
    };
    // SAFETY: the runtime is dropped after the last task, the requests later.
    let slot = match unsafe { client.post(runtime, request) } {
        Ok(Posted::Pending(slot) | Posted::Held(slot)) => slot,
        _ => panic!("task {number} was not posted"),
    };
    // Before, while or after it runs.
    if matches!(fate, Fate::Cancelled | Fate::Raced) {
        if number.is_multiple_of(3) {
            std::thread::yield_now();
        }
        // SAFETY: posted just now, and not collected.
        unsafe { client.cancel(slot, Error::Cancelled) };
    }
    slot
}

/// Collects what is done.
fn collect(client: &mut Client) -> usize {
    let mut count = 0;
    while let Some(slot) = client.next_done() {
        // SAFETY: the client has given the slot, once; nobody reads the reply.
        unsafe {
            let _: Result<(), Error> = client.collect(slot, now_ns());
            client.release(slot);
        }
        count += 1;
    }
    count
}

/// Waits for one more task.
fn wait_for_one(client: &mut Client) -> usize {
    let begun = Instant::now();
    loop {
        let count = collect(client);
        if count > 0 {
            return count;
        }
        assert!(begun.elapsed() < STALLED, "a task was not told of");
        std::thread::yield_now();
    }
}

#[test]
fn each_task_is_told_of_at_most_once_and_never_after_close() {
    let mut client = Client::default();
    let text = |text: &str| CString::new(text).unwrap();
    let (ended, tasks) = channel();
    let watcher = Arc::new(Watcher {
        host: HostApi::new(client.log(), text("cancel"), text("")),
        told: (0..=TASKS).map(|_| AtomicU64::new(0)).collect(),
        known: Mutex::default(),
        ended: Mutex::new(ended),
        begun: AtomicBool::new(false),
        inside: AtomicBool::new(false),
        closing: AtomicBool::new(false),
        closed: AtomicBool::new(false),
    });
    let options = Options {
        name: "cancel".into(),
        max_response: 100,
    };
    let runtime = Runtime::new(
        options,
        client.place(pool()),
        Box::new(Shared(watcher.clone())),
    );
    let requests: Vec<[u8; 8]> = (0..=TASKS).map(usize::to_ne_bytes).collect();
    let shared = watcher.clone();
    let ender = std::thread::spawn(move || end_raced(&shared, &tasks));
    for number in 0..TASKS {
        while client.in_flight() >= IN_FLIGHT {
            wait_for_one(&mut client);
        }
        post(&mut client, &runtime, &requests, number);
        client.flush();
        collect(&mut client);
    }
    while client.in_flight() > 0 {
        wait_for_one(&mut client);
    }
    let last = post(&mut client, &runtime, &requests, TASKS);
    client.flush();
    wait_until(&watcher.begun);
    // SAFETY: posted, and not collected.
    unsafe { client.cancel(last, Error::Cancelled) };
    wait_until(&watcher.inside);
    let task = last.handle().number();
    // SAFETY: any handle may be passed.
    let ended = unsafe { (watcher.table().respond)(task, std::ptr::null(), 0) };
    assert_eq!(ended, sys::NBFFI_OK);
    wait_for_one(&mut client);
    // SAFETY: the runtime lives until the end.
    unsafe { client.post_control(&runtime, Kind::Close) }.unwrap();
    watcher.closing.store(true, Ordering::SeqCst);
    wait_for_one(&mut client);
    assert!(watcher.closed.load(Ordering::SeqCst));
    assert!(!watcher.inside.load(Ordering::SeqCst), "closed while told");
    // Ends the other thread.
    *watcher.ended.lock().unwrap() = channel().0;
    ender.join().unwrap();
    let mut sums = [0; 5];
    for (number, told) in watcher.told.iter().enumerate() {
        let told = told.load(Ordering::Relaxed);
        assert!(told <= 1, "task {number} was told of {told} times");
        sums[fate(number) as usize] += told;
    }
    assert_eq!(sums[Fate::Wanted as usize], 0);
    // Those of each kind that had begun when they were given up.
    for fate in [Fate::Cancelled, Fate::Late, Fate::Raced, Fate::Last] {
        assert!(sums[fate as usize] > 0, "{sums:?}");
    }
    while runtime.pool().users(runtime.address()) > 0 {
        std::thread::yield_now();
    }
}
