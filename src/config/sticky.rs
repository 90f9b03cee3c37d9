//! `sticky` of a pool: clients come back to the backend that they had last.

use std::time::Duration;

use serde::Serialize;

use super::table::Table;
use super::{Balance, Prefix};

/// `sticky = { … }`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Sticky {
    /// What tells clients apart.
    pub by: StickyBy,
    /// Of their addresses.
    pub prefix: Prefix,
    /// How long a client is remembered after its last session began.
    pub ttl: Duration,
    /// How many clients are remembered; the one whose last session began longest ago is forgotten first.
    pub max: usize,
}

words! {
    /// What a client is told apart by.
    pub enum StickyBy {
        /// Its address.
        ClientAddress = "client_address",
    }
}

/// About 100 bytes each.
const MOST: i64 = 10_000_000;

impl Sticky {
    pub(super) fn read(pool: &Table<'_>, balance: Balance) -> Option<Self> {
        let table = pool.written_table("sticky")?;
        let sticky = Self {
            by: table.word("by").unwrap_or(StickyBy::ClientAddress),
            prefix: Prefix::read(&table),
            ttl: table.time("ttl").unwrap_or(Duration::from_secs(1_800)),
            max: table.number("max", 1..=MOST).unwrap_or(100_000),
        };
        if balance.hashes() {
            let message = format!(
                "`sticky` next to balance \"{}\", by which a client meets the same backend anyway",
                balance.name()
            );
            table.fault(message, "remove it, or choose a policy that does not hash");
        }
        Some(sticky)
    }
}
