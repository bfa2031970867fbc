//! What a call costs inside of the host: nanoseconds of processor time per echo,
//! without queues, wake-ups and nginx. It is a host of plugins itself, with as
//! little to it as can be.
//!
//!     cargo run --release -p nonblocking-ffi-python --example echo_cost \
//!         [python] [seconds]
//!
//! `python` is the option of that name: an interpreter or a libpython.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::process::ExitCode;
use std::ptr::null_mut;
use std::time::{Duration, Instant};

use nonblocking_ffi_plugin::sys::*;
use nonblocking_ffi_python::nbffi_plugin_entry;

/// A function in Python, a method, and a function in C.
const ENTRIES: [&str; 3] = ["echo:function", "echo:Object", "builtins:bytes.upper"];
const SOURCE: &str = "\
def function(request):
    return request

class Object:
    def call(self, request):
        return request
";

/// A host table, and behind it what its functions need.
#[repr(C)]
struct Host {
    table: nbffi_host,
    config: Vec<u8>,
}

thread_local! {
    /// How many more tasks `next` gives away.
    static LEFT: Cell<u64> = const { Cell::new(0) };
    static REQUEST: Cell<(*const u8, usize)> = const { Cell::new((std::ptr::null(), 0)) };
    static ANSWERED: Cell<u64> = const { Cell::new(0) };
    static FAILED: Cell<u64> = const { Cell::new(0) };
}

unsafe extern "C" fn log(_: *const nbffi_host, level: c_int, text: *const c_char, len: u64) {
    // SAFETY: the plugin's text.
    let text = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), len as usize) };
    eprintln!("[{level}] {}", String::from_utf8_lossy(text));
}

unsafe extern "C" fn config(host: *const nbffi_host, len: *mut u64) -> *const c_char {
    // SAFETY: the table leads a Host, and `len` is writable.
    unsafe {
        let config = &(*host.cast::<Host>()).config;
        *len = config.len() as u64;
        config.as_ptr().cast()
    }
}

unsafe extern "C" fn name(_: *const nbffi_host, len: *mut u64) -> *const c_char {
    // SAFETY: writable.
    unsafe { *len = 4 };
    c"cost".as_ptr()
}

unsafe extern "C" fn deadline_ns(_: nbffi_task) -> u64 {
    NBFFI_NO_DEADLINE
}

unsafe extern "C" fn is_cancelled(_: nbffi_task) -> c_int {
    0
}

unsafe extern "C" fn alloc(_: nbffi_task, _: u64) -> *mut c_void {
    null_mut()
}

unsafe extern "C" fn respond_buffer(_: nbffi_task, _: u64) -> c_int {
    NBFFI_INVALID
}

unsafe extern "C" fn respond(_: nbffi_task, _: *const c_void, _: u64) -> c_int {
    ANSWERED.set(ANSWERED.get() + 1);
    NBFFI_OK
}

unsafe extern "C" fn respond_owned(
    _: nbffi_task,
    _: *mut c_void,
    _: u64,
    _: Option<nbffi_release_fn>,
    _: *mut c_void,
) -> c_int {
    NBFFI_INVALID
}

unsafe extern "C" fn fail(_: nbffi_task, _: i64, _: *const c_char, _: u64) -> c_int {
    FAILED.set(FAILED.get() + 1);
    NBFFI_OK
}

unsafe extern "C" fn set_status(_: nbffi_task, _: i64, _: *const c_char, _: u64) -> c_int {
    NBFFI_OK
}

unsafe extern "C" fn on_cancel(
    _task: u64,
    _function: Option<nbffi_cancel_fn>,
    _arg: *mut c_void,
) -> c_int {
    NBFFI_OK
}

/// This host never ends.
unsafe extern "C" fn at_exit(
    _host: *const nbffi_host,
    _function: Option<nbffi_exit_fn>,
    _arg: *mut c_void,
) -> c_int {
    NBFFI_OK
}

unsafe extern "C" fn next(
    _: *const nbffi_host,
    task: *mut nbffi_task,
    request: *mut *const c_void,
    len: *mut u64,
) -> c_int {
    let left = LEFT.get();
    if left == 0 {
        return 0;
    }
    LEFT.set(left - 1);
    let (data, length) = REQUEST.get();
    // SAFETY: the plugin's pointers are writable.
    unsafe {
        *task = left;
        *request = data.cast();
        *len = length as u64;
    }
    1
}

