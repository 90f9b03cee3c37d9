//! Version 1 of the header: one line of ASCII, read strictly as specified. Called by the module above only.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::str::FromStr;

use super::{Addresses, Header, HeaderError, Parsed};

pub(super) const SIGNATURE: &[u8] = b"PROXY ";
/// With its line end (section 2.1).
const LONGEST_LINE: usize = 107;
const SHORTEST_LINE: usize = b"PROXY UNKNOWN\r\n".len();

/// `bytes` begins like the signature.
pub(super) fn parse(bytes: &[u8]) -> Parsed {
    let line = &bytes[..bytes.len().min(LONGEST_LINE)];
    let Some(end) = line.windows(2).position(|pair| pair == b"\r\n") else {
        let missing = if line.ends_with(b"\r") { 1 } else { 2 };
        if line.len() + missing > LONGEST_LINE {
            return Parsed::Invalid(HeaderError::TooLong);
        }
        return Parsed::NeedMore(missing.max(SHORTEST_LINE.saturating_sub(line.len())));
    };
    match meaning(&line[..end]) {
        Some(addresses) => Parsed::Done(Header::Proxy { addresses, tlvs: Vec::new() }, end + 2),
        None => Parsed::Invalid(HeaderError::Line),
    }
}

fn meaning(line: &[u8]) -> Option<Option<Addresses>> {
    // The specification says to ignore what follows UNKNOWN.
    if line == b"PROXY UNKNOWN" || line.starts_with(b"PROXY UNKNOWN ") {
        return Some(None);
    }
    let mut words = str::from_utf8(line).ok()?.split(' ').skip(1);
    let (family, source, destination) = (words.next()?, words.next()?, words.next()?);
    let (source_port, destination_port) = (port(words.next()?)?, port(words.next()?)?);
    if words.next().is_some() {
        return None;
    }
    let addresses = match family {
        "TCP4" => {
            let (source, destination) = both::<Ipv4Addr>(source, destination)?;
            Addresses::V4(SocketAddrV4::new(source, source_port), SocketAddrV4::new(destination, destination_port))
        }
        "TCP6" => {
            let (source, destination) = both::<Ipv6Addr>(source, destination)?;
            Addresses::V6(
                SocketAddrV6::new(source, source_port, 0, 0),
                SocketAddrV6::new(destination, destination_port, 0, 0),
            )
        }
        _ => return None,
    };
    Some(Some(addresses))
}

fn both<T: FromStr>(source: &str, destination: &str) -> Option<(T, T)> {
    Some((source.parse().ok()?, destination.parse().ok()?))
}

/// Rust's parser accepts a sign and leading zeros; the specification does not.
fn port(word: &str) -> Option<u16> {
    let plain = word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    word.parse().ok().filter(|_| plain)
}

pub(super) fn write(addresses: Option<Addresses>) -> Vec<u8> {
    let line = match addresses {
        None => "PROXY UNKNOWN\r\n".to_owned(),
        Some(Addresses::V4(from, to)) => {
            format!("PROXY TCP4 {} {} {} {}\r\n", from.ip(), to.ip(), from.port(), to.port())
        }
        Some(Addresses::V6(from, to)) => {
            format!("PROXY TCP6 {} {} {} {}\r\n", from.ip(), to.ip(), from.port(), to.port())
        }
    };
    line.into_bytes()
}
