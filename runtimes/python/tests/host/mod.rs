//! A host in a few lines: enough of the plugin ABI to drive the plugin, from
//! several threads.

use std::collections::{HashMap, VecDeque};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nonblocking_ffi_plugin::sys::*;
use nonblocking_ffi_python::nbffi_plugin_entry;
use nonblocking_ffi_runtimes_common::monotonic_ns;

/// How long anything may take that is not timed.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With a response, and perhaps a status.
    Response(Vec<u8>, Option<(i64, String)>),
    /// With an error: its code and message.
    Failed(i64, String),
}

impl Outcome {
    /// The response as text.
    pub fn text(&self) -> String {
        match self {
            Self::Response(data, _) => String::from_utf8_lossy(data).into_owned(),
            Self::Failed(code, message) => panic!("failed with {code}: {message}"),
        }
    }

    /// The message of a failure.
    pub fn failure(&self) -> &str {
        match self {
            Self::Failed(_, message) => message,
            other => panic!("{other:?}"),
        }
    }
}

#[derive(Debug, Default)]
struct Task {
    /// Kept until the test ends, as a stale handle may be asked about.
    request: Box<[u8]>,
    deadline_ns: u64,
    cancelled: bool,
    status: Option<(i64, String)>,
    outcome: Option<Outcome>,
    completions: u32,
}

static NEXT: AtomicU64 = AtomicU64::new(1);
static TASKS: Mutex<Option<HashMap<u64, Task>>> = Mutex::new(None);
static CHANGED: Condvar = Condvar::new();

fn tasks() -> MutexGuard<'static, Option<HashMap<u64, Task>>> {
    let mut guard = TASKS.lock().unwrap();
    guard.get_or_insert_default();
    guard
}

fn with<T>(task: u64, work: impl FnOnce(&mut Task) -> T) -> Option<T> {
    tasks().as_mut().unwrap().get_mut(&task).map(work)
}

fn complete(task: u64, make: impl FnOnce(&mut Task) -> Outcome) -> c_int {
    let status = with(task, |t| {
        t.completions += 1;
        if t.outcome.is_some() {
            return NBFFI_STALE;
        }
        t.outcome = Some(make(t));
        NBFFI_OK
    });
    CHANGED.notify_all();
    status.unwrap_or(NBFFI_STALE)
}

/// One runtime.
#[repr(C)]
pub struct Runtime {
    table: nbffi_host,
    config: Vec<u8>,
    log: Mutex<Vec<(c_int, String)>>,
    /// What `next` gives away.
    waiting: Mutex<VecDeque<u64>>,
    plugin: &'static nbffi_plugin,
    state: *mut c_void,
}

// SAFETY: the state is the plugin's, which must cope with any thread.
unsafe impl Send for Runtime {}
// SAFETY: as above.
unsafe impl Sync for Runtime {}

impl Runtime {
    /// Loads a runtime with these fields.
    pub fn load(fields: &[(&str, &str)]) -> Result<Box<Self>, String> {
        Self::load_for(fields, size_of::<nbffi_host>())
    }

    /// The same in a host whose table has so many bytes.
    pub fn load_for(fields: &[(&str, &str)], size: usize) -> Result<Box<Self>, String> {
        let mut config = Vec::new();
        for (key, value) in fields {
            config.extend(format!("{key}:{}:{value}\n", value.len()).into_bytes());
        }
        // SAFETY: the descriptor lives as long as the process.
        let plugin = unsafe { &*nbffi_plugin_entry(NBFFI_ABI_VERSION) };
        let mut runtime = Box::new(Self {
            table: nbffi_host {
                abi_version: NBFFI_ABI_VERSION,
                size: size as u32,
                log,
                config: get_config,
                name: get_name,
                deadline_ns,
                is_cancelled,
                alloc,
                respond_buffer,
                respond,
                respond_owned,
                fail,
                set_status,
                next,
                // It may always be wanted elsewhere.
                await_next: next,
                at_exit,
                on_cancel,
            },
            config,
            log: Mutex::default(),
            waiting: Mutex::default(),
            plugin,
            state: null_mut(),
        });
        let (mut state, mut err) = (null_mut(), [0 as c_char; 4096]);
        let host: *const Self = &*runtime;
        // SAFETY: as the header has it; the table leads the structure, which is
        // boxed.
        let code = unsafe {
            plugin.init.unwrap()(host.cast(), &mut state, err.as_mut_ptr(), err.len() as u64)
        };
        if code != 0 {
            // SAFETY: init terminates its message.
            let text = unsafe { CStr::from_ptr(err.as_ptr()) };
            return Err(text.to_string_lossy().into_owned());
        }
        runtime.state = state;
        Ok(runtime)
    }

    /// Runs a task on this thread; its number.
    pub fn start(&self, request: &[u8], timeout: Option<Duration>) -> u64 {
        let task = self.prepare(request, timeout);
        self.enter(task);
        task
    }

    /// Makes a task.
    pub fn prepare(&self, request: &[u8], timeout: Option<Duration>) -> u64 {
        // Relaxed: only to be different.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let deadline_ns =
            timeout.map_or(NBFFI_NO_DEADLINE, |t| monotonic_ns() + t.as_nanos() as u64);
        let task = Task {
            request: request.into(),
            deadline_ns,
            ..Task::default()
        };
        tasks().as_mut().unwrap().insert(number, task);
        number
    }

    /// Lets `next` give a task away.
    pub fn queue(&self, task: u64) {
        self.waiting.lock().unwrap().push_back(task);
    }

    /// Calls the plugin with a task.
    pub fn enter(&self, task: u64) {
        let (data, len) = request_of(task);
        // SAFETY: the request is kept; the state is what init stored.
        let code = unsafe { self.plugin.call.unwrap()(self.state, task, data, len) };
        assert_eq!(code, 0);
    }

