//! Runs a VM's code so that it can be stopped: the VM's own side. [`interrupter`] says
//! when, `interrupt.c` how.
//!
//! A task costs two stores and a fence.
//!
//! [`interrupter`]: crate::interrupter

use std::ffi::c_int;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;

use mlua::ffi as lua;

use crate::interrupter::{self, Interrupter, Raw, Target};
use crate::shared::Shared;

/// Stands for a task's handle while a VM runs something else, such as its start.
pub const NO_TASK: u64 = u64::MAX;

unsafe extern "C" {
    fn nbffi_interrupt_new(state: *mut lua::lua_State) -> *mut Raw;
    fn nbffi_interrupt_foreign(raw: *mut Raw, foreign: c_int);
    fn nbffi_interrupt_is_stopped(raw: *const Raw) -> c_int;
    fn nbffi_interrupt_call(raw: *mut Raw, run: c_int, nargs: c_int, errfunc: c_int) -> c_int;
    fn nbffi_interrupt_collect(raw: *mut Raw, run: c_int) -> c_int;
    fn nbffi_interrupt_close(raw: *mut Raw, run: c_int) -> c_int;
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The function returned.
    Returned,
    /// It raised an error, which is on the stack.
    Raised,
    /// The VM was left in an undefined state: only its memory may be released.
    Abandoned,
}

/// A VM's way to run code. It stays on the VM's thread, so the functions without a
/// contract are safe: they write only what this thread and its signal handler use.
#[derive(Debug)]
pub struct Interrupt {
    target: Arc<Target>,
    interrupter: &'static Interrupter,
    _not_send: PhantomData<*const ()>,
}

impl Interrupt {
    /// For a VM of the calling thread. An error may be temporary: a later VM may
    /// succeed.
    ///
    /// # Safety
    /// `state` is live while this runs code; other code of the VM does not run.
    pub unsafe fn new(state: *mut lua::lua_State, shared: &Shared) -> Result<Self, String> {
        let interrupter = interrupter::start(shared)?;
        // SAFETY: by the contract.
        let raw = NonNull::new(unsafe { nbffi_interrupt_new(state) });
        // SAFETY: made above.
        let target = Arc::new(unsafe { Target::new(raw.ok_or("no memory")?) });
        interrupter.add(target.clone());
        Ok(Self {
            target,
            interrupter,
            _not_send: PhantomData,
        })
    }

    fn raw(&self) -> *mut Raw {
        self.target.raw.as_ptr()
    }

    /// What other threads may see of it.
    pub fn target(&self) -> &Arc<Target> {
        &self.target
    }

    /// Whether the VM was told to stop, so that it should not be used any more.
    pub fn is_stopped(&self) -> bool {
        // SAFETY: `raw` lives as long as this.
        unsafe { nbffi_interrupt_is_stopped(self.raw()) != 0 }
    }

    /// Runs code that must not be left: machine code that is not Lua's.
    pub fn in_foreign_code<T>(&self, body: impl FnOnce() -> T) -> T {
        // SAFETY: as above; this is the VM's thread.
        unsafe { nbffi_interrupt_foreign(self.raw(), 1) };
        let result = body();
        // SAFETY: as above.
        unsafe { nbffi_interrupt_foreign(self.raw(), 0) };
        result
    }

    /// The task has ended, though its code may still run.
    pub fn responded(&self) {
        self.target.relieve(NO_TASK);
    }

    fn run(
        &self,
        task: u64,
        deadline_ns: u64,
        run: impl FnOnce(*mut Raw, c_int) -> c_int,
    ) -> Ended {
        let number = self.target.begin(task, deadline_ns);
        let status = run(self.raw(), number);
        self.target.relieve(0);
        match status {
            lua::LUA_OK => Ended::Returned,
            -1 => Ended::Abandoned,
            _ => Ended::Raised,
        }
    }

    /// Calls the function on top of the stack, without arguments and results, as
    /// `task`, until `deadline_ns`. `errfunc` is the stack index of the message handler.
    ///
    /// # Safety
    /// The stack is as said. No Rust frame between this and the Lua code has anything
    /// to drop.
    pub unsafe fn call(&self, task: u64, deadline_ns: u64, errfunc: c_int) -> Ended {
        // SAFETY: by the contract; this is the VM's thread.
        self.run(task, deadline_ns, |raw, run| unsafe {
            nbffi_interrupt_call(raw, run, 0, errfunc)
        })
    }

    /// Calls the function on top of the stack, which collects garbage. Finalizers are
    /// stopped as in [`close`](Self::close).
    ///
    /// # Safety
    /// As for [`call`](Self::call).
    pub unsafe fn collect(&self, deadline_ns: u64) -> Ended {
        // SAFETY: by the contract; this is the VM's thread.
        self.run(NO_TASK, deadline_ns, |raw, run| unsafe {
            nbffi_interrupt_collect(raw, run)
        })
    }

    /// Closes the state. `Abandoned` if finalizers had to be stopped, at
    /// `deadline_ns`.
    ///
    /// # Safety
    /// As for [`call`](Self::call), and the state is not used afterwards.
    pub unsafe fn close(&self, deadline_ns: u64) -> Ended {
        // SAFETY: by the contract; this is the VM's thread.
        self.run(NO_TASK, deadline_ns, |raw, run| unsafe {
            nbffi_interrupt_close(raw, run)
        })
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        self.interrupter.remove(&self.target);
    }
}
