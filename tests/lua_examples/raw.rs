//! Requests that are sent as they are, byte by byte.

use std::io::{Read, Write};
use std::net::TcpStream;

use support::PATIENCE;

/// What came back.
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The header, with its lines as they were.
    pub header: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The value of a header; `name` is in lower case.
    pub fn value(&self, name: &str) -> Option<&str> {
        let pairs = self.header.lines().filter_map(|line| line.split_once(": "));
        let mut found = pairs.filter(|(key, _)| key.to_ascii_lowercase() == name);
        found.next().map(|(_, value)| value)
    }
}

/// Sends a request that asks for the connection to be closed, and reads until it
/// is.
pub fn exchange(port: u16, request: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // A server may answer and close before it has read a large body.
    let _ = stream.write_all(request);
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes);
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    let shown = || String::from_utf8_lossy(&request[..request.len().min(300)]).into_owned();
    let end = end.unwrap_or_else(|| panic!("no answer ({read:?}) to:\n{}", shown()));
    let header = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = header.split(' ').nth(1).and_then(|text| text.parse().ok());
    let status = status.unwrap_or_else(|| panic!("no status: {header}"));
    let rest = &bytes[end + 4..];
    let mut answer = Answer {
        status,
        header,
        body: rest.to_vec(),
    };
    if answer.value("transfer-encoding") == Some("chunked") {
        answer.body = unchunked(rest);
    }
    answer
}

/// The pieces of a body put together.
fn unchunked(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n").unwrap();
        let size = std::str::from_utf8(&rest[..end]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&rest[end + 2..][..size]);
        rest = &rest[end + 2 + size + 2..];
    }
}

/// GET, with the headers of a browser.
pub fn get(port: u16, target: &str) -> Answer {
    exchange(port, &browser("GET", target, &[], b""))
}

/// A request as a browser makes it: what `headers` has replaces what a browser
/// would say.
pub fn browser(method: &str, target: &str, headers: &[(String, String)], body: &[u8]) -> Vec<u8> {
    const USUAL: [(&str, &str); 5] = [
        ("Host", "www.shop.example"),
        (
            "User-Agent",
            "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
        ),
        (
            "Accept",
            "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8",
        ),
        ("Accept-Language", "en-US,en;q=0.5"),
        ("Accept-Encoding", "gzip, deflate, br"),
    ];
    let mut head = format!("{method} {target} HTTP/1.1\r\nConnection: close\r\n");
    let given = |name: &str| {
        headers
            .iter()
            .any(|(key, _)| key.eq_ignore_ascii_case(name))
    };
    for (name, value) in USUAL.into_iter().filter(|(name, _)| !given(name)) {
        head += &format!("{name}: {value}\r\n");
    }
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    [head.as_bytes(), b"\r\n", body].concat()
}
