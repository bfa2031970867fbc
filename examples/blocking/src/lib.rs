//! Calls that block, for which nginx has no non-blocking equivalent: the ones
//! that would stop a worker if Lua made them itself.
//!
//! Requests are an operation and its argument, separated by one space:
//!
//! - `sleep <seconds>`: sleeps, and answers nothing.
//! - `resolve <host>`: asks getaddrinfo, so /etc/hosts, nsswitch and mDNS count;
//!   answers the addresses, one in each line.
//! - `read <path>`: answers the contents of a regular file under the directory
//!   `root` of the config (`root=/some/dir`); without one it is refused.

use std::fs::File;
use std::io::Read;
use std::net::ToSocketAddrs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nonblocking_ffi_plugin::{Error, Host, Plugin, Response, Task, export_plugin};

/// Codes of errors, besides [`Error::CODE`].
mod code {
    pub const BAD_REQUEST: i64 = 400;
    pub const FORBIDDEN: i64 = 403;
    pub const NOT_FOUND: i64 = 404;
    pub const CANCELLED: i64 = 499;
}

/// The longest sleep.
const MAX_SLEEP: Duration = Duration::from_secs(3600);

/// How long a sleeper may go on after its caller has gone.
const SLICE: Duration = Duration::from_millis(20);

struct Blocking {
    /// Where `read` may read; canonical.
    root: Option<PathBuf>,
}

impl Plugin for Blocking {
    fn init(host: Host) -> Result<Self, Error> {
        let config = host.config().trim();
        let root = match config.strip_prefix("root=") {
            Some(dir) => Some(
                Path::new(dir)
                    .canonicalize()
                    .map_err(|e| Error::from(e).context(dir))?,
            ),
            None if config.is_empty() => None,
            None => return Err(Error::msg("config must be \"root=<directory>\", or empty")),
        };
        Ok(Blocking { root })
    }

    fn call(&self, task: &Task<'_>, request: &[u8]) -> Result<Response, Error> {
        let request = std::str::from_utf8(request)
            .map_err(|e| Error::from(e).with_code(code::BAD_REQUEST))?;
        match request.split_once(' ') {
            Some(("sleep", seconds)) => {
                sleep(parse_seconds(seconds)?, || task.is_cancelled()).map(Response::from)
            }
            Some(("resolve", host)) => resolve(host).map(Response::from),
            Some(("read", path)) => read(self.root.as_deref(), path),
            _ => Err(bad_request(
                "expected \"sleep <seconds>\", \"resolve <host>\" or \"read <path>\"",
            )),
        }
    }
}

export_plugin!(Blocking);

fn bad_request(message: &str) -> Error {
    Error::new(code::BAD_REQUEST, message)
}

fn parse_seconds(text: &str) -> Result<Duration, Error> {
    let seconds = text
        .parse::<f64>()
        .ok()
        .and_then(|s| Duration::try_from_secs_f64(s).ok())
        .ok_or_else(|| bad_request("sleep: not a number of seconds"))?;
    if seconds > MAX_SLEEP {
        return Err(bad_request("sleep: at most an hour"));
    }
    Ok(seconds)
}

/// Sleeps in slices, so that a caller who is gone does not hold the pool thread.
fn sleep(how_long: Duration, is_cancelled: impl Fn() -> bool) -> Result<(), Error> {
    let end = Instant::now() + how_long;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        if is_cancelled() {
            return Err(Error::new(code::CANCELLED, "sleep: cancelled"));
        }
        thread::sleep(left.min(SLICE));
    }
}

/// The addresses of a host, each once, one in each line.
fn resolve(host: &str) -> Result<String, Error> {
    // getaddrinfo answers each address once per socket type.
    let mut addresses: Vec<String> = Vec::new();
    let found = (host, 0)
        .to_socket_addrs()
        .map_err(|e| Error::from(e).with_code(code::NOT_FOUND).context(host))?;
    for address in found {
        let address = address.ip().to_string();
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(addresses.join("\n"))
}

/// Opens a file that must be inside `root`, after every symbolic link.
fn open(root: Option<&Path>, path: &str) -> Result<(File, u64), Error> {
    let root = root.ok_or_else(|| Error::new(code::FORBIDDEN, "read: the config names no root"))?;
    let not_found = |e| Error::from(e).with_code(code::NOT_FOUND).context("read");
    let real = root.join(path).canonicalize().map_err(not_found)?;
    if !real.starts_with(root) {
        return Err(Error::new(code::FORBIDDEN, "read: outside of the root"));
    }
    // The type first: opening a FIFO would wait for its writer.
    let meta = real.metadata().map_err(not_found)?;
    if !meta.is_file() {
        return Err(Error::new(code::FORBIDDEN, "read: not a regular file"));
    }
    Ok((File::open(real).map_err(not_found)?, meta.len()))
}

/// Reads a file straight into the host's buffer.
fn read(root: Option<&Path>, path: &str) -> Result<Response, Error> {
    let (file, len) = open(root, path)?;
    Ok(Response::in_place(len as usize, move |buffer, _request| {
        // A file that has grown since is cut off where its size was.
        std::io::copy(&mut file.take(len), buffer)?;
        Ok(())
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn seconds() {
        assert_eq!(parse_seconds("0.25").unwrap(), Duration::from_millis(250));
        for bad in ["", "x", "-1", "nan", "inf", "1e300"] {
            assert_eq!(
                parse_seconds(bad).unwrap_err().code(),
                code::BAD_REQUEST,
                "{bad}"
            );
        }
        assert!(
            parse_seconds("3601")
                .unwrap_err()
                .message()
                .contains("hour")
        );
    }

    #[test]
    fn sleep_takes_its_time_and_heeds_cancellation() {
        let start = Instant::now();
        sleep(Duration::from_millis(50), || false).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(50));

        let asked = Cell::new(0);
        let start = Instant::now();
        let error = sleep(Duration::from_secs(600), || {
            asked.set(asked.get() + 1);
            asked.get() == 3
        });
        assert_eq!(error.unwrap_err().code(), code::CANCELLED);
        assert!(start.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn resolving() {
        assert_eq!(resolve("127.0.0.1").unwrap(), "127.0.0.1");
        assert_eq!(resolve("::1").unwrap(), "::1");
        // Refused before any resolver is asked: the test needs no network.
        let error = resolve("a\0b").unwrap_err();
        assert_eq!(error.code(), code::NOT_FOUND);
        assert!(error.message().starts_with("a\0b: "), "{error}");
    }

    #[test]
    fn reading_stays_inside_the_root() {
        let dir = std::env::temp_dir().join(format!("nbffi-blocking-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("root/sub")).unwrap();
        std::fs::write(dir.join("root/sub/file"), "inside").unwrap();
        std::fs::write(dir.join("secret"), "outside").unwrap();
        std::os::unix::fs::symlink(dir.join("secret"), dir.join("root/link")).unwrap();
        let root = dir.join("root").canonicalize().unwrap();

        let (mut file, len) = open(Some(&root), "sub/file").unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), len), ("inside", 6));
        let refused = |path| open(Some(&root), path).unwrap_err().code();
        assert_eq!(refused("../secret"), code::FORBIDDEN);
        assert_eq!(refused("link"), code::FORBIDDEN);
        assert_eq!(refused("sub"), code::FORBIDDEN);
        assert_eq!(refused("/etc/passwd"), code::FORBIDDEN);
        assert_eq!(refused("none"), code::NOT_FOUND);
        assert_eq!(open(None, "sub/file").unwrap_err().code(), code::FORBIDDEN);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