struct Runtime {
    _host: Box<Host>,
    plugin: &'static nbffi_plugin,
    state: *mut c_void,
}

impl Runtime {
    fn load(fields: &[(&str, &str)]) -> Result<Self, String> {
        let frame = |(key, value): &(&str, &str)| format!("{key}:{}:{value}\n", value.len());
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
                await_next: next,
                at_exit,
                on_cancel,
            },
            config: fields.iter().map(frame).collect::<String>().into_bytes(),
        });
        // SAFETY: the descriptor lives as long as the process.
        let plugin = unsafe { &*nbffi_plugin_entry(NBFFI_ABI_VERSION) };
        let (mut state, mut err) = (null_mut(), [0 as c_char; 4096]);
        let table: *const Host = &*host;
        let init = plugin.init.ok_or("no init")?;
        // SAFETY: as the header has it; the table lives as long as the runtime.
        let code = unsafe { init(table.cast(), &mut state, err.as_mut_ptr(), 4096) };
        if code != 0 {
            // SAFETY: init terminates its message.
            let text = unsafe { CStr::from_ptr(err.as_ptr()) };
            return Err(text.to_string_lossy().into_owned());
        }
        Ok(Self {
            _host: host,
            plugin,
            state,
        })
    }

    /// Runs `batch` tasks in one call.
    fn call(&self, request: &[u8], batch: u64) {
        LEFT.set(batch - 1);
        REQUEST.set((request.as_ptr(), request.len()));
        let call = self.plugin.call.expect("a plugin has a call function");
        // SAFETY: the request outlives the call, and so all tasks.
        unsafe {
            call(
                self.state,
                batch,
                request.as_ptr().cast(),
                request.len() as u64,
            )
        };
    }

    /// Nanoseconds per task.
    fn measure(&self, bytes: usize, batch: u64, limit: Duration) -> f64 {
        let request = vec![b'x'; bytes];
        self.call(&request, batch.min(1000));
        let (start, mut tasks) = (Instant::now(), 0);
        let before = processor_ns();
        while start.elapsed() < limit {
            for _ in 0..100_u64.div_ceil(batch) {
                self.call(&request, batch);
                tasks += batch;
            }
        }
        (processor_ns() - before) as f64 / tasks as f64
    }
}

/// What this thread has used: others may be at work on the machine.
fn processor_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writable; every thread has this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if let Some(close) = self.plugin.close {
            // SAFETY: the last call with this state.
            unsafe { close(self.state) };
        }
    }
}

fn run() -> Result<(), String> {
    let mut arguments = std::env::args().skip(1);
    let python = arguments.next().unwrap_or_default();
    let seconds: f64 = match arguments.next() {
        Some(text) => text.parse().map_err(|_| "seconds: a number expected")?,
        None => 1.0,
    };
    let limit = Duration::from_secs_f64(seconds);
    let folder = std::env::temp_dir().join(format!("nbffi-echo-cost-{}", std::process::id()));
    let io = |error: std::io::Error| error.to_string();
    std::fs::create_dir(&folder).map_err(io)?;
    std::fs::write(folder.join("echo.py"), SOURCE).map_err(io)?;
    let path = folder.display().to_string();
    let result = ENTRIES.iter().try_for_each(|entry| {
        let mut fields = vec![("entry", *entry), ("path", &path)];
        if !python.is_empty() {
            fields.push(("python", &python));
        }
        let runtime = Runtime::load(&fields)?;
        println!("{entry}: ns per call, by bytes, with 1, 16, 1000 tasks per entry into Python");
        for bytes in [0, 16, 64, 1024, 100_000, 10_000_000] {
            let limit = if bytes > 1_000_000 { limit / 2 } else { limit };
            let figures = [1, 16, 1000].map(|batch| {
                if bytes > 1_000_000 && batch > 16 {
                    return "-".to_owned();
                }
                format!("{:.0}", runtime.measure(bytes, batch, limit))
            });
            println!(
                "{bytes:>10} {:>10} {:>10} {:>10}",
                figures[0], figures[1], figures[2]
            );
        }
        Ok(())
    });
    let _ = std::fs::remove_dir_all(&folder);
    if FAILED.get() > 0 {
        return Err(format!("{} tasks failed", FAILED.get()));
    }
    result
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("echo_cost: {error}");
            ExitCode::FAILURE
        }
    }
}
