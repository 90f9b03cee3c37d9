//! PURE. The ClientHello at the beginning of a connection: whether there is one, and the server name and the protocols in
//! it. Read by sessions whose route asks for them. Nothing is decrypted; with an encrypted ClientHello (RFC 9849) it is the
//! outer one that is read.
//!
//! No crate: the TLS crates parse a whole message, and so can't tell at which byte something else than a hello has begun.
//!
//! Source: RFC 8446 sections 4.1.2, 4.2 and 5.1, RFC 6066 section 3 (server name), RFC 7301 section 3.1 (ALPN), RFC 8701
//! (GREASE). Hellos of TLS 1.2 and before have the same shape (RFC 5246 section 7.4.1.2), and perhaps no extensions.

#[cfg(test)]
mod properties;
mod records;
#[cfg(test)]
pub(crate) mod shape;
#[cfg(test)]
mod tests;

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use records::{Records, Stop};

/// The handshake type of a ClientHello.
const CLIENT_HELLO: usize = 1;
/// A message without a session id, extensions, and with one cipher suite; the header of the message does not count.
const SHORTEST: usize = 41;
/// A message in which every list is as long as it may be.
const LONGEST: usize = 2 + 32 + (1 + 32) + (2 + 65_534) + (1 + 255) + (2 + 65_535);
/// Version and random bytes, which say nothing about a route.
const FIXED: usize = 2 + 32;
/// Type and length of an extension.
const EXTENSION_HEADER: usize = 4;
/// Type and length of a server name.
const NAME_HEADER: usize = 3;
/// The shortest protocol in its list, with its length.
const PROTOCOL: usize = 2;

/// The longest host name in its written form (RFC 1035 section 2.3.4), and the longest label.
const LONGEST_NAME: usize = 253;
const LONGEST_LABEL: usize = 63;

/// Extension types.
const SERVER_NAME: usize = 0;
const ALPN: usize = 16;
/// The type of a server name that is a host name; there is no other yet.
const HOST_NAME: usize = 0;

/// What a ClientHello says about where its client wants to go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The host name that it asks for: A-labels in lower case, without a dot at the end. `None` = it gives none, or something
    /// that is no host name, such as an IP address, which RFC 6066 does not permit.
    pub server_name: Option<Box<str>>,
    /// The protocols that it offers by ALPN, in its order, without the reserved ones (GREASE).
    pub alpn: Vec<Box<[u8]>>,
}

/// What the first bytes of a connection are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// The beginning of a ClientHello, as far as can be seen.
    NeedMore,
    /// No ClientHello, whatever follows.
    NotHello,
    /// A whole one; what comes behind it was not looked at.
    Hello(ClientHello),
}

/// Reads all of it at once. For bytes that come in pieces there is [`HelloReader`].
pub fn read(bytes: &[u8]) -> Reading {
    HelloReader::default().read(bytes)
}

/// Reads a ClientHello that comes in any pieces, each byte once.
///
/// It knows where it is in the message, and what range the number has to be in that comes next. So it says `NotHello` at the
/// first byte that rules a hello out, without memory of its own.
#[derive(Clone, Copy, Debug)]
pub struct HelloReader {
    records: Records,
    field: Field,
    /// What is known of the number in this field, its bytes that are missing, and the least and the most that it may be.
    number: usize,
    missing: usize,
    least: usize,
    most: usize,
    /// Bytes before that field that say nothing about a route.
    skip: usize,
    /// Where the message and the extension end, in bytes of the message.
    end: usize,
    extension_end: usize,
    has_server_name: bool,
    /// Where the first host name begins, and its length.
    name: Option<(Records, usize)>,
    /// Where the list of protocols begins, and its length.
    alpn: Option<(Records, usize)>,
}

/// The number that comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    MessageType,
    MessageLength,
    SessionId,
    CipherSuites,
    Compression,
    Extensions,
    ExtensionType,
    ExtensionLength {
        kind: usize,
    },
    Names,
    NameType,
    NameLength {
        kind: usize,
    },
    Protocols,
    ProtocolLength,
    /// None: it is whole.
    Whole,
    /// None: it is no hello.
    Wrong,
}

