//! Replacements: text with references to groups.

use std::ops::Range;

use super::NO_MEMORY;

/// Appends bytes, if there are any.
pub fn append(result: &mut Vec<u8>, bytes: Option<&[u8]>) -> Result<(), i32> {
    if let Some(bytes) = bytes {
        // A Lua string cannot be longer.
        if result.len() + bytes.len() >= i32::MAX as usize {
            return Err(NO_MEMORY);
        }
        result.try_reserve(bytes.len()).map_err(|_| NO_MEMORY)?;
        result.extend_from_slice(bytes);
    }
    Ok(())
}

/// Part of a replacement.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    /// This part of the source.
    Text(Range<usize>),
    /// What the group of this number captured, or nothing.
    Capture(u32),
}

/// A compiled replacement.
#[derive(Debug, Clone)]
pub struct Template {
    source: Vec<u8>,
    pieces: Vec<Piece>,
}

impl Template {
    /// Compiles a replacement: `$0` is the match, `$1` and `${1}` the first
    /// group, `$$` a dollar sign. The error is what nginx logs for it.
    pub fn new(source: &[u8]) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut at = 0;
        while at < source.len() {
            if source[at] != b'$' {
                let rest = &source[at..];
                let len = rest.iter().position(|&byte| byte == b'$');
                let end = at + len.unwrap_or(rest.len());
                pieces.push(Piece::Text(at..end));
                at = end;
            } else if source.get(at + 1) == Some(&b'$') {
                pieces.push(Piece::Text(at + 1..at + 2));
                at += 2;
            } else {
                let (number, end) = reference(source, at + 1)?;
                pieces.push(Piece::Capture(number));
                at = end;
            }
        }
        Ok(Self {
            source: source.to_vec(),
            pieces,
        })
    }

    /// Appends the replacement; `capture` gives what a group captured.
    pub fn expand<'a>(
        &self,
        capture: impl Fn(u32) -> Option<&'a [u8]>,
        result: &mut Vec<u8>,
    ) -> Result<(), i32> {
        for piece in &self.pieces {
            let bytes = match piece {
                Piece::Text(range) => self.source.get(range.clone()),
                Piece::Capture(number) => capture(*number),
            };
            append(result, bytes)?;
        }
        Ok(())
    }
}

/// The number of a group after a dollar sign, at `start`, and where it ends.
fn reference(source: &[u8], start: usize) -> Result<(u32, usize), String> {
    let text = |range: Range<usize>| String::from_utf8_lossy(&source[range]).into_owned();
    let bracket = source.get(start) == Some(&b'{');
    let first = start + usize::from(bracket);
    let numeric = source.get(first).is_some_and(u8::is_ascii_digit);
    let mut end = first;
    while source.get(end).is_some_and(|&byte| {
        byte.is_ascii_digit() || !numeric && (byte.is_ascii_alphabetic() || byte == b'_')
    }) {
        end += 1;
    }
    let closed = bracket && source.get(end) == Some(&b'}');
    if first == source.len() || (end == first && !bracket) || (end == first && closed) {
        let whole = text(0..source.len());
        return Err(format!(
            "lua script: invalid capturing variable name found in \"{whole}\""
        ));
    }
    if bracket && !closed {
        let name = text(first..end);
        return Err(format!(
            "the closing bracket in \"{name}\" variable is missing"
        ));
    }
    if !numeric {
        let name = text(first..end);
        return Err(format!(
            "attempt to use named capturing variable \"{name}\" (named captures not supported yet)"
        ));
    }
    // There is no group with a number too large for this.
    let number = text(first..end).parse().unwrap_or(u32::MAX);
    Ok((number, end + usize::from(bracket)))
}
