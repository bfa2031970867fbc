//! A host in a few lines: enough of the plugin ABI to drive a plugin, and to
//! count what it does.
#![allow(dead_code, missing_docs, reason = "each test file uses a part of it")]

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nonblocking_ffi_plugin::sys::*;

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Response {
        data: Vec<u8>,
        status: Option<(i64, String)>,
        via: Via,
    },
    Failed {
        code: i64,
        message: String,
    },
    /// The host refused a response for its size.
    TooLarge,
    /// The host had no memory for it.
    NoMemory,
}

/// Which function a response came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    Copy,
    /// As `Copy`, but what is a part of the request is not copied.
    Request,
    Owned,
    Buffer,
    Nothing,
}

impl Outcome {
    pub fn data(&self) -> &[u8] {
        match self {
            Outcome::Response { data, .. } => data,
            other => panic!("no response: {other:?}"),
        }
    }

    pub fn failure(&self) -> (i64, &str) {
        match self {
            Outcome::Failed { code, message } => (*code, message),
            other => panic!("no failure: {other:?}"),
        }
    }
}

/// One task. It is kept until the test process ends: late completions count.
struct TaskState {
    request: Box<[u8]>,
    max_response: u64,
    memory: u64,
    /// What a blocking task ends with that is left pending after `alloc`
    /// refused a buffer.
    refused: Option<Outcome>,
    deadline_ns: u64,
    cancelled: bool,
    buffer: Option<Vec<u8>>,
    status: Option<(i64, String)>,
    outcome: Option<Outcome>,
    stale: usize,
}

// Handles are unique in the process, since the host's task functions do not
// say which runtime they are meant for.
static NEXT: AtomicU64 = AtomicU64::new(1);
static TASKS: Mutex<Option<HashMap<u64, TaskState>>> = Mutex::new(None);
static DONE: Condvar = Condvar::new();

fn tasks() -> MutexGuard<'static, Option<HashMap<u64, TaskState>>> {
    let mut guard = TASKS.lock().unwrap();
    guard.get_or_insert_default();
    guard
}

fn with<R>(task: u64, f: impl FnOnce(&mut TaskState) -> R) -> Option<R> {
    tasks().as_mut().unwrap().get_mut(&task).map(f)
}

/// One runtime of a plugin.
#[repr(C)]
pub struct Runtime {
    table: nbffi_host,
    plugin: &'static nbffi_plugin,
    state: *mut c_void,
    config: CString,
    name: CString,
    pub log: Mutex<Vec<(c_int, String)>>,
    /// Tasks that `next` gives out.
    queue: Mutex<VecDeque<u64>>,
    closed: bool,
}

thread_local! {
    /// The host whose plugin this thread is inside of, and its last task.
    static INSIDE: Cell<(*const nbffi_host, u64)> = const { Cell::new((std::ptr::null(), 0)) };
}

// SAFETY: state is the plugin's, which must cope with any thread.
unsafe impl Send for Runtime {}
// SAFETY: as above.
unsafe impl Sync for Runtime {}

/// What a task is submitted with.
pub struct Options {
    pub max_response: u64,
    /// How much `alloc` can give.
    pub memory: u64,
    pub timeout: Option<Duration>,
    pub cancelled: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            max_response: 1 << 30,
            memory: u64::MAX,
            timeout: None,
            cancelled: false,
        }
    }
}

impl Runtime {
    /// Loads a plugin as the host would.
    pub fn load(entry: nbffi_plugin_entry_fn, config: &str) -> Result<Box<Self>, String> {
        Self::load_as(entry, config, NBFFI_ABI_VERSION)
    }

