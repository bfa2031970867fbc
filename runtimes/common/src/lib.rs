//! What the language runtimes share: the plugin ABI as a runtime sees it, for
//! hosts of every minor version.
//!
//! The author crate offers a type for each role and needs a host of its own
//! version. A runtime of a language passes task handles through that language,
//! responds with memory of that language, and does without what an older host
//! lacks. Hence this layer directly on [`nonblocking_ffi_plugin::sys`].
//!
//! Each file imports only from those above it:
//!
//! | file | role |
//! |---|---|
//! | [`fields`] | the options that the Lua side sends |
//! | [`task`] | the host's functions that take a task's handle |
//! | [`host`] | the host's table of one runtime |
//! | [`log`] | nginx's error log, by a runtime's number |
//! | [`entry`] | `init`, `call` and `close` of the plugin |

pub mod entry;
pub mod fields;
pub mod host;
pub mod log;
pub mod task;

pub use nonblocking_ffi_plugin::glue::monotonic_ns;
