//! A host for the tests of a plugin: no nginx, no Lua, no pool.
//!
//! A [`Runtime`] is one runtime of a plugin. Its tasks run on the threads of the
//! test, through the C ABI, as in a worker; a [`TestTask`] tells how one ended.
//!
//! ```
//! use std::time::Duration;
//! use nonblocking_ffi_plugin::testing::{Entry, Options, Runtime};
//! use nonblocking_ffi_plugin::{Error, Host, Plugin, Response, Task};
//!
//! struct Upper;
//!
//! impl Plugin for Upper {
//!     fn init(host: Host) -> Result<Self, Error> {
//!         host.notice(format_args!("configured with {}", host.config()));
//!         Ok(Upper)
//!     }
//!
//!     fn call(&self, task: &Task<'_>, request: &[u8]) -> Result<Response, Error> {
//!         if task.is_cancelled() {
//!             return Err(Error::new(499, "nobody waits"));
//!         }
//!         Ok(std::str::from_utf8(request)?.to_uppercase().into())
//!     }
//! }
//!
//! let runtime = Runtime::load(Entry::blocking::<Upper>(), "nothing").unwrap();
//! assert_eq!(runtime.logged()[0].1, "configured with nothing");
//! assert_eq!(runtime.call("hello").data(), b"HELLO");
//! assert_eq!(runtime.call(b"\xff").failure().0, Error::CODE);
//!
//! let late = Options { timeout: Some(Duration::ZERO), ..Options::default() };
//! let task = runtime.submit("hello", late);
//! assert_eq!(task.wait().failure(), (499, "nobody waits"));
//! ```
//!
//! | file       | role |
//! |------------|------|
//! | this       | what a test uses: entries, runtimes, tasks |
//! | `tasks`    | what the host knows of all tasks; `on_cancel` |
//! | `table`    | the host functions |
//! | `measured` | tasks that are only counted |

mod measured;
mod table;
mod tasks;

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{null, null_mut};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::export;
use crate::glue::monotonic_ns;
use crate::sys::{NBFFI_ABI_VERSION, NBFFI_ASYNC, nbffi_host, nbffi_plugin, nbffi_plugin_entry_fn};
use crate::{AsyncPlugin, Level, Plugin};
use table::Table;
pub use tasks::TestTask;

/// How long anything may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(60);
/// The room for the message of an `init` that fails.
const MESSAGE_BYTES: usize = 512;

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With a response.
    Response {
        /// The bytes.
        data: Vec<u8>,
        /// The plugin's own status: code and message.
        status: Option<(i64, String)>,
        /// How it came.
        via: Via,
    },
    /// With an error of the plugin's.
    Failed {
        /// The plugin's code.
        code: i64,
        /// The plugin's message.
        message: String,
    },
    /// The host refused a response for its size.
    TooLarge,
    /// The host had no memory for the response.
    NoMemory,
}

/// Which function a response came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// `respond`, with memory that the host copies.
    Copy,
    /// `respond`, with a part of the request, which the host does not copy.
    Request,
    /// `respond_owned`.
    Owned,
    /// `respond_buffer`.
    Buffer,
    /// None: a blocking plugin returned without a response.
    Nothing,
}

impl Outcome {
    /// The response.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn data(&self) -> &[u8] {
        match self {
            Self::Response { data, .. } => data,
            other => panic!("no response: {other:?}"),
        }
    }

    /// The response as text; what is not UTF-8 is replaced.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(self.data()).into_owned()
    }

    /// Code and message of the plugin's error.
    ///
    /// # Panics
    /// If the task did not fail.
    #[track_caller]
    pub fn failure(&self) -> (i64, &str) {
        match self {
            Self::Failed { code, message } => (*code, message),
            other => panic!("no failure: {other:?}"),
        }
    }
}

/// What a task is submitted with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The longest response, in bytes.
    pub max_response: u64,
    /// How many bytes `alloc` can give.
    pub memory: u64,
    /// How long the caller waits; `None` is for ever.
    pub timeout: Option<Duration>,
    /// Whether the caller has given up already.
    pub cancelled: bool,
    /// Of tasks that are queued, the plugin gets those with the highest number
    /// first.
    pub priority: i32,
    /// Called once the task has ended, by the thread that ended it.
    pub then: Option<fn()>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_response: 1 << 30,
            memory: u64::MAX,
            timeout: None,
            cancelled: false,
            priority: 0,
            then: None,
        }
    }
}

