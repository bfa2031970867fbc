//! What an echo costs inside: from the host's `call` into Java and back, without
//! queues and wake-ups. `cargo bench -p nonblocking-ffi-java`; as a test it runs
//! briefly, to see that it works.
//!
//! The host here has one task at a time: `next` gives it again and again.

use std::cell::Cell;
use std::ffi::{c_char, c_int, c_void, CStr, CString};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr::{null, null_mut};
use std::time::Instant;

use nonblocking_ffi_plugin::sys::*;

/// Calls that are measured at a time, and how often that is done.
const BATCH: u64 = 1_000_000;
const ROUNDS: usize = 7;

#[repr(C)]
struct Host {
    table: nbffi_host,
    config: CString,
}

thread_local! {
    /// How many more tasks `next` gives, and the request of all.
    static LEFT: Cell<u64> = const { Cell::new(0) };
    static REQUEST: Cell<(*const u8, u64)> = const { Cell::new((null(), 0)) };
    static ANSWERED: Cell<u64> = const { Cell::new(0) };
}

unsafe extern "C" fn log(_: *const nbffi_host, _: c_int, msg: *const c_char, len: u64) {
    // SAFETY: the plugin's message.
    let text = unsafe { std::slice::from_raw_parts(msg.cast::<u8>(), len as usize) };
    eprintln!("{}", String::from_utf8_lossy(text));
}

unsafe extern "C" fn config(host: *const nbffi_host, len: *mut u64) -> *const c_char {
    // SAFETY: the table leads a Host; `len` is the plugin's.
    unsafe {
        let config = &(*host.cast::<Host>()).config;
        *len = config.as_bytes().len() as u64;
        config.as_ptr()
    }
}

unsafe extern "C" fn name(_: *const nbffi_host, len: *mut u64) -> *const c_char {
    // SAFETY: `len` is the plugin's.
    unsafe { *len = 4 };
    c"echo".as_ptr()
}

unsafe extern "C" fn deadline_ns(_: u64) -> u64 {
    NBFFI_NO_DEADLINE
}

unsafe extern "C" fn is_cancelled(_: u64) -> c_int {
    0
}

unsafe extern "C" fn alloc(_: u64, size: u64) -> *mut c_void {
    thread_local! {
        static ROOM: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    }
    ROOM.with(|room| {
        let mut vec = room.take();
        vec.resize(vec.len().max(size as usize), 0);
        let address = vec.as_mut_ptr().cast();
        room.set(vec);
        address
    })
}

unsafe extern "C" fn respond_buffer(_: u64, len: u64) -> c_int {
    respond_any(len)
}

unsafe extern "C" fn respond(_: u64, data: *const c_void, len: u64) -> c_int {
    thread_local! {
        static COPY: Cell<[u8; 64]> = const { Cell::new([0; 64]) };
    }
    let small = (len as usize).min(64);
    COPY.with(|copy| {
        // SAFETY: readable bytes, and room for them.
        unsafe { std::ptr::copy_nonoverlapping(data.cast::<u8>(), copy.as_ptr().cast(), small) };
    });
    respond_any(len)
}

fn respond_any(len: u64) -> c_int {
    assert_eq!(len, REQUEST.get().1);
    ANSWERED.set(ANSWERED.get() + 1);
    NBFFI_OK
}

unsafe extern "C" fn respond_owned(
    _: u64,
    _: *mut c_void,
    _: u64,
    _: Option<nbffi_release_fn>,
    _: *mut c_void,
) -> c_int {
    NBFFI_INVALID
}

unsafe extern "C" fn fail(_: u64, _: i64, msg: *const c_char, len: u64) -> c_int {
    // SAFETY: the plugin's message.
    let text = unsafe { std::slice::from_raw_parts(msg.cast::<u8>(), len as usize) };
    panic!("{}", String::from_utf8_lossy(text));
}

unsafe extern "C" fn set_status(_: u64, _: i64, _: *const c_char, _: u64) -> c_int {
    NBFFI_OK
}

unsafe extern "C" fn next(
    _: *const nbffi_host,
    task: *mut u64,
    request: *mut *const c_void,
    len: *mut u64,
) -> c_int {
    let left = LEFT.get();
    if left == 0 {
        return 0;
    }
    LEFT.set(left - 1);
    let (data, size) = REQUEST.get();
    // SAFETY: the plugin's.
    unsafe {
        *task = left;
        *request = data.cast();
        *len = size;
    }
    1
}

