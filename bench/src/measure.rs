//! Measuring: workloads in, results out.
//!
//! All contenders of a workload take turns, round by round, so that whatever
//! else the machine does meanwhile hits all of them alike. Before the first
//! round each of them runs until it is warm, and until it is known how many
//! calls take long enough to be timed.

use std::hint::black_box;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nonblocking_ffi_core::stats::Histogram;
use support::http::Client;

use crate::Result;
use crate::nginx::{Nginx, get};
use crate::process::{self, FirstInLine, Split};
use crate::results::{Outcome, Sample};
use crate::workloads::{Contender, Run, Statistics, Unit, Workload};

/// Set when the bench is to end early. Relaxed: nothing else goes with it.
pub static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// How long pool threads may take to go to sleep when a measurement is over.
const SETTLE: Duration = Duration::from_millis(2);
/// Requests per second of the latency workload.
const RATE: u32 = 500;
/// How long it takes a load to be one.
const SATURATE: Duration = Duration::from_millis(100);
/// Calls in flight while a language gets warm.
const WARM_THREADS: usize = 64;
/// An upper bound for calls of a loop: what keeps LuaJIT's numbers exact.
const MOST_CALLS: f64 = 1e9;

/// How long things are measured.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Measurements per contender.
    pub rounds: usize,
    /// One loop of calls that use a processor.
    pub looped: Duration,
    /// One loop of calls that sleep.
    pub sleeping: Duration,
    /// One run of wrk, whole seconds.
    pub wrk: Duration,
    /// One load of the latency workload.
    pub latency: Duration,
    /// One look at an idle worker.
    pub idle: Duration,
    /// Calls before a language is warm: Java compiles what has run that often.
    pub warm_calls: u64,
}

impl Effort {
    /// For figures that mean something.
    pub fn full(rounds: usize) -> Self {
        Self {
            rounds,
            looped: Duration::from_millis(80),
            sleeping: Duration::from_secs(1),
            wrk: Duration::from_secs(2),
            latency: Duration::from_secs(2),
            idle: Duration::from_secs(2),
            warm_calls: 20_000,
        }
    }

    /// To see that everything works.
    pub fn quick() -> Self {
        Self {
            rounds: 1,
            looped: Duration::from_millis(5),
            sleeping: Duration::from_millis(50),
            wrk: Duration::from_secs(1),
            latency: Duration::from_millis(200),
            idle: Duration::from_millis(300),
            warm_calls: 0,
        }
    }
}

/// Measures workloads.
pub struct Meter<'a> {
    nginx: &'a Nginx,
    effort: Effort,
}

impl<'a> Meter<'a> {
    /// In this nginx.
    pub fn new(nginx: &'a Nginx, effort: Effort) -> Self {
        Self { nginx, effort }
    }

    /// Returns how many calls each light thread of a loop is to make.
    fn warm_up(&self, workload: &Workload, contender: &Contender) -> Result<u64> {
        match contender.run {
            Run::Loop {
                ask,
                bytes,
                threads,
            } => {
                let warm = self.effort.warm_calls / WARM_THREADS as u64;
                if workload.language().is_some() && warm > 0 {
                    self.ask(ask, bytes, WARM_THREADS, warm)?;
                }
                let target = if workload.unit == Unit::CallsPerSecond {
                    self.effort.sleeping
                } else {
                    self.effort.looped
                };
                self.calibrate(ask, bytes, threads, target)
            }
            Run::Once { location } => {
                wrk(self.nginx.port(), location, Duration::from_secs(1))?;
                Ok(0)
            }
            Run::Latency { load, .. } => {
                // Makes its pool and loads its plugin.
                if let Some(load) = load {
                    self.calibrate(load, 16, 1, self.effort.looped)?;
                }
                Ok(0)
            }
            Run::Idle | Run::Statistics(_) => Ok(0),
        }
    }

