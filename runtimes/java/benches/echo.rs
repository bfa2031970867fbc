//! What an echo costs inside: from the host's `call` into Java and back, without
//! queues and wake-ups. `cargo bench -p nonblocking-ffi-java`; as a test it runs
//! briefly, to see that it works.

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::Instant;

use nonblocking_ffi_plugin::testing::Runtime;

/// Calls that are measured at a time, and how often that is done.
const BATCH: u64 = 1_000_000;
const ROUNDS: usize = 7;

/// Nanoseconds of a call, the best of several rounds.
fn measure(runtime: &Runtime, request: &[u8], calls: u64, batch: u64) -> f64 {
    let round = || {
        let start = Instant::now();
        runtime.repeat(request, calls, batch);
        start.elapsed().as_nanos() as f64 / calls as f64
    };
    (0..ROUNDS).map(|_| round()).fold(f64::MAX, f64::min)
}

fn main() {
    let Some(classes) = support::classes("bench-classes") else {
        return;
    };
    let full = std::env::args().any(|argument| argument == "--bench");
    println!("{:34} {:>10} {:>10}", "ns per echo", "pulled", "one each");
    for method in ["bytes", "buffer", "withContext", "future"] {
        let runtime = support::load(&classes, &format!("Echo#{method}")).unwrap();
        for size in [64, 1024, 4096, 8192, 100_000] {
            let request = vec![7; size];
            let calls = match (full, size) {
                (true, 0..=1024) => BATCH,
                (true, _) => BATCH / 10,
                (false, _) => 1000,
            };
            let pulled = measure(&runtime, &request, calls, calls);
            let single = measure(&runtime, &request, calls, 1);
            let what = format!("{method}, {size} bytes");
            println!("{what:34} {pulled:10.0} {single:10.0}");
        }
    }
}
