//! A client for HTTP/1.1 with keep-alive, and a load of many requests.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::process::{self, Signal};
use crate::{EXIT_PROMISE, Nginx, PATIENCE, eventually};

/// An answer.
#[derive(Debug, Clone)]
pub struct Response {
    /// Its status.
    pub status: u16,
    /// Its body.
    pub body: Vec<u8>,
    /// Whether nginx closes the connection.
    close: bool,
}

impl Response {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One connection at a time, kept alive while nginx does.
#[derive(Debug)]
pub struct Client {
    port: u16,
    stream: Option<BufReader<TcpStream>>,
}

impl Client {
    /// A client that has not connected yet.
    pub fn new(port: u16) -> Self {
        Self { port, stream: None }
    }

    /// Sends GET and waits for the answer.
    pub fn get(&mut self, path: &str) -> io::Result<Response> {
        self.request(&format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"), &[])
    }

    /// Sends POST and waits for the answer.
    pub fn post(&mut self, path: &str, body: &[u8]) -> io::Result<Response> {
        let length = body.len();
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n");
        self.request(&head, body)
    }

    /// Sends GET and does not wait: dropping the stream is a client's abort.
    pub fn send_only(&self, path: &str) -> TcpStream {
        let mut stream = self.connect().unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        stream
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn request(&mut self, head: &str, body: &[u8]) -> io::Result<Response> {
        if let Some(mut stream) = self.stream.take() {
            match exchange(&mut stream, head, body) {
                Ok(response) => return Ok(self.keep(stream, response)),
                // nginx may close a connection while it is idle, an exiting
                // worker does; the request was not served then.
                Err(Failure::Closed) => {}
                Err(Failure::Broken(error)) => return Err(error),
            }
        }
        let mut stream = BufReader::new(self.connect()?);
        match exchange(&mut stream, head, body) {
            Ok(response) => Ok(self.keep(stream, response)),
            Err(Failure::Closed) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(Failure::Broken(error)) => Err(error),
        }
    }

    fn keep(&mut self, stream: BufReader<TcpStream>, response: Response) -> Response {
        if !response.close {
            self.stream = Some(stream);
        }
        response
    }
}

enum Failure {
    /// The connection was closed before the first byte of an answer.
    Closed,
    /// Anything else.
    Broken(io::Error),
}

fn exchange(
    stream: &mut BufReader<TcpStream>,
    head: &str,
    body: &[u8],
) -> Result<Response, Failure> {
    let sent = stream
        .get_mut()
        .write_all(head.as_bytes())
        .and_then(|()| stream.get_mut().write_all(body));
    if sent.is_err() {
        return Err(Failure::Closed);
    }
    loop {
        match stream.fill_buf() {
            Ok([]) => return Err(Failure::Closed),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                return Err(Failure::Closed);
            }
            // Whoever was frozen for a moment, or stopped, reads on.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Failure::Broken(error)),
            Ok(_) => break,
        }
    }
    read_response(stream).map_err(Failure::Broken)
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

fn read_line(stream: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end().to_owned())
}

fn read_response(stream: &mut impl BufRead) -> io::Result<Response> {
    let line = read_line(stream)?;
    let status = line.split(' ').nth(1).and_then(|text| text.parse().ok());
    let status = status.ok_or_else(|| malformed(&line))?;
    let (mut length, mut chunked, mut close) = (None, false, false);
    loop {
        let line = read_line(stream)?.to_ascii_lowercase();
        match line.split_once(": ") {
            None if line.is_empty() => break,
            None => return Err(malformed(&line)),
            Some(("content-length", value)) => length = value.parse::<usize>().ok(),
            Some(("transfer-encoding", "chunked")) => chunked = true,
            Some(("connection", "close")) => close = true,
            Some(_) => {}
        }
    }
    let mut body = Vec::new();
    if chunked {
        while let size @ 1.. = read_chunk_size(stream)? {
            stream.by_ref().take(size).read_to_end(&mut body)?;
            read_line(stream)?;
        }
        read_line(stream)?;
    } else if let Some(length) = length {
        body.resize(length, 0);
        stream.read_exact(&mut body)?;
    } else if status != 204 {
        close = true;
        stream.read_to_end(&mut body)?;
    }
    Ok(Response {
        status,
        body,
        close,
    })
}

fn read_chunk_size(stream: &mut impl BufRead) -> io::Result<u64> {
    let line = read_line(stream)?;
    u64::from_str_radix(&line, 16).map_err(|_| malformed(&line))
}

/// Requests from several clients at a time until it is told to stop.
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    next: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

/// What came of a load.
#[derive(Debug)]
pub struct Outcome {
    /// How many requests were sent; their ids are 1 to that.
    pub sent: u64,
    /// How many were answered as they should be.
    pub answered: u64,
    /// What was wrong with the others.
    pub failures: Vec<String>,
}

impl Load {
    /// Starts `clients` clients that GET `path` + `<id>`, with ids counted from
    /// 1, and expect the answer `expected` + `<id>`.
    pub fn start(nginx: &Nginx, clients: usize, path: &str, expected: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let next = Arc::new(AtomicU64::new(0));
        let run = |_| {
            let (path, expected) = (path.to_owned(), expected.to_owned());
            let (stop, answered, next) = (stop.clone(), answered.clone(), next.clone());
            let mut client = nginx.client();
            std::thread::spawn(move || {
                let mut failures = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let id = next.fetch_add(1, Ordering::Relaxed) + 1;
                    match client.get(&format!("{path}{id}")) {
                        Ok(r) if r.status == 200 && r.text() == format!("{expected}{id}") => {
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok(r) => failures.push(format!("{id}: {} {}", r.status, r.text())),
                        Err(error) => {
                            failures.push(format!("{id}: {error}"));
                            // Nobody listens, perhaps for good.
                            std::thread::sleep(Duration::from_millis(1));
                        }
                    }
                }
                failures
            })
        };
        let clients = (0..clients).map(run).collect();
        Self {
            stop,
            answered,
            next,
            clients,
        }
    }