    fn calibrate(&self, ask: &str, bytes: usize, threads: usize, target: Duration) -> Result<u64> {
        let target_ns = target.as_nanos() as f64;
        let mut calls = 1.0_f64;
        loop {
            let timed = self.ask(ask, bytes, threads, calls as u64)?;
            let wanted = calls * target_ns / timed.ns.max(1.0);
            // A loop gets faster while LuaJIT compiles it: slowly, then.
            if timed.ns >= target_ns / 2.0 || calls >= MOST_CALLS {
                return Ok(wanted.ceil().clamp(1.0, MOST_CALLS) as u64);
            }
            calls = wanted
                .clamp(calls * 2.0, calls * 32.0)
                .ceil()
                .min(MOST_CALLS);
        }
    }

    fn run(
        &self,
        workload: &Workload,
        contender: &Contender,
        calls: u64,
    ) -> Result<Vec<(&'static str, Sample)>> {
        if INTERRUPTED.load(Ordering::Relaxed) {
            return Err("interrupted".into());
        }
        match contender.run {
            Run::Loop {
                ask,
                bytes,
                threads,
            } => {
                let before = process::cpu_us(self.nginx.worker())?;
                let timed = self.ask(ask, bytes, threads, calls)?;
                let cpu = Split {
                    event_loop: timed.cpu_ns / 1e3,
                    pools: self.cpu_since(before)?.pools,
                };
                let value = if workload.unit == Unit::CallsPerSecond {
                    timed.calls / (timed.ns / 1e9)
                } else {
                    timed.ns / 1e3 / timed.calls
                };
                let sample = Sample {
                    value,
                    cpu: Some(cpu.per(timed.calls)),
                    grace: timed.grace_hits.map(|hits| hits / timed.calls),
                };
                Ok(vec![("", sample)])
            }
            Run::Once { location } => {
                let before = process::cpu_us(self.nginx.worker())?;
                let load = wrk(self.nginx.port(), location, self.effort.wrk)?;
                let cpu = self.cpu_since(before)?.per(load.requests);
                let sample = Sample {
                    value: load.per_second,
                    cpu: Some(cpu),
                    grace: None,
                };
                Ok(vec![("", sample)])
            }
            Run::Latency { load, in_flight } => self.latency(load, in_flight),
            Run::Idle => self.idle(),
            Run::Statistics(part) => Ok(vec![("", Sample::of(self.statistics(part)))]),
        }
    }

    fn cpu_since(&self, before: Split) -> Result<Split> {
        thread::sleep(SETTLE);
        Ok(process::cpu_us(self.nginx.worker())? - before)
    }

    /// A loop in nginx.
    fn ask(&self, ask: &str, bytes: usize, threads: usize, calls: u64) -> Result<Timed> {
        let path = format!("/loop?ask={ask}&bytes={bytes}&threads={threads}&calls={calls}");
        let answer = self.nginx.get(&path)?;
        let timed = Timed::parse(&answer).ok_or_else(|| format!("GET {path}: {answer}"))?;
        if timed.calls != (calls * threads as u64) as f64 {
            return Err(format!("GET {path}: wrong number of calls: {answer}").into());
        }
        Ok(timed)
    }

    fn latency(&self, load: Option<&str>, in_flight: usize) -> Result<Vec<(&'static str, Sample)>> {
        if let Some(ask) = load {
            let threads = match in_flight {
                0 => 2 * thread::available_parallelism()?.get(),
                some => some,
            };
            let path = format!("/saturate?ask={ask}&threads={threads}");
            self.nginx.get(&path)?;
            thread::sleep(SATURATE);
        }
        let before = process::cpu_us(self.nginx.worker())?;
        let mut times = timed_requests(self.nginx.client(), self.effort.latency)?;
        // Shows, too, whether all cores were busy with the load.
        let cpu = process::cpu_us(self.nginx.worker())? - before;
        let cpu = Some(cpu.per(times.len() as f64));
        if load.is_some() {
            let answer = self.nginx.get("/relax")?;
            if !answer.parse::<u64>().is_ok_and(|calls| calls > 0) {
                return Err(format!("there was no load: {answer}").into());
            }
        }
        times.sort_by(f64::total_cmp);
        let percentile = |fraction: f64| {
            let rank = (times.len() as f64 * fraction).ceil() as usize;
            Sample::of(times[rank.clamp(1, times.len()) - 1])
        };
        Ok(vec![
            (
                "p50",
                Sample {
                    cpu,
                    ..percentile(0.5)
                },
            ),
            ("p99", percentile(0.99)),
            ("max", percentile(1.0)),
        ])
    }

