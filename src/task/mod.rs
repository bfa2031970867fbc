//! Tasks: one request to a runtime, from post to completion.
//!
//! | file      | role |
//! |-----------|------|
//! | [`state`] | the state word: every step of a task is one atomic change of it |
//! | [`reply`] | the response and its memory |
//! | [`slot`]  | the fixed-size record of one task in flight |
//! | [`arena`] | where slots live, and how a handle finds its slot |

pub mod arena;
pub mod reply;
pub mod slot;
pub mod state;

pub use slot::{Failure, Kind, Load, Priority, Recipient, Runner, Slot, Task};
