//! PURE. Which backend a session belongs to, by the rules of its pool: asked once a session, after it is routed.

use std::net::{IpAddr, SocketAddr};

use super::{ClientFacts, Hello};
use crate::balance::{Affinity, hash_of};
use crate::config::{HashBy, Prefix, Sticky, StickyBy};

/// What a pool makes of a client.
pub fn affinity(by: HashBy, sticky: Option<Sticky>, client: &ClientFacts<'_>) -> Affinity {
    let known_as = sticky.map(|Sticky { by: StickyBy::ClientAddress, prefix, .. }| prefix.network(client.address.ip()));
    Affinity { hash: hash(by, client), client: known_as }
}

/// A client without what is to be hashed counts by its address, so that it meets the same backend each time.
pub(super) fn hash(by: HashBy, client: &ClientFacts<'_>) -> u64 {
    let whole = || hash_of_ip(Prefix::WHOLE.network(client.address.ip()));
    match by {
        HashBy::ClientAddress(prefix) => hash_of_ip(prefix.network(client.address.ip())),
        HashBy::ClientAndPort => hash_of_socket(client.address),
        HashBy::Sni => {
            let name = match client.hello {
                Hello::Read(hello) => hello.server_name.as_deref(),
                Hello::Open | Hello::None => None,
            };
            name.map_or_else(whole, |name| hash_of(name.as_bytes(), 0))
        }
        HashBy::Destination => client.destination.map_or_else(whole, hash_of_socket),
        HashBy::ProxyTlv(kind) => {
            let value = client.tlvs.iter().find(|tlv| tlv.kind == kind);
            value.map_or_else(whole, |tlv| hash_of(&tlv.value, 0))
        }
    }
}

fn hash_of_ip(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => hash_of(&address.octets(), 0),
        IpAddr::V6(address) => hash_of(&address.octets(), 0),
    }
}

