//! What `/proc` says of nginx's worker: the processor time and the context
//! switches of its event loop, and of all its other threads.

use std::fs;
use std::ops::Sub;

use crate::Result;

/// A figure of the worker's main thread, and the sum of those of its others:
/// pool threads of ours, and of nginx.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Split {
    /// The event loop's.
    pub event_loop: f64,
    /// All other threads'.
    pub pools: f64,
}

impl Split {
    /// Both figures, divided.
    pub fn per(self, divisor: f64) -> Self {
        Self {
            event_loop: self.event_loop / divisor,
            pools: self.pools / divisor,
        }
    }

    /// Both together.
    pub fn sum(self) -> f64 {
        self.event_loop + self.pools
    }
}

impl Sub for Split {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            event_loop: self.event_loop - other.event_loop,
            pools: self.pools - other.pools,
        }
    }
}

/// While there is one, this thread runs as soon as it can: whoever times
/// requests to a busy machine would otherwise wait for a core and count that as
/// the server's time. Without the right to that (`CAP_SYS_NICE`), it does
/// nothing.
#[derive(Debug)]
pub struct FirstInLine;

impl FirstInLine {
    /// From now on.
    pub fn begin() -> Self {
        schedule(libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, 1);
        Self
    }
}

impl Drop for FirstInLine {
    fn drop(&mut self) {
        schedule(libc::SCHED_OTHER, 0);
    }
}

fn schedule(policy: libc::c_int, priority: libc::c_int) {
    let parameters = libc::sched_param {
        sched_priority: priority,
    };
    // SAFETY: for the calling thread, with a structure that is whole. It may be
    // refused.
    unsafe { libc::sched_setscheduler(0, policy, &parameters) };
}

/// The processor time that a process has used, in microseconds.
///
/// `schedstat` counts nanoseconds; where the kernel does not have it, `stat`
/// counts ticks, of 10 ms mostly.
pub fn cpu_us(pid: i32) -> Result<Split> {
    split(pid, |task| {
        if let Ok(text) = fs::read_to_string(format!("{task}/schedstat")) {
            let ns = text.split_whitespace().next()?.parse::<f64>().ok()?;
            return Some(ns / 1e3);
        }
        let text = fs::read_to_string(format!("{task}/stat")).ok()?;
        // Behind the name: state, parent, ...
        let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_whitespace().collect();
        let ticks: f64 = fields[11].parse::<f64>().ok()? + fields[12].parse::<f64>().ok()?;
        Some(ticks * 1e6 / ticks_per_second())
    })
}

/// How often the threads of a process have gone to sleep or were made to.
pub fn switches(pid: i32) -> Result<Split> {
    split(pid, |task| {
        let text = fs::read_to_string(format!("{task}/status")).ok()?;
        let counts = text
            .lines()
            .filter_map(|line| line.split_once("_ctxt_switches:"));
        counts
            .map(|(_, count)| count.trim().parse::<f64>().ok())
            .sum()
    })
}

fn split(pid: i32, figure: impl Fn(&str) -> Option<f64>) -> Result<Split> {
    let mut split = Split::default();
    let folder = format!("/proc/{pid}/task");
    let entries = fs::read_dir(&folder).map_err(|error| format!("{folder}: {error}"))?;
    for entry in entries {
        let name = entry?.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let part = if id == pid {
            &mut split.event_loop
        } else {
            &mut split.pools
        };
        // A thread may end between our looks.
        *part += figure(&format!("{folder}/{id}")).unwrap_or(0.0);
    }
    Ok(split)
}

fn ticks_per_second() -> f64 {
    // SAFETY: only asks.
    unsafe { libc::sysconf(libc::_SC_CLK_TCK) as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_our_own_processor_time_and_switches() {
        let pid = std::process::id() as i32;
        let before = cpu_us(pid).unwrap();
        let start = std::time::Instant::now();
        let used = || (cpu_us(pid).unwrap() - before).pools;
        // Tests run on threads of their own. However busy the machine is, some
        // time has come together some time.
        while used() < 20_000.0 {
            assert!(start.elapsed().as_secs() < 60, "{}", used());
        }
        let naps = switches(pid).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(5));
        assert!((switches(pid).unwrap() - naps).sum() >= 1.0);
    }
}
