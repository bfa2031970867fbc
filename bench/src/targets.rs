//! What the library is to reach, as data.

use crate::results::{Results, number};

use crate::workloads::{
    EMPTY, GO_SERVER, JAVA_SERVER, NO_GRACE, NUMBERS, OURS, SLEEP_MS, SLEEP_POOLS, SOCKET, STRING,
    TABLE, THREAD_NUMBERS, THREAD_STRING, THREAD_TABLE,
};

/// Something to reach.
pub struct Target {
    /// What.
    pub text: &'static str,
    limit: Limit,
    value: fn(&Results) -> Option<f64>,
}

enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

/// Whether it was reached, with the figure.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    /// What it needs was left out.
    NotMeasured,
    /// It was.
    Reached(f64),
    /// It was not.
    Missed(f64),
}

impl Target {
    /// Whether it was reached.
    pub fn verdict(&self, results: &Results) -> Verdict {
        let Some(value) = (self.value)(results) else {
            return Verdict::NotMeasured;
        };
        let reached = match self.limit {
            Limit::AtMost(most) => value <= most,
            Limit::AtLeast(least) => value >= least,
        };
        if reached {
            Verdict::Reached(value)
        } else {
            Verdict::Missed(value)
        }
    }

    /// The limit in words.
    pub fn bound(&self) -> String {
        match self.limit {
            Limit::AtMost(most) => format!("at most {}", number(most)),
            Limit::AtLeast(least) => format!("at least {}", number(least)),
        }
    }
}

fn ratio(results: &Results, workload: &str, label: &str, reference: &str) -> Option<f64> {
    Some(results.median(workload, label, "")? / results.median(workload, reference, "")?)
}

fn worst(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    values
        .collect::<Option<Vec<f64>>>()?
        .into_iter()
        .reduce(f64::max)
}

fn cpu(results: &Results, label: &str) -> Option<f64> {
    Some(results.row("http", label, "")?.cpu()?.sum())
}

fn slower_than_idle(results: &Results, label: &str) -> Option<f64> {
    Some(results.median("computing", label, "p99")? / results.median("computing", "idle", "p99")?)
}

/// How many times as long as ours a call of `run_worker_thread` takes, for that
/// kind of arguments with which it is the least.
fn faster_than_threads(results: &Results, workload: &str) -> Option<f64> {
    let pairs = [
        (STRING, THREAD_STRING),
        (NUMBERS, THREAD_NUMBERS),
        (TABLE, THREAD_TABLE),
    ];
    let times = |(ours, theirs)| Some(-ratio(results, workload, theirs, ours)?);
    worst(pairs.into_iter().map(times)).map(|times| -times)
}

/// Each thread of a pool makes at least so many of the 200 calls/s that a
/// sleep of 5 ms allows.
const OF_IDEAL: f64 = 195.0 / (1000.0 / SLEEP_MS);

