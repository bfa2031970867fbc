//! Lua off the event loop: functions of Lua modules run in persistent LuaJIT
//! VMs on the pool's threads.
//!
//! | file         | role |
//! |--------------|------|
//! | [`group`]    | which runtimes share VMs: one VM per thread and group |
//! | [`vm`]       | one VM: start, one task, end |
//! | [`heap`]     | a VM's memory, with its limit |
//! | [`watchdog`] | stops code whose caller has given up (with `guard.c`) |
//! | [`unwind`]   | how the C functions that it is in are unwound |
//! | [`belongings`] | what a VM has outside of its heap |
//! | [`nested`]   | calls from VM code into other runtimes |
//! | [`regex`]    | PCRE2 for `ngx.re` |
//!
//! # A task
//!
//! `Task::tag` says which function is meant and how the arguments are encoded;
//! `vm/boot.lua` decodes them, calls the function, and encodes the results
//! into the response, whose status code says how (`codec.lua`). A task whose
//! arguments, or results, are a single string is those bytes, uncopied.

pub mod belongings;
pub mod group;
mod heap;
pub mod nested;
pub mod regex;
mod unwind;
pub mod vm;
mod watchdog;

pub use mlua::ffi::lua_State;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use group::Group;
use nonblocking_ffi_core::error::Error;
use nonblocking_ffi_core::pool::{self, Pool};
use nonblocking_ffi_core::runtime::{Backend, Outcome};
use nonblocking_ffi_core::task::arena;
use vm::{Desk, Vm};

/// Functions that one runtime may be asked for. Their names come from code; a
/// program that makes them up of requests is mistaken.
const MAX_FUNCTIONS: usize = 65_535;
/// The lowest bits of a tag: how the arguments are encoded.
const ENCODING_BITS: u32 = 4;

/// An address in LuaJIT's code: it tells which object of the process has it.
pub fn luajit() -> *const () {
    mlua::ffi::lua_close as *const ()
}

/// A Lua runtime: one module, in the VMs of one group.
#[derive(Debug)]
pub struct LuaHost {
    /// Tells it from others in a VM.
    number: u32,
    module: Box<str>,
    group: Arc<Group>,
    pool: &'static Pool,
    functions: Mutex<Vec<Arc<str>>>,
    generation: AtomicU32,
    forget: Mutex<String>,
}

impl LuaHost {
    /// A runtime for a module, which is `""` if it only runs functions that
    /// come with their code. It is told its number, and says which VMs it uses.
    pub fn new(
        module: String,
        pool: &'static Pool,
        group: impl FnOnce(u32) -> Arc<Group>,
    ) -> Arc<Self> {
        static NUMBERS: AtomicU32 = AtomicU32::new(0);
        // Relaxed: only the number must be unique.
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let group = group(number);
        Arc::new(Self {
            number,
            module: module.into(),
            group,
            pool,
            functions: Mutex::default(),
            generation: AtomicU32::new(0),
            forget: Mutex::default(),
        })
    }

    /// The module's name.
    pub fn module(&self) -> &str {
        &self.module
    }

    /// The group of its VMs.
    pub fn group(&self) -> &Group {
        &self.group
    }

    fn functions(&self) -> MutexGuard<'_, Vec<Arc<str>>> {
        self.functions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of a function, from 1 on. `None` if there are too many.
    pub fn function_number(&self, name: &str) -> Option<u32> {
        let mut functions = self.functions();
        let known = functions.iter().position(|known| **known == *name);
        if known.is_none() && functions.len() < MAX_FUNCTIONS {
            functions.push(name.into());
            return Some(functions.len() as u32);
        }
        known.map(|position| position as u32 + 1)
    }

    /// The name of a function.
    pub fn function_name(&self, number: u32) -> Option<Arc<str>> {
        let index = (number as usize).checked_sub(1)?;
        self.functions().get(index).cloned()
    }

    /// Has every VM load the module again before its next task, and `others`:
    /// names, one per line.
    pub fn reload(&self, others: &str) {
        let mut forget = self.lock_forget();
        for name in others.lines() {
            // A VM may skip generations, so names are kept.
            if !forget.lines().any(|known| known == name) {
                forget.push_str(name);
                forget.push('\n');
            }
        }
        // Release: pairs with the Acquire in `run`.
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// The modules that are to be loaded again with the runtime's own.
    pub fn forget(&self) -> String {
        self.lock_forget().clone()
    }

    fn lock_forget(&self) -> MutexGuard<'_, String> {
        self.forget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, vm: &Vm, task: u64, tag: u32, request: &[u8]) -> Result<(), String> {
        let deadline_ns = arena::resolve(task).map_or(u64::MAX, |(slot, _)| {
            // SAFETY: the task was claimed by this thread, and has not ended.
            unsafe { slot.task() }.deadline_ns
        });
        let desk = Desk {
            data: request.as_ptr(),
            len: request.len() as f64,
            runtime: self.number,
            generation: self.generation.load(Ordering::Acquire),
            function: tag >> ENCODING_BITS,
            encoding: tag & ((1 << ENCODING_BITS) - 1),
            ..Desk::default()
        };
        vm.run(self, task, deadline_ns, desk)
    }
}

impl Backend for LuaHost {
    fn init(&self, _runtime: *const ()) -> Result<(), String> {
        let seat = pool::thread_id().ok_or("not on a pool thread")?;
        // Loads the module: encoding 0 of function 0 is just that.
        let loaded = group::with_vm(&self.group, seat, |vm| {
            let limit = self.group.limits.init_deadline();
            let desk = Desk {
                runtime: self.number,
                ..Desk::default()
            };
            vm.run(self, watchdog::NO_TASK, limit, desk)
        });
        match loaded.and_then(|loaded| loaded) {
            Ok(()) => {
                self.group.spread(self.pool);
                Ok(())
            }
            Err(why) => {
                self.group.leave(self.pool, self.number);
                Err(why)
            }
        }
    }

    fn call(&self, task: u64, tag: u32, request: &[u8]) -> Outcome {
        let Some(seat) = pool::thread_id() else {
            return Outcome::Failed(0);
        };
        let fail = |error: Error, why: &str| {
            if let Some((slot, generation)) = arena::resolve(task) {
                slot.end(generation, |reply| {
                    reply.fail(error, 0, why.as_bytes());
                });
            }
        };
        // The task ends before its VM is replaced, if that has to be.
        let ran = group::with_vm(&self.group, seat, |vm| {
            if let Err(why) = self.run(vm, task, tag, request) {
                // Whoever was stopped since its deadline has passed, and whose
                // caller has not noticed, or is none.
                if vm.watched().is_stopped() {
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
        self.group.leave(self.pool, self.number);
    }

    fn may_nest(&self) -> bool {
        // Code in a VM requires the module itself.
        false
    }
}
