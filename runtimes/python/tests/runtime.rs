//! The plugin, driven through the ABI without nginx, with a real Python.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod host;

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use host::{Options, Outcome, Runtime, wait, within};
use nonblocking_ffi_plugin::Level;
use nonblocking_ffi_plugin::testing::{TestTask, Via};

const SOURCE: &str = r#"
import asyncio, sys, threading, time
import nonblocking_ffi
from nonblocking_ffi import Error

def echo(request):
    return request

def evaluate(request):
    return eval(request)

def spin(request):
    while True:
        pass

def shielded(request):
    with nonblocking_ffi.shield():
        while not nonblocking_ffi.cancelled():
            pass
        for _ in range(100_000):
            pass
        nonblocking_ffi.log("not before its end")
    return "done"

def fail(request):
    raise ValueError(request.decode())

class Object:
    def init(self, config):
        self.config = config
    def call(self, request):
        nonblocking_ffi.set_status(7, self.config)
        return self.config.encode("utf-8", "surrogateescape") + request
    def close(self):
        print("closed", self.config.upper())

async def aecho(request):
    await asyncio.sleep(0)
    return request

async def nap(request):
    await asyncio.sleep(60)

async def aspin(request):
    while True:
        pass

async def stubborn(request):
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        while True:
            pass

async def wrong(request):
    return 1.5

async def leave(request):
    raise SystemExit(1)
"#;

/// The folder of the module, made once.
fn folder() -> &'static str {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let make = || {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("python-runtime");
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("verbs.py"), SOURCE).unwrap();
        path
    };
    FOLDER.get_or_init(make).to_str().unwrap()
}

fn load_with(entry: &str, more: &[(&str, &str)]) -> Result<Runtime, String> {
    let mut fields = vec![("entry", entry), ("path", folder())];
    fields.extend(more);
    host::load(&fields)
}

fn load(entry: &str) -> Runtime {
    load_with(&format!("verbs:{entry}"), &[]).unwrap()
}

#[test]
fn results_of_every_kind() {
    let rt = load("evaluate");
    for (code, text) in [
        ("b'a\\0b'", "a\0b"),
        ("'gr\\u00fcn'", "grün"),
        ("None", ""),
        ("bytearray(b'xy')", "xy"),
        ("memoryview(b'abc')[1:]", "bc"),
        ("__import__('array').array('H', [0x6261])", "ab"),
    ] {
        assert_eq!(rt.call(code).text(), text, "{code}");
    }
    for (code, said) in [
        ("7", "TypeError: int was returned"),
        ("[b'x']", "TypeError: list was returned"),
        (
            "memoryview(b'abcd')[::2]",
            "TypeError: memoryview was returned",
        ),
        ("'\\udc80'", "UnicodeEncodeError"),
        ("1/0", "ZeroDivisionError: division by zero\nTraceback"),
        (
            "nothing",
            "NameError: name 'nothing' is not defined\nTraceback",
        ),
        ("sys.exit(3)", "SystemExit: 3\nTraceback"),
    ] {
        let outcome = rt.call(code);
        assert!(outcome.failure().1.starts_with(said), "{code}: {outcome:?}");
    }
    let error = rt.call("(_ for _ in ()).throw(Error(-404, 'none such'))");
    assert_eq!(error.failure(), (-404, "none such"));
}

#[test]
fn requests_of_every_size() {
    for entry in ["echo", "aecho"] {
        let rt = load(entry);
        for size in [0, 1, 100, 65_536, 65_537, 3_000_000] {
            let request: Vec<u8> = (0..size).map(|i| (i * 31 % 251) as u8).collect();
            let task = rt.submit(&request[..], Options::default());
            assert_eq!(wait(&task).data(), request);
        }
    }
}

#[test]
fn tasks_that_wait_are_pulled() {
    let rt = load("echo");
    for round in 0..3 {
        let enqueue = |i| rt.enqueue(format!("{round} {i}"), Options::default());
        let tasks: Vec<TestTask> = (1..200).map(enqueue).collect();
        assert_eq!(rt.call("first").text(), "first");
        // They have all ended in one call.
        for (i, task) in (1..).zip(&tasks) {
            assert_eq!(wait(task).text(), format!("{round} {i}"));
        }
    }
}

/// A host of version 1.0 has no function `next`.
#[test]
fn an_older_host_will_do() {
    let fields = [("entry", "verbs:echo"), ("path", folder())];
    let rt = host::load_in(&fields, 1 << 16).unwrap();
    let other = rt.enqueue("never asked for", Options::default());
    assert_eq!(rt.call("first").text(), "first");
    assert_eq!(other.outcome(), None);
}

#[test]
fn an_object_has_a_life_and_a_configuration() {
    let rt = load_with("verbs:Object", &[("config", "grün: 7\n")]).unwrap();
    assert_eq!(
        rt.call("!"),
        Outcome::Response {
            data: "grün: 7\n!".into(),
            status: Some((7, "grün: 7\n".to_owned())),
            via: Via::Copy,
        }
    );
    let other = load_with("verbs:Object", &[("config", "b")]).unwrap();
    assert_eq!(other.call("!").text(), "b!");
    drop(rt);
    assert_eq!(other.call("?").text(), "b?");
}

/// What becomes of a call with a short deadline that was begun: on a busy machine
/// it may be too late for that, then there is another one.
fn late(rt: &Runtime) -> Outcome {
    loop {
        let outcome = wait(&rt.submit("", within(Duration::from_millis(10))));
        match &outcome {
            Outcome::Failed { message, .. } if message.starts_with("the task was given up") => {}
            _ => return outcome,
        }
    }
}

