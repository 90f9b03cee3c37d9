//! What the clients of one cell saw, counted: from one record a connection and the moments at which things broke.
//!
//! Pure. All times are since the first connection of the cell.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// An answer that takes longer is slow.
pub(super) const SLOW: Duration = Duration::from_millis(500);

/// One new connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// When it was meant to start.
    pub(super) due: Duration,
    /// When its answer was complete, or it failed.
    pub(super) ended: Duration,
    pub(super) end: End,
}

/// What became of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// The right answer, by this backend.
    Answered(u8),
    /// No answer, for this reason.
    Failed(&'static str),
    /// Bytes that are not the answer.
    Wrong(String),
}

/// A long-lived connection that broke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Break {
    pub(super) at: Duration,
    /// Which backend it had; `None` if it never had an answer.
    pub(super) backend: Option<u8>,
    /// Wrong bytes, rather than an end that everybody sees.
    pub(super) wrong: Option<String>,
}

/// When things broke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Timeline {
    /// The moments of the blows; the first one is the fault's begin.
    pub(super) blows: Vec<Duration>,
    /// From when on nothing was broken any more.
    pub(super) mended: Duration,
    /// Backends 1 to `hit` were hit.
    pub(super) hit: u8,
}

/// What one cell came to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Counts {
    /// New connections.
    pub(super) offered: u64,
    /// Of those, started after the fault had begun.
    pub(super) after: u64,
    /// Without an answer, because of the fault: started after it had begun, or open at a blow.
    pub(super) failed: u64,
    /// Of the failed: open at the moment of a blow.
    pub(super) in_flight: u64,
    /// Without an answer before anything was broken: the harness, not the fault.
    pub(super) failed_before: u64,
    /// The failed, by reason.
    pub(super) reasons: BTreeMap<String, u64>,
    /// Answered, but not within half a second; since the fault.
    pub(super) slow: u64,
    /// The longest that anybody waited for an answer who got one, in seconds; since the fault.
    pub(super) worst_answer: f64,
    /// The longest that anybody waited for nothing, in seconds.
    pub(super) worst_failure: Option<f64>,
    /// From the fault's begin to the start of the last connection that failed, in seconds.
    pub(super) last_failure: Option<f64>,
    /// From the end of the fault until all backends that were hit have answered connections that started after it, in seconds.
    pub(super) back: Option<f64>,
    /// Wrong bytes: what no outage excuses.
    pub(super) wrong: u64,
    /// Long-lived connections that broke since the fault.
    pub(super) broken: u64,
    /// Of those, on backends that were well.
    pub(super) broken_elsewhere: u64,
    /// Messages on long-lived connections that were answered.
    pub(super) messages: u64,
    /// Some of the wrong bytes in words.
    pub(super) examples: Vec<String>,
}

impl Timeline {
    fn begun(&self) -> Duration {
        self.blows.first().copied().unwrap_or_default()
    }

    fn open_at_a_blow(&self, record: &Record) -> bool {
        self.blows.iter().any(|blow| record.due < *blow && *blow <= record.ended)
    }
}

