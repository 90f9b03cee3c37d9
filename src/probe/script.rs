//! The `script` kind, and the protocols whose check is a fixed script: sends and expects bytes in the order of the steps.
//! Called by `attempt`.
//! An answer may come in any number of pieces. The next `expect` begins with the bytes after the last match.

use std::sync::LazyLock;

use crate::config::{Expectation, Pattern, ScriptStep};
use crate::health::escaped;

use super::attempt::{Miss, Trace};
use super::wire::{Goodbye, Wire, receive, send};

/// Bytes read in all steps together: an answer to a health check is short, and a backend that streams must not fill our
/// memory.
const SCRIPT_LIMIT: usize = 64 * 1024;

/// A step of a built-in script, as data.
enum BuiltInStep {
    Send(&'static [u8]),
    /// The pattern that passes, and the one that fails.
    Judge(&'static str, &'static str),
}

/// memcached, protocol.txt: `version` is answered at any time and by any of its versions.
const MEMCACHED_LINES: &[BuiltInStep] = &[
    BuiltInStep::Send(b"version\r\n"),
    BuiltInStep::Judge(r"^VERSION [^\r\n]*\r\n", r"^(?:ERROR|CLIENT_ERROR[^\r\n]*|SERVER_ERROR[^\r\n]*)\r\n"),
];

/// RFC 5321: a greeting of one or more lines. 220 = it serves, 421 or 554 = it does not. QUIT, so that the server logs no
/// lost client.
const SMTP_LINES: &[BuiltInStep] = &[
    BuiltInStep::Judge(r"^(?:220-[^\r\n]*\r\n)*220(?: [^\r\n]*)?\r\n", r"^(?:[^2][^\r\n]*|2[^2][^\r\n]*)\r\n"),
    BuiltInStep::Send(b"QUIT\r\n"),
    BuiltInStep::Judge(r"221(?: [^\r\n]*)?\r\n", r"^[45][^\r\n]*\r\n"),
];

/// MySQL's and MariaDB's first packet: length, sequence 0, protocol version 10 and the server's version. Or an error in its
/// place, such as 1040 (too many connections), 1129 (host blocked), 1130 (host not allowed).
const MYSQL_LINES: &[BuiltInStep] =
    &[BuiltInStep::Judge(r"(?s-u)^...\x00\x0a[ -~]+\x00", r"(?s-u)^...\x00\xff..[ -~]+")];

/// A protocol whose check is a fixed script.
pub(super) struct Protocol {
    steps: LazyLock<Vec<ScriptStep>>,
    goodbye: Goodbye,
}

pub(super) static MEMCACHED: Protocol =
    Protocol { steps: LazyLock::new(|| steps(MEMCACHED_LINES)), goodbye: Goodbye::Say(b"quit\r\n") };
/// It has received QUIT.
pub(super) static SMTP: Protocol = Protocol { steps: LazyLock::new(|| steps(SMTP_LINES)), goodbye: Goodbye::Asked };
/// The protocol has no way to quit before a login.
pub(super) static MYSQL: Protocol = Protocol { steps: LazyLock::new(|| steps(MYSQL_LINES)), goodbye: Goodbye::Close };

fn steps(lines: &[BuiltInStep]) -> Vec<ScriptStep> {
    // A test checks that all of them are valid patterns.
    let pattern = |source: &str| Pattern::new(source).ok().map(Expectation::Regex);
    let step = |line: &BuiltInStep| match line {
        BuiltInStep::Send(bytes) => Some(ScriptStep::Send(bytes.to_vec())),
        BuiltInStep::Judge(pass, fail) => Some(ScriptStep::Judge { pass: pattern(pass)?, fail: pattern(fail)? }),
    };
    lines.iter().filter_map(step).collect()
}

/// Runs the script of a protocol.
pub(super) async fn converse(stream: &mut Wire, protocol: &Protocol, trace: &mut Trace) -> Result<String, Miss> {
    let got = exchange(stream, &protocol.steps, trace).await?;
    trace.goodbye = protocol.goodbye;
    Ok(got)
}

/// Runs the steps. A `send` at the end passes once the kernel has taken its bytes.
pub(super) async fn exchange(stream: &mut Wire, steps: &[ScriptStep], trace: &mut Trace) -> Result<String, Miss> {
    let mut got = "connected".to_owned();
    let mut left = SCRIPT_LIMIT;
    // What must not come before the next match.
    let mut unwanted: Vec<&Expectation> = Vec::new();
    for (i, step) in steps.iter().enumerate() {
        let number = format!("step {} of {}", i + 1, steps.len());
        match step {
            ScriptStep::Send(bytes) => {
                // The bytes are not shown: they may hold a password.
                trace.asked = format!("{number}: send {} bytes", bytes.len());
                send(stream, bytes, trace).await?;
                got = "sent".to_owned();
            }
            ScriptStep::Expect(wanted) => {
                trace.asked = format!("{number}: expect {wanted}");
                got = receive_match(stream, wanted, &unwanted, &mut left, trace).await?;
                unwanted.clear();
            }
            ScriptStep::ExpectNot(what) => unwanted.push(what),
            ScriptStep::Judge { pass, fail } => {
                trace.asked = if i == 0 { "greeting".to_owned() } else { number };
                got = receive_match(stream, pass, &[fail], &mut left, trace).await?;
            }
        }
    }
    Ok(got)
}

/// Reads until `wanted` matches, and removes the bytes up to there. `unwanted` is looked for in these bytes only, so the
/// result does not depend on the pieces in which they came.
async fn receive_match(
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
        let before = trace.came.len();
        receive(stream, before + *left, trace).await?;
        *left -= trace.came.len() - before;
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
