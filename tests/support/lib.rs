//! A real nginx for a test: starts it, talks to it, and sees how it ends.
//!
//! [`Nginx`] is a guard. When it goes out of scope it stops nginx and fails the
//! test if anything was left behind or went wrong that the test did not expect:
//! alerts in the log, workers that did not exit with code 0, socket files,
//! processes.
//!
//! | file          | role |
//! |---------------|------|
//! | `lib.rs`      | the guard: talk, signal, stop, the final look |
//! | [`builder`]   | configuration and start |
//! | [`folder`]    | temporary folders |
//! | [`idle`]      | whether a worker sleeps |
//! | [`http`]      | a client with keep-alive, and a load of many |
//! | [`process`]   | what `/proc` says of a process; signals |
//! | [`plugins`]   | compiling test plugins; their counters |
//! | [`redis`]     | a Redis server |
//! | `harness.lua` | what the Lua code of the configurations shares |
pub mod builder;
pub mod folder;
pub mod http;
pub mod idle;
pub mod plugins;
pub mod process;
pub mod redis;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use builder::Builder;
use folder::{Folder, set_mode};
use http::{Client, Response};
use plugins::Counters;
use process::{Asleep, Signal};

/// How long anything may take that is not timed: generous, since it only
/// matters when the test fails.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// A worker exits within a second after its last call has ended: so long, at most,
/// may its main thread sleep until it is gone. What it waits for, another thread or
/// a client, may need longer on a busy machine.
pub const EXIT_PROMISE: Duration = Duration::from_secs(5);

/// What `make soak` makes large: how much of something a test does.
#[derive(Debug, Clone, Copy)]
pub enum Size {
    /// Calls, `NBFFI_SOAK_CALLS`.
    Calls,
    /// Runtimes that are loaded and closed, `NBFFI_SOAK_CYCLES`.
    Cycles,
    /// Reloads of nginx, or kills of workers, `NBFFI_SOAK_RELOADS`.
    Reloads,
}

impl Size {
    /// What the environment says, or else what is short enough for every run of
    /// the tests.
    pub fn or(self, usual: u64) -> u64 {
        let name = match self {
            Self::Calls => "NBFFI_SOAK_CALLS",
            Self::Cycles => "NBFFI_SOAK_CYCLES",
            Self::Reloads => "NBFFI_SOAK_RELOADS",
        };
        std::env::var(name).map_or(usual, |text| {
            let number = text.parse();
            number.unwrap_or_else(|_| panic!("{name} is no number: {text:?}"))
        })
    }
}

/// The repository.
pub fn root() -> &'static Path {
    let support = Path::new(env!("CARGO_MANIFEST_DIR"));
    support
        .ancestors()
        .nth(2)
        .expect("tests/support of the repository")
}

/// Calls `some` with parts of a number, none larger than `most`, until all of it
/// was done: a request that does very much would exceed the client's patience.
pub fn in_turns<T>(all: u64, most: u64, mut some: impl FnMut(u64) -> T) {
    let mut left = all;
    while left > 0 {
        let now = left.min(most);
        some(now);
        left -= now;
    }
}

/// Waits until `condition` holds, and fails if that takes too long.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A running nginx.
pub struct Nginx {
    master: Child,
    dir: Folder,
    port: u16,
    counters: Counters,
    allowed: Vec<String>,
    crashes_allowed: usize,
    stopped: bool,
}

impl Nginx {
    /// An nginx with one worker and no locations but the harness's own.
    pub fn builder() -> Builder {
        Builder::default()
    }

    fn new(master: Child, dir: Folder, port: u16, counters: Counters) -> Self {
        Self {
            master,
            dir,
            port,
            counters,
            allowed: Vec::new(),
            crashes_allowed: 0,
            stopped: false,
        }
    }

