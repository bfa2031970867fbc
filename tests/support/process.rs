//! What `/proc` says of a process, and signals.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

/// What nginx understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Reload.
    Hup,
    /// Quit: serve what is there, then exit.
    Quit,
    /// Stop at once.
    Term,
    /// What nobody can catch.
    Kill,
}

impl From<Signal> for i32 {
    fn from(signal: Signal) -> Self {
        match signal {
            Signal::Hup => libc::SIGHUP,
            Signal::Quit => libc::SIGQUIT,
            Signal::Term => libc::SIGTERM,
            Signal::Kill => libc::SIGKILL,
        }
    }
}

/// Sends a signal, by its name or number, to a process; it may be gone already.
pub fn signal(pid: i32, signal: impl Into<i32>) {
    // SAFETY: plain numbers; the pid is that of a process the test started.
    unsafe { libc::kill(pid, signal.into()) };
}

/// A set of signals of a process or of a thread: `SigBlk`, `SigIgn` or `SigCgt`.
pub fn signals(id: i32, key: &str) -> BTreeSet<i32> {
    let text = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let mask = line.map(|line| line.trim_start_matches(':').trim());
    let mask = mask.and_then(|mask| u64::from_str_radix(mask, 16).ok());
    let mask = mask.unwrap_or_else(|| panic!("{id}: no {key}"));
    let is_in = |signal: &i32| mask >> (signal - 1) & 1 == 1;
    (1..=64).filter(is_in).collect()
}

/// The fields of `/proc/<pid>/stat` behind the name: state, parent, ...
fn stat(pid: i32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields = &text[text.rfind(')')? + 1..];
    Some(fields.split_whitespace().map(str::to_owned).collect())
}

/// Whether a process runs; one that only waits to be reaped does not.
pub fn is_alive(pid: i32) -> bool {
    stat(pid).is_some_and(|fields| fields[0] != "Z" && fields[0] != "X")
}

/// For how long the main thread of a process sleeps: it has nothing to do, or waits
/// for something. What it computes, and how long it waits for a processor, is not
/// counted, so that a busy machine makes it hardly longer.
#[derive(Debug, Clone, Copy)]
pub struct Asleep {
    pid: i32,
    since: Instant,
    awake: Duration,
}

impl Asleep {
    /// Begins to count.
    pub fn since_now(pid: i32) -> Self {
        Self {
            pid,
            since: Instant::now(),
            awake: awake(pid),
        }
    }

    /// Whether the process is there.
    pub fn is_there(&self) -> bool {
        is_alive(self.pid)
    }

    /// The time so far.
    pub fn time(&self) -> Duration {
        let awake = awake(self.pid).saturating_sub(self.awake);
        self.since.elapsed().saturating_sub(awake)
    }
}

/// How long the main thread has run and waited for a processor. Zero if the kernel
/// does not say so, or if the process is gone.
fn awake(pid: i32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    let numbers = text.split_whitespace().take(2);
    Duration::from_nanos(numbers.filter_map(|n| n.parse::<u64>().ok()).sum())
}

/// The processes whose parent this is.
pub fn children(parent: i32) -> BTreeSet<i32> {
    let parent = parent.to_string();
    let entries = fs::read_dir("/proc").unwrap();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|&pid| stat(pid).is_some_and(|fields| fields[1] == parent && fields[0] != "Z"))
        .collect()
}

/// A number of `/proc/<pid>/status`.
pub fn status(pid: i32, key: &str) -> u64 {
    number_of(&format!("/proc/{pid}/status"), key)
}

fn number_of(path: &str, key: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let value = line.and_then(|line| line.trim_start_matches(':').split_whitespace().next());
    value.and_then(|value| value.parse().ok()).unwrap()
}

/// The memory that a process occupies, in KiB.
pub fn rss(pid: i32) -> u64 {
    status(pid, "VmRSS")
}

/// How many descriptors a process has open.
pub fn descriptors(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// The threads of a process: id and name.
pub fn threads(pid: i32) -> Vec<(i32, String)> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    ids.filter_map(|id: i32| {
        let name = fs::read_to_string(format!("/proc/{pid}/task/{id}/comm")).ok()?;
        Some((id, name.trim_end().to_owned()))
    })
    .collect()
}

/// The threads of a process that block a signal, but for those without a name, which
/// are for libraries. A thread that is being started blocks all for a moment.
pub fn blocking(pid: i32) -> Vec<String> {
    const NAMED: u64 = (1 << 31) - 1;
    let blocks = |id: i32| {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{id}/status")).ok()?;
        let mask = text.lines().find_map(|line| line.strip_prefix("SigBlk:"))?;
        let mask = u64::from_str_radix(mask.trim(), 16).unwrap();
        (mask & NAMED != 0).then_some(mask)
    };
    let threads = threads(pid).into_iter();
    let found = threads.filter_map(|(id, name)| Some(format!("{name}: {:x}", blocks(id)?)));
    found.collect()
}

/// How often each thread of a process has gone to sleep so far, by its id.
pub fn naps(pid: i32) -> Vec<(String, u64)> {
    let count = |(id, name): (i32, String)| {
        let path = format!("/proc/{pid}/task/{id}/status");
        (
            format!("{name} ({id})"),
            number_of(&path, "voluntary_ctxt_switches"),
        )
    };
    threads(pid).into_iter().map(count).collect()
}

/// Processor time that a process has used, in clock ticks.
pub fn ticks(pid: i32) -> u64 {
    let fields = stat(pid).unwrap();
    let number = |index: usize| fields[index].parse::<u64>().unwrap();
    number(11) + number(12)
}

/// The user and group of a process.
pub fn owner(pid: i32) -> (u64, u64) {
    (status(pid, "Uid"), status(pid, "Gid"))
}

/// A process and its threads, for the message of a failure.
pub fn describe(pid: i32) -> String {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command).replace('\0', " ");
    let threads: Vec<_> = threads(pid)
        .into_iter()
        .map(|(id, name)| {
            let path = format!("/proc/{pid}/task/{id}/wchan");
            let place = fs::read_to_string(path).unwrap_or_default();
            format!("{name}:{place}")
        })
        .collect();
    format!("{pid} {command} [{}]", threads.join(" "))
}

/// The user and group for nginx's workers, if the test runs as root.
pub fn unprivileged_user() -> Option<String> {
    // SAFETY: only asks.
    if unsafe { libc::geteuid() } != 0 {
        return None;
    }
    let groups = fs::read_to_string("/etc/group").unwrap();
    let has = |name: &str| {
        groups
            .lines()
            .any(|line| line.split(':').next() == Some(name))
    };
    let group = ["nogroup", "nobody"].into_iter().find(|name| has(name));
    Some(format!(
        "nobody {}",
        group.expect("a group nogroup or nobody")
    ))
}
