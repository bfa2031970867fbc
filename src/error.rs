//! What can go wrong with a call: one enum, one status code per variant.

use thiserror::Error;

/// Why a task did not end with a response. The text of each is stable: it is
/// what Lua returns as the second result, and what docs/errors.md lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[repr(i32)]
pub enum Error {
    /// The deadline passed, in the queue or while the caller waited.
    #[error("timeout")]
    Timeout = 1,
    /// The caller cancelled the task.
    #[error("cancelled")]
    Cancelled = 2,
    /// The runtime was closed.
    #[error("closed")]
    Closed = 3,
    /// The worker exits.
    #[error("shutting down")]
    ShuttingDown = 4,
    /// The response exceeds the runtime's `max_response`.
    #[error("response too large")]
    ResponseTooLarge = 5,
    /// No memory for the task or its response.
    #[error("no memory")]
    NoMemory = 6,
    /// The plugin reported an error; its code and message come with it.
    #[error("runtime error")]
    Runtime = 7,
    /// The pool's queue is full.
    #[error("queue overflow")]
    QueueOverflow = 8,
    /// The runtime could not be loaded; the message says why.
    #[error("load failed")]
    Load = 9,
}

impl Error {
    /// Every error, in the order of their codes from 1 on.
    pub const ALL: [Error; 9] = [
        Error::Timeout,
        Error::Cancelled,
        Error::Closed,
        Error::ShuttingDown,
        Error::ResponseTooLarge,
        Error::NoMemory,
        Error::Runtime,
        Error::QueueOverflow,
        Error::Load,
    ];

    /// The number by which the error crosses the C boundary (0 is success).
    pub fn code(self) -> i32 {
        self as i32
    }

    /// The status code of a result: 0, or the error's.
    pub fn status(result: Result<(), Error>) -> i32 {
        result.map_or_else(Error::code, |()| 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_dense_and_in_order() {
        for (position, error) in Error::ALL.iter().enumerate() {
            assert_eq!(error.code() as usize, position + 1);
        }
    }
}
