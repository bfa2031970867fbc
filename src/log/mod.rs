//! Lines of nginx's error log.
//!
//! | file       | role |
//! |------------|------|
//! | [`line`]   | what may stand in a line |
//! | [`stderr`] | a line that nginx cannot write |
//!
//! A thread that has something to say has a [`LogSink`], and does not know what
//! becomes of the line: in a worker it waits in a `wake::LogQueue` for the event loop.

mod line;
pub mod stderr;

pub use line::printable;

/// nginx's level for errors.
pub const ERR: u8 = 4;
/// nginx's level for what an operator should know.
pub const WARN: u8 = 5;
/// nginx's level for what is worth a line but is no trouble.
pub const NOTICE: u8 = 6;

/// A place for log lines.
pub trait LogSink: Sync {
    /// Takes a message of `name` with nginx's `level`, 1 (emerg) to 8 (debug), from
    /// any thread. Whatever is in the message, it becomes one line.
    fn log(&self, level: u8, name: &str, text: &[u8]);
}