    /// The same as a host of some other version.
    pub fn load_as(
        entry: nbffi_plugin_entry_fn,
        config: &str,
        version: u32,
    ) -> Result<Box<Self>, String> {
        // SAFETY: an entry function of the ABI.
        let plugin = unsafe { entry(version).as_ref() }.ok_or("refused")?;
        assert_eq!(plugin.abi_version, NBFFI_ABI_VERSION);
        assert_eq!(plugin.size as usize, size_of::<nbffi_plugin>());
        assert_eq!((plugin.flags & !NBFFI_ASYNC, plugin.reserved), (0, 0));
        let mut runtime = Box::new(Runtime {
            table: nbffi_host {
                abi_version: version,
                size: size_of::<nbffi_host>() as u32,
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
            plugin,
            state: null_mut(),
            config: CString::new(config).unwrap(),
            name: CString::new("fake").unwrap(),
            log: Mutex::default(),
            queue: Mutex::default(),
            closed: false,
        });
        let mut err = [0x55 as c_char; 64];
        if let Some(init) = plugin.init {
            let host: *const Runtime = &*runtime;
            let mut state = null_mut();
            // SAFETY: arguments as the header says; the table leads Runtime.
            let rc = unsafe { init(host.cast(), &mut state, err.as_mut_ptr(), 64) };
            if rc != 0 {
                runtime.closed = true;
                assert!(err.contains(&0), "the message is not terminated");
                // SAFETY: terminated.
                return Err(unsafe { CStr::from_ptr(err.as_ptr()) }
                    .to_str()
                    .unwrap()
                    .to_owned());
            }
            runtime.state = state;
        }
        Ok(runtime)
    }

    /// Makes a task.
    fn post(request: &[u8], options: Options) -> u64 {
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let deadline_ns = options
            .timeout
            .map_or(NBFFI_NO_DEADLINE, |t| now() + t.as_nanos() as u64);
        tasks().as_mut().unwrap().insert(
            id,
            TaskState {
                request: request.into(),
                max_response: options.max_response,
                memory: options.memory,
                refused: None,
                deadline_ns,
                cancelled: options.cancelled,
                buffer: None,
                status: None,
                outcome: None,
                stale: 0,
            },
        );
        id
    }

    /// Makes a task that the plugin gets when it asks for the next one; its
    /// number.
    pub fn enqueue(&self, request: &[u8], options: Options) -> u64 {
        let id = Self::post(request, options);
        self.queue.lock().unwrap().push_back(id);
        id
    }

    /// How many tasks wait to be asked for.
    pub fn queued(&self) -> usize {
        self.queue.lock().unwrap().len()
    }

    /// Calls the plugin; the task's number.
    pub fn submit(&self, request: &[u8], options: Options) -> u64 {
        let id = Self::post(request, options);
        let (data, len) = request_of(id);
        let host: *const Runtime = self;
        INSIDE.set((host.cast(), id));
        // SAFETY: the request is kept; state is what init stored.
        let rc = unsafe { (self.plugin.call.unwrap())(self.state, id, data, len) };
        let (_, last) = INSIDE.replace((std::ptr::null(), 0));
        self.settle(last, rc);
        id
    }

    /// Ends a task that the plugin has done with, unless it is complete.
    fn settle(&self, task: u64, rc: c_int) {
        with(task, |t| {
            let pending = t.outcome.is_none() && self.plugin.flags & NBFFI_ASYNC == 0;
            if pending && t.refused.is_some() {
                t.outcome = t.refused.take();
            }
            if rc != 0 && t.outcome.is_none() {
                let message = format!("code {rc}");
                t.outcome = Some(Outcome::Failed {
                    code: rc.into(),
                    message,
                });
            }
            if self.plugin.flags & NBFFI_ASYNC == 0 && t.outcome.is_none() {
                t.outcome = Some(Outcome::Response {
                    data: vec![],
                    status: t.status.take(),
                    via: Via::Nothing,
                });
            }
        });
    }

    /// Calls the plugin and waits for the outcome.
    pub fn call(&self, request: &[u8]) -> Outcome {
        self.call_with(request, Options::default())
    }

    pub fn call_with(&self, request: &[u8], options: Options) -> Outcome {
        let id = self.submit(request, options);
        wait(id)
    }

    /// Ends the runtime, and makes any later use of its table visible.
    pub fn close(&mut self) {
        self.closed = true;
        if let Some(close) = self.plugin.close {
            // SAFETY: the last call with this state.
            unsafe { close(self.state) };
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if !self.closed {
            self.close();
        }
    }
}

/// A task's request, which stays where it is.
fn request_of(task: u64) -> (*const c_void, u64) {
    with(task, |t| match t.request.len() {
        // NULL for an empty one: the plugin must not mind.
        0 => (std::ptr::null(), 0),
        len => (t.request.as_ptr().cast(), len as u64),
    })
    .unwrap()
}

pub fn outcome(task: u64) -> Option<Outcome> {
    with(task, |t| t.outcome.clone()).unwrap()
}

/// Waits for a task to be completed.
pub fn wait(task: u64) -> Outcome {
    let end = Instant::now() + Duration::from_secs(20);
    let mut guard = tasks();
    loop {
        if let Some(outcome) = &guard.as_ref().unwrap()[&task].outcome {
            return outcome.clone();
        }
        let left = end.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "task {task} was not completed");
        guard = DONE.wait_timeout(guard, left).unwrap().0;
    }
}

/// How many completions came too late; none should, from Rust.
pub fn stale(task: u64) -> usize {
    with(task, |t| t.stale).unwrap()
}

pub fn cancel(task: u64) {
    with(task, |t| t.cancelled = true).unwrap();
}

pub fn now() -> u64 {
    let mut ts = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: ts is writable.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut ts) };
    ts.tv_sec as u64 * 1_000_000_000 + ts.tv_nsec as u64
}

