//! What the figures were measured on.

use std::fs;
use std::thread;

/// A machine.
#[derive(Debug)]
pub struct Machine {
    /// When, if that was said.
    pub date: Option<String>,
    /// Cores that may be used.
    pub cores: usize,
    /// The processor's name.
    pub processor: String,
    /// Linux's version.
    pub kernel: String,
    /// nginx's version.
    pub nginx: String,
}

impl Machine {
    /// This one.
    pub fn this(date: Option<String>, nginx: String) -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find(|line| line.starts_with("model name"));
        let name = model.and_then(|line| line.split_once(": "));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            date,
            cores: thread::available_parallelism().map_or(1, usize::from),
            processor: name.map_or("unknown", |(_, name)| name.trim()).to_owned(),
            kernel: kernel.trim().to_owned(),
            nginx,
        }
    }

    /// One line.
    pub fn text(&self) -> String {
        let date = self
            .date
            .as_deref()
            .map_or(String::new(), |date| format!(", {date}"));
        let Self {
            cores,
            processor,
            kernel,
            nginx,
            ..
        } = self;
        format!("{nginx}, 1 worker; {cores} cores, {processor}, Linux {kernel}{date}")
    }
}
