//! One runtime: an entry with one configuration, from `init` to `close`.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::mem::offset_of;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use nonblocking_ffi_plugin::sys::{nbffi_host, nbffi_task};

use crate::api::{PyObject, VECTORCALL_OFFSET};
use crate::config::Config;
use crate::exit;
use crate::inbox::Inbox;
use crate::interpreter::{self, Interpreter};
use crate::object::{Gil, NOTHING, Ref, Result};
use crate::reply::{self, Reply};
use crate::threads::{self, Attached};

/// After so many tasks other threads get the GIL if they want it. Functions in
/// Python are asked for it anyway, those in C never.
const TASKS_PER_BREATH: u32 = 64;
/// What is larger is copied without the GIL.
pub const LARGE: usize = 64 * 1024;
/// nginx cuts log lines at some 2,000 bytes.
const LOG_BYTES: usize = 1900;

/// A runtime.
#[derive(Debug)]
pub struct Runtime {
    id: u64,
    host: HostTable,
    interpreter: &'static Interpreter,
    handle: Option<Ref>,
    serve: Serve,
}

/// Who runs the tasks.
#[derive(Debug)]
enum Serve {
    /// The pool thread that has them, by calling this.
    Here(Ref),
    /// The loop.
    Loop(Arc<Inbox>),
}

/// The host's table for one runtime.
#[derive(Clone, Copy, Debug)]
struct HostTable(NonNull<nbffi_host>);

// SAFETY: the header allows every host function in any thread from init to
// close.
unsafe impl Send for HostTable {}
// SAFETY: as above; the table is never written.
unsafe impl Sync for HostTable {}

impl HostTable {
    fn table(&self) -> &nbffi_host {
        // SAFETY: valid from init to close; see `Runtime` and `Listed`.
        unsafe { self.0.as_ref() }
    }

    /// The function `next`, which came with version 1.1.
    fn has_next(&self) -> bool {
        let end = offset_of!(nbffi_host, next) + size_of::<usize>();
        // SAFETY: `size` leads the structure in every version. It is read in
        // place, since the table may be shorter than ours.
        let size = unsafe { (*self.0.as_ptr()).size };
        size as usize >= end
    }
}

/// The host's functions that are about tasks. They are the same for all
/// runtimes, and last as long as the host: for ever.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "documented in the header")]
pub struct TaskFunctions {
    pub deadline_ns: unsafe extern "C" fn(nbffi_task) -> u64,
    pub is_cancelled: unsafe extern "C" fn(nbffi_task) -> i32,
    pub respond: unsafe extern "C" fn(nbffi_task, *const c_void, u64) -> i32,
    pub fail: unsafe extern "C" fn(nbffi_task, i64, *const std::ffi::c_char, u64) -> i32,
    pub set_status: unsafe extern "C" fn(nbffi_task, i64, *const std::ffi::c_char, u64) -> i32,
}

static TASKS: OnceLock<TaskFunctions> = OnceLock::new();

/// The host's functions that are about tasks; none before the first runtime.
pub fn tasks() -> Option<&'static TaskFunctions> {
    TASKS.get()
}

/// What is known of a runtime by its number.
#[derive(Debug)]
struct Listed {
    host: HostTable,
    inbox: Option<Arc<Inbox>>,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);
/// Runtimes that are open. A host's table is used with this locked only, or by
/// the runtime itself: closing waits for the lock.
static RUNTIMES: Mutex<BTreeMap<u64, Listed>> = Mutex::new(BTreeMap::new());

fn runtimes() -> MutexGuard<'static, BTreeMap<u64, Listed>> {
    RUNTIMES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the result of a task is not wanted any more: its caller has timed
/// out or cancelled it, or its deadline has passed. From any thread.
pub fn is_unwanted(task: nbffi_task) -> bool {
    let Some(functions) = tasks() else {
        return true;
    };
    // SAFETY: any number may be passed, from any thread.
    unsafe {
        (functions.is_cancelled)(task) != 0 || (functions.deadline_ns)(task) <= monotonic_ns()
    }
}

