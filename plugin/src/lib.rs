//! Plugins for lua-resty-nonblocking-ffi, in safe Rust.
//!
//! A plugin is a `cdylib` that an nginx worker loads; Lua code sends it
//! requests (bytes) and it answers with responses (bytes). Nothing of it runs
//! on nginx's event loop, with one exception: what owns the memory of a large
//! response is dropped there.
//!
//! ```
//! use nonblocking_ffi_plugin::{export_plugin, Error, Host, Plugin, Response, Task};
//!
//! struct Upper;
//!
//! impl Plugin for Upper {
//!     fn init(_host: Host) -> Result<Self, Error> {
//!         Ok(Upper)
//!     }
//!
//!     fn call(&self, _task: &Task<'_>, request: &[u8]) -> Result<Response, Error> {
//!         Ok(std::str::from_utf8(request)?.to_uppercase().into())
//!     }
//! }
//!
//! export_plugin!(Upper);
//! ```
//!
//! # Which trait
//!
//! - [`Plugin`] *blocks*: `call` runs on a pool thread and returns the
//!   response. It may block and compute as long as it likes; it occupies its
//!   thread meanwhile.
//! - [`AsyncPlugin`] *accepts*: `submit` gets an [`OwnedTask`] and hands it to
//!   threads, timers or an async runtime of the plugin's own, which respond
//!   when they like. Thousands of tasks can be pending at a time.
//! - `TokioPlugin` (with the feature `tokio`) is the same with `async fn call`:
//!   the crate does the handing over, and drops calls that nobody waits for.
//!
//! # What the crate guarantees
//!
//! - A task is completed exactly once: by the value `call` returns, by the one
//!   method that consumes the [`OwnedTask`], or, if it is dropped, by an error.
//! - No panic crosses into the host. It becomes the error `panic: <payload>` of
//!   the task (or of `init`), provided that the library is compiled with
//!   `panic = "unwind"`, which is the default. The plugin value is used again
//!   afterwards; a `Mutex` that was held tells by being poisoned.
//! - A [`Host`] that is kept after the runtime was closed does nothing.
//!
//! With the feature `testing` there is a host for the tests of plugins.
//!
//! The modules: `sys` mirrors the C header, `export` is the C side of the
//! traits, `threads` tells whether there are any, the others hold the type they are
//! named after.

mod calls;
mod error;
mod export;
#[doc(hidden)]
pub mod faults;
#[cfg(feature = "tokio")]
mod futures;
#[doc(hidden)]
pub mod glue;
mod host;
mod plugin;
mod response;
pub mod sys;
mod task;
#[cfg(feature = "testing")]
pub mod testing;
pub mod threads;

pub use calls::Calls;
pub use error::Error;
#[cfg(feature = "tokio")]
pub use futures::TokioPlugin;
pub use host::{Host, Level};
pub use plugin::{AsyncPlugin, Plugin};
pub use response::{Buffer, Response};
pub use task::{OwnedTask, Task};

/// What the macros expand to; not for direct use.
#[doc(hidden)]
pub mod __private {
    pub use crate::export::{asynchronous, blocking};

    /// The descriptor of a plugin whose calls are futures.
    #[cfg(feature = "tokio")]
    pub const fn tokio<P: crate::TokioPlugin>() -> crate::sys::nbffi_plugin {
        asynchronous::<crate::futures::Driver<P>>()
    }
}

/// The Rust code of the guide and of the README, compiled as doc tests.
#[cfg(doctest)]
mod printed {
    #[doc = include_str!("../../docs/plugins.md")]
    struct Guide;
    #[doc = include_str!("../README.md")]
    struct Readme;
}