/// A plugin.
#[derive(Clone, Copy)]
pub struct Entry(&'static nbffi_plugin);

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Entry")
            .field(&std::ptr::from_ref(self.0))
            .finish()
    }
}

impl Entry {
    /// A blocking plugin in Rust.
    pub fn blocking<P: Plugin>() -> Self {
        Self(const { &export::blocking::<P>() })
    }

    /// An asynchronous plugin in Rust.
    pub fn asynchronous<P: AsyncPlugin>() -> Self {
        Self(const { &export::asynchronous::<P>() })
    }

    /// A plugin in Rust whose calls are futures.
    #[cfg(feature = "tokio")]
    pub fn tokio<P: crate::TokioPlugin>() -> Self {
        Self(const { &crate::__private::tokio::<P>() })
    }

    /// The plugin of an entry function, in whatever language.
    ///
    /// # Panics
    /// If it refuses the host, or its descriptor is none.
    ///
    /// # Safety
    /// It is one, as `nonblocking_ffi.h` has it.
    pub unsafe fn of(entry: nbffi_plugin_entry_fn) -> Self {
        // SAFETY: by the contract.
        let plugin = unsafe { entry(NBFFI_ABI_VERSION).as_ref() }.expect("the plugin refuses");
        assert_eq!(plugin.abi_version >> 16, NBFFI_ABI_VERSION >> 16);
        assert!(plugin.size as usize >= size_of::<nbffi_plugin>());
        assert_eq!((plugin.flags & !NBFFI_ASYNC, plugin.reserved), (0, 0));
        Self(plugin)
    }

    /// The plugin in a shared object, which stays loaded.
    ///
    /// # Panics
    /// If it cannot be loaded, has no function `symbol`, or as [`Entry::of`] does.
    ///
    /// # Safety
    /// That function is the entry function of a plugin.
    pub unsafe fn open(library: &Path, symbol: &CStr) -> Self {
        let path = CString::new(library.as_os_str().as_bytes()).expect("a path without NUL");
        // SAFETY: the strings are terminated; the rest is the contract's.
        unsafe {
            let handle = libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
            assert!(!handle.is_null(), "{:?}", CStr::from_ptr(libc::dlerror()));
            let found = libc::dlsym(handle, symbol.as_ptr());
            assert!(!found.is_null(), "{:?}", CStr::from_ptr(libc::dlerror()));
            Self::of(std::mem::transmute::<*mut c_void, nbffi_plugin_entry_fn>(
                found,
            ))
        }
    }
}

/// One runtime of a plugin. It is closed when it is dropped.
pub struct Runtime {
    table: Box<Table>,
    plugin: &'static nbffi_plugin,
    state: *mut c_void,
    closed: bool,
}

// SAFETY: the state is the plugin's, and the ABI has it cope with any thread.
unsafe impl Send for Runtime {}
// SAFETY: as above; what the host changes is behind locks.
unsafe impl Sync for Runtime {}

thread_local! {
    /// The host whose plugin this thread is inside of, and its last task.
    static INSIDE: Cell<(*const nbffi_host, u64)> = const { Cell::new((null(), 0)) };
}

impl Runtime {
    /// Initialises a runtime named "test", in a host of this version.
    ///
    /// # Errors
    /// The message of `init`.
    pub fn load(entry: Entry, config: impl Into<Vec<u8>>) -> Result<Self, String> {
        Self::load_as(entry, "test", config, NBFFI_ABI_VERSION)
    }

    /// As `load`, with a name, in a host of another version of the ABI: its table
    /// ends where that version's did. (A real host refuses plugins of a version
    /// that is newer than its own. This one leaves it to the plugin.)
    ///
    /// # Errors
    /// The message of `init`.
    ///
    /// # Panics
    /// If name or configuration have a NUL, or the message has no end.
    pub fn load_as(
        Entry(plugin): Entry,
        name: &str,
        config: impl Into<Vec<u8>>,
        version: u32,
    ) -> Result<Self, String> {
        let blocking = plugin.flags & NBFFI_ASYNC == 0;
        let mut runtime = Self {
            table: Table::new(name, config.into(), version, blocking),
            plugin,
            state: null_mut(),
            closed: true,
        };
        if let Some(init) = plugin.init {
            let mut message = [0x55 as c_char; MESSAGE_BYTES];
            let size = message.len() as u64;
            let (host, state) = (runtime.table.as_ptr(), &mut runtime.state);
            // SAFETY: as the header has it; the table is there until the runtime is
            // dropped, after `close`.
            if unsafe { init(host, state, message.as_mut_ptr(), size) } != 0 {
                assert!(message.contains(&0), "the message is not terminated");
                // SAFETY: terminated.
                let message = unsafe { CStr::from_ptr(message.as_ptr()) };
                return Err(message.to_string_lossy().into_owned());
            }
        }
        runtime.closed = false;
        Ok(runtime)
    }

