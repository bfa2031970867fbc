//! The way back to the event loop.
//!
//! | file            | role |
//! |-----------------|------|
//! | [`completions`] | the queue of done slots, and the armed flag in its head |
//! | [`outbox`]      | a pool thread's completions that are not in the queue yet |
//! | [`socket`]      | the unix socket whose other end is a cosocket |
//! | [`line`]        | what may stand in a line of nginx's error log |
//! | [`mailbox`]     | all of these for one Lua VM, and its log lines |
//!
//! State and trigger are apart: a completion is recorded in the queue first;
//! whether the event loop must then be woken is decided by whether it armed
//! the channel.

pub mod completions;
mod line;
pub mod mailbox;
pub mod outbox;
pub mod socket;

pub use mailbox::{LogRecord, Mailbox};
