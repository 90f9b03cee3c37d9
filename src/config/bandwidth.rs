//! `bandwidth` of a pool: how many bytes a second its sessions may move.

use std::num::NonZeroU64;

use serde::{Serialize, Serializer};

use super::faults::Complaint;
use super::size;
use super::table::Table;

/// Less would let a session stand still for seconds.
const LEAST: u64 = 1 << 10;

/// More than any network has.
const MOST: u64 = 1_000 << 30;

/// `bandwidth = { … }`; at least one direction is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Bandwidth {
    /// From the backends.
    pub to_client: Option<ByteRate>,
    /// From the clients.
    pub to_backend: Option<ByteRate>,
    /// What has the limit together.
    pub scope: BandwidthScope,
}

words! {
    /// `scope`
    pub enum BandwidthScope {
        /// Each session has its own.
        Session = "session",
        /// The sessions of one client, in this pool.
        Client = "client",
        /// All sessions of the pool.
        Pool = "pool",
    }
}

/// Bytes in a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRate(pub NonZeroU64);

impl Bandwidth {
    pub(super) fn read(pool: &Table<'_>) -> Option<Self> {
        let table = pool.written_table("bandwidth")?;
        if !table.has("to_client") && !table.has("to_backend") {
            let hint = "add one: bandwidth = { to_client = \"10MiB/s\" }";
            table.fault("`bandwidth` without `to_client` and `to_backend`", hint);
        }
        Some(Self {
            to_client: ByteRate::read(&table, "to_client"),
            to_backend: ByteRate::read(&table, "to_backend"),
            scope: table.word("scope").unwrap_or(BandwidthScope::Session),
        })
    }
}

impl ByteRate {
    fn read(table: &Table<'_>, key: &'static str) -> Option<Self> {
        table.value(key)?.parsed_as("a bandwidth in quotes", Self::parse)
    }

    fn parse(text: &str) -> Result<Self, Complaint> {
        let Some(bytes) = text.strip_suffix("/s") else {
            let hint = match size::parse(text) {
                Ok(_) => format!("write \"{text}/s\": a bandwidth is a size per second"),
                Err(_) => "write it like \"10MiB/s\" or \"500kB/s\"".to_owned(),
            };
            return Err(Complaint::new("not a bandwidth", hint));
        };
        let bytes = size::parse(bytes).map_err(|_| {
            Complaint::new("not a bandwidth", "write a whole number with its unit, like \"10MiB/s\" or \"500kB/s\"")
        })?;
        let fitting = NonZeroU64::new(bytes).filter(|bytes| (LEAST..=MOST).contains(&bytes.get()));
        fitting.map(Self).ok_or_else(|| {
            let way = if bytes < LEAST { "too small" } else { "too large" };
            Complaint::new(way, "write at least \"1KiB/s\" and at most \"1000GiB/s\"; leave the key out for no limit")
        })
    }
}

impl Serialize for ByteRate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{}/s", size::written(self.0.get())))
    }
}