    /// Makes a task that the plugin gets when it asks for the next one, or by
    /// [`Runtime::run_queued`].
    pub fn enqueue(&self, request: impl Into<Vec<u8>>, options: Options) -> TestTask {
        let priority = options.priority;
        let task = TestTask::new(request.into(), options, self.address());
        let mut queue = self.table.queue();
        let place = queue.partition_point(|&(other, _)| other >= priority);
        queue.insert(place, (priority, task.id()));
        task
    }

    /// How many tasks wait to be asked for.
    pub fn queued(&self) -> usize {
        self.table.queue().len()
    }

    /// Calls the plugin with each queued task that it does not ask for itself.
    pub fn run_queued(&self) {
        while let Some(task) = self.table.pop() {
            self.enter(task);
        }
    }

    /// Calls the plugin with a new task, on this thread.
    pub fn submit(&self, request: impl Into<Vec<u8>>, options: Options) -> TestTask {
        let task = TestTask::new(request.into(), options, self.address());
        self.enter(task.id());
        task
    }

    /// Calls the plugin, and waits for the outcome.
    #[track_caller]
    pub fn call(&self, request: impl Into<Vec<u8>>) -> Outcome {
        self.call_with(request, Options::default())
    }

    /// As [`Runtime::call`], with options.
    #[track_caller]
    pub fn call_with(&self, request: impl Into<Vec<u8>>, options: Options) -> Outcome {
        self.submit(request, options).wait()
    }

    /// Has one request answered so many times, on this thread, to be measured: the
    /// host does little more than count. In each call, a plugin that asks for the
    /// `next` task gets up to `batch`.
    ///
    /// # Panics
    /// If one failed, or has not been answered when the last call has returned.
    pub fn repeat(&self, request: &[u8], times: u64, batch: u64) {
        let mut ended = 0;
        while ended < times {
            let run = measured::begin(request, batch.min(times - ended));
            self.enter(run.task());
            ended += run.ended();
        }
    }

    fn enter(&self, task: u64) {
        let (data, len) = tasks::request_of(task);
        let before = INSIDE.replace((self.table.as_ptr(), task));
        let call = self.plugin.call.expect("a plugin has a call function");
        // SAFETY: the request is there until the task has ended; state is what init
        // stored.
        let code = unsafe { call(self.state, task, data, len) };
        let (_, last) = INSIDE.replace(before);
        if !measured::is(last) {
            tasks::settle(last, code, self.table.blocking);
        }
    }

    /// What was logged since the last look.
    pub fn logged(&self) -> Vec<(Level, String)> {
        std::mem::take(&mut self.table.log())
    }

    /// Ends the process, as far as this runtime's plugin is concerned: runs what it
    /// gave to `at_exit`, each on a thread of its own, and waits for all of it.
    pub fn exit(&self, time: Duration) {
        let deadline_ns = monotonic_ns() + time.as_nanos() as u64;
        let hooks = std::mem::take(&mut *lock(&self.table.exits));
        thread::scope(|scope| {
            for hook in hooks {
                scope.spawn(move || hook.call(deadline_ns));
            }
        });
    }

    /// Closes the runtime. Unlike nginx, it does not wait for tasks that are
    /// pending. Later calls do nothing.
    pub fn close(&mut self) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        tasks::leave(self.address());
        if let Some(close) = self.plugin.close {
            // SAFETY: the last call with this state.
            unsafe { close(self.state) };
        }
    }

    fn address(&self) -> usize {
        self.table.as_ptr().addr()
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.close();
    }
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime")
            .field("queued", &self.queued())
            .finish_non_exhaustive()
    }
}

/// A lock that a failed test has not spoilt for the others.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A function of the plugin with its argument, for another thread.
#[derive(Clone, Copy)]
struct Callback {
    function: unsafe extern "C" fn(*mut c_void, u64),
    arg: *mut c_void,
}

// SAFETY: the ABI has such functions called on other threads.
unsafe impl Send for Callback {}

impl Callback {
    fn is(&self, other: &Self) -> bool {
        std::ptr::fn_addr_eq(self.function, other.function) && self.arg == other.arg
    }

    fn call(self, value: u64) {
        // SAFETY: the plugin passed both for that.
        unsafe { (self.function)(self.arg, value) };
    }
}
