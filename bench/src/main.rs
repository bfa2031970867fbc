//! The benchmarks: our calls beside what one would use instead, in one nginx
//! and one run, in turns.
//!
//! | file            | role |
//! |-----------------|------|
//! | [`workloads`]   | what is measured, as data |
//! | [`targets`]     | what is to be reached, as data |
//! | [`nginx`]       | the nginx that everything runs in, from `tests/support` |
//! | [`echo_server`] | the rival behind a unix socket |
//! | [`languages`]   | Go, Java and Python, and their rivals |
//! | [`measure`]     | workloads in, results out |
//! | [`process`]     | the worker's processor time and context switches |
//! | [`machine`]     | what it is measured on |
//! | [`results`]     | samples, medians, ratios |
//! | [`table`], [`json`], [`plot`] | how results are shown |
//!
//! The Lua side is in `lua/`, the plugins in `plugins/`. How to read the
//! figures: `docs/benchmarks.md`.

mod echo_server;
mod json;
mod languages;
mod machine;
mod measure;
mod nginx;
mod plot;
mod process;
mod results;
mod table;
mod targets;
mod workloads;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use languages::Language;
use machine::Machine;
use measure::{Effort, INTERRUPTED, Meter, measure};
use nginx::Nginx;
use results::Results;
use support::root;
use workloads::{Run, WORKLOADS, Workload};

/// Whatever goes wrong ends the bench with a message.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const USAGE: &str = "\
usage: nonblocking-ffi-bench [options]   (or: make bench BENCH_ARGS='options')
  --quick           a short round of everything: does it work?
  --rounds N        measurements per contender, default 7
  --only SUBSTRING  only workloads whose names contain it
  --compare DIR     beside another build of the repository, in DIR: the same
                    workloads in an nginx with its library, in turns
  --out DIR         where bench.json and bench.svg go, default target/bench
  --date TEXT       goes into the results
  --list            the workloads";

const ROUNDS: usize = 7;

#[derive(Debug, Default)]
struct Options {
    quick: bool,
    rounds: Option<usize>,
    only: String,
    compare: Option<PathBuf>,
    out: Option<PathBuf>,
    date: Option<String>,
    list: bool,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self::default();
        while let Some(name) = arguments.next() {
            let mut value = || {
                let value = arguments.next();
                value.ok_or_else(|| format!("{name}: a value is missing\n{USAGE}"))
            };
            match name.as_str() {
                "--quick" => options.quick = true,
                "--list" => options.list = true,
                "--only" => options.only = value()?,
                "--compare" => options.compare = Some(fs::canonicalize(value()?)?),
                "--out" => options.out = Some(value()?.into()),
                "--date" => options.date = Some(value()?),
                "--rounds" => {
                    let rounds = value()?.parse().ok().filter(|&rounds| rounds > 0);
                    let complaint = || format!("--rounds: a positive number expected\n{USAGE}");
                    options.rounds = Some(rounds.ok_or_else(complaint)?);
                }
                _ => return Err(format!("unknown option {name}\n{USAGE}").into()),
            }
        }
        Ok(options)
    }

    fn effort(&self) -> Effort {
        let mut effort = if self.quick {
            Effort::quick()
        } else {
            Effort::full(ROUNDS)
        };
        if let Some(rounds) = self.rounds {
            effort.rounds = rounds;
        }
        effort
    }

    fn out(&self) -> PathBuf {
        let default = || {
            let target = std::env::var_os("CARGO_TARGET_DIR");
            let target = target.map_or("target".into(), PathBuf::from);
            target.join("bench")
        };
        self.out.clone().unwrap_or_else(default)
    }

    /// The workloads that are asked for and possible.
    fn workloads(&self) -> Result<Vec<&'static Workload>> {
        let mut chosen: Vec<&Workload> = WORKLOADS.iter().collect();
        chosen.retain(|workload| workload.name.contains(&self.only));
        if chosen.is_empty() {
            return Err(format!("no workload is named like {:?}; see --list", self.only).into());
        }
        let needs_wrk = |workload: &Workload| {
            let mut contenders = workload.contenders.iter();
            contenders.any(|contender| matches!(contender.run, Run::Once { .. }))
        };
        if chosen.iter().any(|workload| needs_wrk(workload)) && !measure::have_wrk() {
            eprintln!("bench: wrk is not installed: one call per HTTP request is left out");
            chosen.retain(|workload| !needs_wrk(workload));
        }
        for language in languages_of(&chosen) {
            if let Some(missing) = language.missing(root()) {
                eprintln!("bench: {} is left out: {missing}", language.name());
                chosen.retain(|workload| workload.language() != Some(language));
            }
        }
        if chosen.is_empty() {
            return Err("nothing else was asked for".into());
        }
        Ok(chosen)
    }
}

