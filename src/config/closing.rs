//! The keys of a pool that end sessions which could go on: `on_down`, `on_removed`, `on_maintenance`, `max_lifetime`, and
//! the pace of it all. Used by the reading of pools alone.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::duration::written;
use super::faults::{Complaint, Reading, Zero};
use super::nearest::nearest;
use super::shape::PoolShape;
use super::values::PolicyEntry;

const DEFAULT_RATE: u32 = 100;
const DEFAULT_DEADLINE: Duration = Duration::from_secs(60);
const DEFAULT_JITTER: u32 = 10;

/// When running sessions are ended although both their sides live, and how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Closing {
    /// What becomes of the sessions of a backend whose standing is `down`.
    pub on_down: ClosePolicy,
    /// The same for `removed`.
    pub on_removed: ClosePolicy,
    /// The same for `maintenance`.
    pub on_maintenance: ClosePolicy,
    /// Sessions that are closed in a second, of the whole pool and for whatever cause; `None` (written 0) = all at once.
    #[serde(rename = "close_rate")]
    pub rate: Option<u32>,
    /// From the moment that a session may be closed: when that is over, the rate does not count any more. May be zero.
    #[serde(rename = "close_deadline")]
    pub deadline: Duration,
    /// From accept on; `None` = for as long as it likes.
    pub max_lifetime: Option<Duration>,
    /// Percent of `max_lifetime` by which a session's own is shorter, at most.
    pub max_lifetime_jitter: u32,
}

/// What becomes of running sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClosePolicy {
    /// They stay.
    Keep,
    /// They have so long to finish; then what is left is closed.
    Drain(Duration),
    /// They are closed.
    Close,
}

impl Serialize for ClosePolicy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for ClosePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keep => f.write_str("keep"),
            Self::Drain(time) => write!(f, "drain {}", written(*time)),
            Self::Close => f.write_str("close"),
        }
    }
}

pub(super) fn closing(shape: &PoolShape, reading: &mut Reading<'_>) -> Closing {
    let rate = reading.number("close_rate", &shape.close_rate, 0..=1_000_000).unwrap_or(DEFAULT_RATE);
    let lifetime = reading.duration("max_lifetime", &shape.max_lifetime, Zero::Allowed);
    let jitter = reading.number("max_lifetime_jitter", &shape.max_lifetime_jitter, 0..=100);
    Closing {
        on_down: policy("on_down", shape.on_down.as_ref(), reading),
        on_removed: policy("on_removed", shape.on_removed.as_ref(), reading),
        on_maintenance: policy("on_maintenance", shape.on_maintenance.as_ref(), reading),
        rate: Some(rate).filter(|rate| *rate > 0),
        deadline: reading.duration("close_deadline", &shape.close_deadline, Zero::Allowed).unwrap_or(DEFAULT_DEADLINE),
        max_lifetime: lifetime.filter(|lifetime| !lifetime.is_zero()),
        max_lifetime_jitter: jitter.unwrap_or(DEFAULT_JITTER),
    }
}

fn policy(key: &str, entry: Option<&PolicyEntry>, reading: &mut Reading<'_>) -> ClosePolicy {
    let read = match entry {
        None => None,
        Some(PolicyEntry::Word(text)) => reading.parsed_item(key, text, |text| match text {
            "keep" => Ok(ClosePolicy::Keep),
            "close" => Ok(ClosePolicy::Close),
            "drain" => {
                let hint = format!("say how long: {key} = {{ drain = \"30s\" }}");
                Err(Complaint::new("a drain needs its time", hint))
            }
            _ => {
                let all = "write \"keep\", \"close\" or { drain = \"30s\" }".to_owned();
                let likely = nearest(text, ["keep", "close"]).map(|word| format!("did you mean `{word}`?"));
                Err(Complaint::new("there is no such value", likely.unwrap_or(all)))
            }
        }),
        Some(PolicyEntry::Table(section)) if section.shape.drain.is_none() => {
            let hint = format!("add it: {key} = {{ drain = \"30s\" }}; or write {key} = \"keep\" or \"close\"");
            reading.fault(section.span.clone(), format!("`{key}` without `drain`"), hint);
            None
        }
        Some(PolicyEntry::Table(section)) => {
            reading.duration("drain", &section.shape.drain, Zero::Refused).map(ClosePolicy::Drain)
        }
    };
    read.unwrap_or(ClosePolicy::Keep)
}