    /// Waits until so many more requests were answered.
    pub fn await_more(&self, number: u64) {
        let goal = self.answered.load(Ordering::Relaxed) + number;
        eventually("the load goes on", || {
            self.answered.load(Ordering::Relaxed) >= goal
        });
    }

    /// Reloads nginx so many times, each time after so many more answers; each old
    /// worker has to leave. Then ends the load: every request must have had the
    /// right answer. Returns how many there were.
    #[track_caller]
    pub fn outlive_reloads(self, nginx: &Nginx, reloads: u64, answers: u64) -> u64 {
        for _ in 0..reloads {
            self.await_more(answers);
            nginx.replace_workers(EXIT_PROMISE);
        }
        self.await_more(answers);
        let outcome = self.stop();
        assert_eq!(outcome.failures, [""; 0]);
        assert_eq!(outcome.answered, outcome.sent);
        outcome.sent
    }

    /// Kills the worker that `victim` says so many times, each time after so many more
    /// answers; another one has to take its place. Then ends the load: each client may
    /// have lost one request by each kill.
    #[track_caller]
    pub fn outlive_kills(
        self,
        nginx: &Nginx,
        kills: usize,
        answers: u64,
        victim: impl Fn() -> i32,
    ) -> Outcome {
        for _ in 0..kills {
            self.await_more(answers);
            let before = nginx.workers();
            let victim = victim();
            process::signal(victim, Signal::Kill);
            eventually("a new worker", || {
                let now = nginx.workers();
                now.len() == before.len() && !now.contains(&victim)
            });
        }
        self.await_more(4 * answers);
        let most = self.clients.len() * kills;
        let outcome = self.stop();
        assert!(outcome.failures.len() <= most, "{:?}", outcome.failures);
        let ended = outcome.answered + outcome.failures.len() as u64;
        assert_eq!(ended, outcome.sent);
        outcome
    }

    /// Ends it.
    pub fn stop(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self
            .clients
            .into_iter()
            .map(|client| client.join().unwrap());
        let failures = ended.flatten().collect();
        Outcome {
            sent: self.next.load(Ordering::Relaxed),
            answered: self.answered.load(Ordering::Relaxed),
            failures,
        }
    }
}
