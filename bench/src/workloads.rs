//! The workloads, as data. What `ask` names is in `lua/contenders.lua`, which
//! also says which answer is the right one; every answer is checked.

use crate::languages::Language;

/// A group of contenders that do the same, measured in turns.
#[derive(Debug)]
pub struct Workload {
    /// Short, for `--only`, JSON and the targets.
    pub name: &'static str,
    /// What is done.
    pub title: &'static str,
    /// What the figures count.
    pub unit: Unit,
    /// The label of the contender that the ratios refer to.
    pub reference: &'static str,
    /// Who does it.
    pub contenders: &'static [Contender],
}

impl Workload {
    /// The language that it is about, if it needs one.
    pub fn language(&self) -> Option<Language> {
        let mut all = Language::ALL.into_iter();
        all.find(|language| self.name.starts_with(language.prefix()))
    }
}

/// One row of a workload.
#[derive(Debug)]
pub struct Contender {
    /// Its name in the table.
    pub label: &'static str,
    /// How it is measured.
    pub run: Run,
}

/// Ways to measure.
#[derive(Debug, Clone, Copy)]
pub enum Run {
    /// Calls one after another in each of so many light threads of one handler.
    Loop {
        /// The contender's name in Lua.
        ask: &'static str,
        /// The size of a request.
        bytes: usize,
        /// How many light threads.
        threads: usize,
    },
    /// One call for each HTTP request, `wrk` with 64 connections.
    Once {
        /// The location.
        location: &'static str,
    },
    /// The time that a trivial request takes while something computes.
    Latency {
        /// The contender that computes; none to measure an idle nginx.
        load: Option<&'static str>,
        /// How many of its calls are in flight; 0 for twice as many as there
        /// are cores.
        in_flight: usize,
    },
    /// The context switches of a worker that nobody asks anything.
    Idle,
    /// What the statistics cost, in a loop of this process.
    Statistics(Statistics),
}

/// Parts of the statistics.
#[derive(Debug, Clone, Copy)]
pub enum Statistics {
    /// One duration goes into a histogram.
    Record,
    /// Three do, as for each call: queue, run and total time.
    RecordThree,
    /// The clock is read.
    Clock,
}

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Microseconds per call.
    MicrosPerCall,
    /// Calls per second.
    CallsPerSecond,
    /// Requests per second.
    RequestsPerSecond,
    /// Microseconds per request.
    MicrosPerRequest,
    /// Context switches per second.
    SwitchesPerSecond,
    /// Nanoseconds.
    Nanos,
}

impl Unit {
    /// Whether more is better.
    pub fn is_rate(self) -> bool {
        matches!(self, Self::CallsPerSecond | Self::RequestsPerSecond)
    }

    /// For the table.
    pub fn text(self) -> &'static str {
        match self {
            Self::MicrosPerCall => "us/call",
            Self::CallsPerSecond => "calls/s",
            Self::RequestsPerSecond => "requests/s",
            Self::MicrosPerRequest => "us/request",
            Self::SwitchesPerSecond => "switches/s",
            Self::Nanos => "ns",
        }
    }
}

const fn looped(label: &'static str, ask: &'static str, bytes: usize, threads: usize) -> Contender {
    Contender {
        label,
        run: Run::Loop {
            ask,
            bytes,
            threads,
        },
    }
}

const fn once(label: &'static str, location: &'static str) -> Contender {
    Contender {
        label,
        run: Run::Once { location },
    }
}

const fn latency(label: &'static str, load: Option<&'static str>) -> Contender {
    Contender {
        label,
        run: Run::Latency { load, in_flight: 0 },
    }
}

const fn one_by_one(label: &'static str, load: &'static str) -> Contender {
    Contender {
        label,
        run: Run::Latency {
            load: Some(load),
            in_flight: 1,
        },
    }
}

const fn statistics(label: &'static str, part: Statistics) -> Contender {
    Contender {
        label,
        run: Run::Statistics(part),
    }
}

