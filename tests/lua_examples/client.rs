//! The blocking client: connections that live on, time that runs out, servers
//! that go away.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use crate::example::{Example, Site};
use crate::raw::Answer;
use support::{PATIENCE, eventually};

/// An address of this computer that nobody but this test process uses.
fn own_address() -> String {
    let [_, a, b, c] = std::process::id().to_be_bytes();
    format!("127.{}.{b}.{}", a.clamp(1, 254), c.clamp(1, 254))
}

fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind((own_address(), 0)).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

/// The example, with the backend of its own configuration.
fn start() -> Site {
    // Free again when the listener is dropped.
    let (_, address) = listen();
    Example::new("luasocket_client", &[("127.0.0.1:8081", &address)]).start()
}

/// The example in front of a backend of ours.
fn before(backend: &str) -> Example {
    let (_, unused) = listen();
    let listens = format!("listen {unused};");
    let backend = format!("set $backend {backend};");
    let replaced = [
        ("listen 127.0.0.1:8081;", listens.as_str()),
        ("set $backend 127.0.0.1:8081;", backend.as_str()),
    ];
    Example::new("luasocket_client", &replaced)
}

fn fetch(site: &Site, what: &str) -> Answer {
    site.get(&format!("/fetch/{what}"))
}

/// "connection 3, request 7" as (3, 7).
fn place(site: &Site, what: &str) -> (u64, u64) {
    let answer = fetch(site, what);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let text = answer.text();
    let digits = text.split(|c: char| !c.is_ascii_digit());
    let numbers: Vec<u64> = digits.filter_map(|digits| digits.parse().ok()).collect();
    (numbers[0], numbers[1])
}

#[test]
fn calls_of_a_tenant_share_a_connection() {
    let site = start();
    let (first, _) = place(&site, "hello?tenant=ada");
    for request in 2..=50 {
        assert_eq!(place(&site, "hello?tenant=ada"), (first, request));
    }

    // Whatever the keys are, a thread has one connection.
    let mut requests: BTreeMap<u64, u64> = BTreeMap::new();
    for number in 0..200 {
        let (connection, request) = place(&site, &format!("hello?tenant=t{}", number % 20));
        let last = requests.insert(connection, request);
        assert!(last.is_none_or(|last| request == last + 1), "{connection}");
    }
    let threads = site.nginx.figure("pools.clients.threads") as usize;
    assert!(requests.len() <= threads, "{requests:?}");
    assert!(requests.len() > 1, "all tenants went to one thread");
}

#[test]
fn bodies_come_whole() {
    let site = start();
    for _ in 0..3 {
        let pieces = fetch(&site, "pieces?tenant=a");
        assert_eq!(pieces.text(), "piece ".repeat(15_000));
        // Read to the end, so that the connection lives on.
        place(&site, "hello?tenant=a");
    }
    assert_eq!(place(&site, "hello?tenant=a").1, 7);
    let missing = fetch(&site, "nothing?tenant=a");
    assert_eq!(missing.status, 404);
    assert_eq!(place(&site, "hello?tenant=a").1, 9);
}

#[test]
fn a_server_may_close_its_connections() {
    let site = start();
    let (first, _) = place(&site, "hello?tenant=a");
    assert_eq!(place(&site, "last?tenant=a"), (first, 2));
    let (second, request) = place(&site, "hello?tenant=a");
    assert_ne!(second, first);
    assert_eq!(request, 1);
}

/// The next connection, if it comes in time.
fn accept(listener: &TcpListener) -> BufReader<TcpStream> {
    listener.set_nonblocking(true).unwrap();
    let mut accepted = None;
    eventually("a connection", || {
        accepted = listener.accept().ok();
        accepted.is_some()
    });
    let (stream, _) = accepted.unwrap();
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    BufReader::new(stream)
}

/// Reads a request up to the empty line; false if there is none.
fn read_request(stream: &mut BufReader<TcpStream>) -> bool {
    let mut line = String::new();
    while stream.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
        if line.ends_with("\r\n\r\n") || line == "\r\n" {
            return true;
        }
    }
    false
}

