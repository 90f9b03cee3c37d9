//! PURE. The PROXY header, versions 1 and 2: reads and writes it.
//! Read by sessions, written by sessions and probes.
//! No crate: the small ones for it leave out the bound, half a header and the checksum, which have to be right here.
//!
//! Source: `doc/proxy-protocol.txt` of HAProxy, sections 2.1 and 2.2.

mod binary;
mod crc32c;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
mod text;

use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};

use thiserror::Error;

/// The longest header that is read or written, in bytes. Version 1 ends at 107. Version 2 could have 64 KiB, but real
/// senders use a few hundred, and each new connection may hold this much.
pub const LONGEST: usize = 4_096;

/// Type of a [`Tlv`]: the protocol above, as ALPN (RFC 7301) names it.
pub const ALPN: u8 = 0x01;
/// Type of a [`Tlv`]: the host name that the client asked for, UTF-8.
pub const AUTHORITY: u8 = 0x02;
/// Type of a [`Tlv`]: the checksum of the header.
pub const CRC32C: u8 = 0x03;
/// Type of a [`Tlv`]: padding.
pub const NOOP: u8 = 0x04;
/// Type of a [`Tlv`]: up to [`LONGEST_ID`] bytes that identify the connection across proxies.
pub const UNIQUE_ID: u8 = 0x05;
/// The longest unique id, in bytes (section 2.2.5).
pub const LONGEST_ID: usize = 128;

/// What a header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Header {
    /// The sender's own connection, such as a health check (version 2 only).
    Local,
    /// The sender relays a connection.
    Proxy {
        /// The addresses of that connection; `None` = not given, or not TCP addresses.
        addresses: Option<Addresses>,
        /// Other values, in their order, without checksum and padding. Always empty in version 1.
        tlvs: Vec<Tlv>,
    },
}

/// Source and destination of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// Both IPv4.
    V4(SocketAddrV4, SocketAddrV4),
    /// Both IPv6.
    V6(SocketAddrV6, SocketAddrV6),
}

impl Addresses {
    /// IPv4 addresses that an IPv6 socket shows become IPv4. A mixture of both can only be written as IPv6.
    pub fn between(source: SocketAddr, destination: SocketAddr) -> Self {
        let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let mapped = |address| match address {
            SocketAddr::V4(v4) => SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0),
            SocketAddr::V6(v6) => SocketAddrV6::new(*v6.ip(), v6.port(), 0, 0),
        };
        match (plain(source), plain(destination)) {
            (SocketAddr::V4(source), SocketAddr::V4(destination)) => Self::V4(source, destination),
            (source, destination) => Self::V6(mapped(source), mapped(destination)),
        }
    }

    /// The client.
    pub fn source(self) -> SocketAddr {
        match self {
            Self::V4(source, _) => source.into(),
            Self::V6(source, _) => source.into(),
        }
    }

    /// What the client connected to.
    pub fn destination(self) -> SocketAddr {
        match self {
            Self::V4(_, destination) => destination.into(),
            Self::V6(_, destination) => destination.into(),
        }
    }
}

/// A typed value of a version 2 header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tlv {
    /// Such as [`UNIQUE_ID`].
    pub kind: u8,
    /// Its bytes, unchanged.
    pub value: Vec<u8>,
}

/// What the first bytes of a connection are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The beginning of a header; at least so many bytes are missing.
    NeedMore(usize),
    /// A header, and how many bytes it has.
    Done(Header, usize),
    /// No header, whatever follows.
    Invalid(HeaderError),
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HeaderError {
    /// The bytes begin like neither version: something else than a header.
    #[error("no PROXY header")]
    NoSignature,
    /// Longer than [`LONGEST`], or version 1 without an end.
    #[error("a PROXY header that is too long")]
    TooLong,
    /// A line that version 1 does not allow.
    #[error("a PROXY header of version 1 with other words than `TCP4`, `TCP6` or `UNKNOWN` and what belongs to them")]
    Line,
    /// The version nibble is not 2, or the command is neither LOCAL nor PROXY.
    #[error("a PROXY header of version 2 with an unknown version or command")]
    Command,
    /// An unassigned family or transport, or fewer bytes than its addresses have.
    #[error("a PROXY header of version 2 with wrong addresses")]
    Family,
    /// A typed value that reaches beyond the header.
    #[error("a PROXY header of version 2 with a typed value that is cut off")]
    Tlv,
    /// The checksum is there and wrong.
    #[error("a PROXY header of version 2 with a wrong checksum")]
    Checksum,
}

/// Reads a header from the beginning of `bytes`, which are all bytes received so far.
pub fn parse(bytes: &[u8]) -> Parsed {
    if begins_like(bytes, text::SIGNATURE) {
        return text::parse(bytes);
    }
    if begins_like(bytes, binary::SIGNATURE) {
        return binary::parse(bytes);
    }
    Parsed::Invalid(HeaderError::NoSignature)
}

/// Whether the signature of a version is complete, so that the bytes can only mean a header.
pub fn is_announced(bytes: &[u8]) -> bool {
    bytes.starts_with(text::SIGNATURE) || bytes.starts_with(binary::SIGNATURE)
}

/// A line of version 1; without addresses it says `UNKNOWN`.
pub fn write_v1(addresses: Option<Addresses>) -> Vec<u8> {
    text::write(addresses)
}

/// A header of version 2, at most [`LONGEST`] bytes: a typed value that does not fit is left out.
pub fn write_v2(header: &Header, checksum: bool) -> Vec<u8> {
    write_v2_and_tell(header, checksum).0
}

/// As [`write_v2`], and the types of the values that were left out.
pub fn write_v2_and_tell(header: &Header, checksum: bool) -> (Vec<u8>, Vec<u8>) {
    binary::write(header, checksum)
}

fn begins_like(bytes: &[u8], signature: &[u8]) -> bool {
    bytes.iter().zip(signature).all(|(byte, wanted)| byte == wanted)
}