fn hash_of_socket(address: SocketAddr) -> u64 {
    let port = address.port().to_be_bytes();
    match address.ip().to_canonical() {
        IpAddr::V4(address) => hash_of(&[&address.octets()[..], &port].concat(), 0),
        IpAddr::V6(address) => hash_of(&[&address.octets()[..], &port].concat(), 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy_protocol::Tlv;
    use crate::route::hello::ClientHello;

    const WHOLE: HashBy = HashBy::ClientAddress(Prefix::WHOLE);

    fn at(text: &str) -> ClientFacts<'static> {
        let address = SocketAddr::new(text.parse().unwrap(), 4_000);
        ClientFacts::of(address)
    }

    fn with_port(mut client: ClientFacts<'static>, port: u16) -> ClientFacts<'static> {
        client.address.set_port(port);
        client
    }

    fn same(by: HashBy, a: ClientFacts<'_>, b: ClientFacts<'_>) -> bool {
        hash(by, &a) == hash(by, &b)
    }

    #[test]
    fn a_client_is_its_address_its_network_or_its_connection() {
        assert!(same(WHOLE, at("10.0.0.1"), with_port(at("10.0.0.1"), 9)));
        assert!(same(WHOLE, at("10.0.0.1"), at("::ffff:10.0.0.1")));
        assert!(!same(WHOLE, at("10.0.0.1"), at("10.0.0.2")) && !same(WHOLE, at("10.0.0.1"), at("a00:1::")));
        let networks = HashBy::ClientAddress(Prefix { v4: 24, v6: 56 });
        assert!(same(networks, at("10.0.0.1"), at("10.0.0.254")) && !same(networks, at("10.0.0.1"), at("10.0.1.1")));
        assert!(same(networks, at("2001:db8:0:12::1"), at("2001:db8:0:34::2")));
        assert!(!same(networks, at("2001:db8:0:112::1"), at("2001:db8:0:234::2")));
        let all = HashBy::ClientAddress(Prefix { v4: 0, v6: 0 });
        assert!(same(all, at("10.0.0.1"), at("192.0.2.1")) && same(all, at("::1"), at("2001:db8::1")));
        let connection = HashBy::ClientAndPort;
        assert!(!same(connection, at("10.0.0.1"), with_port(at("10.0.0.1"), 9)));
        assert!(same(connection, at("10.0.0.1"), at("::ffff:10.0.0.1")));
    }

    /// These values may never change: balancers of two versions serve the same clients during an upgrade.
    #[test]
    fn the_hash_of_a_client_is_the_same_for_ever() {
        assert_eq!(hash(WHOLE, &at("10.0.0.1")), 15_297_873_098_484_991_757);
    }

    #[test]
    fn what_it_connected_to_counts_whoever_it_is() {
        let to = |client, destination: &str| ClientFacts { destination: destination.parse().ok(), ..at(client) };
        let by = HashBy::Destination;
        assert!(same(by, to("10.0.0.1", "192.0.2.7:443"), to("10.0.0.2", "192.0.2.7:443")));
        assert!(same(by, to("10.0.0.1", "192.0.2.7:443"), to("10.0.0.2", "[::ffff:192.0.2.7]:443")));
        assert!(!same(by, to("10.0.0.1", "192.0.2.7:443"), to("10.0.0.1", "192.0.2.7:444")));
        assert!(!same(by, to("10.0.0.1", "192.0.2.7:443"), to("10.0.0.1", "192.0.2.8:443")));
        assert_eq!(hash(by, &at("10.0.0.1")), hash(WHOLE, &at("10.0.0.1")), "unknown: by its address");
    }

    #[test]
    fn a_value_of_the_header_counts_whoever_sends_it() {
        let tlv = |kind, value: &[u8]| Tlv { kind, value: value.to_vec() };
        let (one, other) = ([tlv(1, b"x"), tlv(0xE4, b"tenant-7")], [tlv(0xE4, b"tenant-8"), tlv(0xEA, b"tenant-7")]);
        let said = |client, tlvs| ClientFacts { tlvs, ..at(client) };
        let by = HashBy::ProxyTlv(0xE4);
        assert!(same(by, said("10.0.0.1", &one), said("10.0.0.2", &one)));
        assert!(!same(by, said("10.0.0.1", &one), said("10.0.0.1", &other)));
        assert_eq!(hash(by, &said("10.0.0.1", &one[..1])), hash(WHOLE, &at("10.0.0.1")), "by its address");
    }

    #[test]
    fn a_server_name_counts_whoever_asks_for_it() {
        let hello = |name: Option<&str>| ClientHello { server_name: name.map(Into::into), alpn: Vec::new() };
        let (one, other, nameless) = (hello(Some("db.example.com")), hello(Some("web.example.com")), hello(None));
        let asks = |client, hello| ClientFacts { hello, ..at(client) };
        let by = HashBy::Sni;
        assert!(same(by, asks("10.0.0.1", Hello::Read(&one)), asks("10.0.0.2", Hello::Read(&one))));
        assert!(!same(by, asks("10.0.0.1", Hello::Read(&one)), asks("10.0.0.1", Hello::Read(&other))));
        for unnamed in [Hello::Read(&nameless), Hello::None, Hello::Open] {
            assert_eq!(hash(by, &asks("10.0.0.1", unnamed)), hash(WHOLE, &at("10.0.0.1")), "by its address");
        }
    }

    #[test]
    fn what_is_sticky_is_the_network_of_the_client() {
        let sticky = Sticky {
            by: StickyBy::ClientAddress,
            prefix: Prefix { v4: 24, v6: 56 },
            ttl: std::time::Duration::from_secs(1),
            max: 1,
        };
        let known_as = |client| affinity(WHOLE, Some(sticky), &at(client)).client.unwrap().to_string();
        assert_eq!([known_as("10.0.0.9"), known_as("::ffff:10.0.0.9")], ["10.0.0.0", "10.0.0.0"]);
        assert_eq!(known_as("2001:db8:0:134::9"), "2001:db8:0:100::");
        assert_eq!(affinity(WHOLE, None, &at("10.0.0.9")).client, None);
    }
}
