//! Python as a language for plugins: a host of CPython that is itself a plugin,
//! built on the public ABI (`include/nonblocking_ffi.h`) like any other.
//!
//! # Which Python
//!
//! One shared object serves CPython 3.9 to 3.14. It is linked with no libpython:
//! [`locate`] finds one at run time, [`api`] opens it and looks up some sixty
//! functions by name, nearly all of them of the stable ABI. PyO3 (`abi3-py39`) in
//! a second shared object, which is loaded after libpython, was as fast: 70 ns a
//! call and 40 in a batch with Python 3.11, where `echo_cost` says 78 and 46. But
//! PEP 587, the buffer protocol before 3.11 and vectorcall before 3.12 are not in
//! it, so that half of the table would stay, and no test program can be linked
//! with a library whose Python is yet to be found.
//!
//! # Vocabulary
//!
//! | word | meaning |
//! |---|---|
//! | runtime | an entry (`package.module:function`) with one configuration |
//! | pool thread | a thread of the host's, on which `call` runs |
//! | loop | the asyncio loop, on a thread of its own, of a runtime whose entry is `async` |
//! | main thread | Python's, the one thread that this library starts |
//! | record | what this library knows of a thread that runs Python: [`threads`] |
//!
//! # Who does what
//!
//! Each file imports only from those above it, and from `runtimes/common`:
//!
//! | file | role |
//! |---|---|
//! | [`config`] | the options that the Lua side sends |
//! | [`probe`] | asks an interpreter where its libpython is |
//! | [`api`] | opens libpython and looks up its functions |
//! | [`locate`] | which libpython, which executable |
//! | [`object`] | the GIL, objects, exceptions |
//! | [`threads`] | attaches threads; what runs on them |
//! | [`alarm`] | what Python's main thread sleeps on |
//! | [`inbox`] | tasks on their way to a loop |
//! | [`reply`] | what a function returned, as a response |
//! | [`child`] | a process that a plugin has forked |
//! | [`builtins`] | what Python code may call: the module `_nonblocking_ffi` |
//! | [`interpreter`] | configures Python; its side of the host |
//! | [`interrupter`] | stops tasks that nobody wants any more |
//! | [`main_thread`] | Python's main thread, from its start to the end of the process |
//! | [`runtime`] | one runtime: open, call, close |
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
//! would never be asked for it. What the GIL protects here: the fields of
//! records, and everything of [`object`].
//!
//! # The end
//!
//! Python is never finalised. A worker leaves with `_exit` while threads may be
//! running Python. What Python does before it finalises is done before.

pub mod alarm;
pub mod api;
pub mod builtins;
pub mod child;
pub mod config;
pub mod inbox;
pub mod interpreter;
pub mod interrupter;
pub mod locate;
pub mod main_thread;
pub mod object;
pub mod probe;
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
