//! The shared objects that tests load, and the counters of the plugin `fault`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use crate::root;

/// Whether a language's runtime was built; says so if not.
pub fn has(language: &str) -> bool {
    let file = match language {
        "python" => "target/release/libnonblocking_ffi_python.so",
        "go" => "target/test-plugins/libgo_verbs.so",
        "java" => "target/release/libnonblocking_ffi_java.so",
        _ => return true,
    };
    let there = root().join(file).exists();
    if !there {
        println!("{language} is left out: there is no {file}");
    }
    there
}

/// Puts `lib<name>.so` into a folder.
pub fn install(name: &str, folder: &Path) {
    let path = find(name);
    fs::copy(&path, folder.join(format!("lib{name}.so")))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// The shared object of a name: the core, a plugin of `tests/plugins`, which is
/// compiled if need be, or an example.
pub fn find(name: &str) -> PathBuf {
    static FOUND: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    let make = || match name {
        "nonblocking_ffi" => core(root()),
        "nonblocking_ffi_python" | "nonblocking_ffi_java" => built(
            root(),
            &format!("target/release/lib{name}.so"),
            "make runtimes",
        ),
        "panics" => build_panics(),
        _ => {
            let source = root().join(format!("tests/plugins/{name}.c"));
            if source.exists() {
                let library = temporary().join(format!("lib{name}.so"));
                compile(&source, &library, &[]);
                library
            } else {
                built(
                    root(),
                    &format!("target/examples/lib{name}.so"),
                    "make examples",
                )
            }
        }
    };
    found.entry(name.to_owned()).or_insert_with(make).clone()
}

/// The core of a repository.
pub fn core(root: &Path) -> PathBuf {
    built(root, "target/release/libnonblocking_ffi.so", "make build")
}

fn built(root: &Path, path: &str, command: &str) -> PathBuf {
    let path = root.join(path);
    assert!(
        path.exists(),
        "{} is missing: run `{command}` first (or `make test`, which does)",
        path.display()
    );
    path
}

/// Compiles a plugin in C; the header is found.
pub fn compile(source: &Path, library: &Path, options: &[&str]) {
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    // In place by renaming: a test that runs beside this one may use the old one.
    let fresh = library.with_extension(format!("{}.new", std::process::id()));
    let status = Command::new(&compiler)
        .args(["-std=c99", "-fPIC", "-shared", "-pthread", "-O2", "-g"])
        .args(["-Wall", "-Wextra"])
        .args(options)
        .arg("-I")
        .arg(root().join("include"))
        .arg(source)
        .arg("-o")
        .arg(&fresh)
        .status();
    let status = status.unwrap_or_else(|error| panic!("{compiler}: {error}"));
    assert!(
        status.success(),
        "{compiler} {}: {status}",
        source.display()
    );
    fs::rename(&fresh, library).unwrap();
}

/// Where what is built for tests stays.
pub fn temporary() -> PathBuf {
    let folder = root().join("target/tmp");
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// The Rust plugin that panics is an example of the author crate, which
/// `cargo test --test NAME` does not build.
fn build_panics() -> PathBuf {
    let target = temporary().join("panics");
    let output = Command::new(env!("CARGO"))
        .args([
            "build",
            "--quiet",
            "--locked",
            "-p",
            "nonblocking-ffi-plugin",
        ])
        .args(["--example", "panics", "--target-dir"])
        .arg(&target)
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    target.join("debug/examples/libpanics.so")
}

/// The counters that the plugin `fault` keeps in a file, by their place in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// Tasks that were run.
    Started,
    /// Tasks that the plugin was done with.
    Ended,
    /// Tasks that found out that they were cancelled.
    Cancelled,
    /// Buffers handed over with `respond_owned`.
    Given,
    /// Of these, released.
    Released,
    /// Second responses to a task that were refused.
    Refused,
    /// Runtimes initialised.
    Inits,
    /// Runtimes closed.
    Closes,
    /// Tasks that run now.
    Running,
    /// The most tasks that ran at a time.
    MostRunning,
    /// Requests that made no sense.
    Bad,
}

/// Behind so many counters come those of the ids.
const HEADER: u64 = 16;
/// Ids that can be counted.
pub const IDS: u64 = 1 << 21;

/// The file of counters.
#[derive(Debug)]
pub struct Counters {
    file: File,
}

impl Counters {
    /// A file of zeros that everybody may write to.
    pub fn create(path: &Path) -> Self {
        let options = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path);
        let file = options.unwrap();
        file.set_len((HEADER + IDS) * 8).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap();
        Self { file }
    }

    fn read(&self, place: u64) -> u64 {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, place * 8).unwrap();
        u64::from_ne_bytes(bytes)
    }

    /// One of the counters.
    pub fn get(&self, count: Count) -> u64 {
        self.read(count as u64)
    }

    /// How often the requests with the ids 1 to `last` have run.
    pub fn runs(&self, last: u64) -> Vec<u64> {
        let mut bytes = vec![0; last as usize * 8];
        self.file
            .read_exact_at(&mut bytes, (HEADER + 1) * 8)
            .unwrap();
        let words = bytes.chunks_exact(8);
        words
            .map(|word| u64::from_ne_bytes(word.try_into().unwrap()))
            .collect()
    }
}
