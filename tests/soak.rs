//! Very many calls of every kind, many of which are given up: what is in use
//! comes back to where it was.
//!
//! `NBFFI_SOAK_CALLS` says how many; the default is short enough for every run
//! of the tests, a million is what a release has to stand.

use support::plugins::Count;
use support::{Nginx, Size, eventually, process};

/// Calls made by one request.
const PER_REQUEST: u64 = 5_000;
/// A quarter of the calls warms up; what is in use then is the base.
const WARM_UP: u64 = 4;

#[test]
fn soak() {
    let calls = Size::Calls.or(100_000);
    let requests = calls.div_ceil(PER_REQUEST).max(WARM_UP);
    let nginx = Nginx::builder()
        .setup("threads = 2, max_queue = 300")
        .location("/soak", include_str!("support/soak.lua"))
        .location("/collect", "collectgarbage() collectgarbage()")
        .start();
    let worker = nginx.worker();
    let rest = || {
        eventually("all slots are free again", || {
            nginx.figure("slots.used") == 0.0
        });
        nginx.text("/collect");
        (process::rss(worker), process::threads(worker).len())
    };

    let mut ended = 0.0;
    let mut kinds = std::collections::BTreeMap::new();
    let mut soak = |requests: u64| {
        let mut client = nginx.client();
        for _ in 0..requests {
            let response = client.get("/soak").unwrap();
            let text = response.text();
            assert_eq!(response.status, 200, "{text}\n{}", nginx.log());
            for (kind, number) in text.lines().filter_map(|line| line.split_once('=')) {
                let number: f64 = number.parse().unwrap();
                *kinds.entry(kind.to_owned()).or_insert(0.0) += number;
                ended += number;
            }
        }
    };
    soak(requests / WARM_UP);
    let (memory, threads) = rest();
    let slots = nginx.figure("slots.allocated");
    soak(requests - requests / WARM_UP);
    let (memory_after, threads_after) = rest();
    let grown = memory_after.saturating_sub(memory);
    assert!(grown < 8_000, "{grown} KiB more after {calls} calls");
    assert_eq!(threads_after, threads);
    let slots_after = nginx.figure("slots.allocated");
    assert!(
        slots_after <= slots * 2.0,
        "{slots} slots, then {slots_after}"
    );

    // Every call that was not killed has ended exactly once for Lua, every one
    // in the statistics, and no buffer was lost.
    let all = (requests * PER_REQUEST) as f64;
    assert_eq!(ended, all, "{kinds:?}");
    for kind in [
        "ok",
        "timeout",
        "cancelled",
        "killed",
        "cast",
        "queue overflow",
    ] {
        assert!(
            kinds.get(kind).is_some_and(|&number| number > 0.0),
            "{kind}: {kinds:?}"
        );
    }
    let stats = nginx.figures("/stats");
    assert_eq!(
        stats["runtimes.fault.calls"] + stats["runtimes.async.calls"],
        all,
        "{stats:#?}"
    );
    assert!(!kinds.contains_key("wrong"), "{kinds:?}");
    let counters = nginx.counters();
    eventually("late answers have come", || {
        counters.get(Count::Running) == 0
    });
    assert_eq!(counters.get(Count::Given), counters.get(Count::Released));
    assert_eq!(counters.get(Count::Bad), 0);
    // What ran is what was counted as having run.
    assert_eq!(counters.get(Count::Started), counters.get(Count::Ended));
}
