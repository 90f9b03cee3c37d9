//! The keys of a pool that end sessions which could go on, and the pace of it all.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::duration::written;
use super::faults::Complaint;
use super::nearest::nearest;
use super::table::Table;
use super::value::Form;

/// When running sessions are ended although both their sides live, and how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Closing {
    /// What becomes of the sessions of a backend whose standing is `down`.
    pub on_down: ClosePolicy,
    /// The same for `removed`.
    pub on_removed: ClosePolicy,
    /// The same for `maintenance`.
    pub on_maintenance: ClosePolicy,
    /// What becomes of the sessions of a backup when new sessions go to the tiers before it again.
    pub failback: ClosePolicy,
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

impl Closing {
    pub(super) fn read(pool: &Table<'_>) -> Self {
        Self {
            on_down: ClosePolicy::read(pool, "on_down"),
            on_removed: ClosePolicy::read(pool, "on_removed"),
            on_maintenance: ClosePolicy::read(pool, "on_maintenance"),
            failback: ClosePolicy::read(pool, "failback"),
            rate: Some(pool.number("close_rate", 0..=1_000_000).unwrap_or(100)).filter(|rate| *rate > 0),
            deadline: pool.time_or_zero("close_deadline").unwrap_or(Duration::from_secs(60)),
            max_lifetime: pool.limit("max_lifetime", None),
            max_lifetime_jitter: pool.number("max_lifetime_jitter", 0..=100).unwrap_or(10),
        }
    }
}

impl ClosePolicy {
    fn read(pool: &Table<'_>, key: &'static str) -> Self {
        let Some(value) = pool.value(key) else { return Self::Keep };
        let read = match value.form() {
            Form::Text => value.parsed(|text| match text {
                "keep" => Ok(Self::Keep),
                "close" => Ok(Self::Close),
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
            Form::Table => value.table().and_then(|table| {
                if !table.has("drain") {
                    let hint = format!("add it: {key} = {{ drain = \"30s\" }}; or write {key} = \"keep\" or \"close\"");
                    table.fault(format!("`{key}` without `drain`"), hint);
                }
                table.time("drain").map(Self::Drain)
            }),
            _ => value.wrong("a string \"keep\" or \"close\" or a table { drain = \"30s\" }"),
        };
        read.unwrap_or(Self::Keep)
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