    /// Runs a task and waits for its end.
    pub fn call(&self, request: &str) -> Outcome {
        wait(self.start(request.as_bytes(), None))
    }

    /// What was logged since the last look: level and text.
    pub fn logged(&self) -> Vec<(c_int, String)> {
        std::mem::take(&mut self.log.lock().unwrap())
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if !self.state.is_null() {
            // SAFETY: the last call with this state.
            unsafe { self.plugin.close.unwrap()(self.state) };
        }
    }
}

fn request_of(task: u64) -> (*const c_void, u64) {
    with(task, |t| match t.request.len() {
        // NULL for an empty request: the plugin must not mind.
        0 => (std::ptr::null(), 0),
        len => (t.request.as_ptr().cast(), len as u64),
    })
    .unwrap()
}

/// Waits for the end of a task, which must have come once.
pub fn wait(task: u64) -> Outcome {
    let end = Instant::now() + PATIENCE;
    let mut guard = tasks();
    loop {
        let known = &guard.as_ref().unwrap()[&task];
        if let Some(outcome) = &known.outcome {
            assert_eq!(known.completions, 1, "completions of task {task}");
            return outcome.clone();
        }
        let left = end.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "task {task} does not end");
        guard = CHANGED.wait_timeout(guard, left).unwrap().0;
    }
}

/// Whether a task has not ended yet.
pub fn is_pending(task: u64) -> bool {
    with(task, |t| t.outcome.is_none()).unwrap()
}

/// Its caller does not want it any more.
pub fn cancel(task: u64) {
    with(task, |t| t.cancelled = true);
}

unsafe extern "C" fn log(host: *const nbffi_host, level: c_int, text: *const c_char, len: u64) {
    // SAFETY: the table leads a Runtime; the text is readable.
    let (runtime, text) = unsafe {
        let text = std::slice::from_raw_parts(text.cast::<u8>(), len as usize);
        (&*host.cast::<Runtime>(), String::from_utf8_lossy(text))
    };
    runtime.log.lock().unwrap().push((level, text.into_owned()));
}

unsafe extern "C" fn get_config(host: *const nbffi_host, len: *mut u64) -> *const c_char {
    // SAFETY: the table leads a Runtime; the length is writable.
    unsafe {
        let config = &(*host.cast::<Runtime>()).config;
        *len = config.len() as u64;
        config.as_ptr().cast()
    }
}

unsafe extern "C" fn get_name(_: *const nbffi_host, len: *mut u64) -> *const c_char {
    // SAFETY: writable.
    unsafe { *len = 4 };
    c"test".as_ptr()
}

unsafe extern "C" fn deadline_ns(task: u64) -> u64 {
    let pending = |t: &mut Task| match t.outcome {
        Some(_) => 0,
        None => t.deadline_ns,
    };
    with(task, pending).unwrap_or(0)
}

unsafe extern "C" fn is_cancelled(task: u64) -> c_int {
    with(task, |t| t.outcome.is_some() || t.cancelled).unwrap_or(true) as c_int
}

unsafe extern "C" fn alloc(_: u64, _: u64) -> *mut c_void {
    null_mut()
}

unsafe extern "C" fn respond_buffer(_: u64, _: u64) -> c_int {
    NBFFI_INVALID
}

unsafe extern "C" fn respond(task: u64, data: *const c_void, len: u64) -> c_int {
    let data = match len {
        0 => Vec::new(),
        // SAFETY: the plugin passes readable bytes.
        len => unsafe { std::slice::from_raw_parts(data.cast::<u8>(), len as usize) }.to_vec(),
    };
    complete(task, |t| Outcome::Response(data, t.status.take()))
}

unsafe extern "C" fn respond_owned(
    _: u64,
    _: *mut c_void,
    _: u64,
    _: Option<nbffi_release_fn>,
    _: *mut c_void,
) -> c_int {
    NBFFI_INVALID
}

/// # Safety
///
/// `len` bytes are readable.
unsafe fn text(data: *const c_char, len: u64) -> String {
    // SAFETY: by the contract.
    let bytes = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), len as usize) };
    String::from_utf8_lossy(bytes).into_owned()
}

unsafe extern "C" fn fail(task: u64, code: i64, message: *const c_char, len: u64) -> c_int {
    // SAFETY: the plugin's message.
    let message = unsafe { text(message, len) };
    complete(task, |_| Outcome::Failed(code, message))
}

unsafe extern "C" fn set_status(task: u64, code: i64, message: *const c_char, len: u64) -> c_int {
    // SAFETY: the plugin's message.
    let message = unsafe { text(message, len) };
    with(task, |t| t.status = Some((code, message))).map_or(NBFFI_STALE, |()| NBFFI_OK)
}

unsafe extern "C" fn on_cancel(
    _task: u64,
    _function: Option<nbffi_cancel_fn>,
    _arg: *mut c_void,
) -> c_int {
    NBFFI_OK
}

/// This host never ends.
unsafe extern "C" fn at_exit(
    _host: *const nbffi_host,
    _function: Option<nbffi_exit_fn>,
    _arg: *mut c_void,
) -> c_int {
    NBFFI_OK
}

unsafe extern "C" fn next(
    host: *const nbffi_host,
    task: *mut u64,
    request: *mut *const c_void,
    len: *mut u64,
) -> c_int {
    // SAFETY: the table leads a Runtime.
    let runtime = unsafe { &*host.cast::<Runtime>() };
    let Some(number) = runtime.waiting.lock().unwrap().pop_front() else {
        return 0;
    };
    let (data, length) = request_of(number);
    // SAFETY: the plugin's pointers are writable.
    unsafe {
        *task = number;
        *request = data;
        *len = length;
    }
    1
}
