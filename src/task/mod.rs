//! Tasks: one request to a runtime, from post to completion.
//!
//! | file      | role |
//! |-----------|------|
//! | [`state`] | the state word: every step of a task is one atomic change of it |
//! | [`reply`] | the response and its memory |
//! | [`slot`]  | the fixed-size record of one task in flight |
//! | [`handle`] | names of tasks: a handle finds its slot, or finds it gone |
//! | [`arena`] | where slots live |
//! | [`cache`] | the free slots of one client |

pub mod arena;
pub mod cache;
pub mod handle;
pub mod reply;
pub mod slot;
pub mod state;

pub use cache::SlotCache;
pub use handle::{Handle, Running};
pub use slot::{Failure, Kind, Load, Priority, Recipient, Runner, Slot, Task};