/// CLOCK_MONOTONIC in nanoseconds, the clock of deadlines.
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writable; the clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Whether this process is the child of a worker, forked by a plugin.
static FORKED: AtomicBool = AtomicBool::new(false);

/// This process is the child of a fork: nobody reads its part of the log.
pub fn note_fork() {
    // Relaxed: there is only this thread.
    FORKED.store(true, Ordering::Relaxed);
}

/// Writes to nginx's error log, in the name of a runtime; of any if that one is
/// not open, as threads of a plugin belong to none. Each line becomes an entry, a
/// long one several: the host writes an entry on one line, with newlines escaped.
pub fn log(runtime: u64, level: i32, text: &str) {
    // Relaxed: see `note_fork`. The lock may be another thread's for ever there.
    if FORKED.load(Ordering::Relaxed) {
        eprintln!("nonblocking_ffi: {text}");
        return;
    }
    let runtimes = runtimes();
    let listed = runtimes.get(&runtime).or_else(|| runtimes.values().next());
    let Some(listed) = listed else {
        // nginx's own standard error.
        eprintln!("nonblocking_ffi: {text}");
        return;
    };
    for line in text.lines() {
        let mut rest = line;
        while !rest.is_empty() {
            let piece = crate::cut(rest, LOG_BYTES);
            // SAFETY: the runtime is not closed, as it is listed. The host copies
            // the text.
            unsafe {
                let host = listed.host.0.as_ptr();
                ((*host).log)(host, level, piece.as_ptr().cast(), piece.len() as u64);
            }
            rest = &rest[piece.len()..];
        }
    }
}

/// The inbox of a runtime that is served by a loop.
pub fn inbox(runtime: u64) -> Option<Arc<Inbox>> {
    runtimes().get(&runtime)?.inbox.clone()
}

impl Runtime {
    /// Readies a runtime.
    ///
    /// # Errors
    ///
    /// What `load` is to return.
    ///
    /// # Safety
    ///
    /// `host` is what `init` was given.
    pub unsafe fn open(host: *const nbffi_host) -> std::result::Result<Box<Self>, String> {
        let host = NonNull::new(host.cast_mut()).ok_or("the host passed no host table")?;
        let host = HostTable(host);
        let table = host.table();
        let _ = TASKS.set(TaskFunctions {
            deadline_ns: table.deadline_ns,
            is_cancelled: table.is_cancelled,
            respond: table.respond,
            fail: table.fail,
            set_status: table.set_status,
        });
        let (config, name) = {
            let (mut config_len, mut name_len) = (0, 0);
            // SAFETY: as the header has it: both are readable until close.
            unsafe {
                let config = (table.config)(host.0.as_ptr(), &mut config_len);
                let name = (table.name)(host.0.as_ptr(), &mut name_len);
                (
                    reply::slice(config.cast(), config_len as usize),
                    reply::slice(name.cast(), name_len as usize),
                )
            }
        };
        let config = Config::parse(config)?;
        let interpreter = interpreter::obtain(&config)?;
        // SAFETY: by the contract.
        unsafe { exit::register(host.0.as_ptr(), interpreter) }?;

        // Relaxed: only to be different.
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let inbox = Arc::new(Inbox::new()?);
        // Before its code runs: what that logs is logged in its name.
        let listed = Listed {
            host,
            inbox: Some(inbox.clone()),
        };
        runtimes().insert(id, listed);
        let attached = threads::attach(interpreter.api());
        let opened = attached
            .record
            .visit(id, || interpreter.open(attached.gil(), id, name, &config));
        drop(attached);
        match opened {
            Ok(opened) => Ok(Box::new(Self {
                id,
                host,
                interpreter,
                handle: Some(opened.handle),
                serve: opened.function.map_or(Serve::Loop(inbox), Serve::Here),
            })),
            Err(message) => {
                runtimes().remove(&id);
                Err(message)
            }
        }
    }

