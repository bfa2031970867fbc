//! The plugin as a host sees it, without nginx.

mod support;

use std::cell::RefCell;

use support::{Outcome, Runtime, classes};

fn load(folder: &str, method: &str) -> Option<Runtime> {
    Some(Runtime::load(&classes(folder)?, method).unwrap())
}

fn response(outcome: &Outcome) -> &[u8] {
    match outcome {
        Outcome::Response(data) => data,
        other => panic!("{other:?}"),
    }
}

/// Requests on both sides of every limit.
fn requests() -> Vec<Vec<u8>> {
    let sizes = [0, 1, 63, 64, 65, 511, 512, 513, 4095, 4096, 4097, 100_000];
    let request = |size: usize| (0..size).map(|i| (i * 7 + size) as u8).collect();
    sizes.into_iter().map(request).collect()
}

#[test]
fn tasks_that_are_pulled_are_each_answered_with_their_own() {
    let requests = requests();
    let requests: Vec<&[u8]> = requests.iter().map(Vec::as_slice).collect();
    for method in ["bytes", "buffer", "withContext", "future"] {
        let Some(runtime) = load("pulled", &format!("Echo#{method}")) else {
            return;
        };
        for _ in 0..50 {
            let outcomes = runtime.run(&requests);
            for (request, outcome) in requests.iter().zip(&outcomes) {
                assert!(response(outcome) == *request, "{method} {}", request.len());
            }
        }
    }
}

#[test]
fn a_host_without_next_will_do() {
    let Some(classes) = classes("old") else {
        return;
    };
    let runtime = Runtime::load_in_old_host(&classes, "Echo#bytes").unwrap();
    let outcomes = runtime.run(&[b"one", b"two", b"three"]);
    let responses: Vec<&[u8]> = outcomes.iter().map(response).collect();
    assert_eq!(responses, [&b"one"[..], b"two", b"three"]);
}

#[test]
fn a_failure_is_that_of_its_task_alone() {
    let Some(runtime) = load("failure", "Echo#picky") else {
        return;
    };
    let outcomes = runtime.run(&[b"good", b"bad", b"", b"good"]);
    assert_eq!(response(&outcomes[0]), b"good");
    let Outcome::Failed(1, message) = &outcomes[1] else {
        panic!("{outcomes:?}");
    };
    assert!(
        message.starts_with("java.lang.IllegalArgumentException: bad\n\tat "),
        "{message}"
    );
    // Our own frames are nobody's business.
    assert!(!message.contains("nonblockingffi.host"), "{message}");
    assert_eq!(outcomes[2], Outcome::Failed(7, "empty".to_owned()));
    assert_eq!(response(&outcomes[3]), b"good");
}

#[test]
fn a_request_that_no_array_could_hold_is_not_even_read() {
    let Some(runtime) = load("huge", "Echo#bytes") else {
        return;
    };
    let huge = (std::ptr::without_provenance(1), 3 << 30);
    let small = (b"small".as_ptr(), 5);
    let outcomes = runtime.run_raw(vec![huge, small, huge, small], None);
    for (index, outcomes) in outcomes.iter().enumerate() {
        match (index % 2, &outcomes[..]) {
            (0, [Outcome::Failed(1, message)]) => {
                assert!(message.contains("3221225472 bytes"), "{message}");
            }
            (1, [Outcome::Response(data)]) => assert_eq!(data, b"small"),
            (_, other) => panic!("{index}: {other:?}"),
        }
    }
}

thread_local! {
    static INNER: RefCell<Option<Runtime>> = const { RefCell::new(None) };
}

/// A host may run a task on a thread that is in another one, of this runtime or of
/// another: nothing of the outer one is touched.
#[test]
fn a_call_inside_of_a_call() {
    let Some(outer) = load("nested", "Echo#buffer") else {
        return;
    };
    INNER.set(load("nested-inner", "Echo#bytes"));
    fn nested() {
        INNER.with_borrow(|inner| {
            let inner = inner.as_ref().unwrap();
            let outcomes = inner.run(&[b"inner 1", b"inner 2"]);
            assert_eq!(response(&outcomes[1]), b"inner 2");
        });
    }
    for _ in 0..20 {
        let outcomes = outer.run_and(&[b"outer 1", b"outer 2"], Some(nested));
        assert_eq!(response(&outcomes[0]), b"outer 1");
        assert_eq!(response(&outcomes[1]), b"outer 2");
    }
    INNER.set(None);
}

#[test]
fn threads_come_and_go() {
    let Some(classes) = classes("threads") else {
        return;
    };
    for _ in 0..3 {
        let runtime = Runtime::load(&classes, "Echo#bytes").unwrap();
        let runtime = Shared(runtime);
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    let runtime = &runtime;
                    for _ in 0..100 {
                        let outcomes = runtime.0.run(&[b"a", b"b"]);
                        assert_eq!(response(&outcomes[1]), b"b");
                    }
                });
            }
        });
    }
}

struct Shared(Runtime);

// SAFETY: a runtime's functions may be called from any thread.
unsafe impl Sync for Shared {}

#[test]
fn what_is_wrong_is_said_in_the_room_there_is() {
    let Some(classes) = classes("wrong") else {
        return;
    };
    let error = Runtime::load(&classes, "Nowhere").err().unwrap();
    assert!(
        error.contains("no class io.github.nonblockingffi.test.Nowhere"),
        "{error}"
    );
    let long = "x".repeat(2000);
    let error = Runtime::load(&classes, &long).err().unwrap();
    assert_eq!(error.len(), 511, "{error}");
}
