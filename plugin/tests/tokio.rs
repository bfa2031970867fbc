//! Plugins whose calls are futures, driven through the C ABI.
#![allow(missing_docs, reason = "a test")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nonblocking_ffi_plugin::testing::{Entry, Options, Outcome, Runtime, Via};
use nonblocking_ffi_plugin::{
    Error, Host, Level, Response, Task, TokioPlugin, export_tokio_plugin,
};
use tokio::runtime::Builder;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::sleep;

static DROPPED: AtomicUsize = AtomicUsize::new(0);
static CLOSED: AtomicUsize = AtomicUsize::new(0);

/// How a call ends that nobody waits for any more.
const LOST: (i64, &str) = (Error::CANCELLED, "cancelled");

/// Counts futures that are dropped while they wait.
struct Guard(bool);

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.0 {
            DROPPED.fetch_add(1, Ordering::SeqCst);
        }
    }
}

struct Demo {
    host: Host,
    open: Notify,
    /// To a task that lives as long as the runtime, as a connection would.
    echo: mpsc::Sender<(Vec<u8>, oneshot::Sender<Vec<u8>>)>,
}

impl TokioPlugin for Demo {
    fn runtime(host: &Host) -> Builder {
        match host.config() {
            "panic in runtime" => panic!("no runtime"),
            config if config.contains("many") => {
                let mut builder = Builder::new_multi_thread();
                builder.worker_threads(3);
                builder
            }
            _ => Builder::new_current_thread(),
        }
    }

    async fn init(host: Host) -> Result<Self, Error> {
        // Not every future here can be sent to another thread.
        let local = std::rc::Rc::new(host.config().to_owned());
        sleep(Duration::from_millis(1)).await;
        match local.as_str() {
            "fail" => return Err(Error::new(7, "as the config says")),
            "panic" => panic!("in init"),
            _ => {}
        }
        let (echo, mut requests) = mpsc::channel::<(Vec<u8>, oneshot::Sender<Vec<u8>>)>(16);
        tokio::spawn(async move {
            while let Some((data, reply)) = requests.recv().await {
                let _ = reply.send(data);
            }
        });
        Ok(Demo {
            host,
            open: Notify::new(),
            echo,
        })
    }

    async fn call(&self, task: &Task<'_>, request: &[u8]) -> Result<Response, Error> {
        let text = std::str::from_utf8(request)?;
        let (verb, argument) = text.split_once(' ').unwrap_or((text, ""));
        Ok(match verb {
            "echo" => Response::copy_of(request),
            "through" => {
                let (reply, answer) = oneshot::channel();
                self.echo.send((request.to_vec(), reply)).await?;
                answer.await?.into()
            }
            "sleep" => {
                sleep(Duration::from_millis(argument.parse()?)).await;
                "slept".into()
            }
            "wait" => {
                let mut guard = Guard(false);
                self.open.notified().await;
                guard.0 = true;
                "open".into()
            }
            "open" => {
                self.open.notify_waiters();
                ().into()
            }
            "spin" => {
                while !task.is_cancelled() {
                    tokio::task::yield_now().await;
                }
                "in vain".into()
            }
            "left" => {
                let left = task.remaining().map(|left| left.as_secs());
                format!("{left:?}").into()
            }
            "buffer" => Response::in_place(request.len(), |buffer, request| {
                buffer.extend_from_slice(request);
                Ok(())
            }),
            "status" => Response::from("ok").with_status(206, "partial"),
            "error" => return Err(Error::new(42, "wrong")),
            "panic" => panic!("at once"),
            "panic_later" => {
                tokio::task::yield_now().await;
                panic!("later");
            }
            "panic_drop" => {
                struct Bomb;
                impl Drop for Bomb {
                    fn drop(&mut self) {
                        panic!("while dropped");
                    }
                }
                let _bomb = Bomb;
                self.host.info("armed");
                self.open.notified().await;
                "unreachable".into()
            }
            _ => return Err(Error::msg("no such verb")),
        })
    }

    async fn close(self) {
        CLOSED.fetch_add(1, Ordering::SeqCst);
        if self.host.config() == "close slowly" {
            sleep(Duration::from_millis(50)).await;
            self.host.log(Level::Notice, "closed");
        }
        if self.host.config() == "close badly" {
            panic!("in close");
        }
    }
}

export_tokio_plugin!(Demo);

fn load(config: &str) -> Runtime {
    // SAFETY: the entry function that the macro makes.
    Runtime::load(unsafe { Entry::of(nbffi_plugin_entry) }, config).unwrap()
}

const KINDS: [&str; 2] = ["one thread", "many threads"];

