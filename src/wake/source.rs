//! What a consumer looks at beside completions.

/// Something that other threads fill for the consumer of a mailbox.
///
/// A thread that puts something in calls `Mailbox::announce` afterwards, which wakes
/// the consumer if it has armed.
pub trait Source: Sync {
    /// Whether there is nothing for the consumer.
    fn is_empty(&self) -> bool;
}
