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

use nonblocking_ffi_plugin::sys;
use nonblocking_ffi_runtimes_common::entry;

static PLUGIN: sys::nbffi_plugin = entry::plugin::<runtime::Runtime>();

/// The entry function of the plugin.
#[unsafe(no_mangle)]
pub extern "C" fn nbffi_plugin_entry(_host_abi_version: u32) -> *const sys::nbffi_plugin {
    &PLUGIN
}
