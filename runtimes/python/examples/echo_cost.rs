//! What a call costs inside of the host: nanoseconds of processor time per echo,
//! without queues, wake-ups and nginx.
//!
//!     cargo run --release -p nonblocking-ffi-python --example echo_cost \
//!         [python] [seconds]
//!
//! `python` is the option of that name: an interpreter or a libpython.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use nonblocking_ffi_plugin::testing::{Entry, Runtime};
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

/// Nanoseconds per task.
fn measure(runtime: &Runtime, bytes: usize, batch: u64, limit: Duration) -> f64 {
    let request = vec![b'x'; bytes];
    runtime.repeat(&request, batch.min(1000), batch);
    let (start, mut tasks) = (Instant::now(), 0);
    let before = processor_ns();
    while start.elapsed() < limit {
        let times = 100_u64.div_ceil(batch) * batch;
        runtime.repeat(&request, times, batch);
        tasks += times;
    }
    (processor_ns() - before) as f64 / tasks as f64
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
        let frame = |(key, value): &(&str, &str)| format!("{key}:{}:{value}\n", value.len());
        let config: String = fields.iter().map(frame).collect();
        // SAFETY: the entry function of the plugin.
        let runtime = Runtime::load(unsafe { Entry::of(nbffi_plugin_entry) }, config)?;
        println!("{entry}: ns per call, by bytes, with 1, 16, 1000 tasks per entry into Python");
        for bytes in [0, 16, 64, 1024, 100_000, 10_000_000] {
            let limit = if bytes > 1_000_000 { limit / 2 } else { limit };
            let figures = [1, 16, 1000].map(|batch| {
                if bytes > 1_000_000 && batch > 16 {
                    return "-".to_owned();
                }
                format!("{:.0}", measure(&runtime, bytes, batch, limit))
            });
            println!(
                "{bytes:>10} {:>10} {:>10} {:>10}",
                figures[0], figures[1], figures[2]
            );
        }
        Ok(())
    });
    let _ = std::fs::remove_dir_all(&folder);
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
