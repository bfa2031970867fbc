//! Lua off the event loop: functions of Lua modules run in persistent LuaJIT
//! VMs on the pool's threads.
//!
//! Each file knows only those above it.
//!
//! | file            | role |
//! |-----------------|------|
//! | [`heap`]        | a VM's memory, with its limit |
//! | [`resources`]   | what a VM owns outside of its heap |
//! | [`module`]      | the Lua module of a runtime, as VM code asks for it |
//! | [`shared`]      | what the VMs of a group share: settings, users, the log |
//! | [`maps`]        | where compiled code may be in memory |
//! | [`unwind`]      | how to unwind C functions (with `unwind.c`) |
//! | [`interrupter`] | the thread that stops code whose caller has given up |
//! | [`interrupt`]   | runs a VM's code so that it can be stopped (with `interrupt.c`) |
//! | [`current`]     | the VM that runs on the calling thread |
//! | [`vm`]          | one VM: start, calls, garbage, end |
//! | [`group`]       | which runtimes share VMs: one VM per thread and group |
//! | [`regex`]       | PCRE2 for `ngx.re` |
//! | [`exports`]     | the C functions that VM code calls |
//! | this one        | a Lua runtime as a backend of the core |
//!
//! # A task
//!
//! The task's tag says which function is called and how its arguments are encoded.
//! `vm/boot.lua` decodes them, calls the function, and encodes the results into the
//! response, whose status code says how (`codec.lua`). A single string, as argument or
//! result, is passed without a copy.

mod current;
pub mod exports;
pub mod group;
mod heap;
mod interrupt;
mod interrupter;
mod maps;
pub mod module;
mod regex;
mod resources;
pub mod shared;
mod unwind;
mod vm;

pub use mlua::ffi::lua_State;

use std::ptr;
use std::sync::Arc;

use group::Group;
use interrupt::NO_TASK;
use module::Module;
use nonblocking_ffi_core::error::Error;
use nonblocking_ffi_core::pool::{self, Pool};
use nonblocking_ffi_core::runtime::{Backend, Outcome, Place};
use nonblocking_ffi_core::task::Running;
use shared::Config;
use vm::Call;

/// An address in LuaJIT's code, which tells which object of the process contains it.
pub fn luajit() -> *const () {
    mlua::ffi::lua_close as *const ()
}

/// A Lua runtime: one module, in the VMs of one group.
#[derive(Debug)]
pub struct LuaBackend {
    /// Its module.
    pub module: Module,
    /// The group of its VMs.
    pub group: Arc<Group>,
    pool: &'static Pool,
}

impl LuaBackend {
    /// A runtime for a module, in VMs that `config` describes. An empty name is for a
    /// runtime that only runs functions that are sent as code.
    pub fn new(module: String, place: Place, config: Config) -> Arc<Self> {
        let module = Module::new(module);
        let group = Group::obtain(place, config, module.number);
        Arc::new(Self {
            module,
            group,
            pool: place.pool,
        })
    }
}

impl Backend for LuaBackend {
    fn init(&self, _runtime: *const ()) -> Result<(), String> {
        let thread = pool::thread_id().ok_or("not on a pool thread")?;
        let call = Call {
            module: &self.module,
            task: NO_TASK,
            deadline_ns: self.group.shared.config.limits.init_deadline(),
            tag: 0,
            request: (ptr::null(), 0),
        };
        let loaded = group::with_vm(&self.group, thread, |vm| {
            // SAFETY: the request is empty.
            unsafe { vm.run(&call) }
        });
        let loaded = loaded.and_then(|loaded| loaded);
        if loaded.is_ok() {
            self.group.spread(self.pool);
        } else {
            self.close();
        }
        loaded
    }

    fn call(&self, running: &Running) -> Outcome {
        let Some(thread) = pool::thread_id() else {
            return Outcome::Failed(0);
        };
        let fail = |error: Error, why: &str| {
            running
                .handle()
                .end(|reply| reply.fail(error, 0, why.as_bytes()));
        };
        let call = Call {
            module: &self.module,
            task: running.handle().number(),
            deadline_ns: running.deadline_ns(),
            tag: running.tag(),
            request: running.request(),
        };
        // The task ends here, before a spent VM is replaced.
        let ran = group::with_vm(&self.group, thread, |vm| {
            // SAFETY: a task's request is readable until it has ended.
            if let Err(why) = unsafe { vm.run(&call) } {
                // Stopped at its deadline, or cancelled: report a timeout, even if the
                // caller has not timed out yet.
                if vm.interrupt().is_stopped() {
                    fail(Error::Timeout, "");
                } else {
                    fail(Error::Runtime, &why);
                }
            }
        });
        if let Err(why) = ran {
            fail(Error::Runtime, &why);
        }
        Outcome::Done
    }

    fn close(&self) {
        self.group.leave(self.pool, self.module.number);
    }

    fn may_nest(&self) -> bool {
        // Code in a VM requires the module itself.
        false
    }
}
