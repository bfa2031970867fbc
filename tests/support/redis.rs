//! A Redis server of a test's own.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::eventually;

/// A Redis server, killed when dropped.
#[derive(Debug)]
pub struct Redis {
    child: Child,
    socket: PathBuf,
}

impl Redis {
    /// Starts one with a unix socket for everybody, in an existing folder.
    pub fn start(socket: &Path) -> Self {
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no"])
            .args(["--unixsocketperm", "777", "--unixsocket"])
            .arg(socket)
            .current_dir(socket.parent().unwrap())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is needed");
        let redis = Self {
            child,
            socket: socket.to_owned(),
        };
        eventually("Redis answers", || UnixStream::connect(socket).is_ok());
        redis
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.socket);
    }
}
