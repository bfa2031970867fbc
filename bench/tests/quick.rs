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
    for workload in workloads {
        if workload == "http" && without_wrk {
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
    assert_eq!(unmeasured, if without_wrk { 2 } else { 0 }, "{said}");
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
