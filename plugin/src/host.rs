//! The host, as one runtime sees it: its configuration, its name, the log.

use std::ffi::{c_char, c_int, c_void};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use crate::Error;
use crate::sys;

/// How grave a message is: the levels of nginx's `error_log`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "nginx documents its levels")]
pub enum Level {
    Emerg,
    Alert,
    Crit,
    Error,
    Warn,
    Notice,
    Info,
    Debug,
}

impl Level {
    /// The level of a number; one that is none becomes the nearest.
    #[cfg(feature = "testing")]
    pub(crate) fn of(code: c_int) -> Self {
        use Level::{Alert, Crit, Debug, Emerg, Error, Info, Notice, Warn};
        let all = [Emerg, Alert, Crit, Error, Warn, Notice, Info, Debug];
        let code = code.clamp(sys::NBFFI_LOG_EMERG, sys::NBFFI_LOG_DEBUG);
        all[(code - sys::NBFFI_LOG_EMERG) as usize]
    }

    fn code(self) -> c_int {
        match self {
            Level::Emerg => sys::NBFFI_LOG_EMERG,
            Level::Alert => sys::NBFFI_LOG_ALERT,
            Level::Crit => sys::NBFFI_LOG_CRIT,
            Level::Error => sys::NBFFI_LOG_ERR,
            Level::Warn => sys::NBFFI_LOG_WARN,
            Level::Notice => sys::NBFFI_LOG_NOTICE,
            Level::Info => sys::NBFFI_LOG_INFO,
            Level::Debug => sys::NBFFI_LOG_DEBUG,
        }
    }
}

/// The host's side of one runtime. Cheap to clone, usable from any thread, and
/// inert once the runtime is closed.
#[derive(Clone)]
pub struct Host {
    shared: Arc<Shared>,
}

struct Shared {
    /// `None` once the runtime is closed. A lock rather than an atomic: closing
    /// must wait for a `log` call that is under way in another thread.
    raw: RwLock<Option<RawHost>>,
    name: String,
    config: Box<[u8]>,
    config_text: String,
}

/// The pointer `init` was given.
struct RawHost(NonNull<sys::nbffi_host>);

// SAFETY: the header allows every host function, and so reading the table of
// them, in any thread from init to close.
unsafe impl Send for RawHost {}
// SAFETY: as above; the table is never written.
unsafe impl Sync for RawHost {}

impl Host {
    /// Wraps what `init` was given.
    ///
    /// # Errors
    ///
    /// If the host's table is not one this crate knows.
    ///
    /// # Safety
    ///
    /// `raw` points to a host table that is valid until [`Host::disconnect`]
    /// has returned.
    pub(crate) unsafe fn new(raw: NonNull<sys::nbffi_host>) -> Result<Self, Error> {
        // SAFETY: these two fields lead the structure in every version. They
        // are read in place since the table may be shorter than ours.
        let (version, size) = unsafe { ((*raw.as_ptr()).abi_version, (*raw.as_ptr()).size) };
        if version >> 16 != sys::NBFFI_ABI_MAJOR || (size as usize) < size_of::<sys::nbffi_host>() {
            return Err(Error::msg(format!(
                "the plugin was built for plugin ABI {}.{}, the host has {}.{} ({size} bytes)",
                sys::NBFFI_ABI_MAJOR,
                sys::NBFFI_ABI_MINOR,
                version >> 16,
                version & 0xffff,
            )));
        }
        // SAFETY: the table is as long as ours, of our major version, and valid.
        let table = unsafe { raw.as_ref() };
        let mut len = 0;
        // SAFETY: raw is the host; the result is `len` readable bytes.
        let config = unsafe {
            let data = (table.config)(raw.as_ptr(), &mut len);
            copy(data, len)
        };
        // SAFETY: as above.
        let name = unsafe {
            let data = (table.name)(raw.as_ptr(), &mut len);
            copy(data, len)
        };
        Ok(Host {
            shared: Arc::new(Shared {
                raw: RwLock::new(Some(RawHost(raw))),
                name: String::from_utf8_lossy(&name).into_owned(),
                config_text: String::from_utf8_lossy(&config).into_owned(),
                config,
            }),
        })
    }

    /// Makes every clone inert; the host's table is not touched any more
    /// afterwards.
    pub(crate) fn disconnect(&self) {
        *self.shared.raw.write().unwrap_or_else(|e| e.into_inner()) = None;
    }