/// The languages that workloads need.
fn languages_of(workloads: &[&Workload]) -> BTreeSet<Language> {
    let languages = workloads.iter().filter_map(|workload| workload.language());
    languages.collect()
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let options = Options::parse(std::env::args().skip(1))?;
    if options.list {
        for workload in WORKLOADS {
            println!("{:16} {}", workload.name, workload.title);
        }
        return Ok(());
    }
    let workloads = options.workloads()?;
    end_early_when_told_to();

    let languages = languages_of(&workloads);
    let repositories = [Some(root()), options.compare.as_deref()];
    let mut nginxes = Vec::new();
    for repository in repositories.into_iter().flatten() {
        nginxes.push(Nginx::start(repository, &languages)?);
    }
    let machine = Machine::this(options.date.clone(), nginx::version()?);
    let effort = options.effort();
    println!("{}; {} rounds\n", machine.text(), effort.rounds);
    let measured = measure_all(&nginxes, effort, &workloads);
    let results = match measured {
        Ok(results) => results,
        Err(error) => {
            let logs: String = nginxes.into_iter().map(Nginx::stop).collect();
            return Err(format!("{error}\n{logs}").into());
        }
    };
    for nginx in nginxes {
        nginx.finish()?;
    }

    let (ours, compared) = (&results[0], results.get(1));
    table::print(ours);
    table::print_targets(ours);
    if let Some(compared) = compared {
        table::print_comparison(ours, compared);
    }
    let out = options.out();
    fs::create_dir_all(&out).map_err(|error| format!("{}: {error}", out.display()))?;
    let (json, svg) = (out.join("bench.json"), out.join("bench.svg"));
    let document = json::document(ours, compared, &machine, effort.rounds);
    fs::write(&json, document)?;
    fs::write(&svg, plot::document(ours, &machine))?;
    println!("\nWritten: {}, {}", json.display(), svg.display());
    Ok(())
}

/// What was measured in each nginx.
fn measure_all(
    nginxes: &[Nginx],
    effort: Effort,
    workloads: &[&'static Workload],
) -> Result<Vec<Results>> {
    let meters = nginxes.iter().map(|nginx| Meter::new(nginx, effort));
    let meters: Vec<_> = meters.collect();
    let mut results: Vec<Results> = meters.iter().map(|_| Results::default()).collect();
    for workload in workloads {
        eprintln!("bench: {} ...", workload.name);
        let outcomes = measure(&meters, workload, effort.rounds)?;
        for (results, outcome) in results.iter_mut().zip(outcomes) {
            results.outcomes.push(outcome);
        }
    }
    Ok(results)
}

extern "C" fn note_interrupt(_: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Control-C ends the bench between two measurements, so that everything is
/// stopped and removed.
fn end_early_when_told_to() {
    let handler = note_interrupt as extern "C" fn(libc::c_int);
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler does nothing but store to an atomic, which a
        // signal handler may do.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options> {
        Options::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn reads_options() {
        let options = parse("--quick --only lone-1 --rounds 3 --date today").unwrap();
        assert_eq!(options.effort().rounds, 3);
        assert_eq!(options.workloads().unwrap().len(), 3);
        assert_eq!(options.date.as_deref(), Some("today"));
        assert_eq!(parse("").unwrap().effort().rounds, ROUNDS);
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for line in ["--fast", "--rounds", "--rounds 0", "--rounds many"] {
            assert!(parse(line).is_err(), "{line}");
        }
        assert!(parse("--only nonsense").unwrap().workloads().is_err());
    }
}
