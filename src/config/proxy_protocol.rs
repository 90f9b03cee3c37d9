//! The keys of the PROXY protocol: `accept_proxy` of a listener, `send_proxy` of a pool and of its check.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use serde::Serialize;

use super::faults::Complaint;
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

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its first address; no bits set behind the prefix.
    pub address: IpAddr,
    /// Bits that count: 0 to 32, or to 128.
    pub prefix: u8,
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
            from: from.iter().filter_map(|text| text.parsed(network)).collect(),
            timeout: table.time("timeout").unwrap_or(Duration::from_secs(5)),
            required: table.switch("required").unwrap_or(true),
        }
    }
}

impl Network {
    /// An IPv4 address that came in on an IPv6 socket counts as IPv4.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        ip.is_ipv4() == self.address.is_ipv4() && first(ip, self.prefix) == self.address
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// The first address of the network with that prefix which the address is in.
fn first(ip: IpAddr, prefix: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            Ipv4Addr::from_bits(ip.to_bits() & u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)).into()
        }
        IpAddr::V6(ip) => {
            Ipv6Addr::from_bits(ip.to_bits() & u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)).into()
        }
    }
}

/// `10.0.0.0/8`, or one address.
pub(super) fn network(text: &str) -> Result<Network, Complaint> {
    let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
    let Ok(address) = address.parse::<IpAddr>() else {
        let hint = "write it like \"10.0.0.0/8\", \"192.0.2.7\" or \"2001:db8::/32\"";
        return Err(Complaint::new("no network and no IP address", hint));
    };
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let prefix: Option<u8> = match prefix {
        None => Some(bits),
        Some(written) if written.bytes().all(|byte| byte.is_ascii_digit()) => {
            written.parse().ok().filter(|prefix| *prefix <= bits)
        }
        Some(_) => None,
    };
    let Some(prefix) = prefix else {
        return Err(Complaint::new("no prefix length", format!("what follows `/` is 0 to {bits}")));
    };
    if address.to_canonical() != address {
        let hint = format!("write \"{}/{}\"", address.to_canonical(), prefix.saturating_sub(96));
        return Err(Complaint::new("clients with IPv4 addresses are matched as IPv4", hint));
    }
    let first = first(address, prefix);
    if first != address {
        let hint = format!("write \"{first}/{prefix}\", or \"{address}\" for this address alone");
        return Err(Complaint::new("there are bits set behind the prefix", hint));
    }
    Ok(Network { address, prefix })
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

#[cfg(test)]
mod tests {
    use super::super::faults::shown;
    use super::*;

    fn networks(text: &str) -> Network {
        network(text).unwrap_or_else(|complaint| panic!("{}: {}", shown(text), complaint.what))
    }

    #[test]
    fn networks_hold_what_their_prefix_says() {
        for (text, inside, outside) in [
            (
                "10.0.0.0/8",
                &["10.0.0.0", "10.255.255.255", "::ffff:10.1.2.3"][..],
                &["11.0.0.0", "9.255.255.255", "::"][..],
            ),
            ("192.0.2.7", &["192.0.2.7"], &["192.0.2.6", "192.0.2.8"]),
            ("192.0.2.128/25", &["192.0.2.128", "192.0.2.255"], &["192.0.2.127", "192.0.3.128"]),
            ("0.0.0.0/0", &["0.0.0.0", "255.255.255.255", "::ffff:1.2.3.4"], &["::1", "::"]),
            ("::/0", &["::1", "ffff::"], &["10.0.0.1", "::ffff:10.0.0.1"]),
            ("2001:db8::/33", &["2001:db8::1", "2001:db8:7fff::"], &["2001:db8:8000::", "2001:db7::"]),
            ("::1", &["::1"], &["::2", "::", "127.0.0.1"]),
        ] {
            let network = networks(text);
            for ip in inside {
                assert!(network.contains(ip.parse().unwrap()), "{ip} in {text}");
            }
            for ip in outside {
                assert!(!network.contains(ip.parse().unwrap()), "{ip} not in {text}");
            }
        }
        for text in [
            "",
            "/",
            "10.0.0.0/",
            "/8",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.1/8",
            "10.0.0.0/+8",
            "10.0.0.0/8/8",
            "10/8",
            "a.example",
            "10.0.0.0/255.0.0.0",
            "::ffff:10.0.0.0/104",
            "2001:db8::1/32",
            "10.0.0.0/256",
            "[::1]",
        ] {
            assert!(network(text).is_err(), "{text:?}");
        }
    }
}
