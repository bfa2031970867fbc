//! Several calls in one `call_batch`, driven through the C ABI.
#![allow(missing_docs, reason = "a test")]

use std::sync::atomic::{AtomicUsize, Ordering};

use nonblocking_ffi_plugin::testing::{Entry, Options, Runtime};
use nonblocking_ffi_plugin::{Calls, Error, Host, Level, Plugin, Response, Task, export_plugin};

/// Its config says what `call_batch` does.
struct Demo {
    host: Host,
    batches: AtomicUsize,
}

impl Plugin for Demo {
    fn init(host: Host) -> Result<Self, Error> {
        let batches = AtomicUsize::new(0);
        Ok(Demo { host, batches })
    }

    fn call(&self, _task: &Task<'_>, request: &[u8]) -> Result<Response, Error> {
        match request {
            b"panic" => panic!("in call"),
            b"error" => Err(Error::new(3, "three")),
            b"batches" => Ok(self.batches.load(Ordering::SeqCst).to_string().into()),
            _ => Ok(Response::copy_of(request)),
        }
    }

    fn call_batch(&self, calls: Calls<'_, Self>) {
        self.batches.fetch_add(1, Ordering::SeqCst);
        match self.host.config() {
            "all" => {
                let made = calls.all();
                self.host.info(made);
            }
            "drop" => drop(calls),
            "panic" => panic!("in call_batch"),
            "panic later" => {
                calls.all();
                panic!("after all");
            }
            _ => calls.one(),
        }
    }
}

export_plugin!(Demo);

fn load(config: &str) -> Runtime {
    Runtime::load(Entry::blocking::<Demo>(), config).unwrap()
}

#[test]
fn all_that_wait_are_answered_in_one_batch() {
    let rt = load("all");
    let big = vec![b'b'; 5000];
    let requests = [&b"echo"[..], b"", b"panic", b"error", &big, b"batches"];
    let ids = requests.map(|request| rt.enqueue(request, Options::default()));
    assert_eq!(rt.call(b"first").data(), b"first");
    let outcomes = ids.each_ref().map(|id| id.wait());
    assert_eq!(outcomes[0].data(), b"echo");
    assert_eq!(outcomes[1].data(), b"");
    assert_eq!(outcomes[2].failure(), (Error::PANIC, "panic: in call"));
    assert_eq!(outcomes[3].failure(), (3, "three"));
    assert_eq!(outcomes[4].data(), big);
    assert_eq!(outcomes[5].data(), b"1");
    assert_eq!(ids.map(|id| id.stale()), [0; 6]);
    assert_eq!(rt.logged(), [(Level::Info, "7".to_owned())]);
    // What one thread did not take is there for the next.
    assert_eq!(rt.call(b"batches").data(), b"2");
}

#[test]
fn one_call_leaves_the_rest() {
    let rt = load("one");
    rt.enqueue(b"other", Options::default());
    assert_eq!(rt.call(b"first").data(), b"first");
    assert_eq!(rt.queued(), 1);
}

#[test]
fn a_batch_that_makes_no_call_fails_it() {
    let rt = load("drop");
    let outcome = rt.call(b"first");
    let expected = (Error::DROPPED, "the plugin did not make the call");
    assert_eq!(outcome.failure(), expected);
    let rt = load("panic");
    let outcome = rt.call(b"first");
    let expected = (Error::PANIC, "panic: before the call");
    assert_eq!(outcome.failure(), expected);
    let log = rt.logged();
    assert_eq!(
        log,
        [(Level::Error, "call_batch: panic: in call_batch".to_owned())]
    );
    // What was answered before stays so.
    let rt = load("panic later");
    let id = rt.enqueue(b"other", Options::default());
    assert_eq!(rt.call(b"first").data(), b"first");
    assert_eq!(id.wait().data(), b"other");
}
