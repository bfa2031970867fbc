//! Plugins in C: compiled, and loaded into the host for tests.
#![allow(dead_code, missing_docs, reason = "each test file uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::Command;

use nonblocking_ffi_plugin::testing::{Entry, Runtime};

/// Compiles C in the manner of the Makefile into an object of the test's own
/// directory, with more flags.
pub fn cc(compiler: &str, flags: &[&str], source: &Path, output: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let output = Path::new(env!("CARGO_TARGET_TMPDIR")).join(output);
    let run = Command::new(compiler)
        .args(flags)
        .args(["-Wall", "-Wextra", "-Werror", "-O2", "-I"])
        .arg(root.join("include"))
        .arg("-o")
        .arg(&output)
        .arg(source)
        .arg("-lpthread")
        .output()
        .expect("a C compiler is needed");
    assert!(
        run.status.success(),
        "{compiler}: {}",
        String::from_utf8_lossy(&run.stderr)
    );
    output
}

/// Compiles a plugin in C to `output` in the test's own directory, and loads it.
pub fn load_c(source: &Path, output: &str) -> Runtime {
    let flags = ["-std=c99", "-pedantic", "-Wshadow", "-fPIC", "-shared"];
    let library = cc("cc", &flags, source, output);
    // SAFETY: it is the entry function of a plugin.
    let entry = unsafe { Entry::open(&library, c"nbffi_plugin_entry") };
    Runtime::load(entry, "").unwrap()
}