    /// Runs a task, and others that wait for this runtime; or hands it to the
    /// loop.
    ///
    /// # Safety
    ///
    /// `request` is that of `task`, as `call` was given it.
    pub unsafe fn call(&self, task: nbffi_task, request: *const u8, len: usize) {
        let function = match &self.serve {
            Serve::Here(function) => function,
            // SAFETY: the request stays readable until the task is completed,
            // which the loop does.
            Serve::Loop(inbox) => return unsafe { inbox.push(task, request, len) },
        };
        let attached = threads::attach(self.interpreter.api());
        attached.record.enter(self.id, task);
        let mut tasks = 1_u32;
        // SAFETY: passed on.
        unsafe { self.run(&attached, function, task, reply::slice(request, len)) };
        while let Some((task, request, len)) = self.next() {
            attached.record.switch(task);
            // SAFETY: as the host has just given them.
            unsafe { self.run(&attached, function, task, reply::slice(request, len)) };
            tasks += 1;
            if tasks.is_multiple_of(TASKS_PER_BREATH) {
                self.interpreter.breathe(attached.gil());
            }
        }
        attached.record.leave();
    }

    /// The next task that waits for this runtime, if the host has one for this
    /// thread.
    fn next(&self) -> Option<(nbffi_task, *const u8, usize)> {
        if !self.host.has_next() {
            return None;
        }
        let (mut task, mut request, mut len) = (0, std::ptr::null(), 0);
        // SAFETY: inside of `call`, as the header wants it; the pointers are
        // writable.
        let got = unsafe {
            let host = self.host.0.as_ptr();
            ((*host).next)(host, &mut task, &mut request, &mut len)
        };
        (got == 1).then_some((task, request.cast(), len as usize))
    }

    /// Runs one task to its end.
    ///
    /// # Safety
    ///
    /// The task is this thread's to complete, and `request` its request.
    unsafe fn run(&self, attached: &Attached, function: &Ref, task: nbffi_task, request: &[u8]) {
        let (gil, record) = (attached.gil(), attached.record);
        let result = self.apply(gil, function, request);
        record.take_back(gil);
        let answer = result.and_then(|result| Reply::of(gil, result));
        match answer {
            Ok(reply) => {
                // What is completed is not to be stopped any more.
                record.switch(0);
                reply.send(gil, task);
            }
            Err(_) => {
                let unwanted = is_unwanted(task);
                let (code, message) = self.interpreter.describe(gil, self.id, unwanted);
                record.take_back(gil);
                record.switch(0);
                reply::fail(task, code, &message);
            }
        }
    }

    fn apply(&self, gil: Gil, function: &Ref, request: &[u8]) -> Result<Ref> {
        let request = reply::bytes(gil, request)?;
        match gil.PyObject_Vectorcall {
            Some(call) => {
                // A place in front of the arguments that a bound method uses.
                let mut places: [*mut PyObject; 2] = [std::ptr::null_mut(), request.as_ptr()];
                // SAFETY: both objects live; one argument, after a free place;
                // a new reference.
                unsafe {
                    let arguments = places.as_mut_ptr().add(1);
                    let result = call(
                        function.as_ptr(),
                        arguments,
                        1 | VECTORCALL_OFFSET,
                        std::ptr::null_mut(),
                    );
                    gil.owned(result)
                }
            }
            // SAFETY: as above; NULL ends the arguments.
            None => unsafe {
                gil.owned((gil.PyObject_CallFunctionObjArgs)(
                    function.as_ptr(),
                    request.as_ptr(),
                    NOTHING,
                ))
            },
        }
    }

    /// Ends the runtime.
    pub fn close(mut self: Box<Self>) {
        let attached = threads::attach(self.interpreter.api());
        if let Some(handle) = self.handle.take() {
            let close = || self.interpreter.close(attached.gil(), handle);
            attached.record.visit(self.id, close);
        }
        runtimes().remove(&self.id);
        let interpreter = self.interpreter;
        // With the GIL, as it may hold the last reference to the function.
        drop(self);
        interpreter.collect(attached.gil());
    }
}

/// What a task is failed with that is given up before it has begun.
pub const GIVEN_UP: &str = "the task was given up before it began";
