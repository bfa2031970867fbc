//! An asynchronous plugin, driven through the C ABI.
#![allow(missing_docs, reason = "a test")]

use std::sync::{Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use nonblocking_ffi_plugin::testing::{Entry, Options, Outcome, Runtime, Via};
use nonblocking_ffi_plugin::{AsyncPlugin, Error, Host, OwnedTask, Response, export_async_plugin};

/// Hands tasks to one thread; some are dealt with in `submit`.
struct Demo {
    queue: mpsc::Sender<OwnedTask>,
    worker: JoinHandle<()>,
    parked: Mutex<Vec<OwnedTask>>,
}

fn work(task: OwnedTask) {
    match task.request() {
        b"drop" => drop(task),
        b"error" => task.fail(Error::new(3, "three")),
        b"std error" => task.complete("x".parse::<u8>().map(|_| "")),
        b"big" => task.respond(vec![1; 5000]),
        b"owned" => {
            let copy = task.request().to_vec();
            task.respond(copy);
        }
        b"buffer" => {
            let response = Response::in_place(5, |buffer, request| {
                buffer.extend_from_slice(&request[..5]);
                Ok(())
            });
            task.respond(response.with_status(1, "one"));
        }
        b"panic" => task.run::<Response>(|_| panic!("in the worker")),
        b"unwind" => {
            let thread = std::thread::spawn(move || {
                let _task = task;
                panic!("outside of run");
            });
            assert!(thread.join().is_err());
        }
        b"wait" => task.run(|task| {
            while !task.is_cancelled() {
                std::thread::yield_now();
            }
            Err::<(), _>(Error::msg("given up"))
        }),
        _ => task.run(|task| Ok(Response::copy_of(task.request()))),
    }
}

impl AsyncPlugin for Demo {
    fn init(_host: Host) -> Result<Self, Error> {
        let (queue, tasks) = mpsc::channel();
        let worker = std::thread::Builder::new().spawn(move || tasks.into_iter().for_each(work))?;
        Ok(Demo {
            queue,
            worker,
            parked: Mutex::default(),
        })
    }

    fn submit(&self, task: OwnedTask) {
        match task.request() {
            b"now" => task.respond("now"),
            b"panic in submit" => panic!("submitting {}", task.request().len()),
            b"panic after" => {
                task.respond("done");
                panic!("too late");
            }
            b"panic parked" => {
                self.parked.lock().unwrap().push(task);
                panic!("not mine");
            }
            b"unpark" => {
                self.parked
                    .lock()
                    .unwrap()
                    .drain(..)
                    .for_each(|t| t.respond("unparked"));
                task.respond(());
            }
            b"watch" => {
                task.watch().unwrap();
                self.parked.lock().unwrap().push(task);
            }
            _ => drop(self.queue.send(task)),
        }
    }

    fn cancelled(&self, id: u64) {
        let mut parked = self.parked.lock().unwrap();
        if let Some(place) = parked.iter().position(|task| task.id() == id) {
            assert!(parked[place].is_cancelled());
            parked.swap_remove(place).fail(Error::msg("told"));
        }
    }

    fn close(self) {
        drop(self.queue);
        self.worker.join().unwrap();
    }
}

export_async_plugin!(Demo);

fn load() -> Runtime {
    // SAFETY: the entry function that the macro makes.
    Runtime::load(unsafe { Entry::of(nbffi_plugin_entry) }, "").unwrap()
}

#[test]
fn each_way_completes_once() {
    let rt = load();
    let ok = |data: &[u8], via| Outcome::Response {
        data: data.into(),
        status: None,
        via,
    };
    let failed = |code, message: &str| Outcome::Failed {
        code,
        message: message.into(),
    };
    for (request, expected) in [
        ("hello", ok(b"hello", Via::Copy)),
        ("", ok(b"", Via::Copy)),
        ("now", ok(b"now", Via::Copy)),
        ("owned", ok(b"owned", Via::Copy)),
        ("big", ok(&[1; 5000], Via::Owned)),
        (
            "drop",
            failed(
                Error::DROPPED,
                "the plugin dropped the task without a response",
            ),
        ),
        ("error", failed(3, "three")),
        (
            "std error",
            failed(Error::CODE, "invalid digit found in string"),
        ),
        ("panic", failed(Error::PANIC, "panic: in the worker")),
        (
            "unwind",
            failed(Error::PANIC, "panic: the thread that had the task"),
        ),
        (
            "panic in submit",
            failed(Error::PANIC, "panic: submitting 15"),
        ),
        ("panic after", ok(b"done", Via::Copy)),
    ] {
        let id = rt.submit(request.as_bytes(), Options::default());
        assert_eq!(id.wait(), expected, "{request}");
        assert_eq!(id.stale(), 0, "{request}");
    }
    let Outcome::Response { data, status, via } = rt.call(b"buffer") else {
        panic!()
    };
    assert_eq!(
        (data, status, via),
        (b"buffe".into(), Some((1, "one".into())), Via::Buffer)
    );
}

/// A panic in submit does not complete a task that somebody else has.
#[test]
fn panic_in_submit_with_the_task_elsewhere() {
    let rt = load();
    let id = rt.submit(b"panic parked", Options::default());
    assert_eq!(id.outcome(), None);
    assert_eq!(rt.logged().last().unwrap().1, "submit: panic: not mine");
    rt.call(b"unpark");
    assert_eq!(id.wait().data(), b"unparked");
    assert_eq!(id.stale(), 0);
}

#[test]
fn too_large() {
    let rt = load();
    for (request, max_response) in [(&b"big"[..], 100), (b"buffer", 4)] {
        let options = Options {
            max_response,
            ..Options::default()
        };
        let id = rt.submit(request, options);
        assert_eq!(id.wait(), Outcome::TooLarge);
        assert_eq!(id.stale(), 0);
    }
}

#[test]
fn out_of_memory() {
    let rt = load();
    let options = Options {
        memory: 4,
        ..Options::default()
    };
    // A buffer that is refused leaves the task pending: it must not stay so.
    let outcome = rt.call_with(b"buffer", options);
    assert_eq!(outcome.failure(), (Error::CODE, "no memory"));
}

#[test]
fn cancellation_reaches_the_worker() {
    let rt = load();
    let id = rt.submit(b"wait", Options::default());
    assert_eq!(id.outcome(), None);
    id.cancel();
    assert_eq!(id.wait().failure(), (Error::CODE, "given up"));
}

#[test]
fn a_task_that_is_watched_is_told_of() {
    let rt = load();
    let soon = Options {
        timeout: Some(Duration::from_millis(20)),
        ..Options::default()
    };
    let gone = Options {
        cancelled: true,
        ..Options::default()
    };
    let kept = rt.submit("watch", Options::default());
    let cancelled = rt.submit("watch", Options::default());
    cancelled.cancel();
    for task in [
        cancelled,
        rt.submit("watch", soon),
        rt.submit("watch", gone),
    ] {
        assert_eq!(task.wait().failure(), (Error::CODE, "told"));
        assert_eq!(task.stale(), 0);
    }
    assert_eq!(kept.outcome(), None);
    rt.call("unpark");
    assert_eq!(kept.wait().data(), b"unparked");
}

#[test]
fn many_tasks_from_many_threads() {
    let rt = load();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let ids: Vec<_> = (0..500)
                    .map(|i| (i, rt.submit(i.to_string().as_bytes(), Options::default())))
                    .collect();
                for (i, id) in ids {
                    assert_eq!(id.wait().data(), i.to_string().as_bytes());
                }
            });
        }
    });
}
