//! The way back to the event loop.
//!
//! | file            | role |
//! |-----------------|------|
//! | [`completions`] | the queue of done slots, and the armed flag in its head |
//! | [`outbox`]      | a pool thread's completions that are not in the queue yet |
//! | [`source`]      | what the event loop looks at beside completions |
//! | [`log`]         | log lines: a source |
//! | [`socket`]      | how the event loop is woken: a unix socket to a cosocket |
//! | [`mailbox`]     | completions, and one arming for them and all sources |
//!
//! State and trigger are apart: what happened is recorded first, as a completion or
//! in a source; whether the event loop must then be woken is decided by whether it
//! armed the mailbox.

pub mod completions;
pub mod log;
pub mod mailbox;
pub mod outbox;
pub mod socket;
pub mod source;

pub use log::{LogQueue, LogRecord};
pub use mailbox::Mailbox;
pub use socket::Waker;
pub use source::Source;
