//! The host for tests, as far as other tests do not show it.
#![allow(missing_docs, reason = "a test")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nonblocking_ffi_plugin::testing::{Entry, Options, Runtime};
use nonblocking_ffi_plugin::{Calls, Error, Host, Plugin, Response, Task};

static ENDS: AtomicU32 = AtomicU32::new(0);
static NESTED: Mutex<Option<Runtime>> = Mutex::new(None);

struct Echo {
    host: Host,
}

impl Plugin for Echo {
    fn init(host: Host) -> Result<Self, Error> {
        host.at_exit(|deadline| {
            assert!(deadline > Instant::now());
            ENDS.fetch_add(1, Ordering::SeqCst);
        })?;
        Ok(Echo { host })
    }

    fn call(&self, _task: &Task<'_>, request: &[u8]) -> Result<Response, Error> {
        self.host.info(String::from_utf8_lossy(request));
        Ok(Response::copy_of(request))
    }

    fn call_batch(&self, calls: Calls<'_, Self>) {
        calls.all();
    }
}

fn load() -> Runtime {
    Runtime::load(Entry::blocking::<Echo>(), "").unwrap()
}

fn with_priority(priority: i32) -> Options {
    Options {
        priority,
        ..Options::default()
    }
}

#[test]
fn what_is_urgent_is_given_out_first() {
    let rt = load();
    let tasks = [("low", -1), ("a", 0), ("b", 0), ("high", 1)]
        .map(|(request, priority)| rt.enqueue(request, with_priority(priority)));
    assert_eq!(rt.queued(), 4);
    rt.run_queued();
    assert_eq!(
        tasks.map(|task| task.wait().text()),
        ["low", "a", "b", "high"]
    );
    let logged: Vec<String> = rt.logged().into_iter().map(|(_, text)| text).collect();
    assert_eq!(logged, ["high", "a", "b", "low"]);
    assert_eq!(rt.logged(), []);
}

#[test]
fn a_task_that_nobody_looks_at_runs_nevertheless() {
    let rt = load();
    drop(rt.enqueue("alone", Options::default()));
    rt.run_queued();
    assert_eq!(rt.logged().len(), 1);
}

#[test]
fn a_call_within_a_call() {
    *NESTED.lock().unwrap() = Some(load());
    fn call() {
        let inner = NESTED.lock().unwrap();
        assert_eq!(inner.as_ref().unwrap().call("inner").text(), "inner");
    }
    let rt = load();
    let options = Options {
        then: Some(call),
        ..Options::default()
    };
    let second = rt.enqueue("second", Options::default());
    assert_eq!(rt.call_with("first", options).text(), "first");
    // The thread still is in the outer call, which asked for it.
    assert_eq!(second.wait().text(), "second");
    assert_eq!(NESTED.lock().unwrap().as_ref().unwrap().logged().len(), 1);
}

#[test]
fn tasks_are_repeated_in_calls_of_so_many() {
    let rt = load();
    for batch in [1, 7, 100] {
        rt.repeat(b"x", 100, batch);
        assert_eq!(rt.logged().len(), 100);
    }
}

#[test]
fn at_exit_runs_once() {
    let rt = load();
    rt.exit(Duration::from_secs(60));
    rt.exit(Duration::from_secs(60));
    assert_eq!(ENDS.load(Ordering::SeqCst), 1);
}

#[test]
#[should_panic(expected = "no response: TooLarge")]
fn an_error_has_no_response() {
    let options = Options {
        max_response: 1,
        ..Options::default()
    };
    load().call_with("too long", options).data();
}
