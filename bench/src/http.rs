//! A client for HTTP/1.1 on one kept connection: enough for the bench's own
//! locations, and light enough to time them.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::Result;

/// Longer than any request of the bench takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// A connection to nginx.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<TcpStream>,
    line: String,
}

impl Client {
    /// Connects.
    pub fn connect(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: BufReader::new(stream),
            line: String::new(),
        })
    }

    /// The body of a GET; an error unless the status is 200.
    pub fn get(&mut self, path: &str) -> Result<String> {
        let (status, body) = self
            .exchange(path)
            .map_err(|error| format!("GET {path}: {error}"))?;
        let body = String::from_utf8_lossy(&body).into_owned();
        if status != 200 {
            return Err(format!("GET {path}: status {status}: {body}").into());
        }
        Ok(body)
    }

    fn exchange(&mut self, path: &str) -> io::Result<(u16, Vec<u8>)> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n");
        self.stream.get_mut().write_all(request.as_bytes())?;
        let first = self.read_line()?;
        let status = first.split(' ').nth(1).and_then(|text| text.parse().ok());
        let status = status.ok_or_else(|| malformed(first))?;
        let mut length = None;
        loop {
            let line = self.read_line()?.to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse::<usize>().ok();
            }
        }
        let mut body = Vec::new();
        if let Some(length) = length {
            body.resize(length, 0);
            self.stream.read_exact(&mut body)?;
        } else if status != 204 {
            // Without a length, nginx sends chunks.
            while let size @ 1.. = self.chunk_size()? {
                let read = self.stream.by_ref().take(size).read_to_end(&mut body)?;
                if read as u64 != size {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                self.read_line()?;
            }
            self.read_line()?;
        }
        Ok((status, body))
    }

    fn chunk_size(&mut self) -> io::Result<u64> {
        let line = self.read_line()?;
        u64::from_str_radix(line, 16).map_err(|_| malformed(line))
    }

    fn read_line(&mut self) -> io::Result<&str> {
        self.line.clear();
        if self.stream.read_line(&mut self.line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(self.line.trim_end())
    }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("malformed answer: {what}"),
    )
}
