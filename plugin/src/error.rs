//! What a task, or `init`, fails with.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A message and a code for the Lua caller, who gets
/// `nil, "runtime error: <message>", code, message`.
///
/// Every [`std::error::Error`] converts into it, with the code [`Error::CODE`],
/// so `?` works. For that conversion to exist, this type is not itself a
/// `std::error::Error`. Where there is only a text:
/// `.ok_or_else(|| Error::msg("no such key"))?`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    code: i64,
    message: String,
}

impl Error {
    /// The code of errors that were not given one.
    pub const CODE: i64 = 1;
    /// The code of a panic.
    pub const PANIC: i64 = -1;
    /// The code of an [`OwnedTask`](crate::OwnedTask) that was dropped.
    pub const DROPPED: i64 = -2;
    /// The code of a call of a `TokioPlugin` that was dropped, as nobody waited
    /// for it any more.
    pub const CANCELLED: i64 = -3;

    /// An error with a code of the plugin's own.
    pub fn new(code: i64, message: impl Into<String>) -> Self {
        Error {
            code,
            message: message.into(),
        }
    }

    /// An error with the code [`Error::CODE`].
    pub fn msg(message: impl Into<String>) -> Self {
        Error::new(Self::CODE, message)
    }

    /// The same error with another code:
    /// `parse(request).map_err(|e| Error::from(e).with_code(400))?`.
    #[must_use]
    pub fn with_code(mut self, code: i64) -> Self {
        self.code = code;
        self
    }

    /// The same error with `context: ` in front of its message.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }

    /// The code.
    pub fn code(&self) -> i64 {
        self.code
    }

    /// The message.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The error that a caught panic becomes. Never unwinds.
    pub(crate) fn from_panic(payload: Box<dyn Any + Send>) -> Self {
        let text = if let Some(s) = payload.downcast_ref::<&str>() {
            (*s).to_owned()
        } else if let Some(s) = payload.downcast_ref::<String>() {
            s.clone()
        } else {
            "(a payload that is not a string)".to_owned()
        };
        drop_quietly(payload);
        Error::new(Self::PANIC, format!("panic: {text}"))
    }
}

/// Drops a value of the plugin's where a panic would reach the host.
pub(crate) fn drop_quietly<T>(value: T) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(value))) {
        // Its destructor can panic too; leaking what that throws ends the matter.
        if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            std::mem::forget(second);
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl<E: std::error::Error> From<E> for Error {
    /// The error's message, followed by those of its sources.
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            // Many types quote their source in their own message already.
            if !message.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            source = cause.source();
        }
        Error::msg(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Outer(std::num::ParseIntError, &'static str);

    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.1)
        }
    }

    impl std::error::Error for Outer {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }

    fn parse_error() -> std::num::ParseIntError {
        "x".parse::<i32>().unwrap_err()
    }

    #[test]
    fn sources_are_told_once() {
        let e = Error::from(Outer(parse_error(), "bad width"));
        assert_eq!(e.message(), "bad width: invalid digit found in string");
        assert_eq!(e.code(), Error::CODE);
        let e = Error::from(Outer(parse_error(), "oh: invalid digit found in string"));
        assert_eq!(e.message(), "oh: invalid digit found in string");
    }

    #[test]
    fn code_and_context() {
        let e = Error::from(parse_error()).with_code(7).context("width");
        assert_eq!(
            (e.code(), e.to_string().as_str()),
            (7, "width: invalid digit found in string")
        );
    }

    #[test]
    fn payloads_whose_destructor_panics() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("again");
            }
        }
        let e = Error::from_panic(Box::new(Bomb));
        assert_eq!(
            e,
            Error::new(Error::PANIC, "panic: (a payload that is not a string)")
        );
    }
}
