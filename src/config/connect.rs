//! How a backend is waited for and dialled, how long an answer is waited for, and what is kept for another one meanwhile.

use std::time::Duration;

use serde::Serialize;

use super::faults::{Complaint, Reading, Zero};
use super::shape::{ConnectShape, PoolShape, QueueShape, TimeoutsShape};
use super::size;
use super::values::Section;

/// In percent: more than any number of attempts could use.
const MOST_RETRIES: i64 = 10_000;
/// Each holds a descriptor.
const LONGEST_QUEUE: i64 = 1_000_000;
const DEFAULT_IDLE: Duration = Duration::from_secs(3600);
pub(super) const DEFAULT_HEDGE: Duration = Duration::from_millis(300);
const DEFAULT_REPLAY_BUFFER: usize = 64 << 10;

/// `connect = { … }`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Connect {
    /// For one attempt.
    pub timeout: Duration,
    /// Attempts of a session beyond which it tries no backend a second time; at least 1. What it has not tried is tried all
    /// the same.
    pub attempts: u32,
    /// For all attempts together, pauses included.
    pub deadline: Duration,
    /// Before a backend is tried a second time; may be zero.
    pub retry_delay: Duration,
    /// Further attempts of the whole pool, in percent of the connects that succeed; a few a second are always free.
    pub retry_budget: u16,
    /// After this long without an answer another backend is dialled beside the first; `None` (written `"0s"`) = never.
    pub hedge: Option<Duration>,
}

/// `queue = { … }`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Queue {
    /// Sessions that may wait at once; at least 1.
    pub max_length: usize,
    /// For how long each.
    pub timeout: Duration,
}

/// `timeouts = { … }`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Timeouts {
    /// No byte in either direction for this long; `None` (written `"0s"`) = no limit.
    pub idle: Option<Duration>,
    /// No progress for this long after the first FIN. Unset: `idle` while the backend has yet to finish,
    /// 30 s while the client has.
    pub half_close: Option<Duration>,
    /// From the first byte that is sent to the backend to the first byte from it; `None` = no limit.
    pub first_byte: Option<Duration>,
}

pub(super) fn connect(section: Option<&Section<ConnectShape>>, reading: &mut Reading<'_>) -> Connect {
    let default = ConnectShape::default();
    let shape = section.map_or(&default, |section| &section.shape);
    Connect {
        timeout: reading.duration("timeout", &shape.timeout, Zero::Refused).unwrap_or(Duration::from_secs(1)),
        attempts: reading.number("attempts", &shape.attempts, 1..=1000).unwrap_or(3),
        deadline: reading.duration("deadline", &shape.deadline, Zero::Refused).unwrap_or(Duration::from_secs(5)),
        retry_delay: reading
            .duration("retry_delay", &shape.retry_delay, Zero::Allowed)
            .unwrap_or(Duration::from_millis(200)),
        retry_budget: reading.number("retry_budget", &shape.retry_budget, 0..=MOST_RETRIES).unwrap_or(100),
        hedge: Some(reading.duration("hedge", &shape.hedge, Zero::Allowed).unwrap_or(DEFAULT_HEDGE))
            .filter(|hedge| !hedge.is_zero()),
    }
}

/// Nothing of it has a default: how many clients may wait, and for how long, is known to the operator alone.
pub(super) fn queue(section: Option<&Section<QueueShape>>, reading: &mut Reading<'_>) -> Option<Queue> {
    let section = section?;
    let shape = &section.shape;
    let max_length = reading.number("max_length", &shape.max_length, 1..=LONGEST_QUEUE);
    let timeout = reading.duration("timeout", &shape.timeout, Zero::Refused);
    let mut missing = |key: &str, hint: &str| {
        reading.fault(section.span.clone(), format!("`queue` has no `{key}`"), hint);
    };
    if shape.max_length.is_none() {
        missing("max_length", "add how many clients may wait at once: max_length = 1000");
    }
    if shape.timeout.is_none() {
        missing("timeout", "add how long each of them may wait: timeout = \"10s\"");
    }
    Some(Queue { max_length: max_length?, timeout: timeout? })
}

pub(super) fn timeouts(section: Option<&Section<TimeoutsShape>>, reading: &mut Reading<'_>) -> Timeouts {
    let default = TimeoutsShape::default();
    let shape = section.map_or(&default, |section| &section.shape);
    let idle = reading.duration("idle", &shape.idle, Zero::Allowed).unwrap_or(DEFAULT_IDLE);
    Timeouts {
        idle: Some(idle).filter(|idle| !idle.is_zero()),
        half_close: reading.duration("half_close", &shape.half_close, Zero::Refused),
        first_byte: reading.duration("first_byte", &shape.first_byte, Zero::Allowed).filter(|limit| !limit.is_zero()),
    }
}

/// `replay` and `replay_buffer`.
pub(super) fn replay(shape: &PoolShape, reading: &mut Reading<'_>) -> Option<usize> {
    let is_on = reading.word("replay", &shape.replay, &[("off", false), ("until_response", true)], false);
    let buffer = reading.parsed("replay_buffer", &shape.replay_buffer, replay_buffer);
    if let (Some(written), false) = (&shape.replay_buffer, is_on) {
        let hint = "add replay = \"until_response\", or leave it out";
        reading.fault(written.span(), "`replay_buffer` without `replay`: nothing is kept", hint);
    }
    is_on.then(|| buffer.unwrap_or(DEFAULT_REPLAY_BUFFER))
}

/// Every session that waits for its answer may hold as much.
fn replay_buffer(text: &str) -> Result<usize, Complaint> {
    match usize::try_from(size::parse(text)?) {
        Ok(bytes) if (1_024..=16 << 20).contains(&bytes) => Ok(bytes),
        _ => Err(Complaint::new("out of range", "write a size from \"1KiB\" to \"16MiB\"")),
    }
}
