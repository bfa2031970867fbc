//! One runtime: an entry with one configuration, from `init` to `close`.

use std::ptr::{null, null_mut};

use nonblocking_ffi_plugin::sys::nbffi_task;
use nonblocking_ffi_runtimes_common::host::{Host, Request};
use nonblocking_ffi_runtimes_common::task::OnCancel;
use nonblocking_ffi_runtimes_common::{entry, log, task};

use crate::alarm::{self, Unwanted};
use crate::api::{PyObject, VECTORCALL_OFFSET};
use crate::config::Config;
use crate::inbox;
use crate::interpreter::Interpreter;
use crate::main_thread;
use crate::object::{Bound, Gil, Py, Result};
use crate::reply::{self, Reply};
use crate::threads::Attached;

/// After so many tasks other threads get the GIL if they want it. Functions in
/// Python are asked for it anyway, those in C never.
const TASKS_PER_YIELD: u32 = 64;

/// A runtime.
#[derive(Debug)]
pub struct Runtime {
    interpreter: &'static Interpreter,
    host: Host,
    /// The Python side.
    handle: Py,
    serve: Serve,
    inbox: inbox::Registered,
    registration: log::Registration,
}

/// Who runs the tasks.
#[derive(Debug)]
enum Serve {
    /// The pool thread that has them, by calling this.
    Here(Py),
    /// The loop.
    Loop,
}

// SAFETY: the host is in the runtime's fields only.
unsafe impl entry::Runtime for Runtime {
    fn open(host: Host) -> std::result::Result<Self, String> {
        let config = Config::parse(host.config())?;
        let interpreter = main_thread::obtain(&config)?;
        host.at_exit(interpreter)?;
        // Before its code runs: what that logs is logged in its name.
        let registration = log::Registration::new(host);
        let id = registration.id();
        let inbox = inbox::Registered::new(id)?;
        // SAFETY: a pool thread, which runs no Python but by this file.
        let attached = unsafe { interpreter.attach() };
        attached.record.enter(id);
        let opened = interpreter.open(attached.gil(), id, host.name(), &config);
        attached.record.leave();
        let opened = opened?;
        Ok(Self {
            interpreter,
            host,
            handle: opened.handle,
            serve: opened.function.map_or(Serve::Loop, Serve::Here),
            inbox,
            registration,
        })
    }

    /// Runs a task, and others that wait for this runtime; or hands it to the
    /// loop.
    unsafe fn call(&self, request: Request) {
        let Serve::Here(function) = &self.serve else {
            // SAFETY: the host's call with this task.
            return unsafe { self.inbox.begin(request) };
        };
        // SAFETY: as in `open`.
        let attached = unsafe { self.interpreter.attach() };
        let function = function.bind(attached.gil());
        attached.record.enter(self.registration.id());
        // SAFETY: the task of this call.
        unsafe { self.run(&attached, &function, request) };
        let mut tasks = 1_u32;
        // SAFETY: inside of the call, and the last task is completed.
        while let Some(request) = unsafe { self.host.next() } {
            // SAFETY: as the host has just given it.
            unsafe { self.run(&attached, &function, request) };
            tasks += 1;
            if tasks.is_multiple_of(TASKS_PER_YIELD) {
                self.interpreter.yield_gil(attached.gil());
            }
        }
        attached.record.leave();
    }

    fn close(self) {
        // SAFETY: as in `open`.
        let attached = unsafe { self.interpreter.attach() };
        let gil = attached.gil();
        attached.record.enter(self.registration.id());
        self.interpreter.close(gil, self.handle);
        attached.record.leave();
        drop((self.registration, self.inbox));
        if let Serve::Here(function) = self.serve {
            drop(function.into_bound(gil));
        }
        self.interpreter.collect(gil);
    }
}

/// A task of a pool thread is interrupted by Python's main thread.
struct OnPoolThread;

impl OnCancel for OnPoolThread {
    fn on_cancel(&self, task: nbffi_task) {
        alarm::interrupt(Unwanted { task, loop_of: 0 });
    }
}

impl Runtime {
    /// Runs one task to its end.
    ///
    /// # Safety
    ///
    /// The task is this thread's to complete.
    unsafe fn run(&self, attached: &Attached, function: &Bound<'_>, request: Request) {
        let (gil, record, task) = (attached.gil(), attached.record, request.task);
        record.set_task(task);
        // SAFETY: a constant lives for ever.
        unsafe { task::on_cancel(task, &OnPoolThread) };
        // SAFETY: it is completed below, when this is not used any more.
        let result = apply(gil, function, unsafe { request.bytes() });
        record.take_back(gil);
        match result.and_then(|result| Reply::of(gil, result)) {
            Ok(reply) => {
                // What is completed is not to be stopped any more.
                record.set_task(0);
                // SAFETY: by the contract; the request was copied.
                unsafe { reply.send(task) };
            }
            Err(_) => {
                let id = self.registration.id();
                let unwanted = task::is_unwanted(task);
                let (code, message) = self.interpreter.describe(gil, id, unwanted);
                record.take_back(gil);
                record.set_task(0);
                // SAFETY: as above.
                unsafe { task::fail(task, code, message.as_bytes()) };
            }
        }
    }
}

/// Calls the function with a request.
fn apply<'py>(gil: Gil<'py>, function: &Bound<'py>, request: &[u8]) -> Result<Bound<'py>> {
    let request = reply::bytes(gil, request)?;
    let Some(call) = gil.PyObject_Vectorcall else {
        let (call, end) = (gil.PyObject_CallFunctionObjArgs, null::<*mut PyObject>());
        // SAFETY: both objects live; NULL ends the arguments; a new reference.
        return unsafe { gil.owned(call(function.as_ptr(), request.as_ptr(), end)) };
    };
    // A place in front of the arguments that a bound method uses.
    let mut places: [*mut PyObject; 2] = [null_mut(), request.as_ptr()];
    // SAFETY: both objects live; one argument, after a free place; a new
    // reference.
    unsafe {
        let arguments = places.as_mut_ptr().add(1);
        let count = 1 | VECTORCALL_OFFSET;
        gil.owned(call(function.as_ptr(), arguments, count, null_mut()))
    }
}
