//! What belongs to the process and to no listener and no pool: `[log]`, `[shutdown]`, `[reload]`.

use std::time::Duration;

use serde::Serialize;

use super::faults::Complaint;
use super::nearest::suggest;
use super::table::{Table, word};
use super::value::Form;

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

words! {
    /// Sessions by how they ended.
    pub enum Logged {
        /// Every session.
        All = "all",
        /// A session that did not complete, or was not served at the first attempt.
        Failed = "failed",
        /// No session.
        None = "none",
    }
}

words! {
    /// How a log line looks.
    pub enum LogFormat {
        /// For people.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
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

impl Log {
    pub(super) fn read(table: &Table<'_>) -> Self {
        Self {
            format: table.word("format").unwrap_or(LogFormat::Text),
            level: table.parsed("level", log_level).unwrap_or_else(|| "info".to_owned()),
            sessions: SessionLog::read(table),
        }
    }
}

impl SessionLog {
    fn read(log: &Table<'_>) -> Self {
        let all = Self { outcome: Logged::All, skip_empty: false };
        let Some(value) = log.value("sessions") else { return all };
        let outcome = match value.form() {
            Form::Switch(true) => Some(Logged::All),
            Form::Switch(false) => Some(Logged::None),
            Form::Text => value.parsed(word),
            Form::Table => {
                let Some(table) = value.table() else { return all };
                let outcome = table.word("outcome").unwrap_or(Logged::All);
                return Self { outcome, skip_empty: table.switch("skip_empty").unwrap_or(false) };
            }
            Form::Other => {
                value.wrong("true, false, the string \"failed\" or a table { outcome = \"failed\", skip_empty = true }")
            }
        };
        Self { outcome: outcome.unwrap_or(Logged::All), ..all }
    }
}

impl Shutdown {
    pub(super) fn read(table: &Table<'_>) -> Self {
        Self {
            delay: table.time_or_zero("delay").unwrap_or(Duration::ZERO),
            timeout: table.time_or_zero("timeout").unwrap_or(Duration::from_secs(30)),
        }
    }
}

impl Reload {
    pub(super) fn read(table: &Table<'_>) -> Self {
        Self { watch: table.switch("watch").unwrap_or(true), drain_timeout: table.time_or_zero("drain_timeout") }
    }
}

/// The part of `tracing-subscriber`'s directives without spans and fields: `info,evenkeel::probe=debug`.
/// A word alone that is no level would be taken for a target there, and silence all the others.
pub(super) fn log_level(text: &str) -> Result<String, Complaint> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    for directive in text.split(',') {
        let (target, level) = directive.split_once('=').unwrap_or(("evenkeel", directive));
        if !LEVELS.contains(&level) {
            let what = format!("\"{}\" is no level", level.escape_debug());
            return Err(Complaint::new(what, suggest(level, "level", LEVELS)));
        }
        if target.is_empty() || !target.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':') {
            return Err(Complaint::new("a target is a module path", "write it like \"info,evenkeel::probe=debug\""));
        }
    }
    Ok(text.to_owned())
}
