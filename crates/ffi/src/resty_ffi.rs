//! Plugins of lua-resty-ffi: the functions that they call, and making their
//! runtimes.
//!
//! The three `ngx_http_lua_ffi_*` functions are the only ones in this folder
//! that a plugin calls, from threads of its own. They are found by name, in
//! every library of the process, so they exist once.

use std::ffi::{c_char, c_int, c_void};

use super::{ErrorBuffer, NO_MEMORY, Text, catch};
use nonblocking_ffi_core::client::Client;
use nonblocking_ffi_core::memory;
use nonblocking_ffi_core::pool::Pool;
use nonblocking_ffi_core::runtime::resty_ffi::library::Source;
use nonblocking_ffi_core::runtime::resty_ffi::{self, Descriptor, Plugin};
use nonblocking_ffi_core::runtime::{Options, Runtime};

/// Bit of `flags`: the library's symbols are for everybody.
const GLOBAL: u32 = 1;
/// Bit of `flags`: the library is opened anew when its file has changed.
const FRESH: u32 = 2;
/// Bit of `flags`: there is a configuration.
const CONFIGURED: u32 = 4;

/// The next task of a queue, after waiting for one. NULL if the runtime was
/// unloaded: there will be no more.
///
/// `tq` is what `libffi_init` was given; anything else is as good as a runtime that
/// was unloaded.
#[unsafe(no_mangle)]
pub extern "C" fn ngx_http_lua_ffi_task_poll(tq: *mut c_void) -> *mut c_void {
    catch(std::ptr::null_mut(), || resty_ffi::poll(tq))
}

/// The request of a task, and its length in `len` unless that is NULL. NULL if
/// there is none. The plugin may write to it; it must not free it.
///
/// # Safety
/// `len` is writable or NULL. `tsk` may be anything.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ngx_http_lua_ffi_get_req(
    tsk: *mut c_void,
    len: *mut c_int,
) -> *mut c_char {
    catch(std::ptr::null_mut(), || {
        let (data, length) = resty_ffi::request(tsk);
        if !len.is_null() {
            // SAFETY: by the contract.
            unsafe { *len = length };
        }
        data
    })
}

/// Completes a task: `rc` is 0 or says what is wrong, `rsp` is memory from
/// `malloc` that is handed over, or NULL; if `rsp_len` is 0, it is a C string.
///
/// # Safety
/// `rsp` is as described. `tsk` may be anything.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ngx_http_lua_ffi_respond(
    tsk: *mut c_void,
    rc: c_int,
    rsp: *mut c_char,
    rsp_len: c_int,
) {
    // SAFETY: by the contract.
    catch((), || unsafe { resty_ffi::respond(tsk, rc, rsp, rsp_len) });
}

/// Makes a runtime of a library that was written for lua-resty-ffi, not yet
/// initialised. `library` is searched by the dynamic linker, `otherwise` is
/// a path if that fails, or empty. `flags` are the bits above; `config` counts
/// only with [`CONFIGURED`]. Null with the reason in `error` if something
/// cannot be used.
///
/// # Safety
/// `client` and `pool` are live, texts and buffer are as they say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_runtime_new_resty_ffi(
    client: *const Client,
    pool: *const Pool,
    name: Text,
    library: Text,
    otherwise: Text,
    config: Text,
    flags: u32,
    max_queue: f64,
    max_response: f64,
    error: ErrorBuffer,
) -> *mut Runtime {
    catch(std::ptr::null_mut(), || {
        let texts = [name, library, otherwise, config];
        if !memory::is_enough_for(texts.iter().map(|text| text.len).sum()) {
            // SAFETY: by the contract.
            unsafe { error.write(NO_MEMORY) };
            return std::ptr::null_mut();
        }
        // SAFETY: by the contract; pools live as long as the process.
        let (client, pool) = unsafe { (&*client, &*pool) };
        // SAFETY: by the contract.
        let (name, library, otherwise) =
            unsafe { (name.string(), library.path(), otherwise.path()) };
        // SAFETY: by the contract.
        let config = match unsafe { config.c_string("config") } {
            Ok(config) => (flags & CONFIGURED != 0).then_some(config),
            Err(text) => {
                // SAFETY: by the contract.
                unsafe { error.write(&text) };
                return std::ptr::null_mut();
            }
        };
        let source = Source {
            name: library,
            otherwise: (!otherwise.is_empty()).then_some(otherwise),
            global: flags & GLOBAL != 0,
            fresh: flags & FRESH != 0,
        };
        let options = Options {
            name: name.clone(),
            max_response: max_response as usize,
        };
        let what = Descriptor {
            name,
            source,
            config,
            max_queue: max_queue as i64,
        };
        let place = client.place(pool);
        let Some(plugin) = Plugin::new(what, place) else {
            // SAFETY: by the contract.
            unsafe { error.write("too many runtimes of lua-resty-ffi's plugins") };
            return std::ptr::null_mut();
        };
        Box::into_raw(Box::new(Runtime::new(options, place, Box::new(plugin))))
    })
}

/// Tells a runtime that takes its tasks itself that there will be no more.
/// Those that were posted still run.
///
/// # Safety
/// `runtime` is live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_runtime_finish(runtime: *const Runtime) {
    catch((), || {
        // SAFETY: by the contract.
        if let Some(sink) = unsafe { &*runtime }.sink() {
            sink.finish();
        }
    });
}
