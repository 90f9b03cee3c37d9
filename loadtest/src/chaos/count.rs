//! Counts what the clients of one cell saw, from a record for each connection and the times of the fault. Pure.
//!
//! All times count from the first connection of the cell.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// An answer that takes longer counts as slow.
pub(super) const SLOW: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ConnectionRecord {
    /// The intended start.
    pub(super) due: Duration,
    /// The time of the complete answer, or of the failure.
    pub(super) ended: Duration,
    pub(super) end: ConnectionEnd,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ConnectionEnd {
    Answered(u8),
    /// Without an answer, for this reason.
    Failed(&'static str),
    /// With bytes that are not the answer.
    Wrong(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BrokenConnection {
    pub(super) at: Duration,
    /// The backend that answered; `None` if there never was an answer.
    pub(super) backend: Option<u8>,
    /// The wrong bytes, if that was the reason.
    pub(super) wrong: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FaultTimeline {
    /// The times at which something was broken; the fault begins with the first.
    pub(super) breakages: Vec<Duration>,
    /// The time from which on nothing was broken.
    pub(super) repaired: Duration,
    /// The fault hit the backends 1 to `hit`.
    pub(super) hit: u8,
}

/// The counts of one cell. "Since the fault" means: after it had begun.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct FaultCounts {
    /// New connections.
    pub(super) offered: u64,
    pub(super) after: u64,
    /// Connections without an answer that started since the fault, or were open when something broke.
    pub(super) failed: u64,
    /// The part of `failed` that was open when something broke.
    pub(super) in_flight: u64,
    /// Connections without an answer before the fault, which is a fault of the test itself.
    pub(super) failed_before: u64,
    pub(super) reasons: BTreeMap<String, u64>,
    /// Answered after more than half a second, since the fault.
    pub(super) slow: u64,
    /// The longest wait for an answer that came, in seconds; since the fault.
    pub(super) worst_answer: f64,
    /// The longest wait of a failed connection, in seconds.
    pub(super) worst_failure: Option<f64>,
    /// From the beginning of the fault to the start of the last connection that failed, in seconds.
    pub(super) last_failure: Option<f64>,
    /// Seconds from the end of the fault until every backend that was hit has answered a connection that started after the end.
    pub(super) back: Option<f64>,
    pub(super) wrong: u64,
    pub(super) broken: u64,
    /// The part of `broken` on healthy backends.
    pub(super) broken_elsewhere: u64,
    /// Messages on long-lived connections that were answered.
    pub(super) messages: u64,
    pub(super) examples: Vec<String>,
}

impl FaultTimeline {
    fn begun(&self) -> Duration {
        self.breakages.first().copied().unwrap_or_default()
    }

    fn open_at_a_breakage(&self, record: &ConnectionRecord) -> bool {
        self.breakages.iter().any(|at| record.due < *at && *at <= record.ended)
    }
}

pub(super) fn count(
    records: &[ConnectionRecord],
    breaks: &[BrokenConnection],
    messages: u64,
    timeline: &FaultTimeline,
) -> FaultCounts {
    let begun = timeline.begun();
    let mut counts = FaultCounts { offered: records.len() as u64, messages, ..FaultCounts::default() };
    for record in records {
        let after = record.due >= begun;
        counts.after += u64::from(after);
        let took = record.ended.saturating_sub(record.due);
        match &record.end {
            ConnectionEnd::Answered(_) if record.ended >= begun => {
                counts.slow += u64::from(took > SLOW);
                counts.worst_answer = counts.worst_answer.max(took.as_secs_f64());
            }
            ConnectionEnd::Answered(_) => {}
            ConnectionEnd::Failed(reason) => {
                *counts.reasons.entry((*reason).to_owned()).or_default() += 1;
                let in_flight = timeline.open_at_a_breakage(record);
                if !after && !in_flight {
                    counts.failed_before += 1;
                    continue;
                }
                counts.failed += 1;
                counts.in_flight += u64::from(in_flight);
                counts.worst_failure = larger(counts.worst_failure, took);
                counts.last_failure = larger(counts.last_failure, record.due.saturating_sub(begun));
            }
            ConnectionEnd::Wrong(detail) => counts.wrong(detail),
        }
    }
    for broken in breaks {
        if let Some(detail) = &broken.wrong {
            counts.wrong(detail);
        } else if broken.at >= begun {
            counts.broken += 1;
            counts.broken_elsewhere += u64::from(broken.backend.is_some_and(|backend| backend > timeline.hit));
        }
    }
    counts.back = back(records, timeline).map(|back| back.as_secs_f64());
    counts
}

impl FaultCounts {
    fn wrong(&mut self, detail: &str) {
        self.wrong += 1;
        if self.examples.len() < 5 {
            self.examples.push(detail.to_owned());
        }
    }
}

fn larger(so_far: Option<f64>, value: Duration) -> Option<f64> {
    Some(so_far.unwrap_or_default().max(value.as_secs_f64()))
}

/// Only connections that started after the end count: a connection that waited on a stopped backend says nothing about which
/// backends are chosen.
fn back(records: &[ConnectionRecord], timeline: &FaultTimeline) -> Option<Duration> {
    let first = |backend| {
        let answered = records
            .iter()
            .filter(|record| record.due >= timeline.repaired && record.end == ConnectionEnd::Answered(backend));
        answered.map(|record| record.ended - timeline.repaired).min()
    };
    let firsts: Option<Vec<_>> = (1..=timeline.hit).map(first).collect();
    firsts?.into_iter().max()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn record(due: u64, took: u64, end: ConnectionEnd) -> ConnectionRecord {
        ConnectionRecord { due: ms(due), ended: ms(due + took), end }
    }

    fn timeline(hit: u8) -> FaultTimeline {
        FaultTimeline { breakages: vec![ms(1_000), ms(3_000)], repaired: ms(4_000), hit }
    }

    const RESET: ConnectionEnd = ConnectionEnd::Failed("reset");

    #[test]
    fn failures_are_told_apart_by_when_the_connection_started() {
        let records = [
            record(100, 10, RESET),
            record(990, 20, RESET),
            record(1_000, 500, ConnectionEnd::Failed("timeout")),
            record(2_999, 1, RESET),
            record(3_500, 1, RESET),
            record(3_600, 1, ConnectionEnd::Answered(2)),
        ];
        let counts = count(&records, &[], 9, &timeline(1));
        assert_eq!((counts.offered, counts.after, counts.failed_before), (6, 4, 1));
        // Open at the first breakage, and at the second one.
        assert_eq!((counts.failed, counts.in_flight), (4, 2));
        assert_eq!(counts.reasons, BTreeMap::from([("reset".into(), 4), ("timeout".into(), 1)]));
        assert_eq!((counts.last_failure, counts.worst_failure), (Some(2.5), Some(0.5)));
        assert_eq!(counts.messages, 9);
    }

    #[test]
    fn slow_is_longer_than_half_a_second_and_only_since_the_fault() {
        let records = [
            record(0, 900, ConnectionEnd::Answered(1)),
            record(600, 600, ConnectionEnd::Answered(1)),
            record(1_500, 500, ConnectionEnd::Answered(1)),
            record(1_500, 501, ConnectionEnd::Answered(1)),
        ];
        let counts = count(&records, &[], 0, &timeline(1));
        assert_eq!((counts.slow, counts.worst_answer, counts.failed), (2, 0.6, 0));
        assert_eq!((counts.last_failure, counts.worst_failure), (None, None));
    }

    #[test]
    fn a_pool_is_back_when_every_hit_backend_answers_a_connection_started_after_the_end() {
        let mut records = vec![
            // Waited since before the end.
            record(3_999, 2, ConnectionEnd::Answered(1)),
            record(4_000, 100, ConnectionEnd::Answered(1)),
            record(4_000, 1, ConnectionEnd::Answered(3)),
            record(4_500, 1, ConnectionEnd::Answered(1)),
        ];
        assert_eq!(count(&records, &[], 0, &timeline(1)).back, Some(0.1));
        assert_eq!(count(&records, &[], 0, &timeline(2)).back, None, "the second one never came back");
        records.push(record(4_700, 10, ConnectionEnd::Answered(2)));
        assert_eq!(count(&records, &[], 0, &timeline(2)).back, Some(0.71));
    }

    #[test]
    fn wrong_bytes_are_no_failures() {
        let wrong = record(2_000, 1, ConnectionEnd::Wrong("byte 3".into()));
        let breaks = [
            BrokenConnection { at: ms(10), backend: Some(1), wrong: None },
            BrokenConnection { at: ms(1_500), backend: Some(1), wrong: None },
            BrokenConnection { at: ms(1_500), backend: Some(2), wrong: None },
            BrokenConnection { at: ms(1_600), backend: None, wrong: None },
            BrokenConnection { at: ms(20), backend: Some(2), wrong: Some("byte 4".into()) },
        ];
        let counts = count(&[wrong], &breaks, 0, &timeline(1));
        assert_eq!((counts.wrong, counts.failed), (2, 0));
        assert_eq!(counts.examples, ["byte 3", "byte 4"]);
        assert_eq!((counts.broken, counts.broken_elsewhere), (3, 1));
    }
}