/// The labels that the targets use.
pub const EMPTY: &str = "empty handler";
/// See [`EMPTY`].
pub const OURS: &str = "ours";
/// See [`EMPTY`].
pub const NO_GRACE: &str = "ours, without grace";
/// See [`EMPTY`].
pub const SOCKET: &str = "unix socket";
/// Labels of workloads with Lua in the pool.
pub const STRING: &str = "ours, a string";
/// See [`STRING`].
pub const NUMBERS: &str = "ours, two numbers";
/// See [`STRING`].
pub const TABLE: &str = "ours, nested tables";
/// See [`STRING`].
pub const THREAD_STRING: &str = "run_worker_thread, a string";
/// See [`STRING`].
pub const THREAD_NUMBERS: &str = "run_worker_thread, two numbers";
/// See [`STRING`].
pub const THREAD_TABLE: &str = "run_worker_thread, nested tables";
/// Labels of workloads with other languages.
pub const GO_SERVER: &str = "unix socket, Go net";
/// See [`GO_SERVER`].
pub const JAVA_SERVER: &str = "unix socket, Java NIO";
const ASYNCIO: &str = "unix socket, asyncio";
const SOCKETSERVER: &str = "unix socket, socketserver";
const GOROUTINES: &str = "ours, in goroutines";
const BUFFER: &str = "ours, ByteBuffer";
const ASYNC_DEF: &str = "ours, async def";
const FUNCTION: &str = "Lua function";
const YIELD: &str = "yield once";
const THREAD: &str = "run_worker_thread";

const SMALL: usize = 16;
const LARGE: usize = 100 * 1024;

/// A blocking plugin's calls take this long.
pub const SLEEP_MS: f64 = 5.0;
/// The sizes of its pools, and the labels of their rows.
pub const SLEEP_POOLS: [(usize, &str); 5] = [
    (1, "1 thread"),
    (2, "2 threads"),
    (4, "4 threads"),
    (8, "8 threads"),
    (16, "16 threads"),
];

