//! What Lua code in a VM calls, on the VM's thread. `vm/cdefs.lua` declares it.

use std::ffi::c_char;
use std::ptr;

use super::{ErrorBuffer, Text, catch};
use nonblocking_ffi_core::error::Error;
use nonblocking_ffi_core::pool;
use nonblocking_ffi_core::runtime::host_api;
use nonblocking_ffi_core::sync::now_ns;
use nonblocking_ffi_core::task::arena;
use nonblocking_ffi_core::task::slot::NO_DEADLINE;
use nonblocking_ffi_lua_vm::LuaHost;
use nonblocking_ffi_lua_vm::nested::{self, Refused};
use nonblocking_ffi_lua_vm::vm::{Now, Vm, now};

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

/// The VM that runs, and the host whose task it runs, if it runs one.
fn current() -> Option<(Now, &'static Vm, Option<&'static LuaHost>)> {
    let now = now()?;
    // SAFETY: both live while the VM runs, which is while this is called.
    unsafe { Some((now, now.vm.as_ref()?, now.host.as_ref())) }
}

/// Ends the task with `len` bytes at `data`; `encoding` says how Lua is to read
/// them.
///
/// # Safety
/// The bytes are readable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_vm_respond(encoding: u32, data: *const u8, len: f64) {
    catch((), || {
        let Some((now, vm, _)) = current() else {
            return;
        };
        let Some((slot, generation)) = arena::resolve(now.task) else {
            return;
        };
        vm.watched().responded();
        let data = if len > 0.0 {
            // SAFETY: by the contract.
            unsafe { std::slice::from_raw_parts(data, len as usize) }
        } else {
            &[]
        };
        // If it is too large, that is how the task has ended.
        let _ = slot.complete(
            generation,
            |_, _| Ok(()),
            |task, reply| {
                host_api::answer(task, reply, data)?;
                reply.code = encoding.into();
                Ok(())
            },
        );
    });
}

/// Writes the name of the runtime's module; false if there is none.
///
/// # Safety
/// The buffer is as it says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_vm_module(name: ErrorBuffer) -> bool {
    catch(false, || match current() {
        Some((_, _, Some(host))) => {
            // SAFETY: by the contract.
            unsafe { name.write(host.module()) };
            true
        }
        _ => false,
    })
}

/// Whether a runtime of the VM's group, by its number, is not closed.
#[unsafe(no_mangle)]
pub extern "C" fn nbffi_vm_serves(runtime: u32) -> bool {
    catch(true, || {
        current().is_some_and(|(_, vm, _)| vm.group().serves(runtime))
    })
}

/// Writes the name of a function of the runtime; false if there is none.
///
/// # Safety
/// The buffer is as it says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_vm_function(number: u32, name: ErrorBuffer) -> bool {
    catch(false, || {
        let function = current().and_then(|(_, _, host)| host?.function_name(number));
        let Some(function) = function else {
            return false;
        };
        // SAFETY: by the contract.
        unsafe { name.write(&function) };
        true
    })
}

/// Writes the names of modules that are to be loaded anew beside the runtime's
/// own, one per line; false if there is no runtime.
///
/// # Safety
/// The buffer is as it says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_vm_forget(names: ErrorBuffer) -> bool {
    catch(false, || {
        let Some((_, _, Some(host))) = current() else {
            return false;
        };
        // SAFETY: by the contract.
        unsafe { names.write(&host.forget()) };
        true
    })
}

/// Writes to nginx's error log, with nginx's level.
///
/// # Safety
/// `len` bytes at `text` are readable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_vm_log(level: u32, text: *const c_char, len: usize) {
    catch((), || {
        if let Some((_, vm, _)) = current() {
            // SAFETY: by the contract.
            let text = unsafe { std::slice::from_raw_parts(text.cast(), len) };
            vm.group().log(level.clamp(1, 8) as u8, text);
        }
    });
}

/// Has the event loop take a turn if it sleeps, in which it looks at its clock.
/// True if it slept.
#[unsafe(no_mangle)]
pub extern "C" fn nbffi_vm_rouse() -> bool {
    catch(false, || {
        current().is_some_and(|(_, vm, _)| vm.group().rouse_event_loop())
    })
}

/// Whether nobody waits for the task's result any more.
#[unsafe(no_mangle)]
pub extern "C" fn nbffi_vm_is_cancelled() -> bool {
    catch(false, || {
        current().is_some_and(|(now, ..)| arena::is_unwanted(now.task))
    })
}

/// Seconds until the task's deadline, less than 0 if it has passed, infinite if
/// there is none.
#[unsafe(no_mangle)]
pub extern "C" fn nbffi_vm_left() -> f64 {
    catch(f64::INFINITY, || {
        let task = current().and_then(|(now, ..)| arena::resolve(now.task));
        let deadline = task.map_or(NO_DEADLINE, |(slot, _)| {
            // SAFETY: the task runs on this thread.
            unsafe { slot.task() }.deadline_ns
        });
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
        let Some((now, vm, _)) = current() else {
            return UNKNOWN;
        };
        // SAFETY: by the contract.
        let (name, request) = unsafe { (runtime.string(), request.bytes()) };
        vm.watched().nest(true);
        let result = nested::call(&name, request, seconds, now.task);
        vm.watched().nest(false);
        let slot = match result {
            Ok(slot) => slot,
            Err(Refused::Unknown) => return UNKNOWN,
            Err(Refused::IsLua) => return IS_LUA,
            Err(Refused::Failed(error)) => return error.code(),
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
