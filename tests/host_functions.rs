//! Plugins that do everything wrong: random sequences of host functions, from
//! several threads, with handles that are stale, twice used or made up.
//!
//! Whatever they do, every task must end exactly once, what is handed over
//! must be released exactly once, and every slot must come back.

use std::ffi::{CString, c_void};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nonblocking_ffi_core::client::{Client, Posted, Request};
use nonblocking_ffi_core::error::Error;
use nonblocking_ffi_core::pool::{self, Pool};
use nonblocking_ffi_core::runtime::host_api::HostApi;
use nonblocking_ffi_core::runtime::{Backend, Options, Outcome, Runtime};
use nonblocking_ffi_core::sync::now_ns;
use nonblocking_ffi_core::task::{Priority, Recipient, Running, Slot};
use nonblocking_ffi_plugin::sys;

const TASKS: u64 = 60_000;
const IN_FLIGHT: usize = 400;
const MAX_RESPONSE: usize = 2000;
/// A task that has not ended after this long never will.
const STALLED: Duration = Duration::from_secs(30);

/// xorshift64*: the same run for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % limit
    }
}

#[derive(Default)]
struct Counts {
    /// Tasks that a plugin function completed with NBFFI_OK.
    completed: AtomicU64,
    handed_over: AtomicU64,
    released: AtomicU64,
}

/// Frees a box that `respond_owned` was given, and counts.
unsafe extern "C" fn release(arg: *mut c_void, data: *mut c_void) {
    // SAFETY: both are what `hand_over` made, once.
    unsafe {
        let counts = Arc::from_raw(arg.cast::<Counts>());
        drop(Box::from_raw(data.cast::<[u8; 300]>()));
        counts.released.fetch_add(1, Ordering::Relaxed);
    }
}

struct Chaos {
    host: Box<HostApi>,
    counts: Arc<Counts>,
    /// A handle that some other task had.
    stale: AtomicU64,
    /// To the thread that responds later.
    later: Mutex<Sender<(u64, u64)>>,
}

/// A table that may be used from any thread, as the ABI promises.
struct Table(*const sys::nbffi_host);
// SAFETY: the header says that every host function may be called from any
// thread; the table outlives the thread that gets this.
unsafe impl Send for Table {}

