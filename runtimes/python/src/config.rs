//! The fields that `hosts/python.lua` sends as the plugin's configuration:
//! `key:length:value\n` for each, in any order; the keys of lists repeat.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// What one runtime is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// `package.module:function`.
    pub entry: String,
    /// The user's own configuration, for the plugin's code.
    pub config: Vec<u8>,
    /// Folders in front of `sys.path`.
    pub path: Vec<PathBuf>,
    /// A virtual environment.
    pub venv: Option<PathBuf>,
    /// An interpreter, a prefix, or a libpython.
    pub python: Option<PathBuf>,
}

impl Config {
    /// Reads the fields.
    ///
    /// # Errors
    ///
    /// If they are not framed as they should be, or a key is unknown: the Lua
    /// files are of another release then.
    pub fn parse(mut text: &[u8]) -> Result<Self, String> {
        let mut config = Self::default();
        while !text.is_empty() {
            let (key, value, rest) = field(text).ok_or_else(|| {
                "the configuration is not framed as hosts/python.lua does it".to_owned()
            })?;
            match key {
                b"entry" => config.entry = String::from_utf8_lossy(value).into_owned(),
                b"config" => config.config = value.to_vec(),
                b"path" => config.path.push(path(value)),
                b"venv" => config.venv = Some(path(value)),
                b"python" => config.python = Some(path(value)),
                _ => {
                    let key = String::from_utf8_lossy(key);
                    return Err(format!("the configuration has an unknown field \"{key}\""));
                }
            }
            text = rest;
        }
        if config.entry.is_empty() {
            return Err("entry is missing: \"package.module:function\"".to_owned());
        }
        Ok(config)
    }
}

fn path(value: &[u8]) -> PathBuf {
    OsString::from_vec(value.to_vec()).into()
}

/// The first field: key, value, and what follows.
fn field(text: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (key, rest) = split(text, b':')?;
    let (length, rest) = split(rest, b':')?;
    let length: usize = std::str::from_utf8(length).ok()?.parse().ok()?;
    let value = rest.get(..length)?;
    let rest = rest[length..].strip_prefix(b"\n")?;
    Some((key, value, rest))
}

fn split(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let place = text.iter().position(|&byte| byte == at)?;
    Some((&text[..place], &text[place + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_fields_of_any_bytes() {
        let text = b"path:2:/a\npath:5:/b:\nc\nconfig:4:\xff:\n1\nentry:3:m:f\nvenv:2:/v\n";
        let config = Config::parse(text).unwrap();
        assert_eq!(config.entry, "m:f");
        assert_eq!(config.path, [PathBuf::from("/a"), PathBuf::from("/b:\nc")]);
        assert_eq!(config.config, b"\xff:\n1");
        assert_eq!(config.venv, Some("/v".into()));
        assert_eq!(config.python, None);
    }

    #[test]
    fn refuses_what_is_not_framed() {
        let good = b"entry:3:m:f\n".to_vec();
        assert!(Config::parse(&good).is_ok());
        for end in 0..good.len() {
            assert!(Config::parse(&good[..end]).is_err(), "{end}");
        }
        for text in [
            "entry:4:m:f\n",
            "entry:x:m:f\n",
            "entry:-1:\n",
            "oops:1:x\n",
        ] {
            assert!(Config::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
