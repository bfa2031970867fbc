//! What the VMs of a group share: how they are made, which runtimes use them, and the
//! way to nginx's log.

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use nonblocking_ffi_core::log::{ERR, WARN};
use nonblocking_ffi_core::runtime::Place;
use nonblocking_ffi_core::sync::now_ns;
use nonblocking_ffi_core::task::slot::deadline_after;

/// The limits of each VM.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// The most memory of a VM, in bytes.
    pub max_memory: usize,
    /// A VM that has more than this after a task is replaced.
    pub recycle_memory: usize,
    /// A VM is replaced after so many tasks.
    pub recycle_tasks: u64,
    /// The seconds that the start of a VM may take, with its init code.
    pub init_seconds: f64,
}

impl Limits {
    /// The deadline of a start that begins now, or of finalizers, which may take as
    /// long.
    pub fn init_deadline(&self) -> u64 {
        deadline_after(now_ns(), self.init_seconds)
    }
}

/// How VMs are made.
#[derive(Debug)]
pub struct Config {
    /// Tells the groups of a pool apart.
    pub key: Vec<u8>,
    /// The limits of each VM.
    pub limits: Limits,
    /// `package.path` of the VMs.
    pub package_path: Vec<u8>,
    /// `package.cpath` of the VMs.
    pub package_cpath: Vec<u8>,
    /// The path of the shared object that exports the C functions.
    pub core: Vec<u8>,
    /// Encoded settings for `vm/boot.lua`.
    pub boot: Vec<u8>,
}

/// What the VMs of a group share.
#[derive(Debug)]
pub struct Shared {
    /// How they are made.
    pub config: Config,
    place: Place,
    /// The numbers of the runtimes that use them.
    users: Mutex<Vec<u32>>,
}

impl Shared {
    pub(crate) fn new(config: Config, place: Place) -> Self {
        Self {
            config,
            place,
            users: Mutex::default(),
        }
    }

    fn users(&self) -> MutexGuard<'_, Vec<u32>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add_user(&self, user: u32) {
        self.users().push(user);
    }

    /// Removes a user. True if there is none any more.
    pub(crate) fn remove_user(&self, user: u32) -> bool {
        let mut users = self.users();
        users.retain(|other| *other != user);
        users.is_empty()
    }

    /// Whether a runtime, given by its number, still uses the VMs.
    pub fn serves(&self, user: u32) -> bool {
        self.users().contains(&user)
    }

    /// Writes to nginx's error log.
    pub fn log(&self, level: u8, text: impl AsRef<[u8]>) {
        self.place.log.log(level, "lua", text.as_ref());
    }

    /// Wakes the event loop if it sleeps; true if it did.
    pub fn rouse_event_loop(&self) -> bool {
        self.place.event_loop.rouse()
    }
}