#[test]
fn what_is_late_is_stopped_and_nothing_else() {
    let rt = load("spin");
    let echo = load("echo");
    for _ in 0..5 {
        let outcome = late(&rt);
        let (_, said) = outcome.failure();
        assert!(
            said.starts_with("nonblocking_ffi.Stopped: the deadline"),
            "{said}"
        );
        assert_eq!(echo.call("on the same thread").text(), "on the same thread");
    }
    let logged = rt.logged();
    assert!(logged.iter().all(|(level, _)| *level == Level::Warn));
    let tracebacks = logged.iter().filter(|(_, text)| text.contains("in spin"));
    assert_eq!(tracebacks.count(), 5, "{logged:?}");

    let task = rt.enqueue("", Options::default());
    std::thread::scope(|scope| {
        let runs = scope.spawn(|| rt.run_queued());
        task.cancel();
        assert!(wait(&task).failure().1.contains("Stopped"));
        runs.join().unwrap();
    });

    let rt = load("shielded");
    // On a busy machine it may be stopped before the shield.
    let was_shielded = || {
        let outcome = late(&rt);
        assert!(outcome.failure().1.contains("Stopped"), "{outcome:?}");
        let logged = rt.logged();
        logged.iter().any(|(_, text)| text == "not before its end")
    };
    while !was_shielded() {}
}

#[test]
fn a_loop_serves_many_at_a_time_and_cancels() {
    let rt = load("nap");
    let soon = within(Duration::from_millis(100));
    let tasks: Vec<TestTask> = (0..1000).map(|_| rt.submit("", soon.clone())).collect();
    let never = rt.submit("", Options::default());
    for task in &tasks {
        let outcome = wait(task);
        // Or it came so late that it was not begun.
        let expected = ["asyncio.exceptions.CancelledError", "the task was given up"];
        let (_, said) = outcome.failure();
        assert!(expected.iter().any(|text| said.starts_with(text)), "{said}");
    }
    never.cancel();
    assert!(wait(&never).failure().1.contains("CancelledError"));

    for entry in ["aspin", "stubborn"] {
        let outcome = late(&load(entry));
        assert!(outcome.failure().1.contains("Stopped"), "{outcome:?}");
    }
    let rt = load("wrong");
    assert!(
        rt.call("")
            .failure()
            .1
            .starts_with("TypeError: float was returned")
    );
    let rt = load("leave");
    for _ in 0..3 {
        assert!(rt.call("").failure().1.starts_with("SystemExit: 1"));
    }
}

#[test]
fn threads_call_at_the_same_time() {
    let echo = load("echo");
    let loop_ = load("aecho");
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (echo, loop_) = (&echo, &loop_);
            scope.spawn(move || {
                for i in 0..2000 {
                    let text = format!("{thread} {i}");
                    assert_eq!(echo.call(&text[..]).text(), text);
                    if i % 10 == 0 {
                        assert_eq!(loop_.call(&text[..]).text(), text);
                    }
                }
            });
        }
    });
}

#[test]
fn what_is_said_is_logged() {
    let rt = load("evaluate");
    rt.logged();
    rt.call("print('to', 'stdout')");
    rt.call("print('to stderr', file=sys.stderr)");
    rt.call("nonblocking_ffi.log('x' * 1000 + '\\n' + 'y' * 1000, 'notice')");
    let logged = rt.logged();
    assert_eq!(
        logged,
        [
            (Level::Notice, "to stdout".to_owned()),
            (Level::Warn, "to stderr".to_owned()),
            (Level::Notice, "x".repeat(1000)),
            (Level::Notice, "y".repeat(1000)),
        ]
    );
    rt.call("__import__('logging').error('an %s', 'error')");
    assert_eq!(rt.logged(), [(Level::Error, "an error".to_owned())]);
    let fail = load("fail");
    fail.call("loud");
    let logged = fail.logged();
    assert_eq!(logged[0].1, "ValueError: loud", "{logged:?}");
    assert!(logged[1].1.starts_with("Traceback"), "{logged:?}");
}

#[test]
fn what_cannot_be_loaded_is_an_error() {
    for (entry, said) in [
        (
            "verbs:nothing",
            "AttributeError: module \"verbs\" has no \"nothing\"",
        ),
        (
            "no_such_module:f",
            "ModuleNotFoundError: No module named 'no_such_module'",
        ),
        (
            "verbs",
            "ValueError: entry must be \"package.module:function\", got \"verbs\"",
        ),
    ] {
        let error = load_with(entry, &[]).map(drop).unwrap_err();
        assert_eq!(error, said);
    }
    let error = load_with("verbs:echo", &[("venv", "/nonexistent")]).map(drop);
    assert!(error.is_err() || std::env::var("NBFFI_PYTHON").is_ok());
    let error = host::load(&[("entry", "verbs:echo"), ("python", "/nonexistent")]);
    let error = error.map(drop).unwrap_err();
    assert!(error.contains("/nonexistent"), "{error}");
}

#[test]
fn code_in_c_lets_other_threads_in() {
    // Nothing of it is Python code that could be asked for the GIL.
    let rt = load_with("builtins:bytes.upper", &[]).unwrap();
    let echo = load("echo");
    let enqueue = |_| rt.enqueue([b'x'; 60_000], Options::default());
    let tasks: Vec<TestTask> = (0..5000).map(enqueue).collect();
    std::thread::scope(|scope| {
        let batch = scope.spawn(|| rt.run_queued());
        wait(&tasks[0]);
        let mut between = 0;
        while !batch.is_finished() {
            assert_eq!(echo.call("y").text(), "y");
            between += 1;
        }
        batch.join().unwrap();
        assert!(between >= 5, "{between} calls in between");
    });
}
