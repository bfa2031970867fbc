//! nginx's error log, by the number of a runtime: for code of a language, which
//! may hold such a number for longer than the runtime lasts.

use std::collections::BTreeMap;
use std::ffi::c_int;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use nonblocking_ffi_plugin::glue::cut;

use crate::host::Host;

/// nginx cuts an entry after 2,048 bytes, of which some are its own.
const ENTRY_BYTES: usize = 1900;

/// The runtimes that are open. A host's table is used with this locked, so that
/// a runtime cannot be closed meanwhile.
static OPEN: RwLock<BTreeMap<u64, Host>> = RwLock::new(BTreeMap::new());

/// A runtime that can be logged for, until this is dropped.
#[derive(Debug)]
pub struct Registration(u64);

impl Registration {
    /// Registers a runtime under a number of its own, which is not 0.
    pub fn new(host: Host) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        // Relaxed: only to be different.
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut open = OPEN.write().unwrap_or_else(PoisonError::into_inner);
        open.insert(id, host);
        Self(id)
    }

    /// The runtime's number.
    pub fn id(&self) -> u64 {
        self.0
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut open = OPEN.write().unwrap_or_else(PoisonError::into_inner);
        open.remove(&self.0);
    }
}

/// Logs for a runtime; false if it is not open. Each line becomes an entry, and
/// a long one several: the host escapes newlines.
pub fn log(id: u64, level: c_int, text: &str) -> bool {
    let open = OPEN.read().unwrap_or_else(PoisonError::into_inner);
    open.get(&id).map(|host| write(host, level, text)).is_some()
}

/// Logs for the oldest runtime, as what belongs to none; if none is open, to
/// standard error.
pub fn log_for_any(level: c_int, text: &str) {
    let open = OPEN.read().unwrap_or_else(PoisonError::into_inner);
    match open.values().next() {
        Some(host) => write(host, level, text),
        None => to_stderr(text),
    }
}

/// Writes to standard error, which is the error log, too.
pub fn to_stderr(text: &str) {
    let line = format!("nonblocking_ffi: {text}\n");
    // One write, so that lines of several threads do not mix, and no lock, which
    // another thread may have for ever in the child of a fork. If the write
    // fails, there is nobody to tell.
    // SAFETY: readable bytes.
    unsafe { libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), line.len()) };
}

fn write(host: &Host, level: c_int, text: &str) {
    for mut line in text.lines() {
        while !line.is_empty() {
            let entry = cut(line, ENTRY_BYTES);
            host.log(level, entry.as_bytes());
            line = &line[entry.len()..];
        }
    }
}
