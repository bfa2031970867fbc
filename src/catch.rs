//! Nothing unwinds into C.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs the body of a function that C calls; a panic becomes `otherwise`.
pub fn catch<T>(otherwise: T, body: impl FnOnce() -> T) -> T {
    // Unwind safety: a panic in here is a defect of this library. The worker goes on
    // with what the structures hold: all of it stays valid to read and to drop, and
    // what threads share is behind a state word or a lock, which stay consistent.
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(otherwise)
}