/// All targets.
pub const TARGETS: &[Target] = &[
    Target {
        text: "lone call with grace, 16 B: of the unix socket's time",
        limit: Limit::AtMost(1.0 / 30.0),
        value: |results| ratio(results, "lone-16", OURS, SOCKET),
    },
    Target {
        text: "lone call with grace, 100 KB: of the unix socket's time",
        limit: Limit::AtMost(1.0 / 10.0),
        value: |results| ratio(results, "lone-100k", OURS, SOCKET),
    },
    Target {
        text: "lone call without grace, 16 B: of the unix socket's time",
        limit: Limit::AtMost(2.0 / 3.0),
        value: |results| ratio(results, "lone-16", NO_GRACE, SOCKET),
    },
    Target {
        text: "lone call without grace, 100 KB: of the unix socket's time",
        limit: Limit::AtMost(2.0 / 3.0),
        value: |results| ratio(results, "lone-100k", NO_GRACE, SOCKET),
    },
    Target {
        text: "64 in flight: of the unix socket's time per call",
        limit: Limit::AtMost(1.0 / 12.0),
        value: |results| ratio(results, "flight-64", OURS, SOCKET),
    },
    Target {
        text: "1,000 and 10,000 in flight: time per call, of that with 64",
        limit: Limit::AtMost(1.5),
        value: |results| {
            let many = ["1,000 in flight", "10,000 in flight"].into_iter();
            worst(many.map(|label| ratio(results, "flight-many", label, "64 in flight")))
        },
    },
    Target {
        text: "one echo per HTTP request: requests/s, of the empty handler's",
        limit: Limit::AtLeast(0.80),
        value: |results| ratio(results, "http", OURS, EMPTY),
    },
    Target {
        text: "one echo per HTTP request: us of CPU over the empty handler's",
        limit: Limit::AtMost(2.0),
        value: |results| Some(cpu(results, OURS)? - cpu(results, EMPTY)?),
    },
    Target {
        text: "blocking plugin: of threads x 200 calls/s, the worst pool",
        limit: Limit::AtLeast(OF_IDEAL),
        value: |results| {
            let share = |(threads, label): (usize, &str)| {
                let rate = results.median("blocking", label, "")?;
                Some(-rate / (threads as f64 * 1000.0 / SLEEP_MS))
            };
            worst(SLEEP_POOLS.into_iter().map(share)).map(|share| -share)
        },
    },
    Target {
        text: "computing plugin, nice 10 (the default): p99 of a trivial request, of idle's",
        limit: Limit::AtMost(2.0),
        value: |results| slower_than_idle(results, "nice 10"),
    },
    Target {
        text: "Lua, one call at a time: run_worker_thread's time, of ours",
        limit: Limit::AtLeast(3.0),
        value: |results| faster_than_threads(results, "lua-lone"),
    },
    Target {
        text: "Lua, 64 in flight: run_worker_thread's time, of ours",
        limit: Limit::AtLeast(10.0),
        value: |results| faster_than_threads(results, "lua-64"),
    },
    Target {
        text: "Lua, JSON of 1 MB: us that a trivial request waits for its turn, p99 over idle's",
        limit: Limit::AtMost(1000.0),
        value: |results| {
            let of = |label| results.median("lua-json-stall", label, "p99");
            Some(of("ours, all of it")?.max(of("ours, a part of it")?) - of("idle")?)
        },
    },
    Target {
        text: "Go, one call at a time: calls/s, of the unix socket server's in Go",
        limit: Limit::AtLeast(4.0),
        value: |results| ratio(results, "go-lone", GO_SERVER, OURS),
    },
    Target {
        text: "Go, 64 in flight: calls/s, of the unix socket server's in Go",
        limit: Limit::AtLeast(8.0),
        value: |results| ratio(results, "go-64", GO_SERVER, OURS),
    },
    Target {
        text: "Java, one call at a time: calls/s, of the unix socket server's in Java",
        limit: Limit::AtLeast(4.0),
        value: |results| ratio(results, "java-lone", JAVA_SERVER, OURS),
    },
    Target {
        text: "Java, 64 in flight: calls/s, of the unix socket server's in Java",
        limit: Limit::AtLeast(8.0),
        value: |results| ratio(results, "java-64", JAVA_SERVER, OURS),
    },
    Target {
        text: "idle: context switches per second, all threads",
        limit: Limit::AtMost(0.0),
        value: |results| {
            let event_loop = results.median("idle", "idle", "event loop")?;
            Some(event_loop + results.median("idle", "idle", "other threads")?)
        },
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{Outcome, Sample};
    use crate::workloads::WORKLOADS;

    #[test]
    fn nothing_measured_nothing_said() {
        let nothing = Results::default();
        for target in TARGETS {
            assert_eq!(
                target.verdict(&nothing),
                Verdict::NotMeasured,
                "{}",
                target.text
            );
        }
    }

    #[test]
    fn each_target_finds_its_rows_and_the_worst_pool_counts() {
        let mut results = Results::default();
        for workload in WORKLOADS {
            let mut outcome = Outcome {
                workload,
                rows: Vec::new(),
            };
            for (index, contender) in workload.contenders.iter().enumerate() {
                let mut sample = Sample::of(100.0 * (1 << index) as f64);
                sample.cpu = Some(Default::default());
                let figures = ["", "p99", "event loop", "other threads"];
                let figures = figures.map(|name| (name, sample));
                outcome.add(contender.label, figures.to_vec());
            }
            results.outcomes.push(outcome);
        }
        for target in TARGETS {
            let verdict = target.verdict(&results);
            assert_ne!(verdict, Verdict::NotMeasured, "{}", target.text);
            if target.text.starts_with("blocking") {
                // 100 calls/s with one thread, 200 with two, ...
                assert_eq!(verdict, Verdict::Missed(0.5));
            }
        }
    }
}
