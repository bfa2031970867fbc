//! Python's main thread sleeps while tasks run that somebody waits for. In a test
//! binary of its own, since nothing else may run in the process.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod host;

use std::fs;

use host::load;

/// How often the main thread has gone to sleep.
fn sleeps() -> u64 {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let mut folders = tasks.map(|task| task.unwrap().path());
    let is_main = |name: String| name == "nbffi-python\n";
    let folder = folders
        .find(|folder| fs::read_to_string(folder.join("comm")).is_ok_and(is_main))
        .unwrap();
    let status = fs::read_to_string(folder.join("status")).unwrap();
    let mut lines = status.lines();
    let count = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    count.unwrap().trim().parse().unwrap()
}

#[test]
fn the_main_thread_sleeps_while_tasks_run() {
    let rt = load(&[("entry", "subprocess:getoutput")]).unwrap();
    rt.call("true");
    let before = sleeps();
    assert_eq!(rt.call("sleep 0.5; echo done").text(), "done");
    // It may have been on its way to sleep after the start.
    assert!(sleeps() <= before + 1, "{} times", sleeps() - before);
}
