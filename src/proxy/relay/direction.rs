//! PURE. How far one direction of a session has come: the one machine behind both ways of relaying. It is fed with what
//! happened and says what to do next. Bytes, buffers and sockets are its drivers' business: `flow` (readiness: one read,
//! then its write) and `ring` (completions: receives go on while sends are under way).
//!
//! ```text
//!            end              FIN sent
//!   Open ─────────▶ Ended ───────────────▶ Finished
//!    │                │
//!    │ source broke   │ source broke
//!    ▼      end       ▼
//!   Last ─────────▶  Cut              target broke: all but Finished ──▶ Closed
//! ```
//!
//! A session changes its driver by moving this value, with the bytes that were read and are not written: to the ring
//! (`Ring::join`) only when [at rest](DirectionState::is_at_rest), from it (`RingSession::rest`) only when nothing is in flight.
//! So every byte is in one place at any time, and an error or an end is seen by one driver.

use super::Mode;
use super::copy::SCRATCH;

/// A move of at least so much is a large one.
pub(super) const LARGE: usize = SCRATCH / 2;

/// So many large moves in a row are bulk, so many small ones are its end.
const IN_A_ROW: u8 = 3;

#[derive(Clone, Copy, Debug)]
pub(super) struct DirectionState {
    state: State,
    /// The source's connection is known to be broken.
    is_broken: bool,
    bulk: Bulk,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Reading.
    Open,
    /// The source was reset; what its kernel had received before is still to be read.
    Last,
    /// The source has finished; what was read, then FIN, is to be written.
    Ended,
    /// The source was reset; what was read is to be written, and no FIN.
    Cut,
    /// FIN is written.
    Finished,
    /// Nothing more goes this way.
    Closed,
}

/// What a driver does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Write what was read.
    Write,
    /// Read from the source.
    Read,
    /// Send FIN to the target.
    Finish,
    /// Nothing.
    Rest,
}

impl DirectionState {
    pub(super) fn new(mode: Mode) -> Self {
        Self { state: State::Open, is_broken: false, bulk: Bulk::new(mode) }
    }

    /// What is next, if nothing is under way; `has_unwritten`: something was read that is not written yet.
    pub(super) fn next(&self, has_unwritten: bool) -> Step {
        match self.state {
            State::Closed | State::Finished => Step::Rest,
            _ if has_unwritten => Step::Write,
            State::Open | State::Last => Step::Read,
            State::Ended => Step::Finish,
            State::Cut => Step::Rest,
        }
    }

    /// So many bytes were read together.
    pub(super) fn read(&mut self, bytes: usize) {
        self.bulk.saw(bytes);
    }

    /// A read said that there is nothing more. Once its error has been taken, a broken connection reads as ended.
    pub(super) fn read_end(&mut self) {
        self.state = if self.state == State::Last { State::Cut } else { State::Ended };
    }

    /// A read failed; `may_be_more`: bytes may be behind the error. Returns whether that is news.
    pub(super) fn read_failed(&mut self, may_be_more: bool) -> bool {
        let is_news = self.state != State::Last;
        self.state = if is_news && may_be_more { State::Last } else { State::Cut };
        is_news
    }

    /// The target has been sent FIN.
    pub(super) fn finished(&mut self) {
        self.state = State::Finished;
    }

    /// The source's connection broke, wherever that was seen: only what it had sent before goes on.
    pub(super) fn source_broke(&mut self) {
        self.is_broken = true;
        self.state = match self.state {
            State::Open => State::Last,
            State::Ended => State::Cut,
            other => other,
        };
    }

    /// The target's connection broke: nothing goes on.
    pub(super) fn target_broke(&mut self) {
        if self.state != State::Finished {
            self.state = State::Closed;
        }
    }

    /// Whether the source may say more.
    pub(super) fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Whether the ring could serve it, once everything that was read is written.
    pub(super) fn is_at_rest(&self) -> bool {
        self.is_open() && !self.is_broken && !self.is_bulk()
    }

    pub(super) fn is_bulk(&self) -> bool {
        self.bulk.is_bulk()
    }

    /// Whether an error of the source would not show by itself: a direction that waits for the source reads it.
    pub(super) fn is_blind(&self, has_unwritten: bool) -> bool {
        let is_reading = self.is_open() && !has_unwritten;
        !is_reading && !self.is_broken
    }

    /// Whether the source has said FIN.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended | State::Finished)
    }

    /// Whether the target has been sent FIN.
    pub(super) fn has_finished(&self) -> bool {
        self.state == State::Finished
    }

    /// Whether nothing is left to be read after a side broke.
    pub(super) fn is_over(&self) -> bool {
        self.state != State::Last
    }
}