    /// The `config` that `load` was given, "" if none. What is not UTF-8 in it
    /// is replaced by U+FFFD.
    pub fn config(&self) -> &str {
        &self.shared.config_text
    }

    /// The `config` that `load` was given, byte by byte.
    pub fn config_bytes(&self) -> &[u8] {
        &self.shared.config
    }

    /// The runtime's name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Writes a message to nginx's error log, with the runtime's name in front.
    /// Never blocks; a message is dropped if nginx's `error_log` is less
    /// verbose, if thousands are waiting, or if the runtime is closed.
    ///
    /// `message` is a string, or `format_args!("{a} of {b}")`.
    pub fn log(&self, level: Level, message: impl fmt::Display) {
        // Before the lock is taken: Display is the plugin's code, it may log.
        let text = message.to_string();
        let guard = self.shared.raw.read().unwrap_or_else(|e| e.into_inner());
        if let Some(raw) = &*guard {
            let host = raw.0.as_ptr();
            // SAFETY: not disconnected, and the guard keeps it so: the table is
            // valid. The host copies the message during the call.
            unsafe {
                ((*host).log)(
                    host,
                    level.code(),
                    text.as_ptr().cast::<c_char>(),
                    text.len() as u64,
                )
            }
        }
    }

    /// Has `work` called once when nginx ends the worker: on quit and reload, and
    /// on stop as far as there is time. It gets the time by which it should
    /// return; the process ends soon after that. For what belongs to the process:
    /// closing the runtime does not take it back, and each call adds one more. It
    /// runs on a thread of its own, and other runtimes may still be running tasks.
    ///
    /// # Errors
    ///
    /// If the runtime is closed, or the host is out of memory.
    pub fn at_exit(&self, work: impl FnOnce(Instant) + Send + 'static) -> Result<(), Error> {
        let guard = self.shared.raw.read().unwrap_or_else(|e| e.into_inner());
        let Some(raw) = &*guard else {
            return Err(Error::msg("the runtime is closed"));
        };
        let host = raw.0.as_ptr();
        let work: Work = Box::new(work);
        let arg = Box::into_raw(Box::new(work));
        // SAFETY: not disconnected, and the guard keeps it so: the table is valid.
        // `run_at_exit` takes what `arg` is, and is called once.
        let status = unsafe { ((*host).at_exit)(host, Some(run_at_exit), arg.cast()) };
        if status != sys::NBFFI_OK {
            // SAFETY: the host has not taken it.
            drop(unsafe { Box::from_raw(arg) });
            return Err(Error::msg("no memory"));
        }
        Ok(())
    }

    /// [`Host::log`] with [`Level::Error`].
    pub fn error(&self, message: impl fmt::Display) {
        self.log(Level::Error, message);
    }

    /// [`Host::log`] with [`Level::Warn`].
    pub fn warn(&self, message: impl fmt::Display) {
        self.log(Level::Warn, message);
    }

    /// [`Host::log`] with [`Level::Notice`].
    pub fn notice(&self, message: impl fmt::Display) {
        self.log(Level::Notice, message);
    }

    /// [`Host::log`] with [`Level::Info`].
    pub fn info(&self, message: impl fmt::Display) {
        self.log(Level::Info, message);
    }

    /// [`Host::log`] with [`Level::Debug`].
    pub fn debug(&self, message: impl fmt::Display) {
        self.log(Level::Debug, message);
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host")
            .field("name", &self.shared.name)
            .finish_non_exhaustive()
    }
}

/// What [`Host::at_exit`] was given.
type Work = Box<dyn FnOnce(Instant) + Send>;

unsafe extern "C" fn run_at_exit(arg: *mut c_void, deadline_ns: u64) {
    // SAFETY: made by `at_exit` from a box; called once.
    let work = unsafe { Box::from_raw(arg.cast::<Work>()) };
    let left = Duration::from_nanos(deadline_ns.saturating_sub(crate::glue::monotonic_ns()));
    // Nobody can be told of a panic; it must not reach the host. Unwind safety:
    // nothing of this function's is used after it.
    let _ = catch_unwind(AssertUnwindSafe(|| work(Instant::now() + left)));
}

/// Copies `len` bytes; NULL is nothing.
///
/// # Safety
///
/// `data` is NULL or points to `len` readable bytes.
unsafe fn copy(data: *const c_char, len: u64) -> Box<[u8]> {
    if data.is_null() {
        return Box::default();
    }
    // SAFETY: passed on; a readable length fits usize.
    unsafe { std::slice::from_raw_parts(data.cast::<u8>(), len as usize) }.into()
}
