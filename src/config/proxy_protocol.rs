//! The keys of the PROXY protocol: `accept_proxy` of a listener, `send_proxy` of a pool and of its check; what they mean
//! and how they are read. Used by the reading of those three alone.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;
use toml::Spanned;

use super::faults::{Complaint, Reading, Zero};
use super::shape::{AcceptProxyShape, SendProxyShape};
use super::values::{Section, SwitchOrText};

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
const VERSIONS: [(&str, ProxyVersion); 2] = [("v1", ProxyVersion::V1), ("v2", ProxyVersion::V2)];
/// What a DNS name has at most; a TLS server name is one.
const LONGEST_AUTHORITY: usize = 255;

/// `accept_proxy = { … }`: who may say on whose behalf it connects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AcceptProxy {
    /// At least one. From other peers no header is expected, and none is believed.
    pub from: Vec<Network>,
    /// For the whole header, from accept on.
    pub timeout: Duration,
    /// Whether a trusted peer without a header is refused.
    pub required: bool,
}

impl AcceptProxy {
    /// Whether a peer may send a header.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.from.iter().any(|network| network.contains(peer))
    }
}

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its first address; no bits set behind the prefix.
    pub address: IpAddr,
    /// Bits that count: 0 to 32, or to 128.
    pub prefix: u8,
}