fn abuse(table: *const sys::nbffi_host, counts: &Arc<Counts>, handle: u64, seed: u64) {
    // SAFETY: the table lives until the runtime is freed, at the test's end.
    let host = unsafe { &*table };
    let mut random = Random(seed | 1);
    let data = [seed as u8; 4000];
    let message = c"odd";
    for _ in 0..random.below(6) {
        let len = random.below(3000);
        // SAFETY: `data` has 4000 bytes, the message 3; handles may be wrong.
        let completed = unsafe {
            match random.below(9) {
                0 => (host.respond)(handle, data.as_ptr().cast(), len),
                1 => (host.respond)(handle, std::ptr::null(), len),
                2 => {
                    let place = (host.alloc)(handle, len);
                    if place.is_null() {
                        -1
                    } else {
                        (host.respond_buffer)(handle, len)
                    }
                }
                3 => (host.respond_buffer)(handle, len),
                4 => (host.fail)(handle, seed as i64, message.as_ptr(), 3),
                5 => {
                    (host.set_status)(handle, 7, message.as_ptr(), 3);
                    -1
                }
                6 => {
                    counts.handed_over.fetch_add(1, Ordering::Relaxed);
                    let owned = Box::into_raw(Box::new([1_u8; 300]));
                    let arg = Arc::into_raw(counts.clone()).cast_mut();
                    (host.respond_owned)(handle, owned.cast(), 300, Some(release), arg.cast())
                }
                7 => {
                    (host.log)(table, len as i32, message.as_ptr(), 3);
                    -1
                }
                _ => {
                    let cancelled = (host.is_cancelled)(handle);
                    assert!(cancelled == 0 || cancelled == 1);
                    (host.deadline_ns)(handle);
                    -1
                }
            }
        };
        if completed == sys::NBFFI_OK {
            counts.completed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Backend for Chaos {
    fn init(&self, _runtime: *const ()) -> Result<(), String> {
        Ok(())
    }

    fn call(&self, task: &Running) -> Outcome {
        let ((data, len), task) = (task.request(), task.handle().number());
        // SAFETY: the test keeps the request until the task is collected.
        let request = unsafe { std::slice::from_raw_parts(data, len) };
        let seed = u64::from_ne_bytes(request.try_into().unwrap());
        let mut random = Random(seed | 1);
        let stale = self.stale.swap(task, Ordering::Relaxed);
        abuse(self.host.as_ptr(), &self.counts, stale, seed ^ 0x55);
        abuse(self.host.as_ptr(), &self.counts, seed, seed ^ 0x77);
        match random.below(4) {
            0 => {
                self.later.lock().unwrap().send((task, seed)).unwrap();
                abuse(self.host.as_ptr(), &self.counts, task, seed);
                Outcome::Pending
            }
            1 => panic!("a host that panics"),
            2 => {
                abuse(self.host.as_ptr(), &self.counts, task, seed);
                Outcome::Failed(3)
            }
            _ => {
                abuse(self.host.as_ptr(), &self.counts, task, seed);
                Outcome::Done
            }
        }
    }

    fn close(&self) {}
}

fn respond_later(table: Table, counts: Arc<Counts>, tasks: Receiver<(u64, u64)>) {
    let Table(host) = table;
    for (handle, seed) in tasks {
        abuse(host, &counts, handle, !seed);
        // SAFETY: as in `abuse`; ends the task if nothing else has.
        let ended = unsafe { ((*host).fail)(handle, 0, std::ptr::null(), 0) };
        if ended == sys::NBFFI_OK {
            counts.completed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn pool() -> &'static Pool {
    let pool = pool::obtain(pool::Config {
        name: "chaos".into(),
        threads: 3,
        max_queue: IN_FLIGHT as u64,
        nice: 0,
    });
    let pool = pool.unwrap();
    pool.start().unwrap();
    pool
}

fn runtime(client: &Client, counts: &Arc<Counts>) -> (Runtime, std::thread::JoinHandle<()>) {
    let text = |text: &str| CString::new(text).unwrap();
    let host = HostApi::new(client.log(), text("chaos"), text(""));
    let (later, tasks) = channel();
    let responder = {
        let (table, counts) = (Table(host.as_ptr()), counts.clone());
        std::thread::spawn(move || respond_later(table, counts, tasks))
    };
    let chaos = Chaos {
        host,
        counts: counts.clone(),
        stale: AtomicU64::new(0),
        later: Mutex::new(later),
    };
    let options = Options {
        name: "chaos".into(),
        max_response: MAX_RESPONSE,
    };
    let place = client.place(pool());
    (Runtime::new(options, place, Box::new(chaos)), responder)
}

#[test]
fn every_task_ends_exactly_once_whatever_plugins_do() {
    // What panics here is meant to.
    std::panic::set_hook(Box::new(|_| {}));
    let counts = Arc::new(Counts::default());
    let mut client = Client::default();
    let (runtime, responder) = runtime(&client, &counts);
    let mut requests: Vec<Option<Box<[u8; 8]>>> = Vec::new();
    let mut random = Random(42);
    let (mut posted, mut ended, mut cancelled) = (0, 0, 0);
    let mut progress = Instant::now();
    while ended < TASKS {
        while posted < TASKS && client.in_flight() < IN_FLIGHT as u32 {
            let request = Box::new(random.below(u64::MAX).to_ne_bytes());
            let given = Request {
                data: request.as_ptr(),
                len: 8,
                timeout: 60.0,
                priority: Priority::from_number(random.below(3) as u32),
                waits: random.below(2) == 0,
                tag: 0,
                key: random.below(4) as u32,
            };
            // SAFETY: the runtime is dropped after the last task, and the
            // request is kept until its slot is collected.
            let slot = match unsafe { client.post(&runtime, given) } {
                Ok(Posted::Pending(slot) | Posted::Held(slot)) => slot,
                Ok(Posted::Done(slot)) => {
                    end(&mut client, slot);
                    ended += 1;
                    posted += 1;
                    continue;
                }
                Err(Error::QueueOverflow) => break,
                Err(error) => panic!("{error}"),
            };
            posted += 1;
            let index = slot.index as usize;
            requests.resize_with(requests.len().max(index + 1), || None);
            assert!(requests[index].replace(request).is_none(), "slot in use");
            if random.below(10) == 0 {
                // SAFETY: posted just now, and not collected.
                unsafe { client.cancel(slot, Error::Cancelled) };
                cancelled += 1;
            }
        }
        client.flush();
        assert!(
            progress.elapsed() < STALLED,
            "{posted} posted, {ended} ended"
        );
        while let Some(slot) = client.next_done() {
            assert!(
                requests[slot.index as usize].take().is_some(),
                "ended twice"
            );
            end(&mut client, slot);
            ended += 1;
            progress = Instant::now();
        }
        while client.log().take().is_some() {}
    }
    assert_eq!(client.in_flight(), 0);
    assert!(requests.iter().all(Option::is_none));
    let stats = runtime.stats();
    let errors: u64 = stats.errors.iter().map(|error| error.get()).sum();
    assert_eq!(stats.ok.get() + errors, TASKS, "every call is counted once");
    assert!(cancelled > 0 && stats.ok.get() > 0 && errors > cancelled);
    assert!(!client.mailbox().is_closed());
    while runtime.pool().users(runtime.address()) > 0 {
        std::thread::yield_now();
    }
    drop(runtime);
    responder.join().unwrap();
    let released = counts.released.load(Ordering::Relaxed);
    assert_eq!(released, counts.handed_over.load(Ordering::Relaxed));
    assert!(counts.completed.load(Ordering::Relaxed) <= TASKS);
}

fn end(client: &mut Client, slot: &'static Slot) {
    // SAFETY: the client has given the slot as done, once; it was collected before this
    // thread reads the reply.
    let (result, (data, len)) = unsafe { (client.collect(slot, now_ns()), slot.reply().data()) };
    if result.is_ok() {
        assert!(len <= MAX_RESPONSE, "{len} bytes");
        // SAFETY: the response is there until the release.
        let response = unsafe { std::slice::from_raw_parts(data, len) };
        // Reads all of it, for the sanitisers.
        assert!(response.iter().map(|&byte| u64::from(byte)).sum::<u64>() < u64::MAX);
    }
    // SAFETY: collected above, and the response is read.
    unsafe { client.release(slot) };
}
