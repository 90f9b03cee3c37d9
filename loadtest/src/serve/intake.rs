//! What the server makes of the bytes of one connection, however they are cut: header, then requests.
//!
//! Pure: bytes in, one [`Step`] out, no socket.

use crate::pattern::{Direction, Pattern};
use crate::protocol::{HEADER_LENGTH, Header};

/// The state of one connection.
#[derive(Debug, Default)]
pub(super) struct Intake {
    beginning: Vec<u8>,
    header: Option<Header>,
    exchange: u64,
    received: u64,
    wrong: bool,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Read on.
    More,
    /// A request is complete: answer it.
    Reply(Reply),
    /// What came is not a header: say so and close.
    BadHeader,
    /// The client has closed; `clean` unless it did so within its header.
    Closed { clean: bool },
}

/// An answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reply {
    /// Bytes.
    pub(super) length: u64,
    /// The request was wrong: every byte of the reply is inverted, so that the client can't miss it.
    pub(super) inverted: bool,
    /// The server closes after it.
    pub(super) last: bool,
    pattern: Pattern,
}

impl Intake {
    /// Takes what one read gave; nothing means that the client has closed.
    pub(super) fn feed(&mut self, data: &[u8]) -> Step {
        if data.is_empty() {
            return Step::Closed { clean: self.header.is_some() || self.beginning.is_empty() };
        }
        let Some(header) = self.header else { return self.begin(data) };
        self.request(header, data)
    }

    fn begin(&mut self, data: &[u8]) -> Step {
        let missing = HEADER_LENGTH - self.beginning.len();
        let (head, rest) = data.split_at(missing.min(data.len()));
        self.beginning.extend_from_slice(head);
        let Ok(bytes) = self.beginning.as_slice().try_into() else { return Step::More };
        let Some(header) = Header::decode(bytes) else { return Step::BadHeader };
        self.header = Some(header);
        // No longer needed, and a buffer per idle connection adds up.
        self.beginning = Vec::new();
        if rest.is_empty() { Step::More } else { self.request(header, rest) }
    }

    fn request(&mut self, header: Header, data: &[u8]) -> Step {
        let due = data.len().min((header.up - self.received) as usize);
        let pattern = header.pattern(self.exchange, Direction::Up);
        // A client waits for the reply before it sends on: more than the request is wrong too.
        self.wrong |= pattern.mismatch(self.received, &data[..due]).is_some() || data.len() > due;
        self.received += due as u64;
        if self.received < header.up {
            return Step::More;
        }
        let pattern = header.pattern(self.exchange, Direction::Down);
        self.exchange += 1;
        self.received = 0;
        let last = self.exchange == header.exchanges;
        Step::Reply(Reply { length: header.down, inverted: self.wrong, last, pattern })
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
    fn feed(bytes: &[u8], cut: usize) -> Step {
        let mut intake = Intake::default();
        let mut steps: Vec<_> = bytes.chunks(cut).map(|piece| intake.feed(piece)).collect();
        let last = steps.pop().unwrap();
        assert!(steps.iter().all(|step| *step == Step::More), "{steps:?}");
        last
    }

    #[test]
    fn a_request_is_complete_with_its_last_byte_however_it_is_cut() {
        let bytes = stream();
        for cut in 1..=bytes.len() {
            let Step::Reply(reply) = feed(&bytes, cut) else { panic!("no reply with pieces of {cut}") };
            assert_eq!((reply.length, reply.inverted, reply.last), (10, false, false));
        }
    }

    #[test]
    fn any_wrong_byte_of_a_request_inverts_the_reply() {
        for at in HEADER_LENGTH..stream().len() {
            let mut bytes = stream();
            bytes[at] ^= 0x10;
            let Step::Reply(reply) = feed(&bytes, 64) else { panic!("no reply") };
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
        assert!(matches!(feed(&bytes, bytes.len()), Step::Reply(Reply { inverted: true, .. })));
    }

    #[test]
    fn a_repeated_request_is_wrong() {
        let bytes = stream();
        let mut intake = Intake::default();
        assert!(matches!(intake.feed(&bytes), Step::Reply(Reply { inverted: false, .. })));
        let again = intake.feed(&bytes[HEADER_LENGTH..]);
        assert!(matches!(again, Step::Reply(Reply { inverted: true, last: true, .. })));
    }

    #[test]
    fn an_end_within_the_header_is_not_clean() {
        assert_eq!(Intake::default().feed(&[]), Step::Closed { clean: true });
        let mut intake = Intake::default();
        intake.feed(&stream()[..20]);
        assert_eq!(intake.feed(&[]), Step::Closed { clean: false });
    }

    #[test]
    fn what_is_not_a_header_is_refused() {
        let mut bytes = stream();
        bytes[3] ^= 1;
        assert_eq!(feed(&bytes, bytes.len()), Step::BadHeader);
    }
}
