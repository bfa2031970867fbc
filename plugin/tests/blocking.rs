//! A blocking plugin, driven through the C ABI.
#![allow(missing_docs, reason = "a test")]

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use nonblocking_ffi_plugin::testing::{Entry, Options, Outcome, Runtime, Via};
use nonblocking_ffi_plugin::{Error, Host, Level, Plugin, Response, Task, export_plugin};

static DROPS: AtomicUsize = AtomicUsize::new(0);
static BOMBS: AtomicUsize = AtomicUsize::new(0);
static CLOSED: AtomicUsize = AtomicUsize::new(0);
static KEPT: OnceLock<Host> = OnceLock::new();

/// Bytes whose release is counted, and can panic.
struct Counted(Vec<u8>, bool);

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        DROPS.fetch_add(1, Ordering::SeqCst);
        assert!(!self.1, "the destructor of an owner panics");
    }
}

/// Captured by a closure that is never called.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        BOMBS.fetch_add(1, Ordering::SeqCst);
        panic!("the destructor of a captured value panics");
    }
}

struct Demo {
    host: Host,
}

static BIG: [u8; 5000] = [b's'; 5000];

impl Plugin for Demo {
    fn init(host: Host) -> Result<Self, Error> {
        match host.config() {
            "fail" => return Err(Error::msg("no \u{20ac} such\0 config".repeat(40))),
            "panic" => panic!("init of {}", host.name()),
            "keep" => drop(KEPT.set(host.clone())),
            _ => {}
        }
        Ok(Demo { host })
    }

    fn call(&self, task: &Task<'_>, request: &[u8]) -> Result<Response, Error> {
        Ok(match std::str::from_utf8(request)? {
            "" => ().into(),
            "vec" => vec![b'v'; 100_000].into(),
            "slack" => {
                let mut v = Vec::with_capacity(100_000);
                v.resize(2000, b'v');
                v.into()
            }
            "string" => "x".repeat(3000).into(),
            "box" => vec![b'b'; 3000].into_boxed_slice().into(),
            "arc" => Arc::<[u8]>::from(vec![b'a'; 3000]).into(),
            "static" => (&BIG).into(),
            "small" => "small".into(),
            "copy" => Response::copy_of(request),
            "owner" => Response::from_owner(Counted(vec![b'o'; 10], false)),
            "owner panics" => Response::from_owner(Counted(vec![b'o'; 10], true)),
            "buffer" => Response::in_place(100, |buffer, request| {
                assert_eq!((buffer.capacity(), buffer.is_empty()), (100, true));
                buffer.write_all(request)?;
                buffer.extend_from_slice(b"ed!");
                buffer.spare()[0].write(b'?');
                // SAFETY: one byte was written.
                unsafe { buffer.advance(1) };
                buffer.filled()[0] = b'B';
                Ok(())
            }),
            "full buffer" => Response::in_place(2, |buffer, _| {
                assert_eq!(buffer.write(b"xyz")?, 2);
                assert_eq!(buffer.len(), 2);
                assert!(buffer.write_all(b"z").is_err());
                Ok(())
            }),
            "overflow" => Response::in_place(2, |buffer, _| {
                buffer.extend_from_slice(b"xyz");
                Ok(())
            }),
            "fill fails" => Response::in_place(2, |_, _| Err(Error::new(5, "five"))),
            "huge buffer" => {
                let bomb = Bomb;
                Response::in_place(1 << 40, move |_, _| {
                    let _called = bomb;
                    Ok(())
                })
            }
            "status" => Response::from("ok").with_status(206, "partial"),
            "code" => return Err(Error::new(-404, "not found")),
            "panic" => panic!("at {}", request.len()),
            "panic any" => std::panic::panic_any(7),
            "deadline" => match (task.remaining(), task.deadline()) {
                (None, None) => "never".into(),
                (Some(left), Some(at)) => {
                    assert!(at <= Instant::now() + left);
                    left.as_millis().to_string().into()
                }
                other => panic!("{other:?}"),
            },
            "cancelled" => task.is_cancelled().to_string().into(),
            "log" => {
                self.host.log(Level::Alert, format_args!("{} of {}", 1, 2));
                self.host.error("e");
                self.host.debug("");
                ().into()
            }
            number => number.parse::<i32>()?.to_string().into(),
        })
    }

