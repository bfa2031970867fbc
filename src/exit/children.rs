//! Child processes that are left when a worker ends.
//!
//! They were started by a language (a pool of processes, a server that a module
//! talks to), and without the worker nobody would ever end them. They are asked
//! to (SIGTERM), and what is still there a moment later is killed. A process that
//! has made a session of its own has said that it will outlive its parent: it is
//! left alone.
//!
//! A child may have children, which would be somebody else's when it ends. So
//! they are made ours in that case, and found in the next round.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::hooks;

/// How long a child has at least to end by itself, and how long the kernel may
/// take to end one that is killed.
const PATIENCE: Duration = Duration::from_millis(200);
/// How often is looked whether they have ended.
const ROUND: Duration = Duration::from_millis(2);

/// Ends all children; those that are asked to have until `deadline`.
pub(super) fn end(deadline: Instant) {
    if !has_any() {
        return;
    }
    let deadline = deadline.max(Instant::now() + PATIENCE);
    hooks::run_bounded("children", deadline + PATIENCE, move || {
        // SAFETY: a plain number. If it is refused, grandchildren are left.
        unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
        let mut asked = BTreeSet::new();
        let mut rounds_without = 0;
        // Twice, since a look takes its time: it may have passed a grandchild before
        // that became ours, and come to its parent after that had ended.
        while rounds_without < 2 {
            let left = living();
            rounds_without = if left.is_empty() {
                rounds_without + 1
            } else {
                0
            };
            for &pid in &left {
                if asked.insert(pid) {
                    signal(pid, libc::SIGTERM);
                } else if Instant::now() >= deadline {
                    signal(pid, libc::SIGKILL);
                }
            }
            std::thread::sleep(ROUND);
        }
    });
}

fn signal(pid: libc::pid_t, signal: i32) {
    // SAFETY: plain numbers. The process is a child that was not waited for, so
    // the number is not another one's.
    unsafe { libc::kill(pid, signal) };
}

/// Whether there is any child, ended ones included.
fn has_any() -> bool {
    // SAFETY: `info` is writable; nothing is waited for, and nobody's status is
    // taken.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
        libc::waitid(libc::P_ALL, 0, &mut info, options) == 0
    }
}

/// The children that have not ended and are of this process's session.
fn living() -> Vec<libc::pid_t> {
    let own = std::process::id().cast_signed();
    // SAFETY: no arguments, and it cannot fail.
    let session = unsafe { libc::getsid(0) };
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
            let state = stat.ok().and_then(|stat| Stat::parse(&stat));
            state.is_some_and(|stat| {
                stat.parent == own && stat.session == session && !stat.has_ended
            })
        })
        .collect()
}

/// What `/proc/<pid>/stat` says.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    has_ended: bool,
    parent: libc::pid_t,
    session: libc::pid_t,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The name before may have blanks and brackets in it.
        let (_, rest) = text.rsplit_once(") ")?;
        let mut fields = rest.split(' ');
        let state = fields.next()?;
        let parent = fields.next()?.parse().ok()?;
        let _group = fields.next()?;
        Some(Self {
            has_ended: matches!(state, "Z" | "X" | "x"),
            parent,
            session: fields.next()?.parse().ok()?,
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn names_may_look_like_anything() {
        let stat = Stat::parse("12 (a) b (c)) S 7 8 9 0 -1 4194560").unwrap();
        let expected = Stat {
            has_ended: false,
            parent: 7,
            session: 9,
        };
        assert_eq!(stat, expected);
        assert!(Stat::parse("12 (x) Z 7 8 9 0").unwrap().has_ended);
        assert_eq!(Stat::parse("12 (x) S 7"), None);
    }
}
