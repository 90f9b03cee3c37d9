//! The handshake message inside of TLS records: where its bytes are. A message may be spread over any number of records
//! (RFC 8446 section 5.1), but no record of another type may come in between.

/// The content type of records with handshake messages.
const HANDSHAKE: u8 = 22;
/// The high byte of a record's version, in every version of TLS and SSL 3; the low one is to be ignored.
const MAJOR_VERSION: u8 = 3;
/// The most bytes in a record.
const LONGEST: usize = 1 << 14;

/// A place in the records.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Records {
    /// Bytes received before it.
    at: usize,
    /// Bytes of the message before it.
    payload: usize,
    /// Bytes of the header of this record before it; 0 = it is inside of a record, or where the next one begins.
    header: usize,
    /// Bytes left in this record; while its header is read, what is known of its length.
    left: usize,
}

/// Why there is no byte of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Not received yet.
    NeedMore,
    /// Something else than a record with a part of the message.
    Wrong,
}

impl Records {
    /// The bytes of the message that come next, one or more: what was received of this record, or else of the next one.
    pub(super) fn piece<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Stop> {
        while self.left == 0 || self.header > 0 {
            let byte = *bytes.get(self.at).ok_or(Stop::NeedMore)?;
            self.read_header(byte)?;
            self.at += 1;
        }
        let received = bytes.get(self.at..).unwrap_or_default();
        if received.is_empty() { Err(Stop::NeedMore) } else { Ok(&received[..received.len().min(self.left)]) }
    }

    /// After a mistake it stays where it is, and finds the same one again.
    fn read_header(&mut self, byte: u8) -> Result<(), Stop> {
        let length = self.left << 8 | usize::from(byte);
        let is_right = match self.header {
            0 => byte == HANDSHAKE,
            1 => byte == MAJOR_VERSION,
            2 => true,
            3 => length <= LONGEST >> 8,
            // An empty part of a message is not allowed.
            _ => (1..=LONGEST).contains(&length),
        };
        if !is_right {
            return Err(Stop::Wrong);
        }
        if self.header >= 3 {
            self.left = length;
        }
        self.header = (self.header + 1) % 5;
        Ok(())
    }

    /// Goes behind that many bytes of the piece.
    pub(super) fn advance(&mut self, bytes: usize) {
        self.at += bytes;
        self.payload += bytes;
        self.left -= bytes;
    }

    /// Bytes of the message before this place.
    pub(super) fn payload(&self) -> usize {
        self.payload
    }

    /// So many bytes of the message from here on, or what was received of them.
    pub(super) fn collect(mut self, bytes: &[u8], length: usize) -> Vec<u8> {
        let mut collected = Vec::with_capacity(length);
        while collected.len() < length {
            let Ok(piece) = self.piece(bytes) else { break };
            let taken = piece.len().min(length - collected.len());
            collected.extend_from_slice(&piece[..taken]);
            self.advance(taken);
        }
        collected
    }
}
