//! A pool thread's completions that are not in the queue yet.
//!
//! A thread that runs many short tasks in a row publishes their completions
//! together: one exchange on the queue's head and at most one wake-up for all.
//! The pool's loop calls [`flush`] before anything that may take long.

use std::cell::Cell;
use std::ptr;

use super::Mailbox;
use crate::sync::Ordering;
use crate::task::Slot;

/// Completions are held back up to this many.
const MAX_HELD: u32 = 32;

#[derive(Clone, Copy)]
struct Chain {
    mailbox: &'static Mailbox,
    newest: &'static Slot,
    oldest: &'static Slot,
    len: u32,
}

thread_local! {
    /// Whether this is a pool thread, which promises to flush.
    static HOLDING: Cell<bool> = const { Cell::new(false) };
    static CHAIN: Cell<Option<Chain>> = const { Cell::new(None) };
    /// When the last task ended that was delivered here.
    static LAST_END: Cell<u64> = const { Cell::new(0) };
}

/// Makes the calling thread hold completions back until it calls [`flush`].
pub fn hold() {
    HOLDING.set(true);
}

/// Takes a done slot if the calling thread holds back; otherwise it is the
/// caller's to push.
#[must_use]
pub(super) fn offer(mailbox: &'static Mailbox, slot: &'static Slot, ended_ns: u64) -> bool {
    if !HOLDING.get() {
        return false;
    }
    LAST_END.set(ended_ns);
    let chain = match CHAIN.get() {
        Some(chain) if ptr::eq(chain.mailbox, mailbox) => {
            // Relaxed: published by the push.
            let below = ptr::from_ref(chain.newest).cast_mut();
            slot.next.store(below, Ordering::Relaxed);
            Chain {
                newest: slot,
                len: chain.len + 1,
                ..chain
            }
        }
        _ => {
            flush();
            Chain {
                mailbox,
                newest: slot,
                oldest: slot,
                len: 1,
            }
        }
    };
    CHAIN.set(Some(chain));
    if chain.len >= MAX_HELD {
        flush();
    }
    true
}

/// Publishes what the calling thread holds back.
pub fn flush() {
    if let Some(chain) = CHAIN.take() {
        chain.mailbox.push(chain.newest, chain.oldest);
    }
}

/// When the last task ended on this thread; 0 once asked. Saves the pool a
/// look at the clock between two tasks in a row.
pub fn take_last_end() -> u64 {
    LAST_END.replace(0)
}