impl Network {
    /// An IPv4 address that came in on an IPv6 socket counts as IPv4.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.address, ip.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(ip)) => (own.to_bits() ^ ip.to_bits()) & mask_v4(self.prefix) == 0,
            (IpAddr::V6(own), IpAddr::V6(ip)) => (own.to_bits() ^ ip.to_bits()) & mask_v6(self.prefix) == 0,
            _ => false,
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

fn mask_v4(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

fn mask_v6(prefix: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)
}

/// `"v1"` or `"v2"`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
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

impl SendProxy {
    /// Without what belongs to it.
    pub fn version(&self) -> ProxyVersion {
        match self {
            Self::V1 => ProxyVersion::V1,
            Self::V2(_) => ProxyVersion::V2,
        }
    }
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

/// Of a listener.
pub(super) fn accept(section: Option<&Section<AcceptProxyShape>>, reading: &mut Reading<'_>) -> Option<AcceptProxy> {
    let Section { span, shape } = section?;
    let hint = "add the addresses of the proxies in front: from = [\"10.0.0.0/8\"]";
    match &shape.from {
        None => reading.fault(span.clone(), "`accept_proxy` without `from` would believe nobody", hint),
        Some(from) if from.items.is_empty() => reading.fault(from.span.clone(), "`from` is empty", hint),
        Some(_) => {}
    }
    let from = shape.from.iter().flat_map(|from| &from.items);
    Some(AcceptProxy {
        from: from.filter_map(|item| reading.parsed_item("from", item, network)).collect(),
        timeout: reading.duration("timeout", &shape.timeout, Zero::Refused).unwrap_or(DEFAULT_TIMEOUT),
        required: shape.required.unwrap_or(true),
    })
}

/// `10.0.0.0/8`, or one address.
pub(super) fn network(text: &str) -> Result<Network, Complaint> {
    let hint = "write it like \"10.0.0.0/8\", \"192.0.2.7\" or \"2001:db8::/32\"";
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let Ok(address) = address.parse::<IpAddr>() else {
        return Err(Complaint::new("no network and no IP address", hint));
    };
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let prefix: u8 = match prefix {
        None => bits,
        Some(written) => {
            let plain = written.bytes().all(|byte| byte.is_ascii_digit());
            let Some(prefix) = written.parse().ok().filter(|prefix| plain && *prefix <= bits) else {
                return Err(Complaint::new("no prefix length", format!("what follows `/` is 0 to {bits}")));
            };
            prefix
        }
    };
    if address.to_canonical() != address {
        let hint = format!("write \"{}/{}\"", address.to_canonical(), prefix.saturating_sub(96));
        return Err(Complaint::new("clients with IPv4 addresses are matched as IPv4", hint));
    }
    let first = match address {
        IpAddr::V4(v4) => IpAddr::from((v4.to_bits() & mask_v4(prefix)).to_be_bytes()),
        IpAddr::V6(v6) => IpAddr::from((v6.to_bits() & mask_v6(prefix)).to_be_bytes()),
    };
    if first != address {
        let hint = format!("write \"{first}/{prefix}\", or \"{address}\" for this address alone");
        return Err(Complaint::new("there are bits set behind the prefix", hint));
    }
    Ok(Network { address, prefix })
}

/// Of a pool.
pub(super) fn send(section: Option<&Section<SendProxyShape>>, reading: &mut Reading<'_>) -> Option<SendProxy> {
    let Section { span, shape } = section?;
    let as_text = shape.version.as_ref().is_some_and(|version| version.span() == *span);
    let key = if as_text { "send_proxy" } else { "version" };
    // A fault makes it v2, to which every key applies.
    let version = reading.word(key, &shape.version, &VERSIONS, ProxyVersion::V2);
    if shape.version.is_none() {
        reading.fault(span.clone(), "`send_proxy` without `version`", "add it: version = \"v2\"");
    }
    if version == ProxyVersion::V1 {
        let keys = [
            ("unique_id", shape.unique_id.as_ref().map(Spanned::span)),
            ("authority", shape.authority.as_ref().map(Spanned::span)),
            ("crc32c", shape.crc32c.as_ref().map(Spanned::span)),
            ("tlvs", shape.tlvs.as_ref().map(Spanned::span)),
        ];
        for (key, span) in keys {
            let Some(span) = span else { continue };
            let hint = "remove it, or make the version \"v2\": version 1 holds the addresses alone";
            reading.fault(span, format!("`{key}` does not apply to version `v1`"), hint);
        }
        return Some(SendProxy::V1);
    }
    let on = |value: &Option<Spanned<bool>>, default| value.as_ref().map_or(default, |value| *value.get_ref());
    Some(SendProxy::V2(ProxyValues {
        unique_id: on(&shape.unique_id, true),
        authority: authority(shape.authority.as_ref(), reading),
        crc32c: on(&shape.crc32c, false),
        tlvs: on(&shape.tlvs, true),
    }))
}

fn authority(value: Option<&Spanned<SwitchOrText>>, reading: &mut Reading<'_>) -> Authority {
    let Some(value) = value else { return Authority::Received };
    match value.get_ref() {
        SwitchOrText::Switch(true) => Authority::Received,
        SwitchOrText::Switch(false) => Authority::None,
        SwitchOrText::Text(text) => {
            let written = Spanned::new(value.span(), text.clone());
            reading.parsed_item("authority", &written, host_name).map_or(Authority::None, Authority::Fixed)
        }
    }
}

fn host_name(text: &str) -> Result<String, Complaint> {
    let is_plain = |c: char| !c.is_control() && !c.is_whitespace();
    if text.is_empty() || text.len() > LONGEST_AUTHORITY || !text.chars().all(is_plain) {
        let hint = "write a name such as \"www.example.com\", true (as received) or false";
        return Err(Complaint::new("no host name", hint));
    }
    Ok(text.to_owned())
}

/// Of a pool's check: what the pool sends, unless it says otherwise.
pub(super) fn of_check(
    value: Option<&Spanned<SwitchOrText>>,
    of_pool: Option<ProxyVersion>,
    reading: &mut Reading<'_>,
) -> Option<ProxyVersion> {
    let Some(value) = value else { return of_pool };
    match value.get_ref() {
        SwitchOrText::Switch(false) => None,
        SwitchOrText::Switch(true) => {
            let hint = "write \"v1\", \"v2\" or false; without the key, probes do as the pool's send_proxy says";
            reading.refuse(value.span(), "send_proxy", "true", Complaint::new("there is no such value", hint));
            None
        }
        SwitchOrText::Text(text) => {
            let written = Some(Spanned::new(value.span(), text.clone()));
            Some(reading.word("send_proxy", &written, &VERSIONS, ProxyVersion::V2))
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
