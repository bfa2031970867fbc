//! A line in nginx's error log at a moment when nginx itself cannot write it: in
//! any thread, in an exit handler, when the event loop has ended.
//!
//! A worker's standard error is its error log. A line is one `write`, without
//! an allocation or a lock, since nobody knows what the thread was doing.

use std::ffi::c_int;
use std::sync::atomic::{AtomicI64, Ordering};

/// nginx cuts lines at 2048 bytes.
const LINE_BYTES: usize = 2048;
/// Linux's limit for a thread's name, with a NUL.
const NAME_BYTES: usize = 16;
/// nginx's names for its levels, from 1.
const LEVELS: [&str; 8] = [
    "emerg", "alert", "crit", "error", "warn", "notice", "info", "debug",
];
const ERROR: u8 = 4;

/// Seconds that local time is ahead of UTC: asking for it takes a lock.
static AHEAD: AtomicI64 = AtomicI64::new(0);

/// A text of few bytes that is made without an allocation.
#[derive(Debug, Clone, Copy)]
pub struct Short {
    bytes: [u8; 24],
    len: usize,
}

impl std::ops::Deref for Short {
    type Target = str;

    fn deref(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len]).unwrap_or("?")
    }
}

/// Notes what `write` must not ask for.
pub fn prepare() {
    // SAFETY: plain numbers; `localtime_r` fills in `parts`.
    let ahead = unsafe {
        let mut parts: libc::tm = std::mem::zeroed();
        libc::localtime_r(&libc::time(std::ptr::null_mut()), &mut parts);
        parts.tm_gmtoff
    };
    // Relaxed: a plain number.
    AHEAD.store(ahead, Ordering::Relaxed);
}

/// A number in decimal.
pub fn number(value: c_int) -> Short {
    padded(value.into(), 1)
}

/// A number with at least so many digits.
fn padded(value: i64, digits: usize) -> Short {
    let mut text = Short {
        bytes: [b'0'; 24],
        len: 0,
    };
    let (mut rest, mut start) = (value.unsigned_abs(), text.bytes.len());
    while rest > 0 || text.bytes.len() - start < digits {
        start -= 1;
        text.bytes[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    if value < 0 {
        start -= 1;
        text.bytes[start] = b'-';
    }
    text.len = text.bytes.len() - start;
    text.bytes.copy_within(start.., 0);
    text
}

/// The calling thread's name.
pub fn thread_name() -> Short {
    let mut text = Short {
        bytes: [0; 24],
        len: 0,
    };
    // SAFETY: it writes at most 16 bytes, with a NUL.
    unsafe { libc::prctl(libc::PR_GET_NAME, text.bytes.as_mut_ptr()) };
    text.len = (0..NAME_BYTES)
        .find(|&i| text.bytes[i] == 0)
        .unwrap_or(NAME_BYTES);
    text
}

/// Writes an error.
pub fn write(parts: &[&str]) {
    write_bytes(ERROR, |line| {
        line.push(b"nonblocking_ffi: ");
        parts.iter().for_each(|part| line.push(part.as_bytes()));
    });
}

/// Writes a line that is complete but for its time, with nginx's level.
pub fn write_line(level: u8, text: &[u8]) {
    write_bytes(level, |line| line.push(text));
}

struct Line {
    bytes: [u8; LINE_BYTES],
    len: usize,
}

impl Line {
    fn push(&mut self, text: &[u8]) {
        // One byte is for the end of the line.
        let len = text.len().min(LINE_BYTES - 1 - self.len);
        self.bytes[self.len..self.len + len].copy_from_slice(&text[..len]);
        self.len += len;
    }
}

fn write_bytes(level: u8, fill: impl FnOnce(&mut Line)) {
    let mut line = Line {
        bytes: [0; LINE_BYTES],
        len: 0,
    };
    // SAFETY: no pointer but null, and it cannot fail.
    let now = unsafe { libc::time(std::ptr::null_mut()) } + AHEAD.load(Ordering::Relaxed);
    let (year, month, day) = date(now.div_euclid(86400));
    let second = now.rem_euclid(86400);
    let level = LEVELS[usize::from(level).clamp(1, LEVELS.len()) - 1];
    // SAFETY: no arguments, and they cannot fail.
    let (pid, tid) = unsafe { (libc::getpid(), libc::gettid()) };
    for text in [
        &*padded(year, 4),
        "/",
        &padded(month, 2),
        "/",
        &padded(day, 2),
        " ",
        &padded(second / 3600, 2),
        ":",
        &padded(second / 60 % 60, 2),
        ":",
        &padded(second % 60, 2),
        " [",
        level,
        "] ",
        &number(pid),
        "#",
        &number(tid),
        ": ",
    ] {
        line.push(text.as_bytes());
    }
    fill(&mut line);
    line.bytes[line.len] = b'\n';
    line.len += 1;
    // SAFETY: `len` bytes that were filled in. If it fails, nobody can be told.
    unsafe { libc::write(libc::STDERR_FILENO, line.bytes.as_ptr().cast(), line.len) };
}

/// Year, month and day of the day so many days after 1970-01-01; Howard
/// Hinnant's `civil_from_days`.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day = days.rem_euclid(146_097);
    let year = (day - day / 1460 + day / 36524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let number = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, number)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), (1970, 1, 1));
        assert_eq!(date(-1), (1969, 12, 31));
        assert_eq!(date(11_016), (2000, 2, 29));
        assert_eq!(date(11_017), (2000, 3, 1));
        assert_eq!(date(20_786), (2026, 11, 29));
        assert_eq!(date(24_836), (2037, 12, 31));
    }

    #[test]
    fn numbers_have_their_digits() {
        assert_eq!(&*padded(7, 2), "07");
        assert_eq!(&*padded(2026, 4), "2026");
        assert_eq!(&*number(0), "0");
        assert_eq!(&*number(-15), "-15");
        assert_eq!(&*number(c_int::MIN), "-2147483648");
    }

    #[test]
    fn a_line_is_cut() {
        let mut line = Line {
            bytes: [0; LINE_BYTES],
            len: 0,
        };
        line.push(&[b'a'; 2000]);
        line.push(&[b'b'; 100]);
        assert_eq!(line.len, LINE_BYTES - 1);
    }
}
