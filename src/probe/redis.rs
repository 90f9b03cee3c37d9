//! The `redis` kind: `AUTH` if a password is set, `PING`, and `ROLE` if a role is wanted.
//! Called by `attempt`.
//! It reads the first line of an answer, and the first word of ROLE's answer (RESP2). Nothing else is needed.

use std::io;
use std::path::Path;

use crate::config::{RedisCheck, Secret, file};
use crate::health::escaped;

use super::attempt::{Miss, Trace};
use super::wire::{Wire, receive, send};

/// In bytes. ROLE lists every replica, after the word that is judged.
const REPLY_LIMIT: usize = 16 * 1024;

pub(super) async fn exchange(stream: &mut Wire, check: &RedisCheck, trace: &mut Trace) -> Result<String, Miss> {
    if let Some(password) = password(check).await.map_err(Miss::Local)? {
        trace.asked = "AUTH".to_owned();
        let words: Vec<&[u8]> = match &check.username {
            Some(user) => vec![b"AUTH", user.as_bytes(), password.0.as_bytes()],
            None => vec![b"AUTH", password.0.as_bytes()],
        };
        send(stream, &command(&words), trace).await?;
        let answer = line(stream, trace).await?;
        if answer != b"+OK" {
            return Err(Miss::Failed(escaped(&answer)));
        }
    }
    trace.asked = "PING".to_owned();
    send(stream, &command(&[b"PING"]), trace).await?;
    let answer = line(stream, trace).await?;
    // It answers, and wants a password that the check does not have: that proves that it is up. Its role stays unknown.
    let closed = answer.starts_with(b"-NOAUTH");
    if answer != b"+PONG" && !(closed && check.role.is_none()) {
        return Err(Miss::Failed(escaped(&answer)));
    }
    let Some(wanted) = check.role else { return Ok(escaped(&answer)) };

    trace.asked = "ROLE".to_owned();
    trace.wanted = wanted.name().to_owned();
    send(stream, &command(&[b"ROLE"]), trace).await?;
    let head = line(stream, trace).await?;
    if !head.starts_with(b"*") {
        return Err(Miss::Failed(escaped(&head)));
    }
    // First the length of the word, then the word.
    line(stream, trace).await?;
    let role = match line(stream, trace).await?.as_slice() {
        b"master" => "master".to_owned(),
        b"slave" => "replica".to_owned(),
        other => escaped(other),
    };
    if role == wanted.name() { Ok(role) } else { Err(Miss::Failed(role)) }
}

/// An array of bulk strings, so that no byte of a password has a special meaning.
fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// The next line, without its end. Bytes after it stay in `trace.came`.
async fn line(stream: &mut Wire, trace: &mut Trace) -> Result<Vec<u8>, Miss> {
    loop {
        if let Some(end) = trace.came.windows(2).position(|pair| pair == b"\r\n") {
            let line = trace.came[..end].to_vec();
            trace.came.drain(..end + 2);
            return Ok(line);
        }
        receive(stream, REPLY_LIMIT, trace).await?;
    }
}

async fn password(check: &RedisCheck) -> io::Result<Option<Secret>> {
    let Some(path) = check.password_file.clone() else { return Ok(check.password.clone()) };
    // On a thread for blocking: the file may be on a network.
    let read = tokio::task::spawn_blocking(move || read(&path)).await.map_err(io::Error::other)?;
    read.map(Some)
}

fn read(path: &Path) -> io::Result<Secret> {
    let wrong = |error: io::Error| io::Error::other(format!("password_file {}: {error}", path.display()));
    let bytes = file::small(path, file::LARGEST_TOKEN).map_err(wrong)?;
    let text = String::from_utf8(bytes).map_err(|_| wrong(io::Error::other("it is no UTF-8")))?;
    Ok(Secret(text.trim_end_matches(['\r', '\n']).to_owned()))
}
