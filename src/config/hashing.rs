//! `hash` and `balance_factor` of a pool: what its clients are told apart by, for the policies that hash.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Serialize, Serializer};
use toml::de::DeValue;

use super::Balance;
use super::faults::Complaint;
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
    /// The first bits of its address.
    ClientAddress(Prefix),
    /// The server name in its TLS ClientHello. Without one: its address.
    Sni,
    /// Its address and port: its connections go to different backends.
    ClientAndPort,
    /// The address and port that it connected to: what a PROXY header says, else this balancer's own.
    Destination,
    /// The value of this type in its PROXY header. Without one: its address.
    ProxyTlv(u8),
}

/// The first bits of an address: so many of an IPv4 address, so many of an IPv6 one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Prefix {
    /// Up to 32.
    pub v4: u8,
    /// Up to 128.
    pub v6: u8,
}

words! {
    enum HashWord {
        ClientAddress = "client_address",
        ClientAndPort = "client_and_port",
        Sni = "sni",
        Destination = "destination",
        ProxyTlv = "proxy_tlv",
    }
}

impl Hashing {
    /// Where the file says nothing.
    pub const DEFAULT: Self = Self { by: HashBy::ClientAddress(Prefix::WHOLE), factor: None };

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
    /// The word for it in the file.
    pub fn name(self) -> &'static str {
        let word = match self {
            Self::ClientAddress(_) => HashWord::ClientAddress,
            Self::ClientAndPort => HashWord::ClientAndPort,
            Self::Sni => HashWord::Sni,
            Self::Destination => HashWord::Destination,
            Self::ProxyTlv(_) => HashWord::ProxyTlv,
        };
        word.name()
    }

    /// Whether the `hash` of a table, a pool's or a route's, is the server name; for those that have to know it before the
    /// table is read.
    pub(super) fn is_sni(table: &Table<'_>) -> bool {
        let Some(value) = table.value("hash") else { return false };
        let by = match value.written.get_ref() {
            DeValue::Table(table) => table.get("by").map(|by| by.get_ref()),
            word => Some(word),
        };
        matches!(by, Some(DeValue::String(word)) if word == HashWord::Sni.name())
    }

    /// Of a pool, or of a route.
    pub(super) fn read(pool: &Table<'_>) -> Option<Self> {
        let value = pool.value("hash")?;
        if value.form() != Form::Table {
            return match pool.word("hash")? {
                HashWord::ClientAddress => Some(Self::ClientAddress(Prefix::WHOLE)),
                HashWord::ClientAndPort => Some(Self::ClientAndPort),
                HashWord::Sni => Some(Self::Sni),
                HashWord::Destination => Some(Self::Destination),
                HashWord::ProxyTlv => {
                    let hint = "write hash = { by = \"proxy_tlv\", tlv = 0xE4 }, with the type of the value";
                    value.refuse(Complaint::new("it does not say which value of the header", hint))
                }
            };
        }
        let table = value.table()?;
        let word = table.word("by").unwrap_or(HashWord::ClientAddress);
        for (key, its) in [("prefix", HashWord::ClientAddress), ("tlv", HashWord::ProxyTlv)] {
            if let Some(value) = table.value(key).filter(|_| word != its) {
                let hint = format!("remove it, or write by = \"{}\"", its.name());
                value.fault(format!("`{key}` has no effect with by = \"{}\"", word.name()), hint);
            }
        }
        match word {
            HashWord::ClientAddress => Some(Self::ClientAddress(Prefix::read(&table))),
            HashWord::ClientAndPort => Some(Self::ClientAndPort),
            HashWord::Sni => Some(Self::Sni),
            HashWord::Destination => Some(Self::Destination),
            HashWord::ProxyTlv => {
                if !table.has("tlv") {
                    let hint = "add it: { by = \"proxy_tlv\", tlv = 0xE4 }";
                    value.fault("`hash` by \"proxy_tlv\" without `tlv`, the type of the value", hint);
                }
                table.number("tlv", 0..=255).map(Self::ProxyTlv)
            }
        }
    }
}

impl Prefix {
    /// Every bit.
    pub const WHOLE: Self = Self { v4: 32, v6: 128 };

    /// The key `prefix` of this table.
    pub(super) fn read(table: &Table<'_>) -> Self {
        let prefix = table.table("prefix");
        let bits = |key, most: u8| prefix.number(key, 1..=i64::from(most)).unwrap_or(most);
        Self { v4: bits("v4", 32), v6: bits("v6", 128) }
    }

    /// The network of an address. An IPv4 address counts as such in either notation.
    pub fn network(self, address: IpAddr) -> IpAddr {
        match address.to_canonical() {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.v4)).unwrap_or(0);
                Ipv4Addr::from_bits(address.to_bits() & mask).into()
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.v6)).unwrap_or(0);
                Ipv6Addr::from_bits(address.to_bits() & mask).into()
            }
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
            #[serde(skip_serializing_if = "Option::is_none")]
            tlv: Option<u8>,
        }
        let (prefix, tlv) = match *self {
            Self::ClientAddress(prefix) => (Some(prefix), None),
            Self::ProxyTlv(tlv) => (None, Some(tlv)),
            Self::Sni | Self::ClientAndPort | Self::Destination => (None, None),
        };
        Written { by: self.name(), prefix, tlv }.serialize(serializer)
    }
}
