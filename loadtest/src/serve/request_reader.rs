//! Reads the header and the requests of one connection, in pieces of any size. Pure: bytes in, one [`ServerAction`] out.

use crate::pattern::{Direction, Pattern};
use crate::protocol::{HEADER_LENGTH, Header};

#[derive(Debug, Default)]
pub(super) struct RequestReader {
    beginning: Vec<u8>,
    header: Option<Header>,
    exchange: u64,
    received: u64,
    wrong: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServerAction {
    More,
    Reply(Reply),
    /// The header is invalid: send [`BAD_HEADER`](crate::protocol::BAD_HEADER) and close.
    BadHeader,
    /// The client has closed; `clean` unless that was within its header.
    Closed {
        clean: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) length: u64,
    /// The request was wrong, so every byte of the reply is inverted.
    pub(super) inverted: bool,
    /// The server closes after this reply.
    pub(super) last: bool,
    pattern: Pattern,
}

impl RequestReader {
    /// Takes the bytes of one read; no bytes mean that the client has closed.
    pub(super) fn feed(&mut self, data: &[u8]) -> ServerAction {
        if data.is_empty() {
            return ServerAction::Closed { clean: self.header.is_some() || self.beginning.is_empty() };
        }
        let Some(header) = self.header else { return self.begin(data) };
        self.request(header, data)
    }

    fn begin(&mut self, data: &[u8]) -> ServerAction {
        let missing = HEADER_LENGTH - self.beginning.len();
        let (head, rest) = data.split_at(missing.min(data.len()));
        self.beginning.extend_from_slice(head);
        let Ok(bytes) = self.beginning.as_slice().try_into() else { return ServerAction::More };
        let Some(header) = Header::decode(bytes) else { return ServerAction::BadHeader };
        self.header = Some(header);
        // Frees the buffer, because many connections may be idle.
        self.beginning = Vec::new();
        if rest.is_empty() { ServerAction::More } else { self.request(header, rest) }
    }

    fn request(&mut self, header: Header, data: &[u8]) -> ServerAction {
        let due = data.len().min((header.up - self.received) as usize);
        let pattern = header.pattern(self.exchange, Direction::Up);
        // The client waits for the reply before it sends more, so further bytes are wrong too.
        self.wrong |= pattern.mismatch(self.received, &data[..due]).is_some() || data.len() > due;
        self.received += due as u64;
        if self.received < header.up {
            return ServerAction::More;
        }
        let pattern = header.pattern(self.exchange, Direction::Down);
        self.exchange += 1;
        self.received = 0;
        let last = self.exchange == header.exchanges;
        ServerAction::Reply(Reply { length: header.down, inverted: self.wrong, last, pattern })
    }
}

impl Reply {
    /// Writes its content from `position` on into `out`.
    pub(super) fn fill(&self, position: u64, out: &mut [u8]) {
        self.pattern.fill(position, out);
        if self.inverted {
            out.iter_mut().for_each(|byte| *byte = !*byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header { seed: 5, connection: 6, up: 100, down: 10, exchanges: 2 };

    fn stream() -> Vec<u8> {
        let mut bytes = HEADER.encode().to_vec();
        let mut request = [0; 100];
        HEADER.pattern(0, Direction::Up).fill(0, &mut request);
        bytes.extend(request);
        bytes
    }

    /// Feeds `bytes` in pieces of `cut` and returns the last step.
    fn feed(bytes: &[u8], cut: usize) -> ServerAction {
        let mut request_reader = RequestReader::default();
        let mut steps: Vec<_> = bytes.chunks(cut).map(|piece| request_reader.feed(piece)).collect();
        let last = steps.pop().unwrap();
        assert!(steps.iter().all(|step| *step == ServerAction::More), "{steps:?}");
        last
    }

    #[test]
    fn a_request_is_complete_with_its_last_byte_however_it_is_cut() {
        let bytes = stream();
        for cut in 1..=bytes.len() {
            let ServerAction::Reply(reply) = feed(&bytes, cut) else { panic!("no reply with pieces of {cut}") };
            assert_eq!((reply.length, reply.inverted, reply.last), (10, false, false));
        }
    }

    #[test]
    fn any_wrong_byte_of_a_request_inverts_the_reply() {
        for at in HEADER_LENGTH..stream().len() {
            let mut bytes = stream();
            bytes[at] ^= 0x10;
            let ServerAction::Reply(reply) = feed(&bytes, 64) else { panic!("no reply") };
            assert!(reply.inverted, "byte {at}");
            let (mut right, mut sent) = ([0; 10], [0; 10]);
            HEADER.pattern(0, Direction::Down).fill(0, &mut right);
            reply.fill(0, &mut sent);
            assert_eq!(sent, right.map(|byte| !byte));
        }
    }

    #[test]
    fn more_than_a_request_is_wrong() {
        let mut bytes = stream();
        bytes.push(0);
        assert!(matches!(feed(&bytes, bytes.len()), ServerAction::Reply(Reply { inverted: true, .. })));
    }

    #[test]
    fn a_repeated_request_is_wrong() {
        let bytes = stream();
        let mut request_reader = RequestReader::default();
        assert!(matches!(request_reader.feed(&bytes), ServerAction::Reply(Reply { inverted: false, .. })));
        let again = request_reader.feed(&bytes[HEADER_LENGTH..]);
        assert!(matches!(again, ServerAction::Reply(Reply { inverted: true, last: true, .. })));
    }

    #[test]
    fn an_end_within_the_header_is_not_clean() {
        assert_eq!(RequestReader::default().feed(&[]), ServerAction::Closed { clean: true });
        let mut request_reader = RequestReader::default();
        request_reader.feed(&stream()[..20]);
        assert_eq!(request_reader.feed(&[]), ServerAction::Closed { clean: false });
    }

    #[test]
    fn what_is_not_a_header_is_refused() {
        let mut bytes = stream();
        bytes[3] ^= 1;
        assert_eq!(feed(&bytes, bytes.len()), ServerAction::BadHeader);
    }
}