/// Counts.
pub(super) fn count(records: &[Record], breaks: &[Break], messages: u64, timeline: &Timeline) -> Counts {
    let begun = timeline.begun();
    let mut counts = Counts { offered: records.len() as u64, messages, ..Counts::default() };
    for record in records {
        let after = record.due >= begun;
        counts.after += u64::from(after);
        let took = record.ended.saturating_sub(record.due);
        match &record.end {
            End::Answered(_) if record.ended >= begun => {
                counts.slow += u64::from(took > SLOW);
                counts.worst_answer = counts.worst_answer.max(took.as_secs_f64());
            }
            End::Answered(_) => {}
            End::Failed(reason) => {
                *counts.reasons.entry((*reason).to_owned()).or_default() += 1;
                let in_flight = timeline.open_at_a_blow(record);
                if !after && !in_flight {
                    counts.failed_before += 1;
                    continue;
                }
                counts.failed += 1;
                counts.in_flight += u64::from(in_flight);
                counts.worst_failure = larger(counts.worst_failure, took);
                counts.last_failure = larger(counts.last_failure, record.due.saturating_sub(begun));
            }
            End::Wrong(detail) => counts.wrong(detail),
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

impl Counts {
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

/// Only connections that started after the end count: one that waited on a stopped backend says nothing about who is chosen.
fn back(records: &[Record], timeline: &Timeline) -> Option<Duration> {
    let first = |backend| {
        let answered =
            records.iter().filter(|record| record.due >= timeline.mended && record.end == End::Answered(backend));
        answered.map(|record| record.ended - timeline.mended).min()
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

    fn record(due: u64, took: u64, end: End) -> Record {
        Record { due: ms(due), ended: ms(due + took), end }
    }

    fn timeline(hit: u8) -> Timeline {
        Timeline { blows: vec![ms(1_000), ms(3_000)], mended: ms(4_000), hit }
    }

    const RESET: End = End::Failed("reset");

    #[test]
    fn failures_are_told_apart_by_when_the_connection_started() {
        let records = [
            record(100, 10, RESET),
            record(990, 20, RESET),
            record(1_000, 500, End::Failed("timeout")),
            record(2_999, 1, RESET),
            record(3_500, 1, RESET),
            record(3_600, 1, End::Answered(2)),
        ];
        let counts = count(&records, &[], 9, &timeline(1));
        assert_eq!((counts.offered, counts.after, counts.failed_before), (6, 4, 1));
        // Open at the first blow, and at the second one.
        assert_eq!((counts.failed, counts.in_flight), (4, 2));
        assert_eq!(counts.reasons, BTreeMap::from([("reset".into(), 4), ("timeout".into(), 1)]));
        assert_eq!((counts.last_failure, counts.worst_failure), (Some(2.5), Some(0.5)));
        assert_eq!(counts.messages, 9);
    }

    #[test]
    fn slow_is_longer_than_half_a_second_and_only_since_the_fault() {
        let records = [
            record(0, 900, End::Answered(1)),
            record(600, 600, End::Answered(1)),
            record(1_500, 500, End::Answered(1)),
            record(1_500, 501, End::Answered(1)),
        ];
        let counts = count(&records, &[], 0, &timeline(1));
        assert_eq!((counts.slow, counts.worst_answer, counts.failed), (2, 0.6, 0));
        assert_eq!((counts.last_failure, counts.worst_failure), (None, None));
    }

    #[test]
    fn a_pool_is_back_when_the_last_of_its_backends_answers_who_came_after_the_end() {
        let mut records = vec![
            // Waited since before the end.
            record(3_999, 2, End::Answered(1)),
            record(4_000, 100, End::Answered(1)),
            record(4_000, 1, End::Answered(3)),
            record(4_500, 1, End::Answered(1)),
        ];
        assert_eq!(count(&records, &[], 0, &timeline(1)).back, Some(0.1));
        assert_eq!(count(&records, &[], 0, &timeline(2)).back, None, "the second one never came back");
        records.push(record(4_700, 10, End::Answered(2)));
        assert_eq!(count(&records, &[], 0, &timeline(2)).back, Some(0.71));
    }

    #[test]
    fn wrong_bytes_are_no_failures() {
        let wrong = record(2_000, 1, End::Wrong("byte 3".into()));
        let breaks = [
            Break { at: ms(10), backend: Some(1), wrong: None },
            Break { at: ms(1_500), backend: Some(1), wrong: None },
            Break { at: ms(1_500), backend: Some(2), wrong: None },
            Break { at: ms(1_600), backend: None, wrong: None },
            Break { at: ms(20), backend: Some(2), wrong: Some("byte 4".into()) },
        ];
        let counts = count(&[wrong], &breaks, 0, &timeline(1));
        assert_eq!((counts.wrong, counts.failed), (2, 0));
        assert_eq!(counts.examples, ["byte 3", "byte 4"]);
        assert_eq!((counts.broken, counts.broken_elsewhere), (3, 1));
    }
}
