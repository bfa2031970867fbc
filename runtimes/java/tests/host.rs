//! The plugin as a host sees it, without nginx.

mod support;

use std::cell::RefCell;

use nonblocking_ffi_plugin::testing::{Options, Outcome, Runtime};
use support::{classes, load_in, run};

fn load(folder: &str, method: &str) -> Option<Runtime> {
    Some(support::load(&classes(folder)?, method).unwrap())
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
            let outcomes = run(&runtime, &requests);
            for (request, outcome) in requests.iter().zip(&outcomes) {
                assert!(outcome.data() == *request, "{method} {}", request.len());
            }
        }
    }
}

#[test]
fn a_host_without_next_will_do() {
    let Some(classes) = classes("old") else {
        return;
    };
    let runtime = load_in(&classes, "Echo#bytes", 1 << 16).unwrap();
    let outcomes = run(&runtime, &[b"one", b"two", b"three"]);
    let responses: Vec<&[u8]> = outcomes.iter().map(Outcome::data).collect();
    assert_eq!(responses, [&b"one"[..], b"two", b"three"]);
}

#[test]
fn a_failure_is_that_of_its_task_alone() {
    let Some(runtime) = load("failure", "Echo#picky") else {
        return;
    };
    let outcomes = run(&runtime, &[b"good", b"bad", b"", b"good"]);
    assert_eq!(outcomes[0].data(), b"good");
    let (code, message) = outcomes[1].failure();
    assert_eq!(code, 1);
    assert!(
        message.starts_with("java.lang.IllegalArgumentException: bad\n\tat "),
        "{message}"
    );
    // Our own frames are nobody's business.
    assert!(!message.contains("nonblockingffi.runtime"), "{message}");
    assert_eq!(outcomes[2].failure(), (7, "empty"));
    assert_eq!(outcomes[3].data(), b"good");
}

#[test]
fn a_request_that_no_array_could_hold_is_not_even_read() {
    let Some(runtime) = load("huge", "Echo#bytes") else {
        return;
    };
    for _ in 0..2 {
        // Of pages that nobody touches.
        let outcome = runtime.call(vec![0; 3 << 30]);
        let (code, message) = outcome.failure();
        assert_eq!(code, 1);
        assert!(message.contains("3221225472 bytes"), "{message}");
        assert_eq!(runtime.call("small").data(), b"small");
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
            let outcomes = run(inner, &[b"inner 1", b"inner 2"]);
            assert_eq!(outcomes[1].data(), b"inner 2");
        });
    }
    for _ in 0..20 {
        let then = Options {
            then: Some(nested),
            ..Options::default()
        };
        let first = outer.enqueue("outer 1", then);
        let second = outer.enqueue("outer 2", Options::default());
        outer.run_queued();
        assert_eq!(first.wait().data(), b"outer 1");
        assert_eq!(second.wait().data(), b"outer 2");
    }
    INNER.set(None);
}

#[test]
fn threads_come_and_go() {
    let Some(classes) = classes("threads") else {
        return;
    };
    for _ in 0..3 {
        let runtime = support::load(&classes, "Echo#bytes").unwrap();
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let outcomes = run(&runtime, &[b"a", b"b"]);
                        assert_eq!(outcomes[1].data(), b"b");
                    }
                });
            }
        });
    }
}

#[test]
fn what_is_wrong_is_said_in_the_room_there_is() {
    let Some(classes) = classes("wrong") else {
        return;
    };
    let error = support::load(&classes, "Nowhere").err().unwrap();
    assert!(
        error.contains("no class io.github.nonblockingffi.test.Nowhere"),
        "{error}"
    );
    let long = "x".repeat(2000);
    let error = support::load(&classes, &long).err().unwrap();
    assert_eq!(error.len(), 511, "{error}");
}
