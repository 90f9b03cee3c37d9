//! The `postgres` kind: the startup message of protocol 3.0, judged by the first answer.
//! Called by `attempt`.
//! That answer tells a server that asks for a password from one that is starting, stopping or full. No password is sent, and
//! no session begins.

use crate::config::PostgresCheck;
use crate::health::escaped;

use super::attempt::{Miss, Trace};
use super::wire::{Goodbye, Wire, receive, send};

const VERSION_3_0: u32 = 196_608;
/// Terminate: ends a session.
const TERMINATE: &[u8] = b"X\0\0\0\x04";
/// In bytes. An error with all its fields has a few hundred.
const PACKET_LIMIT: usize = 8 * 1024;

/// The messages are those of PostgreSQL's "Message Formats".
pub(super) async fn exchange(stream: &mut Wire, check: &PostgresCheck, trace: &mut Trace) -> Result<String, Miss> {
    trace.asked = "startup".to_owned();
    trace.wanted = "a request to authenticate".to_owned();
    send(stream, &startup(check), trace).await?;
    let (kind, body) = message(stream, trace).await?;
    match kind {
        b'R' if body.starts_with(&[0, 0, 0, 0]) => {
            trace.goodbye = Goodbye::Say(TERMINATE);
            Ok("ready".to_owned())
        }
        // Before the password, the server takes the end of the connection for a client that gave up, and logs nothing.
        b'R' => Ok("asks to authenticate".to_owned()),
        b'E' => judged(&body),
        _ => Err(Miss::Failed(escaped(&[&[kind], &body[..]].concat()))),
    }
}

fn startup(check: &PostgresCheck) -> Vec<u8> {
    let mut body = VERSION_3_0.to_be_bytes().to_vec();
    for text in ["user", &check.user, "database", &check.database, "application_name", "evenkeel"] {
        body.extend_from_slice(text.as_bytes());
        body.push(0);
    }
    body.push(0);
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], &body].concat()
}

async fn message(stream: &mut Wire, trace: &mut Trace) -> Result<(u8, Vec<u8>), Miss> {
    loop {
        if let [kind, a, b, c, d, ..] = trace.came[..] {
            let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
            if !(4..=PACKET_LIMIT).contains(&length) {
                return Err(trace.failed("not PostgreSQL"));
            }
            if let Some(body) = trace.came.get(5..=length) {
                return Ok((kind, body.to_vec()));
            }
        }
        receive(stream, PACKET_LIMIT + 1, trace).await?;
    }
}

/// An ErrorResponse. A server that refuses the user or does not know the database has looked, so it is ready for others.
fn judged(body: &[u8]) -> Result<String, Miss> {
    let field = |wanted: u8| {
        let fields = body.split(|&byte| byte == 0);
        let text = fields.filter_map(|field| field.split_first()).find(|(kind, _)| **kind == wanted);
        text.map(|(_, text)| text).unwrap_or_default()
    };
    let (code, text) = (field(b'C'), field(b'M'));
    // The text, else the severity, else everything: a pooler may send no more.
    let text = [text, field(b'S'), body].into_iter().find(|text| !text.is_empty()).unwrap_or_default();
    // A code has five characters.
    let code_shown = code[..code.len().min(5)].escape_ascii().to_string();
    let got = [code_shown, escaped(text)].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ");
    // 28xxx: invalid authorization; 3D000: no such database.
    if code.starts_with(b"28") || code == b"3D000" { Ok(got) } else { Err(Miss::Failed(got)) }
}
