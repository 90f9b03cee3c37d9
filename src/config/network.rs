//! A network as it is written: `10.0.0.0/8`, or one address. For the keys that tell clients and peers apart.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::faults::Complaint;

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    /// Its first address; no bits set behind the prefix.
    pub address: IpAddr,
    /// Bits that count: 0 to 32, or to 128.
    pub prefix: u8,
}

impl Network {
    /// An IPv4 address that came in on an IPv6 socket counts as IPv4.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        ip.is_ipv4() == self.address.is_ipv4() && first_address(ip, self.prefix) == self.address
    }

    /// Itself and every larger network that it is in.
    pub(super) fn around(self) -> impl Iterator<Item = Self> {
        (0..=self.prefix).map(move |prefix| Self { address: first_address(self.address, prefix), prefix })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// The first address of the network with that prefix which the address is in.
pub fn first_address(ip: IpAddr, prefix: u8) -> IpAddr {
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
pub(super) fn parse(text: &str) -> Result<Network, Complaint> {
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
    let first = first_address(address, prefix);
    if first != address {
        let hint = format!("write \"{first}/{prefix}\", or \"{address}\" for this address alone");
        return Err(Complaint::new("there are bits set behind the prefix", hint));
    }
    Ok(Network { address, prefix })
}

#[cfg(test)]
mod tests {
    use super::super::faults::shown;
    use super::*;

    fn parsed(text: &str) -> Network {
        parse(text).unwrap_or_else(|complaint| panic!("{}: {}", shown(text), complaint.what))
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
            let network = parsed(text);
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
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
