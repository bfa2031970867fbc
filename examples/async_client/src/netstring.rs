//! Lists of byte strings, as netstrings: `5:hello,` for each; nil is `-,`.

/// The strings of a list; `None` if it is none, or one of them is nil.
pub fn read(mut list: &[u8]) -> Option<Vec<&[u8]>> {
    let mut strings = Vec::new();
    while !list.is_empty() {
        let colon = list.iter().position(|&byte| byte == b':')?;
        let digits = std::str::from_utf8(&list[..colon]).ok()?;
        // `parse` would allow a sign.
        let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
        let len: usize = digits.parse().ok().filter(|_| is_number)?;
        let (string, rest) = list[colon + 1..].split_at_checked(len)?;
        list = rest.strip_prefix(b",")?;
        strings.push(string);
    }
    Some(strings)
}

/// Adds a string, or nil, to a list.
pub fn write(list: &mut Vec<u8>, string: Option<&[u8]>) {
    match string {
        Some(string) => {
            list.extend(string.len().to_string().bytes());
            list.push(b':');
            list.extend(string);
        }
        None => list.push(b'-'),
    }
    list.push(b',');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let strings = [&b""[..], b"a", b"with,commas:and\0nuls", &[255; 1000]];
        let mut list = Vec::new();
        for string in strings {
            write(&mut list, Some(string));
        }
        assert_eq!(read(&list).unwrap(), strings);
        assert_eq!(read(b"").unwrap(), [b""; 0]);
    }

    #[test]
    fn what_is_no_list() {
        for wrong in [
            &b"x"[..],
            b"3:abc",
            b"4:abc,",
            b"3:abc;",
            b"+1:a,",
            b":,",
            b"-,",
            b"1:a,1",
            b"99999999999999999999:a,",
        ] {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
    }
}
