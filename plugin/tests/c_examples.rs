//! The examples in C: compiled as their READMEs say, and driven through the
//! fake host.
#![allow(missing_docs, reason = "a test")]

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use nonblocking_ffi_plugin::testing::{Options, Outcome, Runtime, Via};

/// Compiles and loads `examples/<name>/<name>.c`.
fn load(name: &str, test: &str) -> Runtime {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let source = root.join(format!("examples/{name}/{name}.c"));
    support::load_c(&source, &format!("lib{name}_{test}.so"))
}

#[test]
fn echo() {
    let rt = load("echo", "all");
    for len in [0, 1, 4096, 4097, 1 << 20] {
        let request: Vec<u8> = (0..len).map(|i| i as u8).collect();
        let Outcome::Response { data, via, .. } = rt.call(&request[..]) else {
            panic!("{len}")
        };
        assert!(data == request, "{len}");
        let expected = if len > 0 { Via::Request } else { Via::Copy };
        assert_eq!(via, expected, "{len}");
    }
    for len in [100, 5000] {
        let small = Options {
            max_response: 99,
            ..Options::default()
        };
        assert_eq!(rt.call_with(vec![0; len], small), Outcome::TooLarge);
    }
}

#[test]
fn async_timer_answers_in_time() {
    let rt = load("async_timer", "time");
    let start = Instant::now();
    let late = rt.submit(b"120 late", Options::default());
    let early = rt.submit(b"60 early", Options::default());
    let empty = rt.submit(b"0", Options::default());
    assert_eq!(empty.wait().data(), b"");
    assert_eq!(early.wait().data(), b"early");
    assert!(start.elapsed() >= Duration::from_millis(60));
    assert_eq!(late.wait().data(), b"late");
    assert!(start.elapsed() >= Duration::from_millis(120));
    assert_eq!(rt.call(b"0 ").data(), b"");
    assert_eq!(rt.call(b"1  two words").data(), b" two words");
}

#[test]
fn async_timer_refuses_nonsense() {
    let rt = load("async_timer", "nonsense");
    for bad in [
        "",
        "x",
        " 5",
        "5x",
        "-5",
        "86400001",
        "99999999999999999999999 x",
    ] {
        assert_eq!(rt.call(bad.as_bytes()).failure().0, 400, "{bad}");
    }
    let small = Options {
        max_response: 2,
        ..Options::default()
    };
    assert_eq!(rt.call_with(b"1 long", small), Outcome::TooLarge);
}

/// Ten thousand tasks with delays in a scrambled order, from four threads.
#[test]
fn async_timer_keeps_thousands() {
    let rt = load("async_timer", "thousands");
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let rt = &rt;
            scope.spawn(move || {
                let ids: Vec<_> = (0..2500_u64)
                    .map(|i| {
                        let text = format!("{} {thread}.{i}", (i * 7919) % 300);
                        (i, rt.submit(text.as_bytes(), Options::default()))
                    })
                    .collect();
                for (i, id) in ids {
                    assert_eq!(id.wait().data(), format!("{thread}.{i}").as_bytes());
                    assert_eq!(id.stale(), 0);
                }
            });
        }
    });
}

#[test]
fn async_timer_gives_up_what_nobody_waits_for() {
    let rt = load("async_timer", "gives_up");
    let start = Instant::now();
    let soon = Options {
        timeout: Some(Duration::from_millis(30)),
        ..Options::default()
    };
    let timed_out = rt.submit(b"80000000 x", soon);
    let cancelled = rt.submit(b"80000000 x", Options::default());
    // Others are not disturbed.
    let kept: Vec<_> = (0..50)
        .map(|i| {
            rt.submit(b"1500 y", {
                Options {
                    timeout: Some(Duration::from_secs(60 + i)),
                    ..Options::default()
                }
            })
        })
        .collect();
    assert_eq!(timed_out.wait().failure().0, 499);
    cancelled.cancel();
    assert_eq!(cancelled.wait().failure().0, 499);
    for id in kept {
        assert_eq!(id.wait().data(), b"y");
    }
    assert!(start.elapsed() >= Duration::from_millis(1500));
}

#[test]
fn async_timer_close_fails_what_is_pending() {
    let mut rt = load("async_timer", "close");
    let ids: Vec<_> = (0..100)
        .map(|_| rt.submit(b"80000000 x", Options::default()))
        .collect();
    rt.close();
    for id in ids {
        assert_eq!(id.outcome().unwrap().failure(), (503, "closed"));
    }
}