#[test]
fn every_way_to_end() {
    for rt in KINDS.map(load) {
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
            ("echo me", ok(b"echo me", Via::Copy)),
            ("through a task", ok(b"through a task", Via::Copy)),
            ("sleep 3", ok(b"slept", Via::Copy)),
            ("open", ok(b"", Via::Copy)),
            ("left", ok(b"None", Via::Copy)),
            ("buffer", ok(b"buffer", Via::Buffer)),
            ("error", failed(42, "wrong")),
            ("sleep x", failed(1, "invalid digit found in string")),
            ("", failed(1, "no such verb")),
            ("panic", failed(Error::PANIC, "panic: at once")),
            ("panic_later", failed(Error::PANIC, "panic: later")),
        ] {
            let id = rt.submit(request.as_bytes(), Options::default());
            assert_eq!(id.wait(), expected, "{request}");
            assert_eq!(id.stale(), 0, "{request}");
        }
        let Outcome::Response { data, status, .. } = rt.call(b"status") else {
            panic!()
        };
        let partial = Some((206, "partial".into()));
        assert_eq!((data.as_slice(), status), (&b"ok"[..], partial));
    }
}

#[test]
fn init_fails() {
    let error = |config| Runtime::load(Entry::tokio::<Demo>(), config).err();
    assert_eq!(error("fail").unwrap(), "as the config says");
    assert_eq!(error("panic").unwrap(), "panic: in init");
    assert_eq!(error("panic in runtime").unwrap(), "panic: no runtime");
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "never {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn dropped(before: usize, number: usize) {
    eventually("dropped", || {
        DROPPED.load(Ordering::SeqCst) >= before + number
    });
    assert_eq!(DROPPED.load(Ordering::SeqCst), before + number);
}

/// In one test, as it counts what is dropped.
#[test]
fn what_nobody_waits_for_is_dropped() {
    for rt in KINDS.map(load) {
        let before = DROPPED.load(Ordering::SeqCst);
        let soon = Options {
            timeout: Some(Duration::from_millis(30)),
            ..Options::default()
        };
        let late = rt.submit(b"wait", soon);
        let cancelled = rt.submit(b"wait", Options::default());
        let kept = rt.submit(b"wait", Options::default());
        assert_eq!(late.wait().failure(), LOST);
        dropped(before, 1);
        // Long after nothing but these two has happened.
        std::thread::sleep(Duration::from_millis(30));
        cancelled.cancel();
        assert_eq!(cancelled.wait().failure(), LOST);
        dropped(before, 2);
        assert_eq!(kept.outcome(), None);
        rt.call(b"open");
        assert_eq!(kept.wait().data(), b"open");
        // What is polled all the time finds out by itself.
        let spinning = rt.submit(b"spin", Options::default());
        spinning.cancel();
        assert_eq!(spinning.wait().failure(), LOST);
        // And when it never starts.
        let unrun = Options {
            cancelled: true,
            ..Options::default()
        };
        assert_eq!(rt.call_with(b"wait", unrun).failure(), LOST);
        dropped(before, 2);
        // A destructor that panics is the call's own trouble.
        let bomb = rt.submit(b"panic_drop", Options::default());
        eventually("armed", || !rt.logged().is_empty());
        bomb.cancel();
        assert_eq!(bomb.wait().failure().0, Error::PANIC);
        assert_eq!(rt.call(b"echo").data(), b"echo");
    }
}

#[test]
fn thousands_are_pending_at_a_time() {
    for rt in KINDS.map(load) {
        let rt = &rt;
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let ids: Vec<_> = (0..2500_u64)
                        .map(|i| {
                            let request = match i % 3 {
                                0 => format!("sleep {}", i * 7919 % 200),
                                1 => "wait".into(),
                                _ => format!("through {i}"),
                            };
                            (rt.submit(request.as_bytes(), Options::default()), request)
                        })
                        .collect();
                    for (id, request) in &ids {
                        match request.split(' ').next() {
                            Some("sleep") => assert_eq!(id.wait().data(), b"slept"),
                            Some("wait") => {}
                            _ => assert_eq!(id.wait().data(), request.as_bytes()),
                        }
                    }
                    for (id, _) in ids.iter().filter(|(_, request)| request == "wait") {
                        id.cancel();
                    }
                    for (id, _) in ids {
                        id.wait();
                        assert_eq!(id.stale(), 0);
                    }
                });
            }
        });
    }
}

#[test]
fn closing() {
    let before = CLOSED.load(Ordering::SeqCst);
    let mut rt = load("close slowly");
    assert_eq!(rt.call(b"through").data(), b"through");
    rt.close();
    assert!(CLOSED.load(Ordering::SeqCst) > before);
    assert_eq!(rt.logged(), [(Level::Notice, "closed".to_owned())]);
    let mut rt = load("close badly");
    rt.close();
    let log = rt.logged();
    assert_eq!(log, [(Level::Error, "close: panic: in close".to_owned())]);
    // Closed while the last call is still on its way out of its thread.
    for _ in 0..200 {
        let rt = load("many threads");
        let ids: Vec<_> = (0..20)
            .map(|_| rt.submit(b"through", Options::default()))
            .collect();
        for id in ids {
            assert_eq!(id.wait().data(), b"through");
        }
    }
}
