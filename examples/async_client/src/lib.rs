//! A client of Redis: one connection per runtime, kept for as long as the
//! worker lives, on which the commands of all requests go out as they come.
//!
//! This is what an asynchronous plugin is good for: a library that has a
//! protocol, connects again when it must, and has thousands of commands in
//! flight. See README.md for the form of requests and responses.

mod netstring;

use std::time::Duration;

use nonblocking_ffi_plugin::{Error, Host, Response, Task, TokioPlugin, export_tokio_plugin};
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, Cmd, RedisError, Value};

/// How long connecting may take, each time.
const CONNECT: Duration = Duration::from_secs(2);

/// Codes of errors.
mod code {
    /// The request is no command.
    pub const MALFORMED: i64 = 400;
    /// The command would be in the way of everybody else's.
    pub const REFUSED: i64 = 405;
    /// Redis has answered with an error.
    pub const REDIS: i64 = 422;
    /// The response is of a kind that has no form here.
    pub const UNKNOWN: i64 = 501;
    /// Redis could not be reached, or is gone.
    pub const UNREACHABLE: i64 = 503;
}

/// Commands that wait, or that change what the connection means to others.
const REFUSED: [&str; 26] = [
    "AUTH",
    "BLMOVE",
    "BLMPOP",
    "BLPOP",
    "BRPOP",
    "BRPOPLPUSH",
    "BZMPOP",
    "BZPOPMAX",
    "BZPOPMIN",
    "CLIENT",
    "DISCARD",
    "EXEC",
    "HELLO",
    "MONITOR",
    "MULTI",
    "PSUBSCRIBE",
    "PSYNC",
    "QUIT",
    "RESET",
    "SELECT",
    "SSUBSCRIBE",
    "SUBSCRIBE",
    "SYNC",
    "WAIT",
    "WAITAOF",
    "WATCH",
];

/// The status of a response that is nil.
const NIL: i64 = 1;

struct Redis {
    connection: ConnectionManager,
}

impl TokioPlugin for Redis {
    async fn init(host: Host) -> Result<Self, Error> {
        let client = Client::open(host.config()).map_err(|error| {
            Error::from(error).context("the config must be the URL of a Redis server")
        })?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(CONNECT))
            // The caller's deadline is what bounds a command.
            .set_response_timeout(None)
            .set_number_of_retries(1);
        let connection = ConnectionManager::new_with_config(client, config).await?;
        Ok(Redis { connection })
    }

    async fn call(&self, _task: &Task<'_>, request: &[u8]) -> Result<Response, Error> {
        let command = command(request)?;
        // All clones are of the same connection.
        let mut connection = self.connection.clone();
        let value = command.query_async(&mut connection).await;
        respond(value.map_err(error_of)?)
    }
}

export_tokio_plugin!(Redis);

/// The command that a request is.
fn command(request: &[u8]) -> Result<Cmd, Error> {
    let arguments = netstring::read(request)
        .filter(|arguments| !arguments.is_empty())
        .ok_or_else(|| Error::new(code::MALFORMED, "the request must be netstrings"))?;
    let name = String::from_utf8_lossy(arguments[0]).to_uppercase();
    // Two that wait only if they are told to.
    let blocks = matches!(name.as_str(), "XREAD" | "XREADGROUP")
        && arguments
            .iter()
            .any(|argument| argument.eq_ignore_ascii_case(b"BLOCK"));
    if blocks || REFUSED.contains(&name.as_str()) {
        let why = format!("{name} is not for a connection that others use as well");
        return Err(Error::new(code::REFUSED, why));
    }
    let mut command = Cmd::new();
    for argument in arguments {
        command.arg(argument);
    }
    Ok(command)
}

fn error_of(error: RedisError) -> Error {
    let code = match error.code() {
        Some(_) => code::REDIS,
        None => code::UNREACHABLE,
    };
    Error::from(error).with_code(code)
}

/// The response that a value of Redis becomes.
fn respond(value: Value) -> Result<Response, Error> {
    Ok(match bytes_of(value)? {
        Some(bytes) => bytes.into(),
        None => Response::from(()).with_status(NIL, "nil"),
    })
}

/// A value's bytes; `None` for nil.
fn bytes_of(value: Value) -> Result<Option<Vec<u8>>, Error> {
    Ok(Some(match value {
        Value::Nil => return Ok(None),
        Value::Int(number) => number.to_string().into_bytes(),
        Value::Double(number) => number.to_string().into_bytes(),
        Value::Boolean(truth) => u8::from(truth).to_string().into_bytes(),
        Value::BulkString(bytes) => bytes,
        Value::SimpleString(text) => text.into_bytes(),
        Value::Okay => b"OK".to_vec(),
        Value::Array(values) | Value::Set(values) => list_of(values)?,
        Value::Map(pairs) => list_of(pairs.into_iter().flat_map(|(key, value)| [key, value]))?,
        other => {
            let what = format!("a response of this kind has no form here: {other:?}");
            return Err(Error::new(code::UNKNOWN, what));
        }
    }))
}

fn list_of(values: impl IntoIterator<Item = Value>) -> Result<Vec<u8>, Error> {
    let mut list = Vec::new();
    for value in values {
        netstring::write(&mut list, bytes_of(value)?.as_deref());
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code_of(request: &[u8]) -> i64 {
        command(request).map(drop).unwrap_err().code()
    }

    #[test]
    fn commands() {
        let packed = command(b"3:SET,1:k,4:a,b\0,").unwrap().get_packed_command();
        assert_eq!(packed, b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4\r\na,b\0\r\n");
        assert_eq!(code_of(b""), code::MALFORMED);
        assert_eq!(code_of(b"3:SET"), code::MALFORMED);
        assert_eq!(code_of(b"9:subscribe,1:c,"), code::REFUSED);
        assert_eq!(code_of(b"5:XREAD,5:block,1:0,"), code::REFUSED);
        assert!(command(b"5:XREAD,7:STREAMS,1:s,1:0,").is_ok());
        assert!(REFUSED.is_sorted());
    }

    #[test]
    fn values() {
        let text = |value| bytes_of(value).unwrap().unwrap();
        assert_eq!(text(Value::Int(-7)), b"-7");
        assert_eq!(text(Value::Okay), b"OK");
        assert_eq!(text(Value::Boolean(true)), b"1");
        let inner = Value::Array(vec![Value::Int(1), Value::Nil]);
        let list = Value::Array(vec![Value::BulkString(b"a,b".to_vec()), inner, Value::Nil]);
        assert_eq!(text(list), b"3:a,b,6:1:1,-,,-,");
        let pair = (Value::SimpleString("k".into()), Value::Int(5));
        assert_eq!(text(Value::Map(vec![pair])), b"1:k,1:5,");
        assert_eq!(bytes_of(Value::Nil).unwrap(), None);
    }
}
