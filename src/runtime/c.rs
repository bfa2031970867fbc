//! A plugin: a shared object with the plugin ABI (`include/nonblocking_ffi.h`).
//!
//! What an entry function returns is read as if anybody had written it: `entry` may
//! name any function of the library.

use std::ffi::{CStr, CString, OsString, c_void};
use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::OnceLock;

use nonblocking_ffi_plugin::{faults, sys};

use super::host_api::HostApi;
use super::library::{self, Library, Visibility};
use super::{Backend, Outcome, Place};
use crate::signals::Handlers;
use crate::task::Running;

/// Room for the message of a plugin whose init failed.
const MESSAGE_BYTES: usize = 4096;

/// Which plugin, and its configuration.
#[derive(Debug)]
pub struct Descriptor {
    /// The runtime's name.
    pub name: CString,
    /// The library's path, or its name if the dynamic linker finds it.
    pub library: OsString,
    /// Its entry function.
    pub entry: CString,
    /// The plugin's configuration.
    pub config: CString,
}

/// A plugin, loaded or not.
pub struct Plugin {
    library: OsString,
    entry: CString,
    host: Box<HostApi>,
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
    pub fn new(what: Descriptor, place: Place) -> Self {
        Self {
            library: what.library,
            entry: what.entry,
            host: HostApi::new(place.log, what.name, what.config),
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
        let opened = Library::open(&self.library, Visibility::Own)?;
        let library = opened.shown();
        if let Some(warning) = &opened.warning {
            self.host.log(sys::NBFFI_LOG_WARN, warning);
        }
        let symbol = self.entry.to_string_lossy();
        let entry = opened.function(&self.entry).map_err(|why| {
            format!("library \"{library}\" has no plugin entry \"{symbol}\": {why}")
        })?;
        // SAFETY: a function of the library's own, which by the ABI has this type.
        let plugin = unsafe {
            let entry: sys::nbffi_plugin_entry_fn = std::mem::transmute(entry);
            entry(sys::NBFFI_ABI_VERSION)
        };
        if plugin.is_null() {
            let host = version(sys::NBFFI_ABI_VERSION);
            return Err(format!(
                "plugin \"{library}\" refuses the host's ABI version {host}"
            ));
        }
        let plugin = read(plugin)
            .map_err(|why| format!("plugin \"{library}\": cannot read its descriptor: {why}"))?
            .ok_or_else(|| {
                format!(
                    "library \"{library}\": \"{symbol}\" is no plugin entry: it does not return \
                     a descriptor as nonblocking_ffi.h has it"
                )
            })?;
        check(library, &plugin)?;
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
            library::settle();
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

/// What a plugin's descriptor begins with. Its size is that of what follows, too.
#[derive(Clone, Copy)]
#[repr(C)]
struct Head {
    abi_version: u32,
    size: u32,
}

/// No descriptor will ever have more bytes, and no version a higher number.
const DESCRIPTOR_MAX: u32 = 4096;
const MAJOR_MAX: u32 = 255;

/// A copy of a plugin's descriptor; `None` if there is none at this address. One
/// of another version may be shorter: what it lacks is zero.
fn read(plugin: *const sys::nbffi_plugin) -> io::Result<Option<sys::nbffi_plugin>> {
    let mut head = Head {
        abi_version: 0,
        size: 0,
    };
    // SAFETY: any bytes make a head, and a descriptor, whose functions may be null.
    unsafe {
        if !copy(plugin.cast(), &raw mut head, size_of::<Head>())?
            || head.abi_version >> 16 > MAJOR_MAX
            || head.size < size_of::<Head>() as u32
            || head.size > DESCRIPTOR_MAX
        {
            return Ok(None);
        }
        let mut found = MaybeUninit::<sys::nbffi_plugin>::zeroed();
        let size = size_of::<sys::nbffi_plugin>().min(head.size as usize);
        let is_there = copy(plugin.cast(), found.as_mut_ptr(), size)?;
        Ok(is_there.then(|| found.assume_init()))
    }
}

/// Copies bytes from an address that may be wrong. False if they cannot be read:
/// the kernel, which reads them here, says so, instead of ending the process.
///
/// # Safety
/// `to` has room for `size` bytes, and may be made of any.
unsafe fn copy<T>(from: *const c_void, to: *mut T, size: usize) -> io::Result<bool> {
    let mut ends = [0; 2];
    // SAFETY: writes two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: descriptors of our own, made just now. A pipe has room for these few
    // bytes; `from` is not dereferenced here.
    let (mut out, written) = unsafe {
        let [out, into] = ends.map(|end| File::from_raw_fd(end));
        (out, libc::write(into.as_raw_fd(), from, size))
    };
    if written != size as isize {
        return Ok(false);
    }
    // SAFETY: by the contract.
    let to = unsafe { std::slice::from_raw_parts_mut(to.cast::<u8>(), size) };
    out.read_exact(to)?;
    Ok(true)
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

impl Backend for Plugin {
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

    fn call(&self, task: &Running) -> Outcome {
        let Some(loaded) = self.loaded.get() else {
            return Outcome::Failed(-1);
        };
        let (number, (request, len)) = (task.handle().number(), task.request());
        // SAFETY: as the ABI has it: the state is what init gave, and the
        // request is readable until the task is completed.
        let code = unsafe { (loaded.call)(loaded.state, number, request.cast(), len as u64) };
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
