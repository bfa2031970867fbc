//! What other threads send to the main thread of one Lua VM: completions and
//! log lines, and the wake-up for both.

use std::io;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8};

use crossbeam_queue::ArrayQueue;

use super::completions::Completions;
use super::line::printable;
use super::{outbox, socket};
use crate::errlog;
use crate::memory;
use crate::stats::Counter;
use crate::sync::{Ordering, fence};
use crate::task::{Recipient, Slot};

/// How many log lines may wait to be written.
const LOG_CAPACITY: usize = 4096;
/// A log line is cut after this many bytes (nginx cuts at 2048).
const LOG_LINE_BYTES: usize = 2000;
/// And the name in front of it after so many.
const LOG_NAME_BYTES: usize = 200;

/// A line for nginx's error log.
#[derive(Debug)]
pub struct LogRecord {
    /// nginx's level, 1 (emerg) to 8 (debug).
    pub level: u8,
    /// The line, without control characters.
    pub text: Box<str>,
}

/// The mailbox. Made once per Lua VM and never freed: a plugin's thread may
/// still use it when the VM is gone.
#[derive(Debug)]
pub struct Mailbox {
    completions: Completions,
    log: ArrayQueue<LogRecord>,
    log_level: AtomicU8,
    /// Log lines that found no room.
    pub log_dropped: Counter,
    /// Our end of the unix channel, -1 if there is none.
    channel: AtomicI32,
    closed: AtomicBool,
    /// How often the event loop was woken.
    pub wakeups: Counter,
}

impl Default for Mailbox {
    fn default() -> Self {
        Self {
            completions: Completions::default(),
            log: ArrayQueue::new(LOG_CAPACITY),
            log_level: AtomicU8::new(8),
            log_dropped: Counter::default(),
            channel: AtomicI32::new(-1),
            closed: AtomicBool::new(false),
            wakeups: Counter::default(),
        }
    }
}

impl Recipient for Mailbox {
    fn deliver(&'static self, slot: &'static Slot, ended_ns: u64) {
        if !outbox::offer(self, slot, ended_ns) {
            self.push(slot, slot);
        }
    }

    fn is_closed(&self) -> bool {
        // Relaxed: a task that starts at the moment of closing is waited for
        // like one that started before (see `exit`).
        self.closed.load(Ordering::Relaxed)
    }
}

impl Mailbox {
    pub(super) fn push(&self, newest: &'static Slot, oldest: &'static Slot) {
        if self.completions.push(newest, oldest) {
            self.wake();
        }
    }

    /// The queue of completions, for the main thread.
    pub fn completions(&self) -> &Completions {
        &self.completions
    }

    /// Sends one byte to the event loop.
    pub fn wake(&self) {
        // Relaxed: the descriptor is set before anything arms the queue, and a
        // wake-up without one has nobody to wake.
        let channel = self.channel.load(Ordering::Relaxed);
        if channel >= 0 {
            self.wakeups.bump_shared();
            socket::ring(channel);
        }
    }

    /// Has the event loop take a turn if it sleeps; true if it did. From any thread.
    pub fn rouse(&self) -> bool {
        let sleeps = self.completions.disarm();
        if sleeps {
            self.wake();
        }
        sleeps
    }

    /// Gives the mailbox our end of a channel, instead of the one before.
    pub fn connect(&self, channel: OwnedFd) -> io::Result<()> {
        // Relaxed: see `wake`. Only the main thread writes it.
        let before = self.channel.load(Ordering::Relaxed);
        if before < 0 {
            self.channel.store(channel.into_raw_fd(), Ordering::Relaxed);
            return Ok(());
        }
        // Another thread may be about to write to the old descriptor: it must
        // not become a descriptor of something else, not even for a moment.
        socket::replace(before, &channel)
    }

    /// Log lines more verbose than this nginx level are dropped at once.
    pub fn set_log_level(&self, level: u8) {
        // Relaxed: a line more or less at the moment of the change is fine.
        self.log_level.store(level, Ordering::Relaxed);
    }

    /// Queues a line for nginx's error log, from any thread. Whatever is in the
    /// message, it stays one line.
    pub fn log(&self, level: u8, name: &str, text: &[u8]) {
        if level > self.log_level.load(Ordering::Relaxed) {
            return;
        }
        let name = printable(name.as_bytes(), LOG_NAME_BYTES);
        // Thousands of lines may wait: too much for the reserve.
        let pushed = !memory::is_short() && {
            let text = printable(text, LOG_LINE_BYTES);
            let line = format!("nonblocking_ffi: [{name}] {text}");
            if self.is_closed() {
                // Nobody will take it any more.
                errlog::write_line(level, line.as_bytes());
                return;
            }
            let text = line.into();
            self.log.push(LogRecord { level, text }).is_ok()
        };
        if !pushed {
            self.log_dropped.bump_shared();
        }
        // SeqCst: orders the line before the look at the mark; partner of the
        // SeqCst in `Completions::arm`, after which the main thread looks at
        // the log lines once more. One of the two sees the other.
        fence(Ordering::SeqCst);
        self.rouse();
    }

    /// Takes the oldest log line, on the main thread.
    pub fn take_log(&self) -> Option<LogRecord> {
        self.log.pop()
    }

    /// Asks for a wake-up. False if there is something to do first. On the
    /// main thread.
    #[must_use]
    pub fn arm(&self) -> bool {
        if !self.completions.arm() {
            return false;
        }
        // SeqCst: partner of the fence in `log`.
        fence(Ordering::SeqCst);
        // If somebody else took the mark meanwhile, a byte is on its way.
        self.log.is_empty() || !self.completions.disarm()
    }

    /// From now on no task of this mailbox starts to run.
    pub fn close(&self) {
        // Relaxed: see `is_closed`.
        self.closed.store(true, Ordering::Relaxed);
    }
}