/// Whether a direction is bulk: fed with the sizes of its moves.
#[derive(Clone, Copy, Debug)]
enum Bulk {
    /// The mode settles it.
    Always(bool),
    /// Small moves so far; this many large ones in a row.
    No(u8),
    /// Bulk; this many small ones in a row.
    Yes(u8),
}

impl Bulk {
    fn new(mode: Mode) -> Self {
        match mode {
            Mode::Auto | Mode::Ring => Self::No(0),
            Mode::Copy => Self::Always(false),
            Mode::Splice => Self::Always(true),
        }
    }

    fn is_bulk(self) -> bool {
        matches!(self, Self::Always(true) | Self::Yes(_))
    }

    fn saw(&mut self, read: usize) {
        let is_large = read >= LARGE;
        *self = match *self {
            Self::Always(is_bulk) => Self::Always(is_bulk),
            Self::No(large) if is_large && large + 1 >= IN_A_ROW => Self::Yes(0),
            Self::No(large) => Self::No(if is_large { large + 1 } else { 0 }),
            Self::Yes(small) if !is_large && small + 1 >= IN_A_ROW => Self::No(0),
            Self::Yes(small) => Self::Yes(if is_large { 0 } else { small + 1 }),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is next when all is written, and when something is not.
    fn next(direction: &DirectionState) -> (Step, Step) {
        (direction.next(false), direction.next(true))
    }

    #[test]
    fn an_end_is_passed_on_after_what_came_before_it() {
        let mut direction = DirectionState::new(Mode::Auto);
        assert_eq!(next(&direction), (Step::Read, Step::Write));
        direction.read(100);
        assert!(direction.is_at_rest() && !direction.is_blind(false) && direction.is_blind(true));
        direction.read_end();
        assert_eq!(next(&direction), (Step::Finish, Step::Write));
        assert!(direction.has_ended() && !direction.has_finished() && direction.is_blind(false));
        direction.finished();
        assert_eq!(next(&direction), (Step::Rest, Step::Rest));
        // What comes later changes nothing.
        direction.target_broke();
        direction.source_broke();
        assert!(direction.has_finished() && direction.has_ended() && direction.is_over());
    }

    #[test]
    fn a_reset_is_no_end_and_what_came_before_it_goes_on() {
        // Seen elsewhere than by the read.
        let mut direction = DirectionState::new(Mode::Auto);
        direction.source_broke();
        assert_eq!(next(&direction), (Step::Read, Step::Write));
        assert!(!direction.is_over() && !direction.is_at_rest() && !direction.is_blind(false));
        let mut by_error = direction;
        direction.read_end();
        assert!(!by_error.read_failed(true));
        for direction in [direction, by_error] {
            assert_eq!(next(&direction), (Step::Rest, Step::Write));
            assert!(direction.is_over() && !direction.has_ended());
        }
        // Seen by the read itself, behind all bytes or perhaps before some.
        for (may_be_more, then) in [(false, Step::Rest), (true, Step::Read)] {
            let mut direction = DirectionState::new(Mode::Auto);
            assert!(direction.read_failed(may_be_more));
            direction.source_broke();
            assert_eq!(next(&direction), (then, Step::Write));
        }
        // After FIN a reset takes the FIN back that is not passed on yet.
        let mut direction = DirectionState::new(Mode::Auto);
        direction.read_end();
        direction.source_broke();
        assert_eq!(next(&direction), (Step::Rest, Step::Write));
    }

    #[test]
    fn a_target_that_broke_gets_nothing_more() {
        for broken in [false, true] {
            let mut direction = DirectionState::new(Mode::Auto);
            if broken {
                direction.source_broke();
            }
            direction.target_broke();
            assert_eq!(next(&direction), (Step::Rest, Step::Rest));
            assert!(!direction.has_finished() && direction.is_over() && !direction.is_at_rest());
        }
    }

    #[test]
    fn bulk_begins_with_large_moves_in_a_row_and_ends_with_small_ones() {
        let mut pace = Bulk::new(Mode::Auto);
        for read in [SCRATCH, SCRATCH, 100, SCRATCH, SCRATCH] {
            pace.saw(read);
            assert!(!pace.is_bulk());
        }
        pace.saw(LARGE);
        assert!(pace.is_bulk());
        for read in [100, 100, 1 << 20, 100, 100] {
            pace.saw(read);
            assert!(pace.is_bulk());
        }
        pace.saw(100);
        assert!(!pace.is_bulk());
    }

    #[test]
    fn a_mode_can_settle_it() {
        for (mode, is_bulk) in [(Mode::Copy, false), (Mode::Splice, true)] {
            let mut pace = Bulk::new(mode);
            for read in [1, SCRATCH, SCRATCH, SCRATCH, SCRATCH, 1, 1, 1, 1] {
                assert_eq!(pace.is_bulk(), is_bulk);
                pace.saw(read);
            }
        }
    }
}
