//! The messages of `chaos`: requests and replies of 64 bytes in which every byte is known. Pure.
//!
//! A reply names its backend, which shows when a backend is back. The first byte tells the line of a check from a request.

use crate::pattern::{Direction, Pattern};

/// Bytes of a request or a reply.
pub(super) const LENGTH: usize = 64;

/// The line that a check sends, and the answer that it expects.
pub(super) const PING: &[u8] = b"PING\r\n";
pub(super) const PONG: &[u8] = b"PONG\r\n";

const MAGIC: &[u8; 8] = b"EKCHAOS\x01";
const HEAD: usize = 32;
const SEED: u64 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request {
    /// Number of the connection, unique within the cell.
    pub(super) connection: u64,
    /// Number of the exchange on the connection, from 0.
    pub(super) exchange: u64,
    /// The backend closes after the reply.
    pub(super) last: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parsed {
    More,
    /// The line of a check.
    Ping,
    /// A request; `right` if its content is what the client sends.
    Request {
        request: Request,
        right: bool,
    },
    Bad,
}

/// Why a reply does not belong to the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum WrongReply {
    #[error("the backend says that the request arrived wrong")]
    Request,
    #[error("byte {0} of the reply is wrong")]
    Content(usize),
}

impl Request {
    pub(super) fn encode(&self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..16].copy_from_slice(&self.connection.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.exchange.to_be_bytes());
        bytes[24..32].copy_from_slice(&u64::from(self.last).to_be_bytes());
        self.pattern(Direction::Up).fill(0, &mut bytes[HEAD..]);
        bytes
    }

    /// The reply of backend number `backend`. If the request was wrong, the content is inverted; no proxy can lose that message.
    pub(super) fn reply(&self, backend: u8, right: bool) -> [u8; LENGTH] {
        let mut bytes = [backend; LENGTH];
        self.pattern(Direction::Down).fill(0, &mut bytes[1..]);
        if !right {
            bytes[1..].iter_mut().for_each(|byte| *byte = !*byte);
        }
        bytes
    }

    /// The backend that gave this reply.
    pub(super) fn answered_by(&self, reply: &[u8; LENGTH]) -> Result<u8, WrongReply> {
        let Some(at) = self.pattern(Direction::Down).mismatch(0, &reply[1..]) else { return Ok(reply[0]) };
        if *reply == self.reply(reply[0], false) { Err(WrongReply::Request) } else { Err(WrongReply::Content(at + 1)) }
    }

    fn pattern(&self, direction: Direction) -> Pattern {
        Pattern::new(SEED, self.connection, self.exchange, direction)
    }
}

/// Reads the message at the beginning of `bytes`.
pub(super) fn parse(bytes: &[u8]) -> Parsed {
    if bytes.is_empty() {
        return Parsed::More;
    }
    if bytes[0] == PING[0] {
        return match bytes {
            _ if bytes.starts_with(PING) => Parsed::Ping,
            _ if PING.starts_with(bytes) => Parsed::More,
            _ => Parsed::Bad,
        };
    }
    let head = bytes.len().min(MAGIC.len());
    if bytes[..head] != MAGIC[..head] {
        return Parsed::Bad;
    }
    let Some(bytes) = bytes.first_chunk::<LENGTH>() else { return Parsed::More };
    let (words, _) = bytes.as_chunks::<8>();
    let field = |at: usize| u64::from_be_bytes(words[at]);
    let request = Request { connection: field(1), exchange: field(2), last: field(3) == 1 };
    Parsed::Request { request, right: request.encode() == *bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: Request = Request { connection: 7, exchange: 3, last: true };

    #[test]
    fn a_request_is_known_by_its_last_byte_and_not_before() {
        let bytes = REQUEST.encode();
        for end in 0..LENGTH {
            assert_eq!(parse(&bytes[..end]), Parsed::More, "{end}");
        }
        assert_eq!(parse(&bytes), Parsed::Request { request: REQUEST, right: true });
    }

    #[test]
    fn a_check_is_no_request() {
        assert_eq!(parse(&PING[..3]), Parsed::More);
        assert_eq!(parse(PING), Parsed::Ping);
        assert_eq!(parse(b"PANG\r\n"), Parsed::Bad);
        assert_eq!(parse(b"GET / HTTP/1.1"), Parsed::Bad);
    }

    #[test]
    fn any_wrong_byte_shows_at_the_client() {
        for at in 8..LENGTH {
            let mut bytes = REQUEST.encode();
            bytes[at] ^= 4;
            // A changed head makes another request, with another reply.
            let Parsed::Request { request, right } = parse(&bytes) else { panic!("byte {at}") };
            assert!(REQUEST.answered_by(&request.reply(1, right)).is_err(), "byte {at} of the request");
        }
        let right = REQUEST.reply(2, true);
        assert_eq!(REQUEST.answered_by(&right), Ok(2));
        for at in 1..LENGTH {
            let mut wrong = right;
            wrong[at] ^= 4;
            assert_eq!(REQUEST.answered_by(&wrong), Err(WrongReply::Content(at)));
        }
        assert_eq!(REQUEST.answered_by(&REQUEST.reply(2, false)), Err(WrongReply::Request));
        let other = Request { connection: 8, ..REQUEST };
        assert!(REQUEST.answered_by(&other.reply(2, true)).is_err(), "the reply of another connection");
    }
}
