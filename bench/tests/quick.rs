//! Every benchmark, briefly: that it works, that its answers are right, and
//! that nothing is left. Figures are not looked at.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder that nginx's unprivileged user can enter; removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn fresh(name: &str) -> Self {
        let name = format!("nbffi-bench-test-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

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
    let (tmp, out) = (Folder::fresh("tmp"), Folder::fresh("out"));
    let output = bench(&tmp.0, &["--quick", "--out", out.0.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaints}");
    assert_eq!(names(&tmp.0), BTreeSet::new());
    assert_eq!(processes_of(&tmp.0), Vec::<String>::new());

    let json = fs::read_to_string(out.0.join("bench.json")).unwrap();
    let svg = fs::read_to_string(out.0.join("bench.svg")).unwrap();
    assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"));
    let list = bench(&tmp.0, &["--list"]);
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
fn a_language_that_the_machine_lacks_is_left_out() {
    let (tmp, out) = (Folder::fresh("lacking"), Folder::fresh("lacking-out"));
    let output = Command::new(env!("CARGO_BIN_EXE_nonblocking-ffi-bench"))
        .args(["--quick", "--only", "go-", "--out"])
        .arg(&out.0)
        .env("TMPDIR", &tmp.0)
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
    let (tmp, out) = (Folder::fresh("interrupted"), Folder::fresh("none"));
    let mut child = Command::new(env!("CARGO_BIN_EXE_nonblocking-ffi-bench"))
        .args(["--only", "lone-16", "--rounds", "100000"])
        .arg("--out")
        .arg(&out.0)
        .env("TMPDIR", &tmp.0)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let start = std::time::Instant::now();
    while processes_of(&tmp.0).is_empty() {
        assert!(child.try_wait().unwrap().is_none(), "the bench has ended");
        assert!(start.elapsed().as_secs() < 60, "nginx does not start");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let pid = child.id().to_string();
    let killed = Command::new("kill").args(["-INT", &pid]).status().unwrap();
    assert!(killed.success());
    assert!(!child.wait().unwrap().success());
    assert_eq!(names(&tmp.0), BTreeSet::new());
    assert_eq!(processes_of(&tmp.0), Vec::<String>::new());
}