    /// False if the port was taken.
    fn wait_until_ready(&mut self, workers: usize) -> bool {
        let start = Instant::now();
        loop {
            if let Some(status) = self.master.try_wait().unwrap() {
                let log = self.log();
                if log.contains("Address already in use") {
                    return false;
                }
                panic!("nginx did not start: {status}\n{log}{}", self.output());
            }
            let answers = || {
                Client::new(self.port)
                    .get("/ready")
                    .is_ok_and(|r| r.status == 204)
            };
            if self.workers().len() == workers && answers() {
                return true;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "nginx does not answer:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The counters of the plugin `fault`, in all workers, also dead ones.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The folder of this nginx: `prefix`, `logs`, `sockets`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A client with a connection of its own.
    pub fn client(&self) -> Client {
        Client::new(self.port)
    }

    /// One request on a connection of its own.
    pub fn get(&self, path: &str) -> Response {
        self.client().get(path).unwrap_or_else(|error| {
            panic!("GET {path}: {error}\n{}", self.log());
        })
    }

    /// The body of what must be a success.
    pub fn text(&self, path: &str) -> String {
        let response = self.get(path);
        assert_eq!(response.status, 200, "GET {path}\n{}", self.log());
        response.text()
    }

    /// One request with a body.
    pub fn post(&self, path: &str, body: &[u8]) -> Response {
        self.client().post(path, body).unwrap_or_else(|error| {
            panic!("POST {path}: {error}\n{}", self.log());
        })
    }

    /// The figures that a location printed with `harness.dump`.
    pub fn figures(&self, path: &str) -> BTreeMap<String, f64> {
        let text = self.text(path);
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        pairs
            .filter_map(|(key, value)| Some((key.to_owned(), value.parse().ok()?)))
            .collect()
    }

    /// One figure of `nbffi.stats()`; 0 if there is none.
    pub fn figure(&self, key: &str) -> f64 {
        self.figures("/stats").get(key).copied().unwrap_or(0.0)
    }

    /// The master's process id.
    pub fn master(&self) -> i32 {
        self.master.id() as i32
    }

    /// The workers' process ids, those that are shutting down included.
    pub fn workers(&self) -> BTreeSet<i32> {
        process::children(self.master())
    }

    /// The one worker.
    pub fn worker(&self) -> i32 {
        let workers = self.workers();
        assert_eq!(workers.len(), 1, "one worker expected");
        workers.into_iter().next().unwrap()
    }

    /// Sends a signal to the master.
    pub fn signal(&self, signal: Signal) {
        process::signal(self.master(), signal);
    }

    /// Reloads, and returns the workers of before once new ones answer.
    pub fn reload(&self) -> BTreeSet<i32> {
        let before = self.workers();
        self.signal(Signal::Hup);
        eventually("new workers after a reload", || {
            self.workers().difference(&before).count() >= 1
        });
        before
    }

    /// Reloads, and waits until the workers of before are gone, none of which must
    /// sleep for longer than that.
    pub fn replace_workers(&self, limit: Duration) {
        for worker in self.reload() {
            self.wait_gone(worker, limit);
        }
    }

    /// Ends all workers by a reload, by SIGTERM or by SIGQUIT, depending on `round`.
    /// Waits until they are gone, as [`Nginx::replace_workers`], and returns them.
    pub fn end_workers(&self, round: usize, limit: Duration) -> BTreeSet<i32> {
        let workers = self.workers();
        let all = |signal: Signal| workers.iter().for_each(|&pid| process::signal(pid, signal));
        match round % 3 {
            0 => self.signal(Signal::Hup),
            1 => all(Signal::Term),
            _ => all(Signal::Quit),
        }
        for &worker in &workers {
            self.wait_gone(worker, limit);
        }
        workers
    }

    /// Sends requests, paths and answers, at the same time, and SIGQUIT when they have
    /// begun: each must get its answer.
    pub fn quit_while(&self, requests: &[(String, String)], begun: impl Fn(&Self) -> bool) {
        std::thread::scope(|scope| {
            let nginx = &*self;
            let calls = requests
                .iter()
                .map(|(path, _)| scope.spawn(move || nginx.text(path)));
            let calls: Vec<_> = calls.collect();
            eventually("all calls have begun", || begun(self));
            self.signal(Signal::Quit);
            for (call, (path, answer)) in calls.into_iter().zip(requests) {
                assert_eq!(call.join().unwrap(), *answer, "{path}");
            }
        });
    }

    /// Asks for the same so many times, on one connection; each must be a success.
    pub fn repeat(&self, path: &str, times: u64, mut look: impl FnMut(&str)) {
        let mut client = self.client();
        for _ in 0..times {
            let response = client.get(path).unwrap();
            let text = response.text();
            assert_eq!(response.status, 200, "{text}\n{}", self.log());
            look(&text);
        }
    }

    /// The error log so far.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.dir.join("logs/error.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn output(&self) -> String {
        fs::read_to_string(self.dir.join("logs/output")).unwrap_or_default()
    }

    /// Expects an alert with this text in the log.
    pub fn allow(&mut self, text: &str) {
        self.allowed.push(text.to_owned());
    }

    /// Expects this many workers to be killed by `kill -9`.
    pub fn allow_kills(&mut self, number: usize) {
        self.allow_crashes(number, "exited on signal 9");
    }

    /// Expects this many workers to end with this text in the log.
    pub fn allow_crashes(&mut self, number: usize, text: &str) {
        self.crashes_allowed += number;
        self.allow(text);
    }

    /// How many workers have exited with code 0 so far.
    pub fn clean_exits(&self) -> usize {
        self.log().matches(" exited with code 0").count()
    }

    /// Waits until a worker is gone, which must not sleep for longer than that.
    pub fn wait_gone(&self, worker: i32, limit: Duration) {
        let start = Instant::now();
        let asleep = Asleep::since_now(worker);
        while process::is_alive(worker) {
            let slept = asleep.time();
            assert!(
                slept < limit && start.elapsed() < PATIENCE,
                "worker {worker} did not exit within {:?}, of which it slept for {slept:?} (at \
                 most {limit:?}); its threads:\n{}\n{}",
                start.elapsed(),
                process::describe(worker),
                self.log()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Stops nginx with a signal, and waits for it.
    pub fn stop(&mut self, signal: Signal, limit: Duration) {
        self.signal(signal);
        self.wait_stopped(limit);
    }

    /// Waits until the master, which was told to, has ended. No worker must sleep
    /// for longer than that.
    pub fn wait_stopped(&mut self, limit: Duration) {
        let start = Instant::now();
        let workers: Vec<_> = self.workers().into_iter().map(Asleep::since_now).collect();
        loop {
            if let Some(status) = self.master.try_wait().unwrap() {
                self.stopped = true;
                assert!(
                    status.success(),
                    "nginx ended with {status}\n{}",
                    self.log()
                );
                return;
            }
            let mut left = workers.iter().filter(|worker| worker.is_there());
            if left.any(|worker| worker.time() > limit) || start.elapsed() > PATIENCE {
                let workers: Vec<_> = self.workers().into_iter().map(process::describe).collect();
                panic!(
                    "nginx did not stop within {:?}, and no worker may sleep for longer than \
                     {limit:?}; workers:\n{}\n{}",
                    start.elapsed(),
                    workers.join("\n"),
                    self.log()
                );
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// What must hold at the end of every test, one line for each that does
    /// not.
    fn complaints(&self) -> Vec<String> {
        let log = self.log();
        let mut complaints = Vec::new();
        let mut started = BTreeSet::new();
        let mut ended = BTreeSet::new();
        let mut killed = 0;
        for line in log.lines() {
            let severe = ["[emerg]", "[alert]", "[crit]"]
                .iter()
                .any(|level| line.contains(level));
            if severe && !self.allowed.iter().any(|text| line.contains(text)) {
                complaints.push(line.to_owned());
            }
            if let Some(pid) = number_after(line, "start worker process ") {
                started.insert(pid);
            }
            let Some(pid) = number_after(line, "worker process ") else {
                continue;
            };
            if line.contains(" exited on signal ") {
                killed += 1;
                ended.insert(pid);
            } else if let Some(code) = number_after(line, " exited with code ") {
                ended.insert(pid);
                if code != 0 && !self.allowed.iter().any(|text| line.contains(text)) {
                    complaints.push(line.to_owned());
                }
            }
        }
        if killed != self.crashes_allowed {
            let allowed = self.crashes_allowed;
            complaints.push(format!(
                "{killed} workers ended on a signal, expected {allowed}"
            ));
        }
        for pid in started.difference(&ended) {
            complaints.push(format!("worker {pid} has not exited"));
        }
        for pid in started {
            if process::is_alive(pid) {
                complaints.push(format!("process {pid} is left: {}", process::describe(pid)));
            }
        }
        for entry in fs::read_dir(self.dir.join("sockets")).unwrap() {
            complaints.push(format!("left behind: {}", entry.unwrap().path().display()));
        }
        complaints
    }

    /// Stops nginx in whatever way.
    fn discard(&mut self) {
        if !self.stopped {
            let workers = self.workers();
            let _ = self.master.kill();
            let _ = self.master.wait();
            for worker in workers {
                process::signal(worker, Signal::Kill);
            }
            self.stopped = true;
        }
        // It may have been read-only, and is to be removed.
        set_mode(&self.dir.join("prefix"), 0o755);
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let start = log.len().saturating_sub(8000);
            let tail = String::from_utf8_lossy(&log.as_bytes()[start..]).into_owned();
            eprintln!("error log of {}:\n{tail}", self.dir.display());
            self.discard();
            return;
        }
        let mut complaints = Vec::new();
        if !self.stopped {
            self.signal(Signal::Quit);
            let start = Instant::now();
            while self.master.try_wait().unwrap().is_none() && start.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(2));
            }
            self.stopped = self.master.try_wait().unwrap().is_some();
            if !self.stopped {
                complaints.push(format!("nginx did not quit within {PATIENCE:?}"));
            }
        }
        complaints.extend(self.complaints());
        self.discard();
        assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    }
}

/// The number behind a text in a line of the log.
fn number_after(line: &str, text: &str) -> Option<i32> {
    let rest = &line[line.find(text)? + text.len()..];
    let end = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    rest[..end].parse().ok()
}
