//! The options of the config and of a request.
//!
//! | option | default | |
//! |---|---|---|
//! | `width`, `height` | 128 | the box the thumbnail fits in, 1 to 4096 |
//! | `quality` | 80 | of a JPEG, 1 to 100 |
//! | `format` | `auto` | `jpeg`, `png`, or that of the picture |
//! | `max_pixels` | 50000000 | refuse larger pictures; only in the config |

use std::str::FromStr;

use nonblocking_ffi_plugin::Error;

use crate::code;

/// How to encode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Auto,
    Jpeg,
    Png,
}

/// What a thumbnail shall be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub width: u32,
    pub height: u32,
    pub quality: u8,
    pub format: Format,
    /// Against pictures that are small as files and huge as pixels.
    pub max_pixels: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            width: 128,
            height: 128,
            quality: 80,
            format: Format::Auto,
            max_pixels: 50_000_000,
        }
    }
}

impl Options {
    /// These options, changed by `key=value` words.
    pub fn with(&self, words: &str) -> Result<Options, Error> {
        let mut options = self.clone();
        for word in words.split_ascii_whitespace() {
            let (key, value) = word
                .split_once('=')
                .ok_or_else(|| bad(format!("\"{word}\" is not key=value")))?;
            match key {
                "width" => options.width = number(key, value, 1, 4096)?,
                "height" => options.height = number(key, value, 1, 4096)?,
                "quality" => options.quality = number(key, value, 1, 100)?,
                "max_pixels" => options.max_pixels = number(key, value, 1, 1 << 32)?,
                "format" => {
                    options.format = match value {
                        "auto" => Format::Auto,
                        "jpeg" => Format::Jpeg,
                        "png" => Format::Png,
                        _ => return Err(bad("format must be auto, jpeg or png".into())),
                    }
                }
                _ => return Err(bad(format!("unknown option \"{key}\""))),
            }
        }
        Ok(options)
    }

    /// The same for the words of a request, which cannot lift the limit.
    pub fn for_request(&self, words: &str) -> Result<Options, Error> {
        let options = self.with(words)?;
        if options.max_pixels != self.max_pixels {
            return Err(bad("max_pixels belongs into the config".into()));
        }
        Ok(options)
    }
}

fn bad(message: String) -> Error {
    Error::new(code::BAD_REQUEST, message)
}

fn number<T>(key: &str, value: &str, min: T, max: T) -> Result<T, Error>
where
    T: FromStr + PartialOrd + std::fmt::Display,
{
    value
        .parse()
        .ok()
        .filter(|n| (&min..=&max).contains(&n))
        .ok_or_else(|| bad(format!("{key} must be a whole number from {min} to {max}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_change_options() {
        let options = Options::default()
            .with(" width=64\nheight=32 quality=5\tformat=png ")
            .unwrap();
        let expected = Options {
            width: 64,
            height: 32,
            quality: 5,
            format: Format::Png,
            ..Options::default()
        };
        assert_eq!(options, expected);
        assert_eq!(
            options.for_request("format=auto").unwrap().format,
            Format::Auto
        );
        assert_eq!(Options::default().with("").unwrap(), Options::default());
    }

    #[test]
    fn wrong_words_are_named() {
        for (words, message) in [
            ("width", "\"width\" is not key=value"),
            ("colour=red", "unknown option \"colour\""),
            ("width=0", "width must be a whole number from 1 to 4096"),
            (
                "height=5000",
                "height must be a whole number from 1 to 4096",
            ),
            (
                "quality=256",
                "quality must be a whole number from 1 to 100",
            ),
            ("width=1.5", "width must be a whole number from 1 to 4096"),
            ("format=gif", "format must be auto, jpeg or png"),
        ] {
            let error = Options::default().with(words).unwrap_err();
            assert_eq!(
                (error.code(), error.message()),
                (code::BAD_REQUEST, message)
            );
        }
        let error = Options::default()
            .for_request("max_pixels=99999999")
            .unwrap_err();
        assert_eq!(error.message(), "max_pixels belongs into the config");
    }
}
