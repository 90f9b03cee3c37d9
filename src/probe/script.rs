//! The `script` kind, and the protocols that need no more than one: sends and expects bytes in the order of the steps.
//! Called by `attempt`. An answer may come in any number of pieces; what is left behind a match is what the next
//! `expect` begins with.

use std::sync::LazyLock;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::config::{Expectation, Pattern, ScriptStep};
use crate::health::escaped;

use super::attempt::{Miss, Trace, words};
use super::wire::{Goodbye, Wire};

/// Bytes read by one probe, all steps together: an answer to a health check is short, and a backend that streams must
/// not fill our memory.
const READ_LIMIT: usize = 64 * 1024;

/// A step of a built-in script, as data.
enum KnownLine {
    Send(&'static [u8]),
    /// What passes, and what settles the opposite.
    Judge(&'static str, &'static str),
}

/// memcached, protocol.txt: `version` is answered at any time and by any of its versions.
const MEMCACHED_LINES: &[KnownLine] = &[
    KnownLine::Send(b"version\r\n"),
    KnownLine::Judge(r"^VERSION [^\r\n]*\r\n", r"^(?:ERROR|CLIENT_ERROR[^\r\n]*|SERVER_ERROR[^\r\n]*)\r\n"),
];

/// RFC 5321: a greeting of one or more lines, 220 = serves, 421 or 554 = does not; QUIT so that no server logs a client
/// that got lost.
const SMTP_LINES: &[KnownLine] = &[
    KnownLine::Judge(r"^(?:220-[^\r\n]*\r\n)*220(?: [^\r\n]*)?\r\n", r"^(?:[^2][^\r\n]*|2[^2][^\r\n]*)\r\n"),
    KnownLine::Send(b"QUIT\r\n"),
    KnownLine::Judge(r"221(?: [^\r\n]*)?\r\n", r"^[45][^\r\n]*\r\n"),
];

/// MySQL's and MariaDB's first packet: length, sequence 0, protocol version 10 and the server's version; or the error
/// that is there instead, such as 1040 (too many connections), 1129 (host blocked), 1130 (host not allowed).
const MYSQL_LINES: &[KnownLine] = &[KnownLine::Judge(r"(?s-u)^...\x00\x0a[ -~]+\x00", r"(?s-u)^...\x00\xff..[ -~]+")];

/// A protocol whose check is a fixed script.
pub(super) struct Protocol {
    steps: LazyLock<Vec<ScriptStep>>,
    goodbye: Goodbye,
}

pub(super) static MEMCACHED: Protocol =
    Protocol { steps: LazyLock::new(|| steps(MEMCACHED_LINES)), goodbye: Goodbye::Say(b"quit\r\n") };
/// It was told to quit.
pub(super) static SMTP: Protocol = Protocol { steps: LazyLock::new(|| steps(SMTP_LINES)), goodbye: Goodbye::Asked };
/// It has no word for it before a login.
pub(super) static MYSQL: Protocol = Protocol { steps: LazyLock::new(|| steps(MYSQL_LINES)), goodbye: Goodbye::Close };

fn steps(lines: &[KnownLine]) -> Vec<ScriptStep> {
    // A test sees to it that all of them are patterns.
    let pattern = |source: &str| Pattern::new(source).ok().map(Expectation::Regex);
    let step = |line: &KnownLine| match line {
        KnownLine::Send(bytes) => Some(ScriptStep::Send(bytes.to_vec())),
        KnownLine::Judge(pass, fail) => Some(ScriptStep::Judge { pass: pattern(pass)?, fail: pattern(fail)? }),
    };
    lines.iter().filter_map(step).collect()
}

/// Runs the script of a protocol.
pub(super) async fn converse(stream: &mut Wire, protocol: &Protocol, trace: &mut Trace) -> Result<String, Miss> {
    let got = exchange(stream, &protocol.steps, trace).await?;
    trace.goodbye = protocol.goodbye;
    Ok(got)
}

/// Runs the steps. A last `send` passes once the kernel has taken its bytes.
pub(super) async fn exchange(stream: &mut Wire, steps: &[ScriptStep], trace: &mut Trace) -> Result<String, Miss> {
    let mut got = "connected".to_owned();
    let mut left = READ_LIMIT;
    // What must not come until the next match.
    let mut unwanted: Vec<&Expectation> = Vec::new();
    for (i, step) in steps.iter().enumerate() {
        let number = format!("step {} of {}", i + 1, steps.len());
        match step {
            ScriptStep::Send(bytes) => {
                // The bytes themselves may be a password.
                trace.asked = format!("{number}: send {} bytes", bytes.len());
                stream.write_all(bytes).await.map_err(|error| trace.failed(words(&error)))?;
                stream.flush().await.map_err(|error| trace.failed(words(&error)))?;
                got = "sent".to_owned();
            }
            ScriptStep::Expect(wanted) => {
                trace.asked = format!("{number}: expect {wanted}");
                got = hear(stream, wanted, &unwanted, &mut left, trace).await?;
                unwanted.clear();
            }
            ScriptStep::ExpectNot(what) => unwanted.push(what),
            ScriptStep::Judge { pass, fail } => {
                trace.asked = if i == 0 { "greeting".to_owned() } else { number };
                got = hear(stream, pass, &[fail], &mut left, trace).await?;
            }
        }
    }
    Ok(got)
}

/// Reads until something matches, and uses that up. What is unwanted is looked for up to the end of the match, so that it
/// does not matter in which pieces the bytes come.
async fn hear(
    stream: &mut Wire,
    wanted: &Expectation,
    unwanted: &[&Expectation],
    left: &mut usize,
    trace: &mut Trace,
) -> Result<String, Miss> {
    loop {
        let found = wanted.find(&trace.came);
        let judged = &trace.came[..found.unwrap_or(trace.came.len())];
        if let Some(end) = unwanted.iter().find_map(|unwanted| unwanted.find(judged)) {
            return Err(Miss::Failed(escaped(&judged[..end])));
        }
        if let Some(end) = found {
            let got = escaped(judged);
            trace.came.drain(..end);
            return Ok(got);
        }
        if *left == 0 {
            return Err(trace.failed("no match in 64 KiB"));
        }
        match (&mut *stream).take(*left as u64).read_buf(&mut trace.came).await {
            Ok(0) => return Err(trace.failed("closed")),
            Ok(count) => *left -= count.min(*left),
            Err(error) => return Err(trace.failed(words(&error))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_built_in_scripts_is_a_step() {
        for (protocol, lines) in [(&MEMCACHED, MEMCACHED_LINES), (&SMTP, SMTP_LINES), (&MYSQL, MYSQL_LINES)] {
            assert_eq!(protocol.steps.len(), lines.len());
        }
    }
}
