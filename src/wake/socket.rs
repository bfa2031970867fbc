//! The unix socket through which other threads wake the event loop.
//!
//! nginx-lua can wait on nothing but its own cosockets, and a cosocket can
//! connect to nothing but an address. So we listen on a path in a fresh
//! directory that only this user may enter, the cosocket connects to it, and
//! path and directory are removed again as soon as it has.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, Ordering};

use crate::stats::Counter;

/// A listening socket that nobody has connected to yet.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    directory: PathBuf,
    path: PathBuf,
}

impl Listener {
    /// Listens in a fresh directory below the first of `candidates` in which
    /// that works. The error names what went wrong with each.
    pub fn open<'a>(candidates: impl Iterator<Item = &'a Path>) -> Result<Self, String> {
        let mut tried = Vec::new();
        for candidate in candidates {
            match Self::open_in(candidate) {
                Ok(listener) => return Ok(listener),
                Err(error) => tried.push(format!("{}: {error}", candidate.display())),
            }
        }
        Err(format!(
            "cannot create a socket in any of: {}",
            tried.join("; ")
        ))
    }

    fn open_in(candidate: &Path) -> io::Result<Self> {
        let template = candidate.join("nbffi.XXXXXX");
        let mut template = CString::new(template.as_os_str().as_bytes())?.into_bytes_with_nul();
        // SAFETY: the template is writable, NUL-terminated and ends in six X.
        let made = unsafe { libc::mkdtemp(template.as_mut_ptr().cast()) };
        if made.is_null() {
            return Err(io::Error::last_os_error());
        }
        template.pop();
        let directory = PathBuf::from(OsStr::from_bytes(&template));
        let path = directory.join("s");
        let listener = UnixListener::bind(&path).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        match listener {
            Ok(listener) => Ok(Self {
                listener,
                directory,
                path,
            }),
            Err(error) => {
                remove(&path, &directory);
                Err(error)
            }
        }
    }

    /// Where to connect to.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Why nginx could not connect. It says what `errno` was, which nobody has
    /// set if it had no connection left. So this process tries by itself: if it
    /// can, the path is not what is wrong.
    pub fn why_refused(&self) -> io::Error {
        match UnixStream::connect(&self.path) {
            Ok(_) => {
                io::Error::other("nginx has no connection left for it: raise worker_connections")
            }
            Err(error) => error,
        }
    }

    /// Accepts the connection that this process has just made. Strangers are
    /// turned away: the peer must be this very process.
    pub fn accept(&self) -> io::Result<OwnedFd> {
        loop {
            let (stream, _) = self.listener.accept()?;
            if peer_pid(&stream)? == std::process::id() as libc::pid_t {
                stream.set_nonblocking(true)?;
                return Ok(stream.into());
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        remove(&self.path, &self.directory);
    }
}

/// Removes what `open_in` made. Nothing useful can be done if that fails.
fn remove(path: &Path, directory: &Path) {
    let _ = std::fs::remove_file(path);
    let _ = std::fs::remove_dir(directory);
}

fn peer_pid(stream: &UnixStream) -> io::Result<libc::pid_t> {
    let mut credentials = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut size = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the option's value is a ucred, and `size` says how large it is.
    let status = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &mut size,
        )
    };
    if status == 0 {
        Ok(credentials.pid)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Our end of the channel to the event loop, from the moment there is one.
#[derive(Debug)]
pub struct Waker {
    /// -1 if there is none.
    descriptor: AtomicI32,
    /// How often the event loop was woken.
    pub wakeups: Counter,
}

impl Default for Waker {
    fn default() -> Self {
        Self {
            descriptor: AtomicI32::new(-1),
            wakeups: Counter::default(),
        }
    }
}

impl Waker {
    /// Sends one byte to the event loop, from any thread. Never blocks: the socket is
    /// non-blocking, and as the armed flag allows one byte per wake-up its buffer is
    /// never full.
    pub fn wake(&self) {
        // Relaxed: the descriptor is set before anything arms, and a wake-up without
        // one has nobody to wake.
        let descriptor = self.descriptor.load(Ordering::Relaxed);
        if descriptor >= 0 {
            self.wakeups.bump_shared();
            // SAFETY: one byte from a static; a closed peer gives EPIPE, not a signal.
            unsafe { libc::send(descriptor, b"!".as_ptr().cast(), 1, libc::MSG_NOSIGNAL) };
        }
    }

    /// Uses our end of a channel from now on, instead of the one before. On the main
    /// thread.
    pub fn connect(&self, channel: OwnedFd) -> io::Result<()> {
        // Relaxed: see `wake`. Only the main thread writes it.
        let before = self.descriptor.load(Ordering::Relaxed);
        if before < 0 {
            let descriptor = channel.into_raw_fd();
            self.descriptor.store(descriptor, Ordering::Relaxed);
            return Ok(());
        }
        // Another thread may be about to write to the old descriptor: it must not
        // become a descriptor of something else, not even for a moment.
        // SAFETY: both are open descriptors of this process's own.
        if unsafe { libc::dup3(channel.as_raw_fd(), before, libc::O_CLOEXEC) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn the_first_directory_that_works_is_used_and_left_clean() {
        let base = std::env::temp_dir();
        let candidates = [Path::new("/nonexistent"), base.as_path()];
        let listener = Listener::open(candidates.into_iter()).unwrap();
        let path = listener.path().to_path_buf();
        let mut client = UnixStream::connect(&path).unwrap();
        let ours = listener.accept().unwrap();
        drop(listener);
        assert!(!path.exists() && !path.parent().unwrap().exists());
        let waker = Waker::default();
        waker.wake();
        waker.connect(ours).unwrap();
        waker.wake();
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"!");
        drop(client);
        waker.wake();
        assert_eq!(waker.wakeups.get(), 2);
    }

    #[test]
    fn a_refused_connection_is_the_paths_fault_or_nginxs() {
        let base = std::env::temp_dir();
        let listener = Listener::open([base.as_path()].into_iter()).unwrap();
        let reason = listener.why_refused().to_string();
        assert!(reason.contains("worker_connections"), "{reason}");
        std::fs::remove_file(listener.path()).unwrap();
        assert_eq!(listener.why_refused().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn the_error_names_every_directory() {
        let candidates = [Path::new("/nonexistent"), Path::new("/proc/self")];
        let error = Listener::open(candidates.into_iter()).unwrap_err();
        assert!(error.contains("/nonexistent: "), "{error}");
        assert!(error.contains("/proc/self: "), "{error}");
    }
}
