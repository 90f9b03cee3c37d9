//! Version 2 of the header: sixteen bytes, addresses, typed values. Called by the module above only.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};

use super::crc32c::crc32c;
use super::{Addresses, CRC32C, Header, HeaderError, LONGEST, NOOP, Parsed, Tlv};

pub(super) const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const FIXED_PART: usize = 16;

const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const UNSPECIFIED: u8 = 0x00;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// `bytes` begins like the signature.
pub(super) fn parse(bytes: &[u8]) -> Parsed {
    let command = bytes.get(SIGNATURE.len()).copied();
    if command.is_some_and(|command| command != LOCAL && command != PROXY) {
        return Parsed::Invalid(HeaderError::Command);
    }
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED_PART>() else {
        return Parsed::NeedMore(FIXED_PART - bytes.len());
    };
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if FIXED_PART + length > LONGEST {
        return Parsed::Invalid(HeaderError::TooLong);
    }
    let Some(block) = rest.get(..length) else {
        return Parsed::NeedMore(length - rest.len());
    };
    // Section 2.2: the whole block of a LOCAL header is discarded, with its family.
    if command == Some(LOCAL) {
        return Parsed::Done(Header::Local, FIXED_PART + length);
    }
    match meaning(fixed[13], block, &bytes[..FIXED_PART + length]) {
        Ok(header) => Parsed::Done(header, FIXED_PART + length),
        Err(fault) => Parsed::Invalid(fault),
    }
}

fn meaning(family: u8, block: &[u8], whole: &[u8]) -> Result<Header, HeaderError> {
    let (high, low) = (family >> 4, family & 0x0f);
    if high > 3 || low > 2 {
        return Err(HeaderError::Family);
    }
    let size = match high {
        0 => 0,
        1 => 12,
        2 => 36,
        _ => 216,
    };
    let (addresses, values) = block.split_at_checked(size).ok_or(HeaderError::Family)?;
    let addresses = match family {
        TCP4 => v4(addresses),
        TCP6 => v6(addresses),
        // Valid, but not the addresses of a TCP client: the addresses of the connection count.
        _ => None,
    };
    let tlvs = match tlvs(values, whole) {
        // After an unspecified family anything may follow, and is skipped.
        Err(HeaderError::Tlv) if high == 0 => Vec::new(),
        other => other?,
    };
    Ok(Header::Proxy { addresses, tlvs })
}

fn v4(block: &[u8]) -> Option<Addresses> {
    let (from, rest) = block.split_first_chunk::<4>()?;
    let (to, ports) = rest.split_first_chunk::<4>()?;
    let (from_port, to_port) = both_ports(ports)?;
    Some(Addresses::V4(
        SocketAddrV4::new(Ipv4Addr::from(*from), from_port),
        SocketAddrV4::new(Ipv4Addr::from(*to), to_port),
    ))
}

fn v6(block: &[u8]) -> Option<Addresses> {
    let (from, rest) = block.split_first_chunk::<16>()?;
    let (to, ports) = rest.split_first_chunk::<16>()?;
    let (from_port, to_port) = both_ports(ports)?;
    Some(Addresses::V6(
        SocketAddrV6::new(Ipv6Addr::from(*from), from_port, 0, 0),
        SocketAddrV6::new(Ipv6Addr::from(*to), to_port, 0, 0),
    ))
}

fn both_ports(bytes: &[u8]) -> Option<(u16, u16)> {
    let &[a, b, c, d] = bytes else { return None };
    Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

/// `values` is the end of `whole`.
fn tlvs(mut values: &[u8], whole: &[u8]) -> Result<Vec<Tlv>, HeaderError> {
    let mut found = Vec::new();
    while !values.is_empty() {
        let (&[kind, high, low], rest) = values.split_first_chunk::<3>().ok_or(HeaderError::Tlv)?;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (value, next) = rest.split_at_checked(length).ok_or(HeaderError::Tlv)?;
        match kind {
            CRC32C => {
                let begin = whole.len() - rest.len();
                let sum = <[u8; 4]>::try_from(value).map_err(|_| HeaderError::Checksum)?;
                if u32::from_be_bytes(sum) != checksum(whole, begin) {
                    return Err(HeaderError::Checksum);
                }
            }
            NOOP => {}
            _ => found.push(Tlv { kind, value: value.to_vec() }),
        }
        values = next;
    }
    Ok(found)
}

/// The checksum of a header whose checksum field is the four bytes at `at`; they count as zeros.
fn checksum(header: &[u8], at: usize) -> u32 {
    crc32c(header.iter().enumerate().map(|(i, byte)| if (at..at + 4).contains(&i) { 0 } else { *byte }))
}

/// The header, and the types of the values that did not fit.
pub(super) fn write(header: &Header, with_checksum: bool) -> (Vec<u8>, Vec<u8>) {
    let mut bytes = SIGNATURE.to_vec();
    let (addresses, tlvs) = match header {
        Header::Local => {
            bytes.push(LOCAL);
            (&None, &[][..])
        }
        Header::Proxy { addresses, tlvs } => {
            bytes.push(PROXY);
            (addresses, tlvs.as_slice())
        }
    };
    // The length is filled in at the end.
    match addresses {
        None => bytes.extend([UNSPECIFIED, 0, 0]),
        Some(Addresses::V4(from, to)) => {
            bytes.extend([TCP4, 0, 0]);
            bytes.extend(from.ip().octets().into_iter().chain(to.ip().octets()));
            bytes.extend(from.port().to_be_bytes().into_iter().chain(to.port().to_be_bytes()));
        }
        Some(Addresses::V6(from, to)) => {
            bytes.extend([TCP6, 0, 0]);
            bytes.extend(from.ip().octets().into_iter().chain(to.ip().octets()));
            bytes.extend(from.port().to_be_bytes().into_iter().chain(to.port().to_be_bytes()));
        }
    }
    let room = if with_checksum { LONGEST - 7 } else { LONGEST };
    let mut left_out = Vec::new();
    for Tlv { kind, value } in tlvs {
        if let Ok(length) = u16::try_from(value.len())
            && bytes.len() + 3 + value.len() <= room
        {
            bytes.push(*kind);
            bytes.extend(length.to_be_bytes());
            bytes.extend(value);
        } else {
            left_out.push(*kind);
        }
    }
    let sum_at = bytes.len() + 3;
    if with_checksum {
        bytes.extend([CRC32C, 0, 4, 0, 0, 0, 0]);
    }
    // At most `LONGEST`, so it fits.
    let length = u16::try_from(bytes.len() - FIXED_PART).unwrap_or_default();
    bytes[14..FIXED_PART].copy_from_slice(&length.to_be_bytes());
    if with_checksum {
        let sum = checksum(&bytes, sum_at);
        bytes[sum_at..].copy_from_slice(&sum.to_be_bytes());
    }
    (bytes, left_out)
}