/// `len` bytes from `data`, copied.
///
/// # Safety
///
/// They are readable.
unsafe fn bytes(data: *const c_void, len: u64) -> Vec<u8> {
    if len == 0 {
        return vec![];
    }
    // SAFETY: the caller vouches for it.
    unsafe { std::slice::from_raw_parts(data.cast::<u8>(), len as usize) }.to_vec()
}

/// As `bytes`, for text.
///
/// # Safety
///
/// As `bytes`.
unsafe fn text(data: *const c_char, len: u64) -> String {
    // SAFETY: the caller vouches for it.
    String::from_utf8(unsafe { bytes(data.cast(), len) }).unwrap()
}

unsafe extern "C" fn log(host: *const nbffi_host, level: c_int, msg: *const c_char, len: u64) {
    // SAFETY: the table leads a Runtime; msg is readable.
    let (runtime, msg) = unsafe { (&*host.cast::<Runtime>(), text(msg, len)) };
    runtime.log.lock().unwrap().push((level, msg));
}

unsafe extern "C" fn get_config(host: *const nbffi_host, len: *mut u64) -> *const c_char {
    // SAFETY: the table leads a Runtime; len may be NULL.
    unsafe {
        let config = &(*host.cast::<Runtime>()).config;
        if let Some(len) = len.as_mut() {
            *len = config.as_bytes().len() as u64;
        }
        config.as_ptr()
    }
}

unsafe extern "C" fn get_name(host: *const nbffi_host, len: *mut u64) -> *const c_char {
    // SAFETY: the table leads a Runtime; len may be NULL.
    unsafe {
        let name = &(*host.cast::<Runtime>()).name;
        if let Some(len) = len.as_mut() {
            *len = name.as_bytes().len() as u64;
        }
        name.as_ptr()
    }
}

unsafe extern "C" fn deadline_ns(task: u64) -> u64 {
    with(task, |t| {
        if t.outcome.is_some() {
            0
        } else {
            t.deadline_ns
        }
    })
    .unwrap_or(0)
}

unsafe extern "C" fn is_cancelled(task: u64) -> c_int {
    with(task, |t| {
        t.outcome.is_some() || t.cancelled || t.deadline_ns <= now()
    })
    .unwrap_or(true) as c_int
}

unsafe extern "C" fn alloc(task: u64, size: u64) -> *mut c_void {
    let buffer = with(task, |t| {
        if t.outcome.is_some() {
            return null_mut();
        }
        // Either way the task stays pending.
        if size > t.max_response {
            t.refused = Some(Outcome::TooLarge);
            return null_mut();
        }
        if size > t.memory {
            t.refused = Some(Outcome::NoMemory);
            return null_mut();
        }
        // Filled with what no test expects, to catch unwritten bytes.
        t.buffer
            .insert(vec![0xEE; size.max(1) as usize])
            .as_mut_ptr()
            .cast()
    });
    DONE.notify_all();
    buffer.unwrap_or(null_mut())
}

fn complete(task: u64, outcome: impl FnOnce(&mut TaskState) -> Result<Outcome, c_int>) -> c_int {
    let rc = with(task, |t| {
        if t.outcome.is_some() {
            t.stale += 1;
            return NBFFI_STALE;
        }
        match outcome(t) {
            Ok(outcome) => {
                t.outcome = Some(outcome);
                NBFFI_OK
            }
            Err(rc) => {
                if rc == NBFFI_TOO_LARGE {
                    t.outcome = Some(Outcome::TooLarge);
                }
                rc
            }
        }
    });
    DONE.notify_all();
    rc.unwrap_or(NBFFI_STALE)
}

fn success(t: &mut TaskState, data: Vec<u8>, via: Via) -> Result<Outcome, c_int> {
    if data.len() as u64 > t.max_response {
        return Err(NBFFI_TOO_LARGE);
    }
    Ok(Outcome::Response {
        data,
        status: t.status.take(),
        via,
    })
}

