//! Pools and runtimes: making and freeing.

use std::ptr::NonNull;

use super::{ErrorBuffer, NO_MEMORY, PANICKED, Text, catch};
use nonblocking_ffi_core::client::Client;
use nonblocking_ffi_core::memory;
use nonblocking_ffi_core::pool::{self, Pool};
use nonblocking_ffi_core::runtime::c::{Descriptor, Plugin};
use nonblocking_ffi_core::runtime::{Options, Runtime};
use nonblocking_ffi_core::task::Kind;

/// How many processors this process may use.
#[unsafe(no_mangle)]
pub extern "C" fn nbffi_cores() -> u32 {
    catch(1, || pool::cores() as u32)
}

/// The pool of a name; it is made if there is none, and its threads are
/// started. Null with the reason in `error` if none can be started, or if there
/// is one that was made otherwise.
///
/// # Safety
/// `client` is live, text and buffer are as they say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_pool_obtain(
    client: *const Client,
    name: Text,
    threads: u32,
    max_queue: u32,
    nice: i32,
    error: ErrorBuffer,
) -> *const Pool {
    catch(std::ptr::null(), || {
        if !memory::is_enough_for(name.len) {
            // SAFETY: by the contract.
            unsafe { error.write(NO_MEMORY) };
            return std::ptr::null();
        }
        let config = pool::Config {
            // SAFETY: by the contract.
            name: unsafe { name.string() },
            threads: threads as usize,
            max_queue: max_queue.into(),
            nice,
        };
        // SAFETY: by the contract.
        let log = unsafe { &*client }.log();
        let obtained = pool::obtain(config).and_then(|pool| {
            pool.log_to(log);
            pool.start().map(|()| pool)
        });
        match obtained {
            Ok(pool) => pool,
            Err(text) => {
                // SAFETY: by the contract.
                unsafe { error.write(&text) };
                std::ptr::null()
            }
        }
    })
}

/// Makes a runtime of a plugin library, not yet initialised. Null with the
/// reason in `error` if an option cannot be used.
///
/// # Safety
/// `client` and `pool` are live, texts and buffer are as they say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_runtime_new_c(
    client: *const Client,
    pool: *const Pool,
    name: Text,
    library: Text,
    entry: Text,
    config: Text,
    max_response: f64,
    error: ErrorBuffer,
) -> *mut Runtime {
    catch(std::ptr::null_mut(), || {
        let texts = [name, library, entry, config];
        if !memory::is_enough_for(texts.iter().map(|text| text.len).sum()) {
            // SAFETY: by the contract.
            unsafe { error.write(NO_MEMORY) };
            return std::ptr::null_mut();
        }
        // SAFETY: by the contract; pools live as long as the process.
        let (client, pool) = unsafe { (&*client, &*pool) };
        // SAFETY: by the contract.
        let what = || unsafe {
            Ok::<_, String>(Descriptor {
                name: name.c_string("name")?,
                library: library.path(),
                entry: entry.c_string("entry")?,
                config: config.c_string("config")?,
            })
        };
        match what() {
            Ok(what) => {
                let place = client.place(pool);
                let plugin = Plugin::new(what, place);
                let options = Options {
                    // SAFETY: by the contract.
                    name: unsafe { name.string() },
                    max_response: max_response as usize,
                };
                Box::into_raw(Box::new(Runtime::new(options, place, Box::new(plugin))))
            }
            Err(text) => {
                // SAFETY: by the contract.
                unsafe { error.write(&text) };
                std::ptr::null_mut()
            }
        }
    })
}

/// Posts the initialisation of a runtime, or its closing when its last task
/// has been collected. Returns the number of the slot, or `-n` for the error
/// `n`.
///
/// # Safety
/// `client` and `runtime` are live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_post_control(
    client: *mut Client,
    runtime: *const Runtime,
    close: bool,
) -> i32 {
    catch(PANICKED, || {
        let kind = if close { Kind::Close } else { Kind::Init };
        // SAFETY: by the contract; the VM's thread is the only one here.
        match unsafe { (*client).post_control(&*runtime, kind) } {
            Ok(slot) => slot.index as i32,
            Err(error) => -error.code(),
        }
    })
}

/// Tasks of a runtime that were posted and not collected.
///
/// # Safety
/// `runtime` is live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_runtime_in_flight(runtime: *const Runtime) -> f64 {
    // SAFETY: by the contract.
    catch(0.0, || unsafe { &*runtime }.stats().in_flight() as f64)
}

/// Frees a runtime that was closed, or whose initialisation failed.
///
/// # Safety
/// `client` is live, and so is `runtime`, for the last time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_runtime_free(client: *mut Client, runtime: *mut Runtime) {
    catch((), || {
        if let Some(runtime) = NonNull::new(runtime) {
            // SAFETY: by the contract; it came from `Box::into_raw`.
            unsafe { (*client).free_runtime(runtime) };
        }
    });
}
