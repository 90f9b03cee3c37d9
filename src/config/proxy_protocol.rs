//! The keys of the PROXY protocol: `accept_proxy` of a listener, `send_proxy` of a pool and of its check.

use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;

use super::faults::Complaint;
use super::network::{self, Network};
use super::table::{Table, word};
use super::value::{Form, Value};

/// `accept_proxy = { … }`: which peers may name the client that they connect for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AcceptProxy {
    /// At least one. From other peers no header is expected, and none is believed.
    pub from: Vec<Network>,
    /// For the whole header, from accept on.
    pub timeout: Duration,
    /// Whether a trusted peer without a header is refused.
    pub required: bool,
}

words! {
    /// Of a PROXY header.
    #[derive(Hash)]
    pub enum ProxyVersion {
        /// A line of text.
        V1 = "v1",
        /// Binary.
        V2 = "v2",
    }
}

/// `send_proxy`: what a backend is told of the client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SendProxy {
    /// The addresses.
    V1,
    /// The addresses and more.
    V2(ProxyValues),
}

/// The typed values of a version 2 header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProxyValues {
    /// The id of the connection: as received, or else our own.
    pub unique_id: bool,
    /// The host name that the client asked for.
    pub authority: Authority,
    /// The checksum.
    pub crc32c: bool,
    /// Whatever else was received is passed on.
    pub tlvs: bool,
}

/// `authority`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Authority {
    /// Not sent.
    None,
    /// As received; not sent where none was.
    Received,
    /// Always this.
    Fixed(String),
}

impl AcceptProxy {
    /// Whether a peer may send a header.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.from.iter().any(|network| network.contains(peer))
    }

    pub(super) fn read(table: &Table<'_>) -> Self {
        let hint = "add the addresses of the proxies in front: from = [\"10.0.0.0/8\"]";
        let from = table.value("from");
        if from.is_none() {
            table.fault("`accept_proxy` without `from` would trust no peer", hint);
        }
        let from = from.map_or_else(Vec::new, |value| value.at_least_one(value.texts(), hint));
        Self {
            from: from.iter().filter_map(|text| text.parsed(network::parse)).collect(),
            timeout: table.time("timeout").unwrap_or(Duration::from_secs(5)),
            required: table.switch("required").unwrap_or(true),
        }
    }
}

impl SendProxy {
    /// Without what belongs to it.
    pub fn version(&self) -> ProxyVersion {
        match self {
            Self::V1 => ProxyVersion::V1,
            Self::V2(_) => ProxyVersion::V2,
        }
    }

    /// Of a pool.
    pub(super) fn read(pool: &Table<'_>) -> Option<Self> {
        let value = pool.value("send_proxy")?;
        match value.form() {
            Form::Text => value.parsed(word).map(|version| match version {
                ProxyVersion::V1 => Self::V1,
                ProxyVersion::V2 => Self::V2(ProxyValues::USUAL),
            }),
            Form::Table => value.table().map(|table| Self::of_table(&table)),
            _ => value.wrong("a string \"v1\" or \"v2\" or a table { version = \"v2\" }"),
        }
    }

    fn of_table(table: &Table<'_>) -> Self {
        if !table.has("version") {
            table.fault("`send_proxy` without `version`", "add it: version = \"v2\"");
        }
        let version = table.word("version");
        let values = ProxyValues {
            unique_id: table.switch("unique_id").unwrap_or(true),
            authority: table.value("authority").map_or(Authority::Received, Authority::read),
            crc32c: table.switch("crc32c").unwrap_or(false),
            tlvs: table.switch("tlvs").unwrap_or(true),
        };
        if version != Some(ProxyVersion::V1) {
            return Self::V2(values);
        }
        for key in ["unique_id", "authority", "crc32c", "tlvs"] {
            if let Some(value) = table.value(key) {
                let hint = "remove it, or make the version \"v2\": version 1 holds the addresses alone";
                value.fault(format!("`{key}` does not apply to version `v1`"), hint);
            }
        }
        Self::V1
    }
}

impl ProxyValues {
    const USUAL: Self = Self { unique_id: true, authority: Authority::Received, crc32c: false, tlvs: true };
}

impl Authority {
    fn read(value: Value<'_>) -> Self {
        match value.form() {
            Form::Switch(true) => Self::Received,
            Form::Switch(false) => Self::None,
            Form::Text => value.parsed(host_name).map_or(Self::None, Self::Fixed),
            _ => value.wrong(SWITCH_OR_TEXT).unwrap_or(Self::None),
        }
    }
}

const SWITCH_OR_TEXT: &str = "a string, true or false";

fn host_name(text: &str) -> Result<String, Complaint> {
    let is_plain = |c: char| !c.is_control() && !c.is_whitespace();
    // What a DNS name has at most; a TLS server name is one.
    if text.is_empty() || text.len() > 255 || !text.chars().all(is_plain) {
        let hint = "write a name such as \"www.example.com\", true (as received) or false";
        return Err(Complaint::new("no host name", hint));
    }
    Ok(text.to_owned())
}

impl ProxyVersion {
    /// Of a check that says something of its own.
    pub(super) fn of_check(value: Value<'_>) -> Option<Self> {
        match value.form() {
            Form::Switch(false) => None,
            Form::Switch(true) => {
                let hint = "write \"v1\", \"v2\" or false; without the key, probes do as the pool's send_proxy says";
                value.refuse(Complaint::new("there is no such value", hint))
            }
            Form::Text => value.parsed(word),
            _ => value.wrong(SWITCH_OR_TEXT),
        }
    }
}
