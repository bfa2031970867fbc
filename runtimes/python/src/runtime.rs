//! One runtime: an entry with one configuration, from `init` to `close`.

use std::ptr::null_mut;

use nonblocking_ffi_runtimes_common::host::{Host, Request};
use nonblocking_ffi_runtimes_common::{entry, log, task};

use crate::api::{PyObject, VECTORCALL_OFFSET};
use crate::config::Config;
use crate::inbox;
use crate::interpreter::{self, Interpreter};
use crate::object::{Gil, NOTHING, Ref, Result};
use crate::reply::{self, Reply};
use crate::threads::{self, Attached};

/// After so many tasks other threads get the GIL if they want it. Functions in
/// Python are asked for it anyway, those in C never.
const TASKS_PER_BREATH: u32 = 64;

/// A runtime.
#[derive(Debug)]
pub struct Runtime {
    interpreter: &'static Interpreter,
    host: Host,
    /// The Python side.
    handle: Ref,
    serve: Serve,
    inbox: inbox::Registered,
    registration: log::Registration,
}

/// Who runs the tasks.
#[derive(Debug)]
enum Serve {
    /// The pool thread that has them, by calling this.
    Here(Ref),
    /// The loop.
    Loop,
}

// SAFETY: the host is in the runtime's fields only.
unsafe impl entry::Runtime for Runtime {
    fn open(host: Host) -> std::result::Result<Self, String> {
        let config = Config::parse(host.config())?;
        let interpreter = interpreter::obtain(&config)?;
        host.at_exit(interpreter)?;
        // Before its code runs: what that logs is logged in its name.
        let registration = log::Registration::new(host);
        let id = registration.id();
        let inbox = inbox::Registered::new(id)?;
        let attached = threads::attach(interpreter.api());
        let (gil, name) = (attached.gil(), host.name());
        let open = || interpreter.open(gil, id, name, &config);
        let opened = attached.record.visit(id, open)?;
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
            return self.inbox.push(request);
        };
        let attached = threads::attach(self.interpreter.api());
        attached.record.enter(self.registration.id(), request.task);
        // SAFETY: the task of this call.
        unsafe { self.run(&attached, function, request) };
        let mut tasks = 1_u32;
        // SAFETY: inside of the call, and the last task is completed.
        while let Some(request) = unsafe { self.host.next() } {
            attached.record.switch(request.task);
            // SAFETY: as the host has just given it.
            unsafe { self.run(&attached, function, request) };
            tasks += 1;
            if tasks.is_multiple_of(TASKS_PER_BREATH) {
                self.interpreter.breathe(attached.gil());
            }
        }
        attached.record.leave();
    }

    fn close(self) {
        let attached = threads::attach(self.interpreter.api());
        let close = || self.interpreter.close(attached.gil(), self.handle);
        attached.record.visit(self.registration.id(), close);
        drop((self.registration, self.inbox));
        // With the GIL, as it may be the last reference to the function.
        drop(self.serve);
        self.interpreter.collect(attached.gil());
    }
}

impl Runtime {
    /// Runs one task to its end.
    ///
    /// # Safety
    ///
    /// The task is this thread's to complete.
    unsafe fn run(&self, attached: &Attached, function: &Ref, request: Request) {
        let (gil, record) = (attached.gil(), attached.record);
        let task = request.task;
        // SAFETY: it is completed below, when this is not used any more.
        let result = self.apply(gil, function, unsafe { request.bytes() });
        record.take_back(gil);
        let answer = result.and_then(|result| Reply::of(gil, result));
        match answer {
            Ok(reply) => {
                // What is completed is not to be stopped any more.
                record.switch(0);
                // SAFETY: by the contract; the request was copied.
                unsafe { reply.send(gil, task) };
            }
            Err(_) => {
                let id = self.registration.id();
                let unwanted = task::is_unwanted(task);
                let (code, message) = self.interpreter.describe(gil, id, unwanted);
                record.take_back(gil);
                record.switch(0);
                // SAFETY: as above.
                unsafe { task::fail(task, code, message.as_bytes()) };
            }
        }
    }

    fn apply(&self, gil: Gil, function: &Ref, request: &[u8]) -> Result<Ref> {
        let request = reply::bytes(gil, request)?;
        match gil.PyObject_Vectorcall {
            Some(call) => {
                // A place in front of the arguments that a bound method uses.
                let mut places: [*mut PyObject; 2] = [null_mut(), request.as_ptr()];
                // SAFETY: both objects live; one argument, after a free place;
                // a new reference.
                unsafe {
                    let arguments = places.as_mut_ptr().add(1);
                    let result = call(
                        function.as_ptr(),
                        arguments,
                        1 | VECTORCALL_OFFSET,
                        null_mut(),
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
}
