//! A host in a few lines: it gives a runtime one task after the other, on the
//! calling thread, and notes how they end.
#![allow(dead_code, missing_docs, reason = "each user of it uses a part")]

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::offset_of;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr::{null, null_mut};

use nonblocking_ffi_plugin::sys::*;

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Response(Vec<u8>),
    Failed(i64, String),
}

#[repr(C)]
struct Host {
    table: nbffi_host,
    config: CString,
}

/// What the calls of this thread are about.
struct Queue {
    /// Address and length of each request; the task of one is its place, from 1.
    requests: Vec<(*const u8, u64)>,
    /// How many were given out.
    given: usize,
    /// How often the list is gone through.
    rounds: u64,
    /// How the tasks ended, if that is noted.
    outcomes: Option<Vec<Vec<Outcome>>>,
    /// Called when a task is responded to.
    on_response: Option<fn()>,
    ended: u64,
}

thread_local! {
    static QUEUE: RefCell<Queue> = const {
        RefCell::new(Queue {
            requests: Vec::new(),
            given: 0,
            rounds: 0,
            outcomes: None,
            on_response: None,
            ended: 0,
        })
    };
    static ROOM: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// `len` bytes at `data`.
///
/// # Safety
/// They are readable.
unsafe fn bytes<'a>(data: *const c_void, len: u64) -> &'a [u8] {
    match len {
        0 => &[],
        // SAFETY: by the contract.
        len => unsafe { std::slice::from_raw_parts(data.cast(), len as usize) },
    }
}

fn end(task: u64, outcome: impl FnOnce() -> Outcome) -> c_int {
    let then = QUEUE.with_borrow_mut(|queue| {
        queue.ended += 1;
        if let Some(outcomes) = &mut queue.outcomes {
            outcomes[task as usize - 1].push(outcome());
        }
        queue.on_response.take()
    });
    if let Some(then) = then {
        then();
    }
    NBFFI_OK
}

unsafe extern "C" fn log(_: *const nbffi_host, _: c_int, msg: *const c_char, len: u64) {
    // SAFETY: the plugin's message.
    let text = unsafe { bytes(msg.cast(), len) };
    eprintln!("{}", String::from_utf8_lossy(text));
}

unsafe extern "C" fn config(host: *const nbffi_host, len: *mut u64) -> *const c_char {
    // SAFETY: the table leads a Host; `len` is the plugin's.
    unsafe {
        let config = &(*host.cast::<Host>()).config;
        *len = config.as_bytes().len() as u64;
        config.as_ptr()
    }
}

unsafe extern "C" fn name(_: *const nbffi_host, len: *mut u64) -> *const c_char {
    // SAFETY: `len` is the plugin's.
    unsafe { *len = 4 };
    c"host".as_ptr()
}

unsafe extern "C" fn deadline_ns(_: u64) -> u64 {
    NBFFI_NO_DEADLINE
}

unsafe extern "C" fn is_cancelled(_: u64) -> c_int {
    0
}

unsafe extern "C" fn alloc(_: u64, size: u64) -> *mut c_void {
    let mut room = ROOM.take();
    room.resize(room.len().max(size as usize), 0);
    let address = room.as_mut_ptr().cast();
    ROOM.set(room);
    address
}

unsafe extern "C" fn respond_buffer(task: u64, len: u64) -> c_int {
    end(task, || {
        let room = ROOM.take();
        let response = room[..len as usize].to_vec();
        ROOM.set(room);
        Outcome::Response(response)
    })
}

unsafe extern "C" fn respond(task: u64, data: *const c_void, len: u64) -> c_int {
    // SAFETY: the plugin's data.
    let data = unsafe { bytes(data, len) };
    end(task, || Outcome::Response(data.to_vec()))
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

unsafe extern "C" fn fail(task: u64, code: i64, msg: *const c_char, len: u64) -> c_int {
    // SAFETY: the plugin's message.
    let message = String::from_utf8_lossy(unsafe { bytes(msg.cast(), len) });
    end(task, || Outcome::Failed(code, message.into_owned()))
}

unsafe extern "C" fn set_status(_: u64, _: i64, _: *const c_char, _: u64) -> c_int {
    NBFFI_OK
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
    _: *const nbffi_host,
    task: *mut u64,
    request: *mut *const c_void,
    len: *mut u64,
) -> c_int {
    let found = QUEUE.with_borrow_mut(|queue| {
        if queue.given == queue.requests.len() {
            if queue.rounds <= 1 {
                return None;
            }
            queue.rounds -= 1;
            queue.given = 0;
        }
        queue.given += 1;
        Some((queue.given as u64, queue.requests[queue.given - 1]))
    });
    let Some((number, (data, size))) = found else {
        return 0;
    };
    // SAFETY: the plugin's.
    unsafe {
        *task = number;
        *request = data.cast();
        *len = size;
    }
    1
}

/// A runtime of one of the test classes.
pub struct Runtime {
    _host: Box<Host>,
    plugin: &'static nbffi_plugin,
    state: *mut c_void,
}

impl Runtime {
    /// A runtime of a host of version 1.1.
    pub fn load(classes: &Path, method: &str) -> Result<Self, String> {
        Self::load_as(classes, method, size_of::<nbffi_host>())
    }

    /// A runtime of a host of version 1.0, which has no `next`.
    pub fn load_in_old_host(classes: &Path, method: &str) -> Result<Self, String> {
        Self::load_as(classes, method, offset_of!(nbffi_host, next))
    }

    fn load_as(classes: &Path, method: &str, size: usize) -> Result<Self, String> {
        let fields = [
            ("class_path", classes.display().to_string()),
            ("entry", format!("io.github.nonblockingffi.test.{method}")),
        ];
        let config_text: String = fields
            .iter()
            .map(|(key, value)| format!("{key}:{}:{value}\n", value.len()))
            .collect();
        let host = Box::new(Host {
            table: nbffi_host {
                abi_version: NBFFI_ABI_VERSION,
                size: size as u32,
                log,
                config,
                name,
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
            config: CString::new(config_text).unwrap(),
        });
        // SAFETY: the entry function of a plugin.
        let plugin = unsafe { &*nonblocking_ffi_java::nbffi_plugin_entry(NBFFI_ABI_VERSION) };
        let (mut state, mut err) = (null_mut(), [0x55 as c_char; 512]);
        let table: *const Host = &*host;
        // SAFETY: as the ABI has it; the table leads the Host, which stays.
        let status =
            unsafe { plugin.init.unwrap()(table.cast(), &mut state, err.as_mut_ptr(), 512) };
        if status != 0 {
            assert!(err.contains(&0), "the message is not terminated");
            // SAFETY: terminated.
            let message = unsafe { CStr::from_ptr(err.as_ptr()) };
            return Err(message.to_str().unwrap().to_owned());
        }
        Ok(Self {
            _host: host,
            plugin,
            state,
        })
    }

    /// One call of the plugin for each request that it does not take by itself.
    /// How each of them ended: once, each.
    pub fn run(&self, requests: &[&[u8]]) -> Vec<Outcome> {
        self.run_and(requests, None)
    }

    /// The same, with something to do when the first response comes.
    pub fn run_and(&self, requests: &[&[u8]], then: Option<fn()>) -> Vec<Outcome> {
        let parts = requests.iter().map(|r| (r.as_ptr(), r.len() as u64));
        let outcomes = self.run_raw(parts.collect(), then);
        let once = |mut all: Vec<Outcome>| {
            assert_eq!(all.len(), 1, "{all:?}");
            all.remove(0)
        };
        outcomes.into_iter().map(once).collect()
    }

    /// The same for requests that need not be there.
    pub fn run_raw(
        &self,
        requests: Vec<(*const u8, u64)>,
        then: Option<fn()>,
    ) -> Vec<Vec<Outcome>> {
        let queue = Queue {
            outcomes: Some(vec![Vec::new(); requests.len()]),
            requests,
            given: 0,
            rounds: 1,
            on_response: then,
            ended: 0,
        };
        // A run may be inside of another one.
        let before = QUEUE.replace(queue);
        while let Some(task) = first_of_call() {
            self.call(task);
        }
        QUEUE.replace(before).outcomes.unwrap()
    }

    /// One request, many times: in one call if `pulled`, else in one each. Nothing
    /// is noted.
    pub fn repeat(&self, request: &[u8], times: u64, pulled: bool) {
        QUEUE.replace(Queue {
            requests: vec![(request.as_ptr(), request.len() as u64)],
            given: 1,
            rounds: if pulled { times } else { 1 },
            outcomes: None,
            on_response: None,
            ended: 0,
        });
        for _ in 0..if pulled { 1 } else { times } {
            self.call(1);
        }
        assert_eq!(QUEUE.with_borrow(|queue| queue.ended), times);
    }

    fn call(&self, task: u64) {
        let (data, len) = QUEUE.with_borrow(|queue| queue.requests[task as usize - 1]);
        let data = if len == 0 { null() } else { data };
        // SAFETY: as the ABI has it.
        let status = unsafe { self.plugin.call.unwrap()(self.state, task, data.cast(), len) };
        assert_eq!(status, 0);
    }
}

/// The next task that `next` has not given out.
fn first_of_call() -> Option<u64> {
    QUEUE.with_borrow_mut(|queue| {
        (queue.given < queue.requests.len()).then(|| {
            queue.given += 1;
            queue.given as u64
        })
    })
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // SAFETY: the last call with this state; the host is there still.
        unsafe { self.plugin.close.unwrap()(self.state) };
    }
}

/// The test classes, in a folder of this name; `None` without a JDK.
pub fn classes(folder: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let into = Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder);
    let output = Command::new("javac")
        .args(["--release", "17", "-Xlint:all", "-Werror", "-sourcepath"])
        .arg(root.join("api/src/main/java"))
        .arg("-d")
        .arg(&into)
        .arg(root.join("tests/java/io/github/nonblockingffi/test/Echo.java"))
        .output();
    let Ok(output) = output else {
        println!("skipped: there is no JDK");
        return None;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    Some(into)
}