/// All workloads, in the order in which they are run. Languages are behind the
/// look at an idle worker: their runtimes have threads of their own.
pub const WORKLOADS: &[Workload] = &[
    Workload {
        name: "lone-16",
        title: "one call at a time, 16 bytes",
        unit: Unit::MicrosPerCall,
        reference: SOCKET,
        contenders: &[
            looped(FUNCTION, "empty", SMALL, 1),
            looped(YIELD, "yield", SMALL, 1),
            looped(OURS, "ours", SMALL, 1),
            looped(NO_GRACE, "ours-no-grace", SMALL, 1),
            looped(THREAD, "thread", SMALL, 1),
            looped(SOCKET, "socket", SMALL, 1),
        ],
    },
    Workload {
        name: "lone-100k",
        title: "one call at a time, 100 KB, the response is the request",
        unit: Unit::MicrosPerCall,
        reference: SOCKET,
        contenders: &[
            looped(OURS, "ours", LARGE, 1),
            looped(NO_GRACE, "ours-no-grace", LARGE, 1),
            looped(THREAD, "thread", LARGE, 1),
            looped(SOCKET, "socket", LARGE, 1),
        ],
    },
    Workload {
        name: "lone-100k-copy",
        title: "one call at a time, 100 KB, the response is a new string",
        unit: Unit::MicrosPerCall,
        reference: SOCKET,
        contenders: &[
            looped(OURS, "copy", LARGE, 1),
            looped(NO_GRACE, "copy-no-grace", LARGE, 1),
            looped(THREAD, "thread-copy", LARGE, 1),
            looped(SOCKET, "socket-copy", LARGE, 1),
        ],
    },
    Workload {
        name: "flight-64",
        title: "64 calls in flight, 16 bytes",
        unit: Unit::MicrosPerCall,
        reference: SOCKET,
        contenders: &[
            looped(YIELD, "yield", SMALL, 64),
            looped(OURS, "ours", SMALL, 64),
            looped(NO_GRACE, "ours-no-grace", SMALL, 64),
            looped(THREAD, "thread", SMALL, 64),
            looped(SOCKET, "socket", SMALL, 64),
        ],
    },
    Workload {
        name: "flight-many",
        title: "ours with more and more calls in flight, 16 bytes",
        unit: Unit::MicrosPerCall,
        reference: "64 in flight",
        contenders: &[
            looped("64 in flight", "ours", SMALL, 64),
            looped("1,000 in flight", "ours", SMALL, 1_000),
            looped("10,000 in flight", "ours", SMALL, 10_000),
        ],
    },
    Workload {
        name: "http",
        title: "one call per HTTP request, wrk with 64 connections",
        unit: Unit::RequestsPerSecond,
        reference: EMPTY,
        contenders: &[
            once(EMPTY, "/once/empty"),
            once(YIELD, "/once/yield"),
            once(OURS, "/once/ours"),
            once(THREAD, "/once/thread"),
            once(SOCKET, "/once/socket"),
        ],
    },
    Workload {
        name: "blocking",
        title: "a plugin that sleeps for 5 ms, by the threads of its pool",
        unit: Unit::CallsPerSecond,
        reference: SLEEP_POOLS[0].1,
        // Twice as many calls in flight as there are threads.
        contenders: &[
            looped(SLEEP_POOLS[0].1, "sleep-1", SMALL, 2),
            looped(SLEEP_POOLS[1].1, "sleep-2", SMALL, 4),
            looped(SLEEP_POOLS[2].1, "sleep-4", SMALL, 8),
            looped(SLEEP_POOLS[3].1, "sleep-8", SMALL, 16),
            looped(SLEEP_POOLS[4].1, "sleep-16", SMALL, 32),
        ],
    },
    Workload {
        name: "computing",
        title: "a trivial request while a plugin computes on all threads of its pool",
        unit: Unit::MicrosPerRequest,
        reference: "idle",
        contenders: &[
            latency("idle", None),
            latency("nice 0", Some("spin-0")),
            latency("nice 10", Some("spin-10")),
            latency("nice 19", Some("spin-19")),
        ],
    },
    Workload {
        name: "lua-lone",
        title: "Lua: one call at a time of a function that returns its arguments",
        unit: Unit::MicrosPerCall,
        reference: THREAD_STRING,
        contenders: &[
            looped(STRING, "lua-string", SMALL, 1),
            looped(NUMBERS, "lua-numbers", SMALL, 1),
            looped(TABLE, "lua-table", SMALL, 1),
            looped(THREAD_STRING, "thread", SMALL, 1),
            looped(THREAD_NUMBERS, "thread-numbers", SMALL, 1),
            looped(THREAD_TABLE, "thread-table", SMALL, 1),
        ],
    },
    Workload {
        name: "lua-64",
        title: "Lua: 64 calls in flight of a function that returns its arguments",
        unit: Unit::MicrosPerCall,
        reference: THREAD_STRING,
        contenders: &[
            looped(STRING, "lua-string", SMALL, 64),
            looped(NUMBERS, "lua-numbers", SMALL, 64),
            looped(TABLE, "lua-table", SMALL, 64),
            looped(THREAD_STRING, "thread", SMALL, 64),
            looped(THREAD_NUMBERS, "thread-numbers", SMALL, 64),
            looped(THREAD_TABLE, "thread-table", SMALL, 64),
        ],
    },
    Workload {
        name: "lua-key",
        title: "Lua: 16 calls in flight of a function that uses a cache of its VM, on 4 threads",
        unit: Unit::MicrosPerCall,
        reference: "any thread",
        contenders: &[
            looped("any thread", "cached", SMALL, 16),
            looped("the thread of its key", "cached-key", SMALL, 16),
            looped("any thread, one call", "cached", SMALL, 1),
            looped("the thread of its key, one call", "cached-key", SMALL, 1),
        ],
    },
    Workload {
        name: "lua-codec",
        title: "Lua: the nested tables as bytes and back, in the event loop",
        unit: Unit::MicrosPerCall,
        reference: "string.buffer",
        contenders: &[
            looped("string.buffer", "codec-buffer", SMALL, 1),
            looped("cjson", "codec-cjson", SMALL, 1),
            looped("Lua, for old LuaJIT", "codec-lua", SMALL, 1),
        ],
    },
    Workload {
        name: "lua-json",
        title: "Lua: decoding JSON of 1 MB",
        unit: Unit::MicrosPerCall,
        reference: "in the event loop",
        contenders: &[
            looped("ours, all of it", "json-all", SMALL, 1),
            looped("ours, a part of it", "json-part", SMALL, 1),
            looped("run_worker_thread, all of it", "thread-json-all", SMALL, 1),
            looped("run_worker_thread, a part", "thread-json-part", SMALL, 1),
            looped("in the event loop", "loop-json", SMALL, 1),
        ],
    },
    Workload {
        name: "lua-json-stall",
        title: "Lua: a trivial request while one JSON of 1 MB after the other is decoded",
        unit: Unit::MicrosPerRequest,
        reference: "idle",
        contenders: &[
            latency("idle", None),
            one_by_one("ours, all of it", "json-all"),
            one_by_one("ours, a part of it", "json-part"),
            one_by_one("run_worker_thread, all of it", "thread-json-all"),
            one_by_one("run_worker_thread, a part", "thread-json-part"),
            one_by_one("in the event loop", "loop-json"),
        ],
    },
    Workload {
        name: "idle",
        title: "context switches of an idle worker that has served all of the above",
        unit: Unit::SwitchesPerSecond,
        reference: "",
        contenders: &[Contender {
            label: "idle",
            run: Run::Idle,
        }],
    },
    Workload {
        name: "statistics",
        title: "what statistics cost",
        unit: Unit::Nanos,
        reference: "",
        contenders: &[
            statistics("one duration", Statistics::Record),
            statistics("three, as for each call", Statistics::RecordThree),
            statistics("reading the clock", Statistics::Clock),
        ],
    },
    Workload {
        name: "go-lone",
        title: "Go: one call at a time, 16 bytes",
        unit: Unit::MicrosPerCall,
        reference: GO_SERVER,
        contenders: &[
            looped(OURS, "go", SMALL, 1),
            looped(GOROUTINES, "go-goroutine", SMALL, 1),
            looped(GO_SERVER, "socket-go", SMALL, 1),
        ],
    },
    Workload {
        name: "go-64",
        title: "Go: 64 calls in flight, 16 bytes",
        unit: Unit::MicrosPerCall,
        reference: GO_SERVER,
        contenders: &[
            looped(OURS, "go", SMALL, 64),
            looped(GOROUTINES, "go-goroutine", SMALL, 64),
            looped(GO_SERVER, "socket-go", SMALL, 64),
        ],
    },
    Workload {
        name: "java-lone",
        title: "Java: one call at a time, 16 bytes",
        unit: Unit::MicrosPerCall,
        reference: JAVA_SERVER,
        contenders: &[
            looped(OURS, "java", SMALL, 1),
            looped(BUFFER, "java-buffer", SMALL, 1),
            looped(JAVA_SERVER, "socket-java", SMALL, 1),
        ],
    },
    Workload {
        name: "java-64",
        title: "Java: 64 calls in flight, 16 bytes",
        unit: Unit::MicrosPerCall,
        reference: JAVA_SERVER,
        contenders: &[
            looped(OURS, "java", SMALL, 64),
            looped(BUFFER, "java-buffer", SMALL, 64),
            looped(JAVA_SERVER, "socket-java", SMALL, 64),
        ],
    },
    Workload {
        name: "python-lone",
        title: "Python: one call at a time, 16 bytes",
        unit: Unit::MicrosPerCall,
        reference: ASYNCIO,
        contenders: &[
            looped(OURS, "python", SMALL, 1),
            looped(ASYNC_DEF, "python-async", SMALL, 1),
            looped(ASYNCIO, "socket-asyncio", SMALL, 1),
            looped(SOCKETSERVER, "socket-threads", SMALL, 1),
        ],
    },
    Workload {
        name: "python-64",
        title: "Python: 64 calls in flight, 16 bytes",
        unit: Unit::MicrosPerCall,
        reference: ASYNCIO,
        contenders: &[
            looped(OURS, "python", SMALL, 64),
            looped(ASYNC_DEF, "python-async", SMALL, 64),
            looped(ASYNCIO, "socket-asyncio", SMALL, 64),
            looped(SOCKETSERVER, "socket-threads", SMALL, 64),
        ],
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_references_exist() {
        let names: BTreeSet<_> = WORKLOADS.iter().map(|workload| workload.name).collect();
        assert_eq!(names.len(), WORKLOADS.len());
        for workload in WORKLOADS {
            let labels: BTreeSet<_> = workload.contenders.iter().map(|one| one.label).collect();
            assert_eq!(labels.len(), workload.contenders.len(), "{workload:?}");
            let reference = workload.reference;
            assert!(
                reference.is_empty() || labels.contains(reference),
                "{workload:?}"
            );
        }
    }

    #[test]
    fn each_language_has_two_workloads() {
        for language in Language::ALL {
            let about = |workload: &&Workload| workload.language() == Some(language);
            assert_eq!(WORKLOADS.iter().filter(about).count(), 2, "{language:?}");
        }
    }

    #[test]
    fn pools_have_twice_as_many_calls_as_threads() {
        let blocking = WORKLOADS
            .iter()
            .find(|workload| workload.name == "blocking");
        let contenders = blocking.unwrap().contenders;
        assert_eq!(contenders.len(), SLEEP_POOLS.len());
        for (contender, (size, label)) in contenders.iter().zip(SLEEP_POOLS) {
            assert_eq!(contender.label, label);
            let Run::Loop { ask, threads, .. } = contender.run else {
                panic!("{contender:?}");
            };
            assert_eq!(ask, format!("sleep-{size}"));
            assert_eq!(threads, 2 * size);
        }
    }
}
