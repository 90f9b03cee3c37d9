//! What belongs to the process and to no listener and no pool. As [`super::model`], of which it is a part.

use std::time::Duration;

use serde::Serialize;

/// `[log]`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Log {
    /// How a line looks.
    pub format: LogFormat,
    /// A `tracing-subscriber` filter directive set: `info`, or `info,evenkeel::probe=debug`.
    pub level: String,
    /// Which sessions get a line at their end.
    pub sessions: SessionLog,
}

/// `log.sessions`: which sessions get a line at their end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SessionLog {
    /// By how they ended.
    pub outcome: Logged,
    /// Whether those are left out in which no byte was moved either way, such as a port check's.
    pub skip_empty: bool,
}

/// Sessions by how they ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Logged {
    /// Every session.
    All,
    /// A session that did not complete, or was not served at the first attempt.
    Failed,
    /// No session.
    None,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[shutdown]`: readiness off, wait `delay`, stop accepting, let sessions finish until `timeout`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Shutdown {
    /// May be zero.
    pub delay: Duration,
    /// May be zero; counted from the moment accepting stopped.
    pub timeout: Duration,
}

/// `[reload]`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Reload {
    /// Whether a change of the file is applied at once, and not only at SIGHUP.
    pub watch: bool,
    /// How long sessions of listeners and pools that are gone may go on; `None` = until they end by themselves. May be
    /// zero.
    pub drain_timeout: Option<Duration>,
}