    fn idle(&self) -> Result<Vec<(&'static str, Sample)>> {
        // Connections that are being closed, threads that search for work.
        thread::sleep(Duration::from_millis(100));
        let before = process::switches(self.nginx.worker())?;
        thread::sleep(self.effort.idle);
        let switches = process::switches(self.nginx.worker())? - before;
        let switches = switches.per(self.effort.idle.as_secs_f64());
        Ok(vec![
            ("event loop", Sample::of(switches.event_loop)),
            ("other threads", Sample::of(switches.pools)),
        ])
    }

    /// Nanoseconds that a part of the statistics takes.
    fn statistics(&self, part: Statistics) -> f64 {
        let histograms: [Histogram; 3] = Default::default();
        let mut count = 0_u64;
        let start = Instant::now();
        while start.elapsed() < self.effort.looped {
            // The clock of this loop is read once in a thousand times.
            for _ in 0..1000 {
                // Durations of all sizes up to a millisecond.
                count += 1;
                let ns = black_box(count.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 44);
                match part {
                    Statistics::Record => histograms[0].record(ns),
                    Statistics::RecordThree => histograms.iter().for_each(|one| one.record(ns)),
                    Statistics::Clock => drop(black_box(Instant::now())),
                }
            }
        }
        start.elapsed().as_nanos() as f64 / count as f64
    }
}

/// All rounds of a workload by each of the meters, which take turns within a round,
/// in one order and in the other. The first one has all contenders; what others do not
/// know is left out.
pub fn measure(
    meters: &[Meter],
    workload: &'static Workload,
    rounds: usize,
) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    let mut calls: Vec<Vec<Option<u64>>> = Vec::new();
    for (index, meter) in meters.iter().enumerate() {
        let mut known = Vec::new();
        for contender in workload.contenders {
            match meter.warm_up(workload, contender) {
                // Measured in this process, whatever the build.
                Ok(_) if index > 0 && matches!(contender.run, Run::Statistics(_)) => {
                    known.push(None);
                }
                Ok(calls) => known.push(Some(calls)),
                Err(error) if index == 0 => return Err(in_row(workload, contender)(error)),
                Err(error) => {
                    eprintln!("bench: not compared: {}: {error}", contender.label);
                    known.push(None);
                }
            }
        }
        calls.push(known);
        outcomes.push(Outcome {
            workload,
            rows: Vec::new(),
        });
    }
    let mut order: Vec<usize> = (0..meters.len()).collect();
    for _ in 0..rounds {
        for (place, contender) in workload.contenders.iter().enumerate() {
            for &index in &order {
                if let Some(calls) = calls[index][place] {
                    let figures = meters[index].run(workload, contender, calls);
                    let figures = figures.map_err(in_row(workload, contender))?;
                    outcomes[index].add(contender.label, figures);
                }
            }
        }
        order.reverse();
    }
    Ok(outcomes)
}

fn in_row<'a>(
    workload: &'a Workload,
    contender: &'a Contender,
) -> impl Fn(Box<dyn std::error::Error>) -> Box<dyn std::error::Error> + 'a {
    move |error| format!("{}, {}: {error}", workload.name, contender.label).into()
}

/// What a loop in nginx answers.
#[derive(Debug, PartialEq)]
struct Timed {
    calls: f64,
    ns: f64,
    cpu_ns: f64,
    grace_hits: Option<f64>,
}