/// A server that answers each connection's first request, and closes the
/// connection without a word when it could have had a second one.
#[test]
fn a_connection_that_was_closed_meanwhile_is_replaced() {
    let (listener, address) = listen();
    let server = thread::spawn(move || {
        for _ in 0..3 {
            let mut stream = accept(&listener);
            assert!(read_request(&mut stream));
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
            stream.get_mut().write_all(answer).unwrap();
        }
    });
    let site = before(&address).start();
    for _ in 0..3 {
        let answer = fetch(&site, "x?tenant=a");
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
        assert_eq!(answer.value("x-requests"), Some("1"));
    }
    server.join().unwrap();
    // Nobody listens any more.
    let answer = fetch(&site, "x?tenant=a");
    assert_eq!(answer.status, 502);
    assert!(
        answer.text().contains("cannot connect to 127."),
        "{}",
        answer.text()
    );
}

/// What is wrong with a response is an error, and the connection is not used
/// again: each request below comes on a new one.
#[test]
fn broken_responses_are_errors() {
    let cases = [
        ("no HTTP\r\n\r\n", "no HTTP"),
        (
            "HTTP/1.1 200 OK\r\nnonsense\r\n\r\n",
            "a header that is none",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
            "closed",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
            "a length that we do not take",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
            "a chunk of no size",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
            "closed",
        ),
        ("", "closed"),
    ];
    let (listener, address) = listen();
    let server = thread::spawn(move || {
        for (response, _) in cases {
            let mut stream = accept(&listener);
            assert!(read_request(&mut stream));
            stream.get_mut().write_all(response.as_bytes()).unwrap();
        }
        let mut stream = accept(&listener);
        assert!(read_request(&mut stream));
        // Of an older version, until its end.
        let answer = b"HTTP/1.0 200 OK\r\n\r\nto the end";
        stream.get_mut().write_all(answer).unwrap();
    });
    let site = before(&address).start();
    for (response, error) in cases {
        let answer = fetch(&site, "x?tenant=a");
        assert_eq!(answer.status, 502, "{response:?}: {}", answer.text());
        assert!(
            answer.text().contains(error),
            "{response:?}: {}",
            answer.text()
        );
    }
    assert_eq!(fetch(&site, "x?tenant=a").text(), "to the end");
    server.join().unwrap();
}

#[test]
fn time_runs_out_for_a_call_and_not_for_the_next() {
    let site = start();
    let (first, _) = place(&site, "hello?tenant=a");
    // On a busy machine a call may be too late to begin: until one was not.
    eventually("a call that was begun", || {
        let answer = fetch(&site, "slow?tenant=a&timeout=0.1");
        assert_eq!((answer.status, answer.text().as_str()), (504, "timeout\n"));
        // The answer to that would come on the old connection.
        let (second, request) = place(&site, "hello?tenant=a");
        second != first && request == 1
    });
}

/// A VM whose caller has gone ends its call by itself, so that it is not
/// replaced: it keeps the connections that it has.
#[test]
fn a_caller_that_goes_away_frees_the_thread() {
    let (listener, address) = listen();
    let silent = || {
        let mut stream = accept(&listener);
        assert!(read_request(&mut stream));
        // No answer. Until the client gives up:
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "another request");
    };
    let cancels = "
        local rt = assert(nbffi.load {
            runtime = 'lua', module = 'http_client', pool = 'clients', timeout = 10,
        })
        local before = rt:stats().vm.replaced.stopped
        local future = rt:submit('request', { url = 'http://' .. ngx.var.arg_to, timeout = 9 })
        while rt:stats().running == 0 do
            ngx.sleep(0.002)
        end
        -- It is in the middle of receiving.
        ngx.sleep(0.05)
        future:cancel()
        while rt:stats().in_flight > 0 do
            ngx.sleep(0.002)
        end
        local vm = rt:stats().vm
        ngx.print(vm.replaced.stopped - before, ' ', vm.stuck)";
    let example = before(&address).with(|builder| builder.location("/cancels", cancels));
    let site = example.start();
    // On a busy machine the VM may come to it too late, and be stopped: until it
    // did not.
    eventually("a call that ends by itself", || {
        let told = thread::scope(|scope| {
            scope.spawn(silent);
            site.nginx.text(&format!("/cancels?to={address}"))
        });
        told == "0 0"
    });
}
