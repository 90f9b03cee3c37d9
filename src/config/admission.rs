//! `per_client` and `accept` of a listener: how many sessions, and how fast, of one client and of all together.

use std::time::Duration;

use serde::Serialize;

use super::faults::Complaint;
use super::table::Table;

/// `per_client = { … }`: what one client may have.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PerClient {
    /// Sessions at once; `None` = any number.
    pub max_connections: Option<u32>,
    /// New sessions; `None` = any number.
    #[serde(flatten)]
    pub rate: Option<RateKeys>,
    /// Which addresses are one client.
    pub prefix: ClientPrefix,
    /// Whether a client that is over a limit notices.
    pub mode: LimitMode,
    /// What becomes of a session that is over a limit.
    pub action: LimitAction,
    /// The bounds of the action `wait`; `None` = another action.
    #[serde(flatten)]
    pub wait: Option<WaitKeys>,
    /// Clients without a session that are remembered at most.
    pub max_clients: usize,
}

/// How many sessions wait, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct WaitKeys {
    /// Of the listener at once; one client has at most a tenth of them. At least 10.
    pub max_waiting: u32,
    /// Of each.
    pub wait_timeout: Duration,
}

/// New sessions a second, and how many of them at once after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RateKeys {
    /// A second; more than 0.
    pub rate: f64,
    /// At least 1.
    pub burst: u32,
}

/// The bits of an address that make a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ClientPrefix {
    /// Of an IPv4 address: 1 to 32.
    pub v4: u8,
    /// Of an IPv6 address: 1 to 128.
    pub v6: u8,
}

words! {
    /// Whether a limit is kept.
    pub enum LimitMode {
        /// It is.
        Enforce = "enforce",
        /// It only counts.
        Observe = "observe",
    }
}

words! {
    /// What becomes of a session over a limit.
    pub enum LimitAction {
        /// An ordinary close, as of every refusal.
        Refuse = "refuse",
        /// A reset.
        Reset = "reset",
        /// It waits for the limit, and is refused when that takes too long.
        Wait = "wait",
    }
}

/// `accept = { … }`: what all clients of a listener together may do.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Accept {
    /// New sessions; `None` = any number.
    #[serde(flatten)]
    pub rate: Option<RateKeys>,
    /// Sessions that say their PROXY header, or whose first bytes are awaited for a route; `None` = any number.
    pub handshakes: Option<usize>,
}

/// More would be less than what the kernel needs to accept one.
const HIGHEST_RATE: f64 = 10_000_000.0;

impl PerClient {
    pub(super) fn read(table: &Table<'_>) -> Self {
        let (max_connections, rate) = (table.number("max_connections", 1..=1_000_000_000), RateKeys::read(table));
        if !table.has("max_connections") && !table.has("rate") {
            table.fault("`per_client` limits nothing", "add max_connections = 50, or rate = 10, or remove it");
        }
        let prefix = table.table("prefix");
        let bits = |key, most: i64, usual| prefix.number(key, 1..=most).unwrap_or(usual);
        let prefix = ClientPrefix { v4: bits("v4", 32, 32), v6: bits("v6", 128, 64) };
        let action = table.word("action").unwrap_or(LimitAction::Refuse);
        if action != LimitAction::Wait {
            for key in ["max_waiting", "wait_timeout"] {
                if let Some(value) = table.value(key) {
                    let message = format!("`{key}` has no effect with action \"{}\"", action.name());
                    value.fault(message, "write action = \"wait\", or remove it");
                }
            }
        }
        Self {
            max_connections,
            rate,
            prefix,
            mode: table.word("mode").unwrap_or(LimitMode::Enforce),
            action,
            wait: (action == LimitAction::Wait).then(|| WaitKeys::read(table)),
            max_clients: table.number("max_clients", 1_000..=20_000_000).unwrap_or(2_000_000),
        }
    }
}

impl WaitKeys {
    fn read(table: &Table<'_>) -> Self {
        Self {
            max_waiting: table.number("max_waiting", 10..=100_000).unwrap_or(1_000),
            wait_timeout: table.time("wait_timeout").unwrap_or(Duration::from_secs(5)),
        }
    }
}

impl RateKeys {
    fn read(table: &Table<'_>) -> Option<Self> {
        let burst = table.number("burst", 1..=1_000_000_000);
        let Some(value) = table.value("rate") else {
            if let Some(burst) = table.value("burst") {
                burst.fault("`burst` without `rate`", "add the sessions a second: rate = 10");
            }
            return None;
        };
        let rate = value.decimal()?;
        // Also what is no number.
        if !(rate > 0.0 && rate <= HIGHEST_RATE) {
            let hint = "write the sessions a second, up to 10000000, such as 10, or 0.5 for one in two seconds";
            let what = if rate > 0.0 { "too large" } else { "it would let no client in" };
            return value.refuse(Complaint::new(what, hint));
        }
        // What comes in a second.
        Some(Self { rate, burst: burst.unwrap_or_else(|| rate.ceil() as u32) })
    }
}

impl Accept {
    pub(super) fn read(table: &Table<'_>) -> Self {
        let (rate, handshakes) = (RateKeys::read(table), table.number("handshakes", 1..=1_000_000_000));
        if !table.has("rate") && !table.has("handshakes") {
            table.fault("`accept` limits nothing", "add rate = 1000, or handshakes = 500, or remove it");
        }
        Self { rate, handshakes }
    }
}
