//! Java in the host for tests.
#![allow(dead_code, missing_docs, reason = "each user of it uses a part")]

use std::path::{Path, PathBuf};
use std::process::Command;

use nonblocking_ffi_plugin::sys::NBFFI_ABI_VERSION;
use nonblocking_ffi_plugin::testing::{Entry, Options, Outcome, Runtime, TestTask};

/// A runtime of a method of the test classes.
pub fn load(classes: &Path, method: &str) -> Result<Runtime, String> {
    load_in(classes, method, NBFFI_ABI_VERSION)
}

/// The same in a host of this version.
pub fn load_in(classes: &Path, method: &str, version: u32) -> Result<Runtime, String> {
    let fields = [
        ("class_path", classes.display().to_string()),
        ("entry", format!("io.github.nonblockingffi.test.{method}")),
    ];
    let config: String = fields
        .iter()
        .map(|(key, value)| format!("{key}:{}:{value}\n", value.len()))
        .collect();
    // SAFETY: the entry function of the plugin.
    let entry = unsafe { Entry::of(nonblocking_ffi_java::nbffi_plugin_entry) };
    Runtime::load_as(entry, "test", config, version)
}

/// One call of the plugin for each request that it does not take by itself. How
/// each of them ended: once, each.
pub fn run(runtime: &Runtime, requests: &[&[u8]]) -> Vec<Outcome> {
    let enqueue = |request: &&[u8]| runtime.enqueue(*request, Options::default());
    let tasks: Vec<_> = requests.iter().map(enqueue).collect();
    runtime.run_queued();
    let end = |task: TestTask| {
        let outcome = task.wait();
        assert_eq!(task.stale(), 0);
        outcome
    };
    tasks.into_iter().map(end).collect()
}

/// The test classes, in a folder of this name; `None` without a JDK.
pub fn classes(folder: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let into = Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder);
    let output = Command::new("javac")
        .args(["--release", "17", "-Xlint:all", "-Werror", "-sourcepath"])
        .arg(root.join("api/src/main/java"))
        .arg("-d")
        .arg(&into)
        .arg(root.join("tests/java/io/github/nonblockingffi/test/Echo.java"))
        .output();
    let Ok(output) = output else {
        println!("skipped: there is no JDK");
        return None;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    Some(into)
}
