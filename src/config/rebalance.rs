//! `rebalance` of a pool: whether sessions leave backends that have more than their part, and how fast.

use std::time::Duration;

use serde::Serialize;

use super::Balance;
use super::table::Table;

/// `rebalance = { … }`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Rebalance {
    /// How far above its part a backend may be, in percent.
    pub threshold: u32,
    /// Sessions that are closed in a second, at most.
    pub max_per_second: u32,
    /// A session that is younger is not closed.
    pub min_age: Duration,
    /// Which sessions are closed first.
    pub prefer: Prefer,
}

words! {
    /// `prefer`
    pub enum Prefer {
        /// Those that have been quiet for longest.
        Idle = "idle",
        /// Those that were accepted first.
        Oldest = "oldest",
        /// Those that were accepted last.
        Newest = "newest",
    }
}

impl Rebalance {
    /// Where the file says nothing, and what an operator's command goes by in a pool without the key.
    pub const DEFAULT: Self =
        Self { threshold: 10, max_per_second: 5, min_age: Duration::from_secs(60), prefer: Prefer::Idle };

    /// Why it is of no use with a policy, in a pool that is sticky or not; `None` = it is.
    pub fn useless_with(balance: Balance, is_sticky: bool) -> Option<&'static str> {
        if balance.hashes() || is_sticky {
            return Some("a client that is closed comes back to the same backend");
        }
        match balance {
            Balance::First => Some("the first backends are to have more than the others"),
            Balance::LeastTime => Some("fast backends are to have more than the others"),
            _ => None,
        }
    }

    pub(super) fn read(pool: &Table<'_>, balance: Balance) -> Option<Self> {
        let value = pool.value("rebalance")?;
        if let Some(why) = Self::useless_with(balance, false) {
            let message = format!("`rebalance` has no effect with balance \"{}\": {why}", balance.name());
            value.fault(message, "remove it, or write balance = \"least_connections\"");
        } else if let Some(why) = Self::useless_with(balance, pool.has("sticky")) {
            value.fault(format!("`rebalance` has no effect next to `sticky`: {why}"), "keep one of the two");
        }
        let table = value.table()?;
        let default = Self::DEFAULT;
        Some(Self {
            threshold: table.number("threshold", 1..=1_000).unwrap_or(default.threshold),
            max_per_second: table.number("max_per_second", 1..=1_000_000).unwrap_or(default.max_per_second),
            min_age: table.time_or_zero("min_age").unwrap_or(default.min_age),
            prefer: table.word("prefer").unwrap_or(default.prefer),
        })
    }
}
