//! Asking an interpreter where its libpython is, by running it.
//!
//! Only where its path does not tell: a script in front of the real one, or an
//! unusual layout.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long an interpreter may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// More than it has to say.
const ANSWER_BYTES: usize = 64 * 1024;

/// What it is asked to print: one line for each answer.
const QUESTION: &str = "\
import os, sys, sysconfig
get = lambda name: sysconfig.get_config_var(name) or ''
for line in (
    '%d.%d' % sys.version_info[:2], sys.executable, sys.base_prefix,
    get('LIBDIR'), get('MULTIARCH'), get('INSTSONAME'), get('LDLIBRARY'),
    str(get('Py_ENABLE_SHARED') or 0),
): os.write(1, os.fsencode(line) + b'\\n')
";

/// What an interpreter says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// For example `3.11`.
    pub version: String,
    /// The interpreter itself, behind whatever was run.
    pub executable: PathBuf,
    /// Where it is installed.
    pub prefix: PathBuf,
    /// Files that may be its libpython.
    pub candidates: Vec<PathBuf>,
    /// Whether it was built with a shared library at all.
    pub shared: bool,
}

/// Asks an interpreter.
///
/// # Errors
///
/// If it cannot be run, does not answer in time, or answers nonsense.
pub fn interpreter(program: &Path) -> Result<Answer, String> {
    let text = run(program, &["-I", "-S", "-c", QUESTION])?;
    parse(&text).ok_or_else(|| "does not answer like a Python".to_owned())
}

fn parse(text: &str) -> Option<Answer> {
    let lines: Vec<&str> = text.lines().collect();
    let [
        version,
        executable,
        prefix,
        libdir,
        multiarch,
        instsoname,
        ldlibrary,
        shared,
    ] = lines[..]
    else {
        return None;
    };
    if !version.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let folders = [
        PathBuf::from(libdir),
        Path::new(libdir).join(multiarch),
        Path::new(prefix).join("lib"),
    ];
    let mut candidates = Vec::new();
    for folder in folders.iter().filter(|f| f.is_absolute()) {
        for name in [instsoname, ldlibrary] {
            let path = folder.join(name);
            if name.contains(".so") && !candidates.contains(&path) {
                candidates.push(path);
            }
        }
    }
    Some(Answer {
        version: version.to_owned(),
        executable: executable.into(),
        prefix: prefix.into(),
        candidates,
        shared: shared == "1",
    })
}

/// Runs a program; what it writes to its standard output.
fn run(program: &Path, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("LC_ALL", "C.UTF-8");
    // A script in front of an interpreter needs them.
    for name in ["PATH", "HOME"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    // A group of its own, to be killed with whatever it starts.
    command.stderr(Stdio::null()).process_group(0);
    let mut child = command.spawn().map_err(|_| "cannot be run".to_owned())?;
    let answer = match child.stdout.take() {
        Some(output) => read_within(output.into(), PATIENCE),
        None => Ok(String::new()),
    };
    if answer.is_err() {
        // SAFETY: the group of our child, which nobody else waits for.
        unsafe { libc::kill(-(child.id() as libc::pid_t), libc::SIGKILL) };
    }
    let status = child.wait();
    let answer = answer?;
    match status.ok().and_then(|status| status.code()) {
        Some(0) | None => Ok(answer),
        Some(code) => Err(format!(
            "ends with code {code} when asked for its libpython"
        )),
    }
}

fn read_within(reader: OwnedFd, limit: Duration) -> Result<String, String> {
    let start = Instant::now();
    let mut file = File::from(reader);
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let left = limit.saturating_sub(start.elapsed());
        let mut poll = libc::pollfd {
            fd: file.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one entry.
        let ready = unsafe { libc::poll(&mut poll, 1, left.as_millis() as i32) };
        if ready == 0 || answer.len() > ANSWER_BYTES {
            return Err("does not answer".to_owned());
        }
        match file.read(&mut piece) {
            Ok(0) => return Ok(String::from_utf8_lossy(&answer).into_owned()),
            Ok(length) => answer.extend_from_slice(&piece[..length]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(format!("does not answer: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let text = "3.12\n/opt/p/bin/python3\n/opt/p\n/opt/p/lib\n\nlibpython3.12.so.1.0\n\
                    libpython3.12.so\n1\n";
        let answer = parse(text).unwrap();
        assert_eq!(answer.version, "3.12");
        assert_eq!(
            answer.candidates[0],
            Path::new("/opt/p/lib/libpython3.12.so.1.0")
        );
        assert_eq!(answer.candidates.len(), 2);
        assert!(answer.shared);
        let text = "3.12\n/p/bin/python3\n/p\n/p/lib\n\nlibpython3.12.a\nlibpython3.12.a\n0\n";
        let answer = parse(text).unwrap();
        assert!(answer.candidates.is_empty() && !answer.shared);
        assert_eq!(parse("hello\n"), None);
    }

    #[test]
    fn programs_are_run_and_waited_for() {
        let sh = Path::new("/bin/sh");
        assert_eq!(
            run(sh, &["-c", "echo $LC_ALL; echo x >&2"]).unwrap(),
            "C.UTF-8\n"
        );
        let said = run(sh, &["-c", "exit 3"]).unwrap_err();
        assert!(said.contains("code 3"), "{said}");
        let said = run(Path::new("/nonexistent/python"), &[]).unwrap_err();
        assert_eq!(said, "cannot be run");
        let said = interpreter(Path::new("/bin/echo")).unwrap_err();
        assert!(said.contains("does not answer"), "{said}");
    }

    #[test]
    fn one_that_is_silent_is_given_up() {
        let (reader, _writer) = std::io::pipe().unwrap();
        let said = read_within(reader.into(), Duration::from_millis(20)).unwrap_err();
        assert_eq!(said, "does not answer");
    }
}
