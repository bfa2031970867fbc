//! What code asks about its task and its VM, and calls into other runtimes.

use std::ffi::c_char;
use std::ptr;

use crate::current;
use crate::lua_State;
use crate::module::Module;
use crate::resources::ScratchState;
use nonblocking_ffi_core::catch::catch;
use nonblocking_ffi_core::client::nested::{self, Refused};
use nonblocking_ffi_core::error::Error;
use nonblocking_ffi_core::pool;
use nonblocking_ffi_core::runtime::host_api;
use nonblocking_ffi_core::sync::now_ns;
use nonblocking_ffi_core::task::Handle;
use nonblocking_ffi_core::task::slot::NO_DEADLINE;
use nonblocking_ffi_core::text::{ErrorBuffer, Text};

/// What [`nbffi_vm_call`] returns beside error codes.
const UNKNOWN: i32 = -1;
const IS_LUA: i32 = -2;

/// The result of a call into another runtime; it can be read until the next
/// one.
#[derive(Debug)]
#[repr(C)]
pub struct Answer {
    data: *const u8,
    len: f64,
    code: f64,
    message: *const u8,
    message_len: f64,
}

/// Ends the task with `len` bytes at `data`; `encoding` says how Lua is to read
/// them.
///
/// # Safety
/// The bytes are readable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_vm_respond(encoding: u32, data: *const u8, len: f64) {
    catch((), || {
        let task = current::with(|vm| {
            let task = Handle::from_number(vm.task)?;
            vm.responded();
            Some(task)
        });
        let Some(task) = task.flatten() else {
            return;
        };
        let data = if len > 0.0 {
            // SAFETY: by the contract.
            unsafe { std::slice::from_raw_parts(data, len as usize) }
        } else {
            &[]
        };
        // If it is too large, that is how the task has ended.
        let _ = task.complete(
            |_, _| Ok(()),
            |task, reply| {
                host_api::answer(task, reply, data)?;
                reply.code = encoding.into();
                Ok(())
            },
        );
    });
}

/// Asks the module whose task runs.
fn of_module<T>(ask: impl FnOnce(&Module) -> Option<T>) -> Option<T> {
    current::with(|vm| vm.module.and_then(ask)).flatten()
}

/// Writes a text; false if there is none.
///
/// # Safety
/// The buffer is as it says.
unsafe fn write(buffer: ErrorBuffer, text: Option<impl AsRef<str>>) -> bool {
    // SAFETY: by the contract.
    text.map(|text| unsafe { buffer.write(text.as_ref()) })
        .is_some()
}

/// Writes the name of the runtime's module; false if no task runs.
///
/// # Safety
/// The buffer is as it says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_vm_module(name: ErrorBuffer) -> bool {
    catch(false, || {
        let module = of_module(|module| Some(module.name.clone()));
        // SAFETY: by the contract.
        unsafe { write(name, module) }
    })
}

/// Writes the name of a function of the module; false if there is none.
///
/// # Safety
/// The buffer is as it says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_vm_function(number: u32, name: ErrorBuffer) -> bool {
    catch(false, || {
        let function = of_module(|module| module.function_name(number));
        // SAFETY: by the contract.
        unsafe { write(name, function) }
    })
}

/// Writes the names of the modules to load again with the runtime's own, one per line;
/// false if no task runs.
///
/// # Safety
/// The buffer is as it says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_vm_forget(names: ErrorBuffer) -> bool {
    catch(false, || {
        let forget = of_module(|module| Some(module.forget()));
        // SAFETY: by the contract.
        unsafe { write(names, forget) }
    })
}

/// Whether a runtime of the VM's group, given by its number, is still open.
#[unsafe(no_mangle)]
pub extern "C" fn nbffi_vm_serves(runtime: u32) -> bool {
    catch(true, || {
        current::with(|vm| vm.shared.serves(runtime)).unwrap_or(false)
    })
}

/// Writes to nginx's error log, with nginx's level.
///
/// # Safety
/// `len` bytes at `text` are readable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_vm_log(level: u32, text: *const c_char, len: usize) {
    catch((), || {
        // SAFETY: by the contract.
        let text = unsafe { Text { data: text, len }.bytes() };
        current::with(|vm| vm.shared.log(level.clamp(1, 8) as u8, text));
    });
}

