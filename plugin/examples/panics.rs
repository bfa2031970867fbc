//! A plugin that panics where it is told to: what a panic does to a worker can
//! be tried out, and is tested, with it.
//!
//! - config `init`: it panics in `init`; config `close`: in `close`.
//! - request `panic <text>`: it panics with that text.
//! - request `value`: it panics with something that is not text.
//! - any other request is answered with itself.

use nonblocking_ffi_plugin::{Error, Host, Plugin, Response, Task, export_plugin};

struct Panics {
    in_close: bool,
}

impl Plugin for Panics {
    fn init(host: Host) -> Result<Self, Error> {
        let config = host.config();
        assert!(config != "init", "as the config says");
        Ok(Panics {
            in_close: config == "close",
        })
    }

    fn call(&self, _task: &Task<'_>, request: &[u8]) -> Result<Response, Error> {
        match request.strip_prefix(b"panic ") {
            Some(text) => panic!("{}", String::from_utf8_lossy(text)),
            None if request == b"value" => std::panic::panic_any(42),
            None => Ok(request.to_vec().into()),
        }
    }

    fn close(self) {
        assert!(!self.in_close, "as the config says");
    }
}

export_plugin!(Panics);
