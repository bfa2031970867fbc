//! Thumbnails: a JPEG or PNG picture in, a small JPEG or PNG out.
//!
//! The config gives the options, as `key=value` words; a request is the bytes
//! of a picture. A request may begin with a line of options of its own, `@`
//! and the same words: `@width=64 format=png\n<picture>`. (No picture begins
//! with `@`.) The README lists the options.
//!
//! The response's status is code 0 with a message such as
//! `image/jpeg 128x96 of 4000x3000`.
//!
//! `options` parses, `picture` decodes, resizes and encodes; this file is the
//! plugin.

mod options;
mod picture;

use nonblocking_ffi_plugin::{Error, Host, Plugin, Response, Task, export_plugin};

use options::Options;

/// Codes of errors.
mod code {
    /// The options are wrong.
    pub const BAD_REQUEST: i64 = 400;
    /// The picture has more pixels than `max_pixels`.
    pub const TOO_LARGE: i64 = 413;
    /// Neither JPEG nor PNG.
    pub const UNSUPPORTED: i64 = 415;
    /// A broken picture.
    pub const BROKEN: i64 = 422;
    /// The caller had stopped waiting.
    pub const CANCELLED: i64 = 499;
    /// Anything else.
    pub const INTERNAL: i64 = 500;
}

struct Thumbnail {
    options: Options,
}

impl Plugin for Thumbnail {
    fn init(host: Host) -> Result<Self, Error> {
        let options = Options::default().with(host.config())?;
        Ok(Thumbnail { options })
    }

    fn call(&self, task: &Task<'_>, request: &[u8]) -> Result<Response, Error> {
        let (words, picture) = split(request)?;
        let options = self.options.for_request(words)?;
        let made = picture::thumbnail(picture, &options, &|| task.is_cancelled())?;
        Ok(Response::from(made.data).with_status(0, made.description))
    }
}

export_plugin!(Thumbnail);

/// Splits a request into its options and its picture.
fn split(request: &[u8]) -> Result<(&str, &[u8]), Error> {
    let Some(rest) = request.strip_prefix(b"@") else {
        return Ok(("", request));
    };
    let bad = || {
        Error::new(
            code::BAD_REQUEST,
            "the line of options does not end, or is not text",
        )
    };
    // A line that does not end soon is no line; the picture is not searched.
    let end = rest
        .iter()
        .take(1000)
        .position(|&b| b == b'\n')
        .ok_or_else(bad)?;
    let words = std::str::from_utf8(&rest[..end]).map_err(|_| bad())?;
    Ok((words, &rest[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_with_and_without_options() {
        assert_eq!(split(b"\xff\xd8x").unwrap(), ("", &b"\xff\xd8x"[..]));
        assert_eq!(
            split(b"@width=3\n\x89P\n").unwrap(),
            ("width=3", &b"\x89P\n"[..])
        );
        assert_eq!(split(b"@\n").unwrap(), ("", &b""[..]));
        assert_eq!(split(b"@width=3").unwrap_err().code(), code::BAD_REQUEST);
        assert_eq!(split(b"@\xff\n").unwrap_err().code(), code::BAD_REQUEST);
        let long = [b"@", &[b' '; 2000][..], b"\n"].concat();
        assert_eq!(split(&long).unwrap_err().code(), code::BAD_REQUEST);
    }
}
