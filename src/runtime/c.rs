//! A plugin: a shared object with the plugin ABI (`include/nonblocking_ffi.h`).
//!
//! The object is opened by the pool thread that initialises the runtime, and
//! never closed: the threads, thread-locals and signal handlers of a language
//! runtime do not survive that.

use std::ffi::{c_void, CStr, CString};
use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use nonblocking_ffi_plugin::{faults, sys};

use super::host::HostTable;
use super::{golang, Host, Outcome};
use crate::channel::Mailbox;
use crate::exit;
use crate::process::signals::Handlers;

/// Room for the message of a plugin whose init failed.
const MESSAGE_BYTES: usize = 4096;

/// What is to be loaded.
pub struct Plugin {
    library: String,
    entry: CString,
    host: Box<HostTable>,
    loaded: OnceLock<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    call: CallFn,
    close: Option<unsafe extern "C" fn(*mut c_void)>,
    state: *mut c_void,
    asynchronous: bool,
}

type CallFn = unsafe extern "C" fn(*mut c_void, u64, *const c_void, u64) -> std::ffi::c_int;

// SAFETY: the ABI demands that `call` may be called from several threads at a
// time with the same state, and `close` from another thread than `init`.
unsafe impl Send for Loaded {}
// SAFETY: as above.
unsafe impl Sync for Loaded {}

impl Plugin {
    /// A plugin that has not been loaded.
    pub fn new(
        library: String,
        entry: CString,
        mailbox: &'static Mailbox,
        name: CString,
        config: CString,
    ) -> Self {
        Self {
            library,
            entry,
            host: HostTable::new(mailbox, name, config),
            loaded: OnceLock::new(),
        }
    }

    /// Loads it. It may install handlers of signals.
    fn load(&self) -> Result<Loaded, String> {
        let before = faults::Handlers::now();
        let loaded = self.load_library();
        before.keep_order(false);
        loaded
    }

    fn load_library(&self) -> Result<Loaded, String> {
        let library = &self.library;
        let leave = golang::ask(library)?;
        // SAFETY: opening a library runs its constructors, which is what the
        // user asked for; nothing of ours depends on what they do.
        let object = unsafe { Library::open(Some(library), RTLD_NOW | RTLD_LOCAL) }
            .map_err(|error| format!("cannot load library \"{library}\": {}", detail(&error)))?;
        leave.use_up();
        // SAFETY: the symbol has this type by the ABI.
        let entry = unsafe {
            object
                .get::<sys::nbffi_plugin_entry_fn>(self.entry.as_bytes_with_nul())
                .map(|symbol| *symbol)
        };
        // Never closed, see the module's comment.
        std::mem::forget(object);
        // What the library registered to run at exit must not run under
        // threads that use it.
        exit::guard();
        let symbol = self.entry.to_string_lossy();
        let entry = entry.map_err(|error| {
            let detail = detail(&error);
            format!("library \"{library}\" has no plugin entry \"{symbol}\": {detail}")
        })?;
        // SAFETY: the entry function of a plugin; it returns null or a
        // descriptor that lives as long as the process.
        let plugin = unsafe { entry(sys::NBFFI_ABI_VERSION).as_ref() };
        let plugin = plugin.ok_or_else(|| {
            let host = version(sys::NBFFI_ABI_VERSION);
            format!("plugin \"{library}\" refuses the host's ABI version {host}")
        })?;
        check(library, plugin)?;
        let asynchronous = plugin.flags & sys::NBFFI_ASYNC != 0;
        if !asynchronous {
            self.host.ends_what_is_left();
        }
        let call = plugin
            .call
            .ok_or_else(|| format!("plugin \"{library}\" has no call function"))?;
        let mut state = std::ptr::null_mut();
        if let Some(init) = plugin.init {
            let mut message = [0_u8; MESSAGE_BYTES];
            let size = message.len() as u64 - 1;
            // SAFETY: as the ABI has it: the host table lives until close, and
            // `message` is writable and longer than `size`, so that it stays
            // terminated.
            let failed = unsafe {
                init(
                    self.host.as_ptr(),
                    &mut state,
                    message.as_mut_ptr().cast(),
                    size,
                )
            };
            // It may have loaded libraries, a language's runtime for one.
            exit::guard();
            if failed != 0 {
                let text = CStr::from_bytes_until_nul(&message)
                    .map(CStr::to_string_lossy)
                    .unwrap_or_default();
                return Err(match text.as_ref() {
                    "" => format!("plugin \"{library}\": init failed with code {failed}"),
                    text => format!("plugin \"{library}\": {text}"),
                });
            }
        }
        Ok(Loaded {
            call,
            close: plugin.close,
            state,
            asynchronous,
        })
    }
}

/// What dlopen or dlsym said.
fn detail(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

fn version(number: u32) -> String {
    format!("{}.{}", number >> 16, number & 0xffff)
}

/// The handshake.
fn check(library: &str, plugin: &sys::nbffi_plugin) -> Result<(), String> {
    let (theirs, ours) = (plugin.abi_version, sys::NBFFI_ABI_VERSION);
    let (major, minor) = (sys::NBFFI_ABI_MAJOR, sys::NBFFI_ABI_MINOR);
    if theirs >> 16 != major || theirs & 0xffff > minor {
        return Err(format!(
            "plugin \"{library}\" has ABI version {}, but the host has {}: rebuild the plugin \
             with the host's nonblocking_ffi.h, or install a host of version {}",
            version(theirs),
            version(ours),
            version(theirs),
        ));
    }
    let size = plugin.size as usize;
    if size < size_of::<sys::nbffi_plugin>() {
        return Err(format!(
            "plugin \"{library}\" has a descriptor of {size} bytes, but ABI version {} has {}",
            version(theirs),
            size_of::<sys::nbffi_plugin>(),
        ));
    }
    let unknown = plugin.flags & !sys::NBFFI_ASYNC;
    if unknown != 0 {
        return Err(format!(
            "plugin \"{library}\" has flags {unknown:#x} that ABI version {} does not define",
            version(ours),
        ));
    }
    Ok(())
}

impl Host for Plugin {
    fn init(&self, runtime: *const ()) -> Result<(), String> {
        self.host.belongs_to(runtime);
        let handlers = Handlers::now();
        let loaded = self.load();
        if let Some(signals) = handlers.restore() {
            let line = format!("{signals} are handled by nginx again, not by the plugin");
            self.host.log(sys::NBFFI_LOG_NOTICE, &line);
        }
        let loaded = loaded?;
        // Called once, so the cell is empty.
        let _ = self.loaded.set(loaded);
        Ok(())
    }

    fn call(&self, task: u64, _tag: u32, request: &[u8]) -> Outcome {
        let Some(loaded) = self.loaded.get() else {
            return Outcome::Failed(-1);
        };
        let len = request.len() as u64;
        // SAFETY: as the ABI has it: the state is what init gave, and the
        // request is readable until the task is completed.
        let code = unsafe { (loaded.call)(loaded.state, task, request.as_ptr().cast(), len) };
        match code {
            0 if loaded.asynchronous => Outcome::Pending,
            0 => Outcome::Done,
            code => Outcome::Failed(code.into()),
        }
    }

    fn close(&self) {
        if let Some((loaded, close)) = self.loaded.get().and_then(|l| Some((l, l.close?))) {
            // SAFETY: called once, after the last task of this runtime.
            unsafe { close(loaded.state) };
        }
    }
}