impl Default for HelloReader {
    fn default() -> Self {
        Self {
            records: Records::default(),
            field: Field::MessageType,
            number: 0,
            missing: 1,
            least: CLIENT_HELLO,
            most: CLIENT_HELLO,
            skip: 0,
            end: usize::MAX,
            extension_end: 0,
            has_server_name: false,
            name: None,
            alpn: None,
        }
    }
}

impl HelloReader {
    /// Goes on where it was. `bytes` are all bytes received so far, those that it has read already included.
    pub fn read(&mut self, bytes: &[u8]) -> Reading {
        loop {
            match self.field {
                Field::Whole if self.skip == 0 => return Reading::Hello(self.hello(bytes)),
                Field::Wrong => return Reading::NotHello,
                _ => {}
            }
            let piece = match self.records.piece(bytes) {
                Ok(piece) => piece,
                Err(Stop::NeedMore) => return Reading::NeedMore,
                Err(Stop::Wrong) => return Reading::NotHello,
            };
            if self.skip > 0 {
                let skipped = piece.len().min(self.skip);
                self.records.advance(skipped);
                self.skip -= skipped;
            } else {
                let byte = piece[0];
                self.records.advance(1);
                if !self.add(byte) {
                    self.field = Field::Wrong;
                }
            }
        }
    }

    /// A byte of the number; `false` = whatever follows, the number can't be right.
    fn add(&mut self, byte: u8) -> bool {
        self.number = self.number << 8 | usize::from(byte);
        self.missing -= 1;
        let open_bits = 8 * self.missing;
        let (least, most) = (self.number << open_bits, ((self.number + 1) << open_bits) - 1);
        most >= self.least && least <= self.most && (self.missing > 0 || self.take(self.number))
    }

    /// The number is complete, and in its range. Says what comes next; `false` = it contradicts another number.
    fn take(&mut self, number: usize) -> bool {
        match self.field {
            Field::MessageType => self.expect(Field::MessageLength, 3, SHORTEST..=LONGEST),
            Field::MessageLength => {
                self.end = self.records.payload() + number;
                self.skip = FIXED;
                let most = (self.left() - 1).saturating_sub(6).min(32);
                self.expect(Field::SessionId, 1, 0..=most)
            }
            Field::SessionId => {
                self.skip = number;
                let most = (self.left() - 2).saturating_sub(2);
                self.expect(Field::CipherSuites, 2, 2..=most)
            }
            Field::CipherSuites => {
                self.skip = number;
                let most = self.left() - 1;
                number.is_multiple_of(2) && self.expect(Field::Compression, 1, 1..=most)
            }
            Field::Compression => {
                self.skip = number;
                match self.left() {
                    0 => self.is_whole(),
                    left => is_nothing_or(left, 2) && self.expect(Field::Extensions, 2, left - 2..=left - 2),
                }
            }
            Field::Extensions => is_nothing_or(number, EXTENSION_HEADER) && self.next_extension(),
            Field::ExtensionType => {
                let is_repeated =
                    number == SERVER_NAME && self.has_server_name || number == ALPN && self.alpn.is_some();
                let most = self.left() - 2;
                !is_repeated && self.expect(Field::ExtensionLength { kind: number }, 2, 0..=most)
            }
            Field::ExtensionLength { kind } => self.begin_extension(kind, number),
            Field::Names => self.next_name(),
            Field::NameType => {
                let most = self.left_of_extension() - 2;
                self.expect(Field::NameLength { kind: number }, 2, 0..=most)
            }
            Field::NameLength { kind } => self.begin_name(kind, number),
            Field::Protocols => {
                self.alpn = Some((self.records, number));
                self.next_protocol()
            }
            Field::ProtocolLength => {
                self.skip = number;
                is_nothing_or(self.left_of_extension(), PROTOCOL) && self.next_protocol()
            }
            Field::Whole | Field::Wrong => false,
        }
    }

