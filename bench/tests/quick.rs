//! Every benchmark, briefly: that it works, that its answers are right, and
//! that nothing is left. Figures are not looked at.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use support::folder::Folder;
use support::{eventually, process};

fn bench(tmp: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nonblocking-ffi-bench"))
        .args(arguments)
        .env("TMPDIR", tmp)
        .output()
        .unwrap()
}

/// What is in a folder.
fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}

/// Processes that have to do with a folder.
fn processes_of(folder: &Path) -> Vec<String> {
    let folder = folder.to_str().unwrap();
    let lines = names(Path::new("/proc")).into_iter().filter_map(|pid| {
        pid.parse::<u32>().ok()?;
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " "))
    });
    lines.filter(|line| line.contains(folder)).collect()
}

#[test]
fn every_workload_works_and_nothing_is_left() {
    let (tmp, out) = (Folder::new(), Folder::new());
    let output = bench(&tmp, &["--quick", "--out", out.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaints}");
    assert_eq!(names(&tmp), BTreeSet::new());
    assert_eq!(processes_of(&tmp), Vec::<String>::new());

    let json = fs::read_to_string(out.join("bench.json")).unwrap();
    let svg = fs::read_to_string(out.join("bench.svg")).unwrap();
    assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"));
    let list = bench(&tmp, &["--list"]);
    let list = String::from_utf8(list.stdout).unwrap();
    let workloads: Vec<_> = list
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert!(workloads.len() >= 10, "{list}");
    let without_wrk = complaints.contains("wrk is not installed");
    // A language that the machine lacks is left out, with its targets, if it has any.
    let languages = [
        ("Go", "go-", 2),
        ("Java", "java-", 2),
        ("Python", "python-", 0),
    ];
    let left_out = languages.map(|(name, prefix, targets)| {
        let is_out = complaints.contains(&format!("bench: {name} is left out: "));
        (prefix, if is_out { Some(targets) } else { None })
    });
    for (prefix, _) in left_out {
        let about = workloads.iter().filter(|name| name.starts_with(prefix));
        assert_eq!(about.count(), 2, "{prefix}: {list}");
    }
    for workload in workloads {
        let lacks =
            |(prefix, out): &(&str, Option<usize>)| out.is_some() && workload.starts_with(prefix);
        if workload == "http" && without_wrk || left_out.iter().any(lacks) {
            continue;
        }
        assert!(
            said.contains(&format!("\n{workload}: ")),
            "{workload} is not in:\n{said}"
        );
        assert!(
            json.contains(&format!("\"name\":\"{workload}\"")),
            "{workload}: {json}"
        );
    }
    let unmeasured = said.matches("not measured").count();
    let of_languages = left_out.iter().filter_map(|&(_, targets)| targets);
    let expected = of_languages.sum::<usize>() + if without_wrk { 2 } else { 0 };
    assert_eq!(unmeasured, expected, "{said}");
}

#[test]
fn another_build_is_measured_beside_this_one() {
    let (tmp, out) = (Folder::new(), Folder::new());
    let this = support::root().to_str().unwrap();
    let arguments = ["--quick", "--only", "lone-16", "--compare", this, "--out"];
    let output = bench(&tmp, &[&arguments[..], &[out.to_str().unwrap()]].concat());
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    let (_, compared) = said.split_once("\nCompared: ").expect("a comparison");
    assert!(compared.contains("\n  lone-16: unix socket "), "{said}");
    let json = fs::read_to_string(out.join("bench.json")).unwrap();
    assert!(json.contains("\"compared\":[{"), "{json}");
    assert_eq!(names(&tmp), BTreeSet::new());
}

#[test]
fn a_language_that_the_machine_lacks_is_left_out() {
    let (tmp, out) = (Folder::new(), Folder::new());
    let output = Command::new(env!("CARGO_BIN_EXE_nonblocking-ffi-bench"))
        .args(["--quick", "--only", "go-", "--out"])
        .arg(&*out)
        .env("TMPDIR", &*tmp)
        .env("GO", "/nowhere/go")
        .output()
        .unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    let said = "bench: Go is left out: there is no go (Debian: golang-go)";
    assert!(complaints.contains(said), "{complaints}");
    assert!(
        complaints.contains("nothing else was asked for"),
        "{complaints}"
    );
}

#[test]
fn nothing_is_left_when_it_is_interrupted() {
    let (tmp, out) = (Folder::new(), Folder::new());
    let mut child = Command::new(env!("CARGO_BIN_EXE_nonblocking-ffi-bench"))
        .args(["--only", "lone-16", "--rounds", "100000"])
        .arg("--out")
        .arg(&*out)
        .env("TMPDIR", &*tmp)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    eventually("nginx starts", || {
        assert!(child.try_wait().unwrap().is_none(), "the bench has ended");
        !processes_of(&tmp).is_empty()
    });
    process::signal(child.id() as i32, libc::SIGINT);
    assert!(!child.wait().unwrap().success());
    assert_eq!(names(&tmp), BTreeSet::new());
    assert_eq!(processes_of(&tmp), Vec::<String>::new());
}
