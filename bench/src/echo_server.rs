//! The rival behind a unix socket: an echo server that does as little as one
//! can do, a thread with blocking reads for each connection.
//!
//! A message is its length, 4 bytes with the highest first, and its bytes; the
//! answer has the same form. With [`COPY_BIT`] in the length, the first four
//! bytes of the answer are a number that is another one each time, as those of
//! `plugins/copy.c`.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;

const HEAD_BYTES: usize = 4;
const COPY_BIT: u8 = 0x80;
const STAMP_BYTES: usize = 4;
/// Room for many small messages, and for a large one after one more growth.
const BUFFER_BYTES: usize = 16 * 1024;

/// Serves the socket `path`, for every user, until the process ends.
pub fn start(path: &Path) -> io::Result<()> {
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o777))?;
    thread::Builder::new()
        .name("echo/accept".to_owned())
        .spawn(move || {
            for stream in listener.incoming().flatten() {
                // An error ends the connection; the client sees that.
                let serve = move || drop(serve(stream));
                if let Err(error) = thread::Builder::new().name("echo".to_owned()).spawn(serve) {
                    eprintln!("echo server: no thread: {error}");
                }
            }
        })?;
    Ok(())
}

fn serve(mut stream: UnixStream) -> io::Result<()> {
    let mut buffer = vec![0_u8; BUFFER_BYTES];
    let mut filled = 0;
    let mut stamp = 0_u32;
    loop {
        let count = stream.read(&mut buffer[filled..])?;
        if count == 0 {
            return Ok(());
        }
        filled += count;
        let mut begin = 0;
        while let Some(end) = message_end(&buffer[begin..filled]).map(|length| begin + length) {
            if end > filled {
                break;
            }
            stamp = stamp.wrapping_add(1);
            answer_in_place(&mut buffer[begin..end], stamp);
            stream.write_all(&buffer[begin..end])?;
            begin = end;
        }
        buffer.copy_within(begin..filled, 0);
        filled -= begin;
        if let Some(length) = message_end(&buffer[..filled])
            && length > buffer.len()
        {
            buffer.resize(length, 0);
        }
    }
}

/// How long the message at the front is, with its head, if its head is there.
fn message_end(bytes: &[u8]) -> Option<usize> {
    let head: [u8; HEAD_BYTES] = bytes.get(..HEAD_BYTES)?.try_into().ok()?;
    let length = u32::from_be_bytes([head[0] & !COPY_BIT, head[1], head[2], head[3]]);
    Some(HEAD_BYTES + length as usize)
}

/// Makes a whole message the answer to itself.
fn answer_in_place(message: &mut [u8], stamp: u32) {
    if message[0] & COPY_BIT == 0 {
        return;
    }
    message[0] &= !COPY_BIT;
    if let Some(front) = message[HEAD_BYTES..].get_mut(..STAMP_BYTES) {
        front.copy_from_slice(&stamp.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(flag: u8, text: &[u8]) -> Vec<u8> {
        let mut message = (text.len() as u32).to_be_bytes().to_vec();
        message[0] |= flag;
        message.extend_from_slice(text);
        message
    }

    #[test]
    fn answers_whole_and_split_and_joined_and_large_messages() {
        let (mut client, server) = UnixStream::pair().unwrap();
        let thread = thread::spawn(move || serve(server));
        let large = vec![b'x'; 3 * BUFFER_BYTES];
        let mut sent = message(0, b"hello");
        sent.extend(message(0, b""));
        sent.extend(message(0, &large));
        sent.extend(message(0, b"bye"));
        let mut writer = client.try_clone().unwrap();
        let expected = sent.clone();
        let writing = thread::spawn(move || {
            writer.write_all(&sent[..2]).unwrap();
            thread::sleep(std::time::Duration::from_millis(5));
            writer.write_all(&sent[2..]).unwrap();
        });
        let mut answer = vec![0; expected.len()];
        client.read_exact(&mut answer).unwrap();
        assert!(answer == expected);
        writing.join().unwrap();
        drop(client);
        thread.join().unwrap().unwrap();
    }

    #[test]
    fn copies_differ_from_the_request_and_each_other() {
        let mut one = message(COPY_BIT, b"hello");
        let mut other = one.clone();
        answer_in_place(&mut one, 1);
        answer_in_place(&mut other, 2);
        assert_eq!(one, message(0, b"\x01\0\0\0o"));
        assert_eq!(other, message(0, b"\x02\0\0\0o"));
    }
}