    fn begin_extension(&mut self, kind: usize, length: usize) -> bool {
        if !is_nothing_or(self.left() - length, EXTENSION_HEADER) {
            return false;
        }
        self.extension_end = self.records.payload() + length;
        self.has_server_name |= kind == SERVER_NAME;
        match (kind, length) {
            // As a server writes it. Harmless, and seen from clients, too.
            (SERVER_NAME, 0) => self.next_extension(),
            (SERVER_NAME | ALPN, 0..2) => false,
            (SERVER_NAME, _) => {
                is_nothing_or(length - 2, NAME_HEADER) && self.expect(Field::Names, 2, length - 2..=length - 2)
            }
            (ALPN, _) => length - 2 >= PROTOCOL && self.expect(Field::Protocols, 2, length - 2..=length - 2),
            _ => {
                self.skip = length;
                self.next_extension()
            }
        }
    }

    fn next_extension(&mut self) -> bool {
        if self.left() == 0 { self.is_whole() } else { self.expect(Field::ExtensionType, 2, 0..=0xffff) }
    }

    /// RFC 6066 asks of every type of name that will ever be that a length of two bytes begins it. Two host names are against
    /// it: which of them a server would take is not known.
    fn begin_name(&mut self, kind: usize, length: usize) -> bool {
        if kind == HOST_NAME && self.name.is_some() {
            return false;
        }
        if kind == HOST_NAME {
            self.name = Some((self.records, length));
        }
        self.skip = length;
        is_nothing_or(self.left_of_extension(), NAME_HEADER) && self.next_name()
    }

    fn next_name(&mut self) -> bool {
        match self.left_of_extension() {
            0 => self.next_extension(),
            _ => self.expect(Field::NameType, 1, 0..=0xff),
        }
    }

    fn next_protocol(&mut self) -> bool {
        match self.left_of_extension() {
            0 => self.next_extension(),
            left => self.expect(Field::ProtocolLength, 1, 1..=left - 1),
        }
    }

    fn is_whole(&mut self) -> bool {
        self.field = Field::Whole;
        true
    }

    fn expect(&mut self, field: Field, bytes: usize, range: RangeInclusive<usize>) -> bool {
        (self.field, self.number, self.missing) = (field, 0, bytes);
        (self.least, self.most) = range.into_inner();
        true
    }

    /// Bytes of the message behind what is skipped.
    fn left(&self) -> usize {
        self.end - self.records.payload() - self.skip
    }

    fn left_of_extension(&self) -> usize {
        self.extension_end - self.records.payload() - self.skip
    }

    fn hello(&self, bytes: &[u8]) -> ClientHello {
        let collect = |place: Option<(Records, usize)>| place.map(|(records, length)| records.collect(bytes, length));
        ClientHello {
            server_name: collect(self.name.filter(|(_, length)| *length <= LONGEST_NAME + 1)).and_then(host_name),
            alpn: collect(self.alpn).map_or_else(Vec::new, |list| protocols(&list)),
        }
    }
}

/// Whether `bytes` are none, or enough for what has to begin there.
fn is_nothing_or(bytes: usize, least: usize) -> bool {
    bytes == 0 || bytes >= least
}

/// As names are compared. Underscores are no part of a host name, but real names have them.
fn host_name(mut name: Vec<u8>) -> Option<Box<str>> {
    if name.last() == Some(&b'.') {
        name.pop();
    }
    let is_label = |label: &[u8]| {
        let is_sound = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        (1..=LONGEST_LABEL).contains(&label.len()) && label.iter().all(is_sound)
    };
    if name.len() > LONGEST_NAME || !name.split(|byte| *byte == b'.').all(is_label) {
        return None;
    }
    name.make_ascii_lowercase();
    let name = String::from_utf8(name).ok()?;
    name.parse::<Ipv4Addr>().is_err().then(|| name.into())
}

/// The entries of a list whose lengths are right.
fn protocols(mut list: &[u8]) -> Vec<Box<[u8]>> {
    let mut protocols = Vec::new();
    while let Some((protocol, rest)) =
        list.split_first().and_then(|(length, rest)| rest.split_at_checked((*length).into()))
    {
        if !is_grease(protocol) {
            protocols.push(protocol.into());
        }
        list = rest;
    }
    protocols
}

/// Names that stand for no protocol, sent so that servers learn to ignore what they do not know (RFC 8701 section 2).
fn is_grease(protocol: &[u8]) -> bool {
    matches!(protocol, [first, second] if first == second && first & 0x0f == 0x0a)
}
