//! What this crate and the language runtimes both need of C.

use std::ffi::c_char;

/// CLOCK_MONOTONIC in nanoseconds, the clock of deadlines. `Instant` is the
/// same clock but does not tell its value.
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: now is writable. It cannot fail: the clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The first bytes of a text, at most `limit`, in whole characters.
pub fn cut(text: &str, limit: usize) -> &str {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Writes as much of a message as fits, in whole characters, and a NUL.
///
/// # Safety
///
/// `err` is NULL or has room for `err_size` bytes.
pub unsafe fn write_message(message: &str, err: *mut c_char, err_size: u64) {
    if err.is_null() || err_size == 0 {
        return;
    }
    // A NUL of the message's own would cut it short.
    let message = message.replace('\0', "\u{fffd}");
    let message = cut(&message, err_size as usize - 1);
    // SAFETY: the message is shorter than err_size.
    unsafe {
        std::ptr::copy_nonoverlapping(message.as_ptr(), err.cast::<u8>(), message.len());
        *err.add(message.len()) = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_cut_between_characters() {
        let mut room = [0x55 as c_char; 6];
        // SAFETY: six bytes of room.
        unsafe { write_message("a\0büü", room.as_mut_ptr(), 6) };
        let bytes = room.map(|c| c as u8);
        assert_eq!(&bytes, b"a\xef\xbf\xbdb\0");
        // SAFETY: no room at all.
        unsafe { write_message("x", std::ptr::null_mut(), 0) };
    }
}
