//! Python in the host for tests. `NBFFI_PYTHON` says which: an interpreter or a
//! libpython, as the option `python`. So all versions can be tested, one after the
//! other.

use std::time::Duration;

use nonblocking_ffi_plugin::sys::NBFFI_ABI_VERSION;
use nonblocking_ffi_plugin::testing::{Entry, TestTask};
pub use nonblocking_ffi_plugin::testing::{Options, Outcome, Runtime};
use nonblocking_ffi_python::nbffi_plugin_entry;

/// Loads a runtime with these fields.
pub fn load(fields: &[(&str, &str)]) -> Result<Runtime, String> {
    load_in(fields, NBFFI_ABI_VERSION)
}

/// The same in a host of this version.
pub fn load_in(fields: &[(&str, &str)], version: u32) -> Result<Runtime, String> {
    let python = std::env::var("NBFFI_PYTHON").ok();
    let given = fields.iter().any(|(key, _)| *key == "python");
    let python = python.as_deref().filter(|_| !given);
    let fields = fields.iter().copied().chain(python.map(|p| ("python", p)));
    let config: String = fields
        .map(|(key, value)| format!("{key}:{}:{value}\n", value.len()))
        .collect();
    // SAFETY: the entry function of the plugin.
    let entry = unsafe { Entry::of(nbffi_plugin_entry) };
    Runtime::load_as(entry, "test", config, version)
}

/// What a task is submitted with that has so much time.
pub fn within(time: Duration) -> Options {
    Options {
        timeout: Some(time),
        ..Options::default()
    }
}

/// Waits for the end of a task, which must come once.
pub fn wait(task: &TestTask) -> Outcome {
    let outcome = task.wait();
    assert_eq!(
        task.stale(),
        0,
        "completions of task {} too many",
        task.id()
    );
    outcome
}
