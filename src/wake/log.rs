//! Log lines that wait for the event loop: other threads must not touch nginx's log.

use std::sync::atomic::AtomicU8;

use crossbeam_queue::ArrayQueue;

use super::{Mailbox, Source};
use crate::log::{LogSink, printable, stderr};
use crate::memory;
use crate::stats::Counter;
use crate::sync::Ordering;
use crate::task::Recipient;

/// How many log lines may wait to be written.
const CAPACITY: usize = 4096;
/// A log line is cut after this many bytes (nginx cuts at 2048).
const LINE_BYTES: usize = 2000;
/// And the name in front of it after so many.
const NAME_BYTES: usize = 200;

/// A line for nginx's error log.
#[derive(Debug)]
pub struct LogRecord {
    /// nginx's level, 1 (emerg) to 8 (debug).
    pub level: u8,
    /// The line, without control characters.
    pub text: Box<str>,
}

/// The lines of one client. Never freed, as its mailbox.
#[derive(Debug)]
pub struct LogQueue {
    mailbox: &'static Mailbox,
    records: ArrayQueue<LogRecord>,
    level: AtomicU8,
    /// Lines that found no room.
    pub dropped: Counter,
}

impl LogQueue {
    /// An empty queue, whose lines are announced to a mailbox.
    pub fn new(mailbox: &'static Mailbox) -> Self {
        Self {
            mailbox,
            records: ArrayQueue::new(CAPACITY),
            level: AtomicU8::new(8),
            dropped: Counter::default(),
        }
    }

    /// Lines more verbose than this nginx level are dropped at once.
    pub fn set_level(&self, level: u8) {
        // Relaxed: a line more or less at the moment of the change is fine.
        self.level.store(level, Ordering::Relaxed);
    }

    /// Takes the oldest line, on the main thread.
    pub fn take(&self) -> Option<LogRecord> {
        self.records.pop()
    }
}

impl LogSink for LogQueue {
    fn log(&self, level: u8, name: &str, text: &[u8]) {
        if level > self.level.load(Ordering::Relaxed) {
            return;
        }
        let name = printable(name.as_bytes(), NAME_BYTES);
        // Thousands of lines may wait: too much for the reserve.
        let pushed = !memory::is_short() && {
            let text = printable(text, LINE_BYTES);
            let line = format!("nonblocking_ffi: [{name}] {text}");
            if self.mailbox.is_closed() {
                // Nobody will take it any more.
                stderr::write_line(level, line.as_bytes());
                return;
            }
            let text = line.into();
            self.records.push(LogRecord { level, text }).is_ok()
        };
        if !pushed {
            self.dropped.bump_shared();
        }
        self.mailbox.announce();
    }
}

impl Source for LogQueue {
    fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}
