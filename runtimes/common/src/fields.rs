//! The options of one runtime as the Lua side sends them, in the plugin's
//! configuration: `key:length:value\n` for each, in any order. The key of a list
//! repeats.

/// The fields of a configuration, as keys and values.
///
/// An item is an error if the rest is not a list of fields: the runtime was
/// loaded without `language`, or the Lua files are of another release.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
    language: &'a str,
}

impl<'a> Fields<'a> {
    /// The fields of a runtime of this language.
    pub fn new(text: &'a [u8], language: &'a str) -> Self {
        Self {
            rest: text,
            language,
        }
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(&'a str, &'a [u8]), String>;

    fn next(&mut self) -> Option<Self::Item> {
        let text = std::mem::take(&mut self.rest);
        if text.is_empty() {
            return None;
        }
        Some(match field(text) {
            Some((key, value, rest)) => {
                self.rest = rest;
                Ok((key, value))
            }
            None => Err(format!(
                "config is not a list of fields: load it with language = \"{}\"",
                self.language
            )),
        })
    }
}

/// The error for a key that the runtime does not know.
pub fn unknown(key: &str) -> String {
    format!("unknown field \"{key}\"")
}

/// The first field and what follows it.
fn field(text: &[u8]) -> Option<(&str, &[u8], &[u8])> {
    let (key, rest) = split(text)?;
    let (length, rest) = split(rest)?;
    let (value, rest) = rest.split_at_checked(length.parse().ok()?)?;
    Some((key, value, rest.strip_prefix(b"\n")?))
}

/// What is in front of the first colon, and what is behind it.
fn split(text: &[u8]) -> Option<(&str, &[u8])> {
    let colon = text.iter().position(|&byte| byte == b':')?;
    let word = std::str::from_utf8(&text[..colon]).ok()?;
    Some((word, &text[colon + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Parsed<'a> = Result<Vec<(&'a str, &'a [u8])>, String>;

    #[test]
    fn values_may_have_any_bytes() {
        let text = b"path:2:/a\npath:5:/b:\nc\nconfig:4:\xff:\n1\nempty:0:\n";
        let fields: Parsed = Fields::new(text, "tea").collect();
        let expected: Parsed = Ok(vec![
            ("path", b"/a"),
            ("path", b"/b:\nc"),
            ("config", b"\xff:\n1"),
            ("empty", b""),
        ]);
        assert_eq!(fields, expected);
        assert_eq!(Fields::new(b"", "tea").next(), None);
    }

    #[test]
    fn anything_else_is_an_error() {
        let good = b"entry:3:m:f\n";
        for end in 1..good.len() {
            let mut fields = Fields::new(&good[..end], "tea");
            let said = fields.next().unwrap().unwrap_err();
            assert!(said.ends_with("language = \"tea\""), "{said}");
            assert_eq!(fields.next(), None, "one error ends it");
        }
        for text in ["a:4:m:f\n", "a:x:m:f\n", "a:-1:\n", "a:1:xy\n", "{\"a\":1}"] {
            let fields: Parsed = Fields::new(text.as_bytes(), "tea").collect();
            assert!(fields.is_err(), "{text}");
        }
    }
}