/// Makes a Lua state beside the VM, which lives as long as the VM. For C functions of
/// nginx that want a state and may not fail for lack of memory; see `vm/shdict.lua`.
/// Null if there is no memory.
#[unsafe(no_mangle)]
pub extern "C" fn nbffi_vm_scratch_state() -> *mut lua_State {
    catch(ptr::null_mut(), || {
        let state = current::with(|vm| {
            let state = vm.resources.keep(ScratchState::new()?);
            // SAFETY: it was just kept.
            Some(unsafe { &*state }.as_ptr())
        });
        state.flatten().unwrap_or(ptr::null_mut())
    })
}

/// Wakes the event loop if it sleeps, so that it reads its clock. True if it slept.
#[unsafe(no_mangle)]
pub extern "C" fn nbffi_vm_rouse() -> bool {
    catch(false, || {
        current::with(|vm| vm.shared.rouse_event_loop()).unwrap_or(false)
    })
}

/// Whether nobody waits for the task's result any more.
#[unsafe(no_mangle)]
pub extern "C" fn nbffi_vm_is_cancelled() -> bool {
    catch(false, || {
        let task = current::with(|vm| Handle::from_number(vm.task)).flatten();
        task.is_some_and(Handle::is_unwanted)
    })
}

/// Seconds until the task's deadline, less than 0 if it has passed, infinite if
/// there is none.
#[unsafe(no_mangle)]
pub extern "C" fn nbffi_vm_left() -> f64 {
    catch(f64::INFINITY, || {
        let task = current::with(|vm| Handle::from_number(vm.task)).flatten();
        // It may have ended, or be none: then there is no deadline.
        let deadline = task.and_then(|task| task.edit(|task, _| task.deadline_ns).ok());
        let deadline = deadline.unwrap_or(NO_DEADLINE);
        if deadline == NO_DEADLINE {
            return f64::INFINITY;
        }
        (deadline as f64 - now_ns() as f64) / 1e9
    })
}

/// Writes the names of the pool and of this thread, and returns the thread's
/// number in the pool; -1 if this is no pool thread.
///
/// # Safety
/// The buffers are as they say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_vm_thread_id(pool: ErrorBuffer, thread: ErrorBuffer) -> i32 {
    catch(-1, || {
        let Some(thread_id) = pool::thread_id() else {
            return -1;
        };
        // SAFETY: by the contract.
        unsafe {
            pool.write(thread_id.pool);
            thread.write(&pool::thread_name(thread_id.pool, thread_id.index));
        }
        thread_id.index as i32
    })
}

/// Runs a request on another runtime, on this thread, for up to `seconds`.
/// Returns 0 and the result in `answer`; or an error's code, with its code and
/// message there, if there are any; or -1 if there is no such runtime, -2 if it
/// is a Lua runtime.
///
/// # Safety
/// Texts are as they say, `answer` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_vm_call(
    runtime: Text,
    request: Text,
    seconds: f64,
    answer: *mut Answer,
) -> i32 {
    catch(Error::Runtime.code(), || {
        // SAFETY: by the contract.
        let (name, request) = unsafe { (runtime.string(), request.bytes()) };
        let result = current::with(|vm| {
            current::in_foreign_code(|| {
                nested::call(&name, request, seconds, Handle::from_number(vm.task))
            })
        });
        let slot = match result {
            Some(Ok(slot)) => slot,
            None | Some(Err(Refused::Unknown)) => return UNKNOWN,
            Some(Err(Refused::NotNested)) => return IS_LUA,
            Some(Err(Refused::Failed(error))) => return error.code(),
        };
        // SAFETY: the slot is done, and this thread's until its next call.
        let reply = unsafe { slot.reply() };
        let (data, len) = reply.data();
        let message = reply.message.as_deref().unwrap_or_default();
        // SAFETY: by the contract.
        unsafe {
            *answer = Answer {
                data,
                len: len as f64,
                code: reply.code as f64,
                message: if message.is_empty() {
                    ptr::null()
                } else {
                    message.as_ptr()
                },
                message_len: message.len() as f64,
            };
        }
        Error::status(reply.result)
    })
}
