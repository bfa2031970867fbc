//! Lua runtimes: making them, and what only they can do.

use std::sync::Arc;

use super::{Text, catch};
use nonblocking_ffi_core::client::Client;
use nonblocking_ffi_core::memory;
use nonblocking_ffi_core::pool::Pool;
use nonblocking_ffi_core::runtime::{Options, Runtime};
use nonblocking_ffi_lua_vm::LuaBackend;
use nonblocking_ffi_lua_vm::group::Stats;
use nonblocking_ffi_lua_vm::shared::{Config, Limits};

/// What [`nbffi_runtime_new_lua`] is given beside a name.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct LuaOptions {
    /// The module's name, empty for none.
    module: Text,
    /// Equal for runtimes of a pool that share VMs.
    group: Text,
    package_path: Text,
    package_cpath: Text,
    /// The path of this shared object.
    core: Text,
    /// For `vm/boot.lua`.
    boot: Text,
    /// Bytes.
    max_response: f64,
    /// Bytes that a VM may have.
    max_memory: f64,
    /// Bytes and tasks after which a VM is replaced.
    recycle_memory: f64,
    recycle_tasks: f64,
    /// Seconds that the start of a VM may take.
    init_timeout: f64,
}

/// A Lua runtime, as Lua holds it beside the runtime itself.
#[derive(Debug)]
pub struct LuaHandle(Arc<LuaBackend>);

/// Makes a Lua runtime, not yet initialised, and in `handle` what the functions
/// below are given; both are freed with the runtime. Null if there is no memory.
///
/// # Safety
/// `client` and `pool` are live, texts are as they say, `handle` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_runtime_new_lua(
    client: *const Client,
    pool: *const Pool,
    name: Text,
    options: *const LuaOptions,
    handle: *mut *mut LuaHandle,
) -> *mut Runtime {
    catch(std::ptr::null_mut(), || {
        // SAFETY: by the contract; pools live as long as the process.
        let (client, pool, options) = unsafe { (&*client, &*pool, &*options) };
        let texts = [
            name,
            options.module,
            options.group,
            options.package_path,
            options.package_cpath,
            options.core,
            options.boot,
        ];
        if !memory::is_enough_for(texts.iter().map(|text| text.len).sum()) {
            return std::ptr::null_mut();
        }
        // SAFETY: by the contract.
        let copy = |text: Text| unsafe { text.bytes() }.to_vec();
        let config = Config {
            key: copy(options.group),
            limits: Limits {
                // Saturates: more than there can be is no limit.
                max_memory: options.max_memory as usize,
                recycle_memory: options.recycle_memory as usize,
                recycle_tasks: options.recycle_tasks as u64,
                init_seconds: options.init_timeout,
            },
            package_path: copy(options.package_path),
            package_cpath: copy(options.package_cpath),
            core: copy(options.core),
            boot: copy(options.boot),
        };
        // SAFETY: by the contract.
        let (module, name) = unsafe { (options.module.string(), name.string()) };
        let place = client.place(pool);
        let backend = LuaBackend::new(module, place, config);
        // SAFETY: by the contract.
        unsafe { *handle = Box::into_raw(Box::new(LuaHandle(backend.clone()))) };
        let options = Options {
            name,
            max_response: options.max_response as usize,
        };
        Box::into_raw(Box::new(Runtime::new(options, place, Box::new(backend))))
    })
}

/// Frees a handle.
///
/// # Safety
/// `handle` is live, for the last time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_lua_free(handle: *mut LuaHandle) {
    // SAFETY: by the contract; it came from `Box::into_raw`.
    catch((), || drop(unsafe { Box::from_raw(handle) }));
}

/// The number of a function, by which tasks name it; 0 if the runtime has been
/// asked for too many, -1 if there is no memory.
///
/// # Safety
/// `handle` is live, the text is as it says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_lua_function(handle: *const LuaHandle, name: Text) -> i32 {
    catch(0, || {
        if !memory::is_enough_for(name.len) {
            return -1;
        }
        // SAFETY: by the contract.
        let number = unsafe { (&*handle).0.module.function_number(&name.string()) };
        number.unwrap_or(0) as i32
    })
}

/// Has every VM load the module again before its next task, and the modules
/// whose names are in `others`, one per line. False if there is no memory.
///
/// # Safety
/// `handle` is live, the text is as it says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_lua_reload(handle: *const LuaHandle, others: Text) -> bool {
    catch(false, || {
        if !memory::is_enough_for(others.len) {
            return false;
        }
        // SAFETY: by the contract.
        unsafe { (&*handle).0.module.reload(&others.string()) };
        true
    })
}

/// The statistics of a runtime's VMs.
///
/// # Safety
/// `handle` is live, `stats` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_lua_stats(handle: *const LuaHandle, stats: *mut Stats) {
    // SAFETY: by the contract.
    catch((), || unsafe { *stats = (&*handle).0.group.stats() });
}
