//! The header that a client sends at the start of a connection, and the exchanges after it. Pure.
//!
//! A connection carries exchanges, one after another: `up` pattern bytes from the client, then `down` pattern bytes from the server.
//! All scenarios are exchanges of different sizes, so the server need not know them. A server that received something wrong inverts
//! its reply or sends [`BAD_HEADER`]: no proxy can lose that message, because it is inside the payload.

use crate::pattern::{Direction, Pattern, mix_all};

/// Bytes of an encoded [`Header`].
pub const HEADER_LENGTH: usize = 56;

/// The server sends this instead of a reply when it can't read the header; then it closes.
pub const BAD_HEADER: [u8; 8] = *b"EKLTBAD!";

/// The largest `up` or `down`, in bytes, so that a header can't make the server send without end.
pub const LARGEST: u64 = 1 << 40;

const MAGIC: [u8; 8] = *b"EKLT\0\0\0\x01";

/// What one connection will carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Seed of the run.
    pub seed: u64,
    /// Number of the connection, unique within the run.
    pub connection: u64,
    /// Bytes per exchange from client to server.
    pub up: u64,
    /// Bytes per exchange from server to client.
    pub down: u64,
    /// After so many exchanges the server closes; 0 = it waits for the client to close.
    pub exchanges: u64,
}

impl Header {
    /// The bytes on the wire: magic and version, the fields (big-endian), a checksum.
    pub fn encode(&self) -> [u8; HEADER_LENGTH] {
        let fields = [self.seed, self.connection, self.up, self.down, self.exchanges];
        let mut bytes = [0; HEADER_LENGTH];
        let (words, _) = bytes.as_chunks_mut::<8>();
        words[0] = MAGIC;
        for (word, field) in words[1..].iter_mut().zip(fields) {
            *word = field.to_be_bytes();
        }
        // The checksum finds damage, not forgery.
        words[6] = mix_all(fields).to_be_bytes();
        bytes
    }

    /// `None` for anything that is not a header of this version with sizes from 1 to [`LARGEST`].
    pub fn decode(bytes: &[u8; HEADER_LENGTH]) -> Option<Self> {
        let (words, _) = bytes.as_chunks::<8>();
        if words[0] != MAGIC {
            return None;
        }
        let field = |at: usize| u64::from_be_bytes(words[at]);
        let fields = [field(1), field(2), field(3), field(4), field(5)];
        if field(6) != mix_all(fields) {
            return None;
        }
        let [seed, connection, up, down, exchanges] = fields;
        let sane = 1..=LARGEST;
        (sane.contains(&up) && sane.contains(&down)).then_some(Self { seed, connection, up, down, exchanges })
    }

    /// The content of one direction of an exchange.
    pub fn pattern(&self, exchange: u64, direction: Direction) -> Pattern {
        Pattern::new(self.seed, self.connection, exchange, direction)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header { seed: 1, connection: 2, up: 64, down: 65, exchanges: 3 };

    #[test]
    fn decodes_what_it_encodes() {
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..1_000 {
            let header = Header {
                seed: random.u64(..),
                connection: random.u64(..),
                up: random.u64(1..=LARGEST),
                down: random.u64(1..=LARGEST),
                exchanges: random.u64(..1 << 50),
            };
            assert_eq!(Header::decode(&header.encode()), Some(header));
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let right = HEADER.encode();
        for bit in 0..HEADER_LENGTH * 8 {
            let mut wrong = right;
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&wrong), None, "bit {bit}");
        }
    }

    #[test]
    fn sizes_outside_the_bounds_are_refused() {
        for (up, down) in [(0, 1), (1, 0), (LARGEST + 1, 1), (1, LARGEST + 1)] {
            assert_eq!(Header::decode(&Header { up, down, ..HEADER }.encode()), None);
        }
    }

    #[test]
    fn garbage_is_not_a_header() {
        assert_eq!(Header::decode(&[0; HEADER_LENGTH]), None);
        assert_eq!(Header::decode(&[0xff; HEADER_LENGTH]), None);
    }
}
