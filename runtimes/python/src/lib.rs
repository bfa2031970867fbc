//! Python as a language for plugins: a host of CPython that is itself a plugin,
//! built on the public ABI (`include/nonblocking_ffi.h`) like any other.
//!
//! # Which Python
//!
//! One shared object serves CPython 3.9 to 3.14. It is linked with no libpython:
//! [`locate`] finds one at run time, [`api`] opens it and looks up some sixty
//! functions by name, nearly all of them of the stable ABI. PyO3 would do the
//! same job with its `abi3` and `extension-module` features, but only for a
//! library that is loaded *after* libpython, since its functions are undefined
//! symbols of ours then: the host would have to be two libraries, the one that
//! finds libpython and the one that uses it. The table costs a page of code, is
//! one library, and lets us take what newer versions offer where they offer it.
//!
//! # Vocabulary
//!
//! | word | meaning |
//! |---|---|
//! | runtime | an entry (`package.module:function`) with one configuration |
//! | pool thread | a thread of the host's, on which `call` runs |
//! | loop | the asyncio loop, on a thread of its own, of a runtime whose entry is `async` |
//! | keeper | the one thread that this library starts: it starts Python, and then watches for tasks that run too long |
//! | record | what this library knows of a thread that runs Python: [`threads`] |
//!
//! # Who does what
//!
//! | file | role |
//! |---|---|
//! | [`config`] | the fields that the Lua side sends |
//! | [`locate`], [`ask`] | which libpython, which executable; asking an interpreter |
//! | [`api`] | opening libpython, its functions |
//! | [`object`] | owned references, strings, errors |
//! | [`interpreter`] | starting Python, once per process |
//! | [`threads`] | attaching threads; what runs on them |
//! | [`keeper`] | stops what runs past its deadline |
//! | [`runtime`] | one runtime: init, call, close |
//! | [`exit`] | what is done when the process ends |
//! | [`inbox`] | tasks on their way to a loop |
//! | [`reply`] | what a function returned, as a response |
//! | [`builtins`] | what Python code may call: the module `_nonblocking_ffi` |
//! | `child` | a process that a plugin has forked |
//! | `python/` | what is easier said in Python: imports, loops, log, tracebacks |
//!
//! `package/` is what authors of plugins import, `nonblocking_ffi`; the shared
//! object carries a copy, so that both always are of one version.
//!
//! # The GIL
//!
//! A pool thread takes the GIL when it gets a task, asks the host for further
//! tasks while it holds it (`next`), and lets it go when there is none. Between
//! two tasks it lets others have it now and then: code that is written in C
//! would never be asked for it. What the GIL protects here: records' fields that
//! say so, and everything of [`object`].
//!
//! # The end
//!
//! Python is never finalised. A worker leaves with `_exit` while threads may be
//! running Python. What Python does before it finalises is done before: [`exit`].

pub mod api;
pub mod ask;
pub mod builtins;
mod child;
pub mod config;
pub mod exit;
pub mod inbox;
pub mod interpreter;
pub mod keeper;
pub mod locate;
pub mod object;
pub mod reply;
pub mod runtime;
pub mod threads;

use std::ffi::{c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nonblocking_ffi_plugin::sys;

use runtime::Runtime;

/// What this library needs of the host: it takes what newer ones offer if it is
/// there.
const ABI_VERSION: u32 = 1 << 16;

static DESCRIPTOR: sys::nbffi_plugin = sys::nbffi_plugin {
    abi_version: ABI_VERSION,
    size: size_of::<sys::nbffi_plugin>() as u32,
    // Tasks of `async def` end later; all others end within `call`.
    flags: sys::NBFFI_ASYNC,
    reserved: 0,
    init: Some(init),
    call: Some(call),
    close: Some(close),
};

/// The entry function of the plugin.
#[unsafe(no_mangle)]
pub extern "C" fn nbffi_plugin_entry(_host_abi_version: u32) -> *const sys::nbffi_plugin {
    &DESCRIPTOR
}

unsafe extern "C" fn init(
    host: *const sys::nbffi_host,
    state: *mut *mut c_void,
    err: *mut c_char,
    err_size: u64,
) -> c_int {
    // SAFETY: the host calls init as the header says.
    let made = catch_unwind(AssertUnwindSafe(|| unsafe { Runtime::open(host) }));
    match made.unwrap_or_else(|_| Err("panic in the Python host".to_owned())) {
        Ok(runtime) => {
            // SAFETY: the host passes a pointer to write to.
            unsafe { *state = Box::into_raw(runtime).cast() };
            0
        }
        Err(message) => {
            // SAFETY: err has room for err_size bytes.
            unsafe { write_message(&message, err, err_size) };
            1
        }
    }
}

unsafe extern "C" fn call(
    state: *mut c_void,
    task: sys::nbffi_task,
    request: *const c_void,
    len: u64,
) -> c_int {
    // SAFETY: what init stored; it lives until close, which comes after the
    // last call has returned.
    let runtime = unsafe { &*state.cast::<Runtime>() };
    let ran = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the request is readable until the task is completed.
        unsafe { runtime.call(task, request.cast(), len as usize) }
    }));
    c_int::from(ran.is_err())
}

unsafe extern "C" fn close(state: *mut c_void) {
    // SAFETY: init made it from a box, and this is the last use.
    let runtime = unsafe { Box::from_raw(state.cast::<Runtime>()) };
    // A panic here has nobody to be told; the runtime's memory is lost then.
    let _ = catch_unwind(AssertUnwindSafe(|| runtime.close()));
}

/// Writes as much of a message as fits, in whole characters, and a NUL.
///
/// # Safety
///
/// `err` is NULL or has room for `err_size` bytes.
unsafe fn write_message(message: &str, err: *mut c_char, err_size: u64) {
    if err.is_null() || err_size == 0 {
        return;
    }
    // A NUL of the message's own would cut it short.
    let message = message.replace('\0', "\u{fffd}");
    let message = cut(&message, err_size as usize - 1);
    // SAFETY: the message is shorter than err_size.
    unsafe {
        std::ptr::copy_nonoverlapping(message.as_ptr(), err.cast::<u8>(), message.len());
        *err.add(message.len()) = 0;
    }
}

/// The first bytes of a text, at most `limit`, in whole characters.
pub(crate) fn cut(text: &str, limit: usize) -> &str {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_cut_between_characters() {
        let mut room = [0x55 as c_char; 6];
        // SAFETY: six bytes of room.
        unsafe { write_message("a\0büü", room.as_mut_ptr(), 6) };
        let bytes = room.map(|c| c as u8);
        assert_eq!(&bytes, b"a\xef\xbf\xbdb\0");
        // SAFETY: no room at all.
        unsafe { write_message("x", std::ptr::null_mut(), 0) };
    }
}