unsafe extern "C" fn respond_buffer(task: u64, len: u64) -> c_int {
    complete(task, |t| match t.buffer.take() {
        _ if len > t.max_response => Err(NBFFI_TOO_LARGE),
        Some(mut buffer) if len <= buffer.len() as u64 => {
            buffer.truncate(len as usize);
            success(t, buffer, Via::Buffer)
        }
        _ => Err(NBFFI_INVALID),
    })
}

unsafe extern "C" fn respond(task: u64, data: *const c_void, len: u64) -> c_int {
    // SAFETY: the plugin passes readable bytes.
    let copy = unsafe { bytes(data, len) };
    complete(task, |t| {
        let request = t.request.as_ptr_range();
        let part = data.cast::<u8>();
        let inside = len > 0 && part >= request.start && part < request.end;
        success(t, copy, if inside { Via::Request } else { Via::Copy })
    })
}

unsafe extern "C" fn respond_owned(
    task: u64,
    data: *mut c_void,
    len: u64,
    release: Option<nbffi_release_fn>,
    arg: *mut c_void,
) -> c_int {
    // SAFETY: the plugin passes readable bytes.
    let copy = unsafe { bytes(data, len) };
    let rc = complete(task, |t| success(t, copy, Via::Owned));
    if let Some(release) = release {
        // In a thread of its own, as nginx's main thread is.
        let (arg, data) = (arg.expose_provenance(), data.expose_provenance());
        std::thread::spawn(move || {
            let arg = std::ptr::with_exposed_provenance_mut(arg);
            // SAFETY: once, with what the plugin passed.
            unsafe { release(arg, std::ptr::with_exposed_provenance_mut(data)) }
        })
        .join()
        .unwrap();
    }
    rc
}

unsafe extern "C" fn fail(task: u64, code: i64, msg: *const c_char, len: u64) -> c_int {
    // SAFETY: the plugin passes readable bytes.
    let message = unsafe { text(msg, len) };
    complete(task, |_| Ok(Outcome::Failed { code, message }))
}

unsafe extern "C" fn set_status(task: u64, code: i64, msg: *const c_char, len: u64) -> c_int {
    // SAFETY: the plugin passes readable bytes.
    let message = unsafe { text(msg, len) };
    with(task, |t| t.status = Some((code, message))).map_or(NBFFI_STALE, |()| NBFFI_OK)
}

/// Compiles C in the manner of the Makefile into an object of the test's own
/// directory, with more flags.
pub fn cc(
    compiler: &str,
    flags: &[&str],
    source: &std::path::Path,
    output: &str,
) -> std::path::PathBuf {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap();
    let output = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(output);
    let run = std::process::Command::new(compiler)
        .args(flags)
        .args(["-Wall", "-Wextra", "-Werror", "-O2", "-I"])
        .arg(root.join("include"))
        .arg("-o")
        .arg(&output)
        .arg(source)
        .arg("-lpthread")
        .output()
        .expect("a C compiler is needed");
    assert!(
        run.status.success(),
        "{compiler}: {}",
        String::from_utf8_lossy(&run.stderr)
    );
    output
}

/// Compiles a plugin in C to `output` in the test's own directory, and loads it.
pub fn load_c(source: &std::path::Path, output: &str) -> Box<Runtime> {
    use std::os::unix::ffi::OsStrExt;

    let flags = ["-std=c99", "-pedantic", "-Wshadow", "-fPIC", "-shared"];
    let library = cc("cc", &flags, source, output);
    let library = CString::new(library.as_os_str().as_bytes()).unwrap();
    // SAFETY: the strings are terminated; the symbol is the entry function.
    let entry = unsafe {
        let handle = libc::dlopen(library.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
        assert!(!handle.is_null(), "{:?}", CStr::from_ptr(libc::dlerror()));
        let symbol = libc::dlsym(handle, c"nbffi_plugin_entry".as_ptr());
        assert!(!symbol.is_null());
        std::mem::transmute::<*mut c_void, nbffi_plugin_entry_fn>(symbol)
    };
    Runtime::load(entry, "").unwrap()
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
    task: *mut nbffi_task,
    req: *mut *const c_void,
    len: *mut u64,
) -> c_int {
    let (inside, last) = INSIDE.get();
    if !std::ptr::eq(inside, host) {
        return 0;
    }
    // SAFETY: the table leads a Runtime.
    let runtime = unsafe { &*host.cast::<Runtime>() };
    runtime.settle(last, 0);
    let Some(id) = runtime.queue.lock().unwrap().pop_front() else {
        return 0;
    };
    INSIDE.set((host, id));
    // SAFETY: the plugin passes places to write to.
    unsafe {
        *task = id;
        (*req, *len) = request_of(id);
    }
    1
}
