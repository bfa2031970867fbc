//! The C plugins printed in docs/plugins.md, compiled and called. (Its Rust
//! plugins are doc tests of this crate.)
#![allow(missing_docs, reason = "a test")]

mod support;

use std::path::Path;

use nonblocking_ffi_plugin::testing::{Options, Outcome};

#[test]
fn c_plugins_of_the_guide() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let guide = std::fs::read_to_string(root.join("docs/plugins.md")).unwrap();
    let blocks: Vec<&str> = guide
        .split("\n```c\n")
        .skip(1)
        .map(|rest| rest.split("\n```").next().unwrap())
        .collect();
    let runtimes: Vec<_> = blocks
        .iter()
        .enumerate()
        .map(|(i, block)| {
            let source = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("guide_{i}.c"));
            std::fs::write(&source, format!("{block}\n")).unwrap();
            support::load_c(&source, &format!("libguide_{i}.so"))
        })
        .collect();
    let [upper, relay, batch, patient] = runtimes.as_slice() else {
        panic!("{} plugins in C", runtimes.len());
    };
    assert_eq!(upper.call(b"hello, World").data(), b"HELLO, WORLD");
    assert_eq!(upper.call(b"").failure(), (400, "nothing to do"));
    for i in 0..10_000_u32 {
        assert_eq!(relay.call(i.to_ne_bytes()).data(), i.to_ne_bytes());
    }
    assert_eq!(batch.call(b"one of several").data(), b"one of several");
    let task = patient.submit("for ever", Options::default());
    assert_eq!(task.outcome(), None);
    task.cancel();
    assert_eq!(task.wait().failure(), (499, "nobody waits"));
    let small = Options {
        max_response: 2,
        ..Default::default()
    };
    assert_eq!(relay.call_with(b"long", small), Outcome::TooLarge);
}
