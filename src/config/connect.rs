//! How a backend is waited for and dialled, how long an answer is waited for, and what is kept for another one meanwhile.

use std::time::Duration;

use serde::Serialize;

use super::size;
use super::table::Table;

pub(super) const DEFAULT_HEDGE: Duration = Duration::from_millis(300);

words! {
    /// `replay`
    pub(super) enum ReplayMode {
        Off = "off",
        UntilResponse = "until_response",
    }
}

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

impl Connect {
    pub(super) fn read(table: &Table<'_>) -> Self {
        Self {
            timeout: table.time("timeout").unwrap_or(Duration::from_secs(1)),
            attempts: table.number("attempts", 1..=1000).unwrap_or(3),
            deadline: table.time("deadline").unwrap_or(Duration::from_secs(5)),
            retry_delay: table.time_or_zero("retry_delay").unwrap_or(Duration::from_millis(200)),
            // More than any number of attempts could use.
            retry_budget: table.number("retry_budget", 0..=10_000).unwrap_or(100),
            hedge: table.limit("hedge", Some(DEFAULT_HEDGE)),
        }
    }
}

impl Queue {
    /// Nothing of it has a default: how many clients may wait, and for how long, is known to the operator alone.
    pub(super) fn read(table: &Table<'_>) -> Option<Self> {
        // Each holds a descriptor.
        let max_length = table.number("max_length", 1..=1_000_000);
        let timeout = table.time("timeout");
        for (key, hint) in [
            ("max_length", "add how many clients may wait at once: max_length = 1000"),
            ("timeout", "add how long each of them may wait: timeout = \"10s\""),
        ] {
            if !table.has(key) {
                table.fault(format!("`queue` has no `{key}`"), hint);
            }
        }
        Some(Self { max_length: max_length?, timeout: timeout? })
    }
}

impl Timeouts {
    pub(super) fn read(table: &Table<'_>) -> Self {
        Self {
            idle: table.limit("idle", Some(Duration::from_secs(3600))),
            half_close: table.time("half_close"),
            first_byte: table.limit("first_byte", None),
        }
    }
}

/// `replay` and `replay_buffer` of a pool: how many bytes of a session are kept.
pub(super) fn replay(pool: &Table<'_>) -> Option<usize> {
    let is_on = pool.word("replay") == Some(ReplayMode::UntilResponse);
    // Every session that waits for its answer may hold as much.
    let buffer = pool.parsed("replay_buffer", |text| size::between(text, 1 << 10, 16 << 20));
    if let Some(written) = pool.value("replay_buffer").filter(|_| !is_on) {
        written.fault(
            "`replay_buffer` without `replay`: nothing is kept",
            "add replay = \"until_response\", or leave it out",
        );
    }
    is_on.then(|| buffer.unwrap_or(64 << 10))
}
