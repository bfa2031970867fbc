//! Tasks through pools, without nginx. Also run under Miri (`scripts/test.sh miri`).

use std::sync::atomic::{AtomicUsize, Ordering};

use nonblocking_ffi_core::client::nested::{self, Refused};
use nonblocking_ffi_core::client::{Client, Posted, Request};
use nonblocking_ffi_core::error::Error;
use nonblocking_ffi_core::pool::{self, Pool};
use nonblocking_ffi_core::runtime::{Backend, Options, Outcome, Runtime};
use nonblocking_ffi_core::sync::now_ns;
use nonblocking_ffi_core::task::{Kind, Priority, Running};

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

fn started(name: &str, threads: usize) -> &'static Pool {
    let pool = Pool::new(pool::Config {
        name: name.into(),
        threads,
        max_queue: 100_000,
        nice: 0,
    });
    pool.start().unwrap();
    pool
}

fn runtime(client: &Client, pool: &'static Pool, name: &str, backend: Upper) -> Box<Runtime> {
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
    let posted = unsafe { client.post(runtime, request) };
    assert!(matches!(posted, Ok(Posted::Pending(_))));
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
    let pool = started("broadcast", 2);
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
    let pool = started("nested", 1);
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
