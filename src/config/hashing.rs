//! `hash` and `balance_factor` of a pool: what its clients are told apart by, for the policies that hash.

use serde::{Serialize, Serializer};

use super::Balance;
use super::table::Table;
use super::value::Form;

/// What a policy that hashes goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Hashing {
    /// What is hashed.
    #[serde(rename = "hash")]
    pub by: HashBy,
    /// The most that a backend may have, in percent of its part of the sessions; `None` = any number.
    #[serde(rename = "balance_factor")]
    pub factor: Option<u32>,
}

/// What is hashed of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashBy {
    /// The first bits of its address: so many of an IPv4 address, so many of an IPv6 one.
    ClientAddress {
        /// Up to 32.
        v4: u8,
        /// Up to 128.
        v6: u8,
    },
    /// Its address and port: its connections go to different backends.
    ClientAndPort,
}

words! {
    enum HashWord {
        ClientAddress = "client_address",
        ClientAndPort = "client_and_port",
    }
}

impl Hashing {
    /// Where the file says nothing.
    pub const DEFAULT: Self = Self { by: HashBy::ClientAddress { v4: 32, v6: 128 }, factor: None };

    pub(super) fn read(pool: &Table<'_>, balance: Balance) -> Self {
        if !balance.hashes() {
            for key in ["hash", "balance_factor"] {
                if let Some(value) = pool.value(key) {
                    let message = format!("`{key}` has no effect with balance \"{}\"", balance.name());
                    value.fault(message, "write balance = \"maglev\" or \"ring_hash\", or remove it");
                }
            }
            return Self::DEFAULT;
        }
        Self {
            by: HashBy::read(pool).unwrap_or(Self::DEFAULT.by),
            factor: pool.number("balance_factor", 100..=100_000),
        }
    }
}

impl HashBy {
    fn read(pool: &Table<'_>) -> Option<Self> {
        let value = pool.value("hash")?;
        if value.form() != Form::Table {
            return pool.word("hash").map(|word| Self::of(word, 32, 128));
        }
        let table = value.table()?;
        let word = table.word("by").unwrap_or(HashWord::ClientAddress);
        if let (HashWord::ClientAndPort, Some(prefix)) = (word, table.value("prefix")) {
            let hint = "remove it, or write by = \"client_address\"";
            prefix.fault("`prefix` has no effect with by = \"client_and_port\"", hint);
        }
        let prefix = table.table("prefix");
        let bits = |key, most: u8| prefix.number(key, 1..=i64::from(most)).unwrap_or(most);
        Some(Self::of(word, bits("v4", 32), bits("v6", 128)))
    }

    fn of(word: HashWord, v4: u8, v6: u8) -> Self {
        match word {
            HashWord::ClientAddress => Self::ClientAddress { v4, v6 },
            HashWord::ClientAndPort => Self::ClientAndPort,
        }
    }
}

impl Serialize for HashBy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Written {
            by: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            prefix: Option<Prefix>,
        }
        #[derive(Serialize)]
        struct Prefix {
            v4: u8,
            v6: u8,
        }
        let (word, prefix) = match *self {
            Self::ClientAddress { v4, v6 } => (HashWord::ClientAddress, Some(Prefix { v4, v6 })),
            Self::ClientAndPort => (HashWord::ClientAndPort, None),
        };
        Written { by: word.name(), prefix }.serialize(serializer)
    }
}
