//! What may stand in a line of nginx's error log.
//!
//! Plugins log what they were sent: names, headers, messages of exceptions. A
//! newline in there would begin a line that looks like one of nginx's own, an
//! escape sequence would be obeyed by the terminal of whoever reads the log, and
//! a NUL ends a C string. So each message becomes one line, in which control
//! characters, and bytes that are not UTF-8, are written as `\x1b`, as nginx
//! does in its access log.

use std::fmt::Write;

/// A message as a line of at most `limit` bytes. What is cut off is a whole
/// character.
pub fn printable(message: &[u8], limit: usize) -> String {
    let mut line = String::with_capacity(message.len().min(limit));
    // A byte gives a byte or more, but for the cut in the last character.
    let message = &message[..message.len().min(limit)];
    for chunk in message.utf8_chunks() {
        for character in chunk.valid().chars() {
            let before = line.len();
            if character.is_control() {
                let mut bytes = [0; 4];
                escape(&mut line, character.encode_utf8(&mut bytes).as_bytes());
            } else {
                line.push(character);
            }
            if line.len() > limit {
                line.truncate(before);
                return line;
            }
        }
        let before = line.len();
        escape(&mut line, chunk.invalid());
        if line.len() > limit {
            line.truncate(before);
            return line;
        }
    }
    line
}

fn escape(line: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(line, "\\x{byte:02x}");
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::printable;

    #[test]
    fn what_could_forge_a_line_is_escaped() {
        let line = |text: &[u8]| printable(text, 1000);
        assert_eq!(line(b"plain text: \\ \"x\" %s"), "plain text: \\ \"x\" %s");
        assert_eq!(line(b"one\ntwo\r\n"), "one\\x0atwo\\x0d\\x0a");
        assert_eq!(line(b"\x1b[2J\x07\x7f\tx"), "\\x1b[2J\\x07\\x7f\\x09x");
        assert_eq!(line(b"before\0after"), "before\\x00after");
        // C1 controls are escape sequences to some terminals.
        assert_eq!(line("\u{9b}31m".as_bytes()), "\\xc2\\x9b31m");
        assert_eq!(line("grün 日本 🦀".as_bytes()), "grün 日本 🦀");
        assert_eq!(line(b"\xff\xfe x \xc3"), "\\xff\\xfe x \\xc3");
        assert_eq!(line(b""), "");
    }

    #[test]
    fn cut_lines_end_in_a_whole_character() {
        assert_eq!(printable("äöü".as_bytes(), 3), "ä");
        assert_eq!(printable(b"ab\ncd", 5), "ab");
        assert_eq!(printable(b"ab\ncd", 6), "ab\\x0a");
        assert_eq!(printable(&[b'\n'; 3000], 2000).len(), 2000);
        assert_eq!(printable(&[b'x'; 3000], 2000).len(), 2000);
    }
}