impl Timed {
    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(' ').map(|part| part.parse::<f64>().ok());
        let mut next = || numbers.next().flatten();
        Some(Self {
            calls: next()?,
            ns: next()?,
            cpu_ns: next()?,
            grace_hits: next(),
        })
    }
}

/// Sends requests at a steady rate; how long each took, in microseconds.
fn timed_requests(mut client: Client, span: Duration) -> Result<Vec<f64>> {
    let interval = Duration::from_secs(1) / RATE;
    let _first = FirstInLine::begin();
    let start = Instant::now();
    let mut due = start;
    let mut times = Vec::new();
    while due < start + span {
        // A request that has to wait for a slow one before it counts as slow,
        // too; what this thread oversleeps does not count.
        let mut begin = due;
        let early = due.saturating_duration_since(Instant::now());
        if !early.is_zero() {
            thread::sleep(early);
            begin = Instant::now();
        }
        get(&mut client, "/once/empty")?;
        times.push(begin.elapsed().as_secs_f64() * 1e6);
        due += interval;
    }
    Ok(times)
}

/// What wrk found.
#[derive(Debug, PartialEq)]
struct Load {
    requests: f64,
    per_second: f64,
}

/// Whether there is a wrk.
pub fn have_wrk() -> bool {
    // It says its version, and that this is not what it was made for.
    Command::new("wrk").arg("-v").output().is_ok()
}

fn wrk(port: u16, location: &str, span: Duration) -> Result<Load> {
    let output = Command::new("wrk")
        .args(["-t1", "-c64", &format!("-d{}s", span.as_secs())])
        .arg(format!("http://127.0.0.1:{port}{location}"))
        .output()
        .map_err(|error| format!("wrk: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let load = Load::parse(&text).ok_or_else(|| {
        let said = String::from_utf8_lossy(&output.stderr);
        format!("wrk: {}: {text}{said}", output.status)
    })?;
    Ok(load)
}

impl Load {
    /// None unless every request was answered as it should be.
    fn parse(text: &str) -> Option<Self> {
        if text.contains("Non-2xx") || text.contains("Socket errors") {
            return None;
        }
        let (before, _) = text.split_once(" requests in ")?;
        let requests: f64 = before.rsplit([' ', '\n']).next()?.parse().ok()?;
        let (_, after) = text.split_once("Requests/sec:")?;
        let per_second = after.split_whitespace().next()?.parse().ok()?;
        (requests > 0.0).then_some(Self {
            requests,
            per_second,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRK: &str = "Running 1s test @ http://127.0.0.1:8080/once/empty
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.05ms    1.06ms  20.33ms   96.93%
    Req/Sec    65.41k     5.57k   71.51k    90.00%
  65071 requests in 1.00s, 12.04MB read
Requests/sec:  65038.76
Transfer/sec:     12.03MB
";

    #[test]
    fn reads_what_wrk_says() {
        let load = Load::parse(WRK).unwrap();
        assert_eq!((load.requests, load.per_second), (65071.0, 65038.76));
        assert_eq!(
            Load::parse(&format!("{WRK}  Non-2xx or 3xx responses: 3\n")),
            None
        );
        let errors = "  Socket errors: connect 0, read 1, write 0, timeout 0\n";
        assert_eq!(Load::parse(&format!("{WRK}{errors}")), None);
        assert_eq!(Load::parse("unable to connect"), None);
    }

    #[test]
    fn reads_what_loops_say() {
        let timed = Timed::parse("64000 12345678 2345678").unwrap();
        assert_eq!(
            (timed.calls, timed.ns, timed.cpu_ns),
            (64e3, 12_345_678.0, 2_345_678.0)
        );
        assert_eq!(timed.grace_hits, None);
        assert_eq!(
            Timed::parse("64000 1 1 63000").unwrap().grace_hits,
            Some(63e3)
        );
        assert_eq!(Timed::parse("wrong response: 7"), None);
    }
}
