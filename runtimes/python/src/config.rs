//! What one runtime is to be, as `languages/python.lua` sends it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use nonblocking_ffi_runtimes_common::fields::{self, Fields};

/// The options of one runtime.
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
    /// If the Lua side has sent something else.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let mut config = Self::default();
        for field in Fields::new(text, "python") {
            let (key, value) = field?;
            match key {
                "entry" => config.entry = String::from_utf8_lossy(value).into_owned(),
                "config" => config.config = value.to_vec(),
                "path" => config.path.push(path(value)),
                "venv" => config.venv = Some(path(value)),
                "python" => config.python = Some(path(value)),
                _ => return Err(fields::unknown(key)),
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_become_options() {
        let text = b"path:2:/a\npath:2:/b\nconfig:4:\xff:\n1\nentry:3:m:f\nvenv:2:/v\n";
        let expected = Config {
            entry: "m:f".to_owned(),
            config: b"\xff:\n1".to_vec(),
            path: vec!["/a".into(), "/b".into()],
            venv: Some("/v".into()),
            python: None,
        };
        assert_eq!(Config::parse(text), Ok(expected));
        for (text, said) in [
            ("oops:1:x\n", "unknown field \"oops\""),
            ("oops", "config is not a list of fields"),
            ("path:2:/a\n", "entry is missing"),
        ] {
            let error = Config::parse(text.as_bytes()).unwrap_err();
            assert!(error.starts_with(said), "{error}");
        }
    }
}