/// A runtime for a method of the test class `Echo`.
struct Runtime {
    host: Box<Host>,
    plugin: &'static nbffi_plugin,
    state: *mut c_void,
}

impl Runtime {
    fn load(classes: &Path, method: &str) -> Self {
        let fields = [
            ("class_path", classes.display().to_string()),
            (
                "entry",
                format!("io.github.nonblockingffi.test.Echo#{method}"),
            ),
        ];
        let config_text: String = fields
            .iter()
            .map(|(key, value)| format!("{key}:{}:{value}\n", value.len()))
            .collect();
        let host = Box::new(Host {
            table: nbffi_host {
                abi_version: NBFFI_ABI_VERSION,
                size: size_of::<nbffi_host>() as u32,
                log,
                config,
                name,
                deadline_ns,
                is_cancelled,
                alloc,
                respond_buffer,
                respond,
                respond_owned,
                fail,
                set_status,
                next,
            },
            config: CString::new(config_text).unwrap(),
        });
        // SAFETY: the entry function of a plugin.
        let plugin = unsafe { &*nonblocking_ffi_java::nbffi_plugin_entry(NBFFI_ABI_VERSION) };
        let (mut state, mut err) = (null_mut(), [0 as c_char; 4096]);
        let table: *const Host = &*host;
        // SAFETY: as the ABI has it; the table leads the Host, which stays.
        let status = unsafe {
            plugin.init.unwrap()(table.cast(), &mut state, err.as_mut_ptr(), err.len() as u64)
        };
        // SAFETY: terminated.
        let message = unsafe { CStr::from_ptr(err.as_ptr()) };
        assert_eq!(status, 0, "{message:?}");
        Self {
            host,
            plugin,
            state,
        }
    }

    /// One call of the plugin, which runs so many tasks.
    fn run(&self, request: &[u8], tasks: u64) {
        LEFT.set(tasks - 1);
        REQUEST.set((request.as_ptr(), request.len() as u64));
        ANSWERED.set(0);
        let len = request.len() as u64;
        // SAFETY: as the ABI has it.
        let status =
            unsafe { self.plugin.call.unwrap()(self.state, tasks, request.as_ptr().cast(), len) };
        assert_eq!((status, ANSWERED.get()), (0, tasks));
    }

    /// Nanoseconds of a call, the best of several rounds.
    fn measure(&self, request: &[u8], pulled: bool, calls: u64) -> f64 {
        let round = || {
            let start = Instant::now();
            if pulled {
                self.run(request, calls);
            } else {
                (0..calls).for_each(|_| self.run(request, 1));
            }
            start.elapsed().as_nanos() as f64 / calls as f64
        };
        (0..ROUNDS).map(|_| round()).fold(f64::MAX, f64::min)
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // SAFETY: the last call with this state; the host is there still.
        unsafe { self.plugin.close.unwrap()(self.state) };
        assert_eq!(self.host.table.size as usize, size_of::<nbffi_host>());
    }
}

/// The test classes; `None` without a JDK.
fn classes() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let into = Path::new(env!("CARGO_TARGET_TMPDIR")).join("echo-classes");
    let source = "tests/java/io/github/nonblockingffi/test/Echo.java";
    let status = Command::new("javac")
        .args(["--release", "17", "-sourcepath"])
        .arg(root.join("api/src/main/java"))
        .arg("-d")
        .arg(&into)
        .arg(root.join(source))
        .status()
        .ok()?;
    status.success().then_some(into)
}

fn main() {
    let Some(classes) = classes() else {
        return println!("no JDK: nothing is measured");
    };
    let full = std::env::args().any(|argument| argument == "--bench");
    let calls = if full { BATCH } else { 1000 };
    println!("{:34} {:>10} {:>10}", "ns per echo", "pulled", "one each");
    for method in ["bytes", "buffer", "withContext", "future"] {
        let runtime = Runtime::load(&classes, method);
        for size in [64, 1024, 4096, 8192, 100_000] {
            let request = vec![7; size];
            let calls = if size > 1024 { calls / 10 } else { calls };
            let (pulled, single) = (
                runtime.measure(&request, true, calls),
                runtime.measure(&request, false, calls),
            );
            println!(
                "{:34} {pulled:10.0} {single:10.0}",
                format!("{method}, {size} bytes")
            );
        }
    }
}
