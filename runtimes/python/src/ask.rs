//! Asking an interpreter where its libpython is, by running it.
//!
//! Only where its path does not tell: a script in front of the real one, or an
//! unusual layout. nginx reaps every child of a worker that ends with SIGCHLD,
//! whoever started it, and writes a line about it to its log. A child can be
//! made to end without that signal, but not if it becomes another program. So
//! there is one between: it ends quietly, and its own child is the interpreter.

use std::ffi::{c_char, CString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
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
    let [version, executable, prefix, libdir, multiarch, instsoname, ldlibrary, shared] = lines[..]
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
    let c_string = |bytes: &[u8]| CString::new(bytes).map_err(|_| "has a NUL in it".to_owned());
    let path = c_string(program.as_os_str().as_bytes())?;
    let mut argv = vec![path.clone()];
    for argument in arguments {
        argv.push(c_string(argument.as_bytes())?);
    }
    // A script in front of an interpreter needs them.
    let mut envp = vec![c_string(b"LC_ALL=C.UTF-8")?];
    for name in ["PATH", "HOME"] {
        if let Some(value) = std::env::var_os(name) {
            envp.push(c_string(
                &[name.as_bytes(), b"=", value.as_bytes()].concat(),
            )?);
        }
    }
    let pointers = |strings: &[CString]| -> Vec<*const c_char> {
        let ends = std::iter::once(std::ptr::null());
        strings.iter().map(|s| s.as_ptr()).chain(ends).collect()
    };
    let (argv_pointers, envp_pointers) = (pointers(&argv), pointers(&envp));

    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(format!(
            "cannot be run: {}",
            std::io::Error::last_os_error()
        ));
    }
    // SAFETY: pipe2 made both, and nobody else has them.
    let (reader, writer) =
        unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
    let nowhere = File::options().read(true).write(true).open("/dev/null");
    let nowhere = nowhere.map_err(|error| format!("cannot be run: /dev/null: {error}"))?;

    // A fork, but for the signal at its end: none.
    // SAFETY: the child does nothing but system calls, with memory that was
    // prepared before.
    let child = unsafe { libc::syscall(libc::SYS_clone, 0, 0, 0, 0, 0) } as libc::pid_t;
    if child == 0 {
        // SAFETY: as above.
        unsafe {
            let program = || {
                become_program(
                    &path,
                    argv_pointers.as_ptr(),
                    envp_pointers.as_ptr(),
                    nowhere.as_raw_fd(),
                    writer.as_raw_fd(),
                )
            };
            run_and_tell(program)
        }
    }
    if child < 0 {
        return Err(format!(
            "cannot be run: {}",
            std::io::Error::last_os_error()
        ));
    }
    drop(writer);
    let answer = read_within(reader, PATIENCE);
    if answer.is_err() {
        // SAFETY: the group of our child, which nobody else waits for.
        unsafe { libc::kill(-child, libc::SIGKILL) };
    }
    let mut status = 0;
    let waited = loop {
        // SAFETY: as above; __WCLONE: it ends without SIGCHLD.
        let waited = unsafe { libc::waitpid(child, &mut status, libc::__WCLONE) };
        let error = std::io::Error::last_os_error();
        if waited >= 0 || error.kind() != std::io::ErrorKind::Interrupted {
            break waited;
        }
    };
    let answer = answer?;
    if waited == child && status != 0 {
        return Err(match libc::WEXITSTATUS(status) {
            NOT_RUN => "cannot be run".to_owned(),
            code => format!("ends with code {code} when asked for its libpython"),
        });
    }
    Ok(answer)
}

/// The exit code of a child that could not become the program.
const NOT_RUN: i32 = 127;

/// In the child between: runs the program in a child, and ends as that does.
///
/// # Safety
///
/// Only in a child that is alone.
unsafe fn run_and_tell(program: impl FnOnce()) -> ! {
    // SAFETY: system calls only; a group of their own, to be killed as one.
    unsafe {
        libc::setpgid(0, 0);
        let child = libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) as libc::pid_t;
        if child == 0 {
            program();
        }
        let mut status = 0;
        let waited = libc::waitpid(child, &mut status, 0);
        let told = waited == child && libc::WIFEXITED(status);
        libc::_exit(if told {
            libc::WEXITSTATUS(status)
        } else {
            NOT_RUN
        })
    }
}

/// # Safety
///
/// Only in a child that is alone; the arguments are those of `execve`.
unsafe fn become_program(
    path: &CString,
    argv: *const *const c_char,
    envp: *const *const c_char,
    nowhere: i32,
    output: i32,
) -> ! {
    // SAFETY: system calls only. All signals are blocked in the caller, and
    // stay so: this program lives for a moment.
    unsafe {
        libc::dup2(nowhere, 0);
        libc::dup2(output, 1);
        libc::dup2(nowhere, 2);
        // nginx's sockets are none of its business. An old kernel does not
        // know the call, and they stay open for that moment.
        libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0);
        libc::execve(path.as_ptr(), argv, envp);
        libc::_exit(NOT_RUN)
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
        let mut ends = [0; 2];
        // SAFETY: room for two descriptors; both are owned below.
        let (reader, _writer) = unsafe {
            assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC), 0);
            (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]))
        };
        let said = read_within(reader, Duration::from_millis(20)).unwrap_err();
        assert_eq!(said, "does not answer");
    }
}