    fn close(self) {
        CLOSED.fetch_add(1, Ordering::SeqCst);
        if self.host.config() == "panic in close" {
            panic!("bye");
        }
    }
}

export_plugin!(Demo);
export_plugin!(Demo, second_entry);

fn load(config: &str) -> Result<Runtime, String> {
    // SAFETY: the entry function that the macro makes.
    Runtime::load(unsafe { Entry::of(nbffi_plugin_entry) }, config)
}

fn via(outcome: &Outcome) -> Via {
    match outcome {
        Outcome::Response { via, .. } => *via,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_kind_of_response() {
    let rt = load("").unwrap();
    for (request, expected, how) in [
        ("", vec![], Via::Copy),
        ("vec", vec![b'v'; 100_000], Via::Owned),
        ("slack", vec![b'v'; 2000], Via::Owned),
        ("string", vec![b'x'; 3000], Via::Owned),
        ("box", vec![b'b'; 3000], Via::Owned),
        ("arc", vec![b'a'; 3000], Via::Owned),
        ("static", BIG.to_vec(), Via::Owned),
        ("small", b"small".to_vec(), Via::Copy),
        ("copy", b"copy".to_vec(), Via::Copy),
        ("buffer", b"Buffered!?".to_vec(), Via::Buffer),
        ("full buffer", b"xy".to_vec(), Via::Buffer),
        ("42", b"42".to_vec(), Via::Copy),
    ] {
        let id = rt.submit(request.as_bytes(), Options::default());
        let outcome = id.wait();
        assert_eq!(outcome.data(), expected, "{request}");
        assert_eq!(via(&outcome), how, "{request}");
        assert_eq!(id.stale(), 0, "{request}");
    }
}

#[test]
fn owners_are_released_once() {
    let rt = load("").unwrap();
    let before = DROPS.load(Ordering::SeqCst);
    assert_eq!(rt.call(b"owner").data(), b"oooooooooo");
    assert_eq!(DROPS.load(Ordering::SeqCst), before + 1);
    // The destructor's panic ends in release.
    assert_eq!(rt.call(b"owner panics").data(), b"oooooooooo");
    assert_eq!(DROPS.load(Ordering::SeqCst), before + 2);
    // What the host refuses is released too.
    let small = Options {
        max_response: 5,
        ..Options::default()
    };
    assert_eq!(rt.call_with(b"owner", small), Outcome::TooLarge);
    assert_eq!(DROPS.load(Ordering::SeqCst), before + 3);
}

#[test]
fn errors_panics_and_status() {
    let rt = load("").unwrap();
    assert_eq!(rt.call(b"code").failure(), (-404, "not found"));
    assert_eq!(
        rt.call(b"x7").failure(),
        (Error::CODE, "invalid digit found in string")
    );
    assert_eq!(rt.call(b"panic").failure(), (Error::PANIC, "panic: at 5"));
    let (code, message) = (Error::PANIC, "panic: (a payload that is not a string)");
    assert_eq!(rt.call(b"panic any").failure(), (code, message));
    let overflow = rt.call(b"overflow");
    assert_eq!(
        overflow.failure().1,
        "panic: a response buffer is too small"
    );
    assert_eq!(rt.call(b"fill fails").failure(), (5, "five"));
    // The runtime is none the worse.
    let Outcome::Response { data, status, .. } = rt.call(b"status") else {
        panic!()
    };
    assert_eq!(
        (data.as_slice(), status),
        (&b"ok"[..], Some((206, "partial".into())))
    );
}

#[test]
fn too_large() {
    let rt = load("").unwrap();
    for request in ["vec", "string", "static", "buffer", "huge buffer"] {
        let options = Options {
            max_response: 50,
            ..Options::default()
        };
        let id = rt.submit(request.as_bytes(), options);
        assert_eq!(id.wait(), Outcome::TooLarge, "{request}");
        // Nothing is tried after the host has completed the task.
        assert_eq!(id.stale(), 0, "{request}");
    }
    assert_eq!(BOMBS.load(Ordering::SeqCst), 1);
}

#[test]
fn out_of_memory() {
    let rt = load("").unwrap();
    let options = Options {
        memory: 50,
        ..Options::default()
    };
    let id = rt.submit(b"buffer", options);
    // The host's own error: the plugin leaves the task pending.
    assert_eq!(id.wait(), Outcome::NoMemory);
    assert_eq!(id.stale(), 0);
}

#[test]
fn deadline_and_cancellation() {
    let rt = load("").unwrap();
    assert_eq!(rt.call(b"deadline").data(), b"never");
    let soon = |ms| Options {
        timeout: Some(Duration::from_millis(ms)),
        ..Options::default()
    };
    let left = rt.call_with(b"deadline", soon(60_000));
    let left: u64 = std::str::from_utf8(left.data()).unwrap().parse().unwrap();
    assert!((30_000..=60_000).contains(&left), "{left}");
    assert_eq!(rt.call_with(b"deadline", soon(0)).data(), b"0");
    assert_eq!(rt.call(b"cancelled").data(), b"false");
    let cancelled = Options {
        cancelled: true,
        ..Options::default()
    };
    assert_eq!(rt.call_with(b"cancelled", cancelled).data(), b"true");
}

#[test]
fn init_errors() {
    let message = load("fail").err().unwrap();
    // Cut at a character, and without the NULs.
    assert!(
        message.starts_with("no \u{20ac} such\u{fffd} config"),
        "{message}"
    );
    assert!((508..512).contains(&message.len()), "{}", message.len());
    assert_eq!(load("panic").err().unwrap(), "panic: init of test");
    let message = Runtime::load_as(Entry::blocking::<Demo>(), "test", "", 2 << 16)
        .err()
        .unwrap();
    assert!(
        message.contains("1.3") && message.contains("2.0"),
        "{message}"
    );
    // A newer minor version of the host is fine.
    Runtime::load_as(Entry::blocking::<Demo>(), "test", "", (1 << 16) | 9).unwrap();
}

#[test]
fn log_and_close() {
    let mut rt = load("keep").unwrap();
    rt.call(b"log");
    let log = |level, text: &str| (level, text.to_owned());
    let expected = [
        log(Level::Alert, "1 of 2"),
        log(Level::Error, "e"),
        log(Level::Debug, ""),
    ];
    assert_eq!(rt.logged(), expected);
    let before = CLOSED.load(Ordering::SeqCst);
    rt.close();
    assert!(CLOSED.load(Ordering::SeqCst) > before);
    // A Host that outlives its runtime is inert.
    let kept = KEPT.get().unwrap();
    kept.error("too late");
    assert_eq!(rt.logged(), []);
    assert_eq!(
        (kept.name(), kept.config(), kept.config_bytes()),
        ("test", "keep", &b"keep"[..])
    );

    let mut rt = load("panic in close").unwrap();
    rt.close();
    assert_eq!(rt.logged(), [log(Level::Error, "close: panic: bye")]);
}

#[test]
fn several_plugins_in_one_library_and_threads() {
    // SAFETY: as in `load`.
    let rt = Runtime::load(unsafe { Entry::of(second_entry) }, "").unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for i in 0..500 {
                    let number = i.to_string();
                    assert_eq!(rt.call(number.as_bytes()).data(), number.as_bytes());
                }
            });
        }
    });
}
