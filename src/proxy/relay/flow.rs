//! One direction of a relay: how far it has come, and which way its bytes take. It copies, and splices while the traffic
//! shows itself as bulk. Nothing is read before what was read is written, so back-pressure reaches the source through its
//! receive window, and the two ways can never overtake each other.

use std::io;
use std::task::{Context, Poll};

use super::copy::{SCRATCH, Unwritten};
use super::ring::Stage;
use super::splice::Pipe;
use super::{Mode, RelayContext, Side};
use crate::proxy::socket::Socket;

/// Moves in a row before other sessions of the worker get a turn.
const MOVES_IN_A_ROW: usize = 16;

/// A move of at least so much is a large one.
const LARGE: usize = SCRATCH / 2;

/// A move of at most so much is a small one, fit for the ring.
const SMALL: usize = SCRATCH / 4;

/// So many large moves in a row are bulk, so many small ones are its end.
const IN_A_ROW: u8 = 3;

/// See the module.
#[derive(Debug)]
pub(super) struct Flow {
    state: FlowState,
    /// Read by copying and not yet written.
    kept: Option<Box<Unwritten>>,
    /// Held only while bytes are in it, or within a turn.
    pipe: Option<Box<Pipe>>,
    pace: Bulk,
    /// The source's connection is known to be broken.
    broken: bool,
    /// Something in the latest turn was not the way of small messages.
    is_rough: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FlowState {
    /// Reading.
    Open,
    /// The source was reset; what its kernel had received before is still to be read.
    Last,
    /// The source has finished; what is kept, then FIN, is to be written.
    Ended,
    /// The source was reset; what is kept is to be written, and no FIN.
    ForcedEnd,
    /// FIN is written.
    Finished,
    /// Nothing more goes this way.
    Closed,
}

/// What one turn of a flow came to.
#[derive(Debug)]
pub(super) enum Turn {
    /// Nothing can be done before the loop says so.
    Waiting,
    /// It may go on, but others should have a turn first.
    Yield,
    /// A side's connection broke.
    Broken(Side, io::Error),
}

/// The source, by name, and the two sockets.
pub(super) type Way<'a> = (Side, &'a Socket, &'a Socket);

impl Flow {
    pub(super) fn new(mode: Mode) -> Self {
        Self { state: FlowState::Open, kept: None, pipe: None, pace: Bulk::new(mode), broken: false, is_rough: false }
    }

    /// How far it has come on the ring.
    pub(super) fn follow(&mut self, stage: Stage) {
        self.state = match stage {
            Stage::Open => FlowState::Open,
            Stage::Ended => FlowState::Ended,
            Stage::Finished => FlowState::Finished,
        };
    }

    /// Goes on with what came off the ring.
    pub(super) fn resume(&mut self, kept: Vec<u8>, pace: Bulk) {
        (self.kept, self.pace) = (Unwritten::of(kept), pace);
    }

    /// What is to be known of it on the ring.
    pub(super) fn pace(&self) -> Bulk {
        self.pace
    }

    /// Whether the ring could serve it: open, and everything that was read is written.
    pub(super) fn is_at_rest(&self) -> bool {
        self.state == FlowState::Open && !self.broken && self.is_flushed() && !self.pace.is_bulk()
    }

    /// Whether the latest turn was not the way of small messages.
    pub(super) fn is_rough(&self) -> bool {
        self.is_rough
    }

    /// These bytes were read from the source before.
    pub(super) fn beginning_with(self, kept: Vec<u8>) -> Self {
        Self { kept: Unwritten::of(kept), ..self }
    }

    /// Moves bytes until one of the sockets has to be waited for; returns how many the target took.
    pub(super) fn turn(&mut self, cx: &mut Context<'_>, way: Way<'_>, relay_context: &RelayContext) -> (u64, Turn) {
        let mut moved = 0;
        self.is_rough = false;
        let turn = self.moves(cx, way, relay_context, &mut moved);
        self.is_rough |= !self.is_flushed();
        self.put_back(relay_context);
        (moved, turn)
    }

    fn moves(&mut self, cx: &mut Context<'_>, way: Way<'_>, relay_context: &RelayContext, moved: &mut u64) -> Turn {
        let (side, _, target) = way;
        for _ in 0..MOVES_IN_A_ROW {
            match self.flush(cx, target, moved) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Turn::Broken(side.other(), error),
                Poll::Pending => return Turn::Waiting,
            }
            match self.state {
                FlowState::Open | FlowState::Last => {}
                FlowState::Ended => {
                    if let Err(error) = target.send_fin() {
                        return Turn::Broken(side.other(), error);
                    }
                    self.state = FlowState::Finished;
                    return Turn::Waiting;
                }
                FlowState::ForcedEnd | FlowState::Finished | FlowState::Closed => return Turn::Waiting,
            }
            if self.pace.is_bulk() && self.pipe.is_none() {
                self.pipe = relay_context.pipes.take();
            }
            let mut step = self.fill(cx, way);
            let is_spliced = !matches!(step, Poll::Ready(Ok(0)));
            // No pipe; or FIN, or urgent data, and splice(2) can't tell one from the other.
            if !is_spliced {
                step = self.copy(cx, way, relay_context, moved);
            }
            match step {
                // Once its error has been taken, a broken connection reads as ended.
                Poll::Ready(Ok(0)) if self.state == FlowState::Last => self.state = FlowState::ForcedEnd,
                Poll::Ready(Err((broken, _))) if broken == side && self.state == FlowState::Last => {
                    self.state = FlowState::ForcedEnd
                }
                Poll::Ready(Ok(0)) => self.state = FlowState::Ended,
                Poll::Ready(Ok(read)) => {
                    self.is_rough |= read > SMALL;
                    self.pace.saw(read);
                }
                Poll::Ready(Err((broken, error))) => {
                    if broken == side {
                        // splice(2) says it before the bytes behind urgent data.
                        self.state = if is_spliced { FlowState::Last } else { FlowState::ForcedEnd };
                    }
                    return Turn::Broken(broken, error);
                }
                Poll::Pending => return Turn::Waiting,
            }
        }
        Turn::Yield
    }

    /// Writes what was read before.
    fn flush(&mut self, cx: &mut Context<'_>, target: &Socket, moved: &mut u64) -> Poll<io::Result<()>> {
        if let Some(kept) = &mut self.kept {
            while !kept.rest().is_empty() {
                let Poll::Ready(written) = target.poll_write(cx, kept.rest())? else { return Poll::Pending };
                kept.wrote(written);
                *moved += written as u64;
            }
        }
        if let Some(pipe) = &mut self.pipe {
            while !pipe.is_empty() {
                let Poll::Ready(written) = pipe.poll_drain(cx, target)? else { return Poll::Pending };
                *moved += written as u64;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// One read into the scratch buffer and one write out of it. Returns how much was read.
    fn copy(
        &mut self,
        cx: &mut Context<'_>,
        (side, source, target): Way<'_>,
        relay_context: &RelayContext,
        moved: &mut u64,
    ) -> Poll<Result<usize, (Side, io::Error)>> {
        let mut buffer = relay_context.scratch.buffer();
        let Poll::Ready(read) = source.poll_read(cx, &mut buffer).map_err(|error| (side, error))? else {
            return Poll::Pending;
        };
        if read == 0 {
            return Poll::Ready(Ok(0));
        }
        let taken = match target.poll_write(cx, &buffer[..read]).map_err(|error| (side.other(), error))? {
            Poll::Ready(taken) => taken,
            Poll::Pending => 0,
        };
        *moved += taken as u64;
        if taken < read {
            self.give_kept_back(relay_context);
            self.kept = Some(relay_context.scratch.keep(&buffer[taken..read]));
        }
        Poll::Ready(Ok(read))
    }

    /// One fill of the empty pipe, if there is one. Returns how much was read; 0: it is to be copied.
    fn fill(&mut self, cx: &mut Context<'_>, (side, source, _): Way<'_>) -> Poll<Result<usize, (Side, io::Error)>> {
        let Some(pipe) = &mut self.pipe else { return Poll::Ready(Ok(0)) };
        pipe.poll_fill(cx, source).map_err(|error| (side, error))
    }

    /// The source's connection broke: only what it had sent before goes on.
    pub(super) fn cut(&mut self) {
        self.broken = true;
        match self.state {
            FlowState::Open => self.state = FlowState::Last,
            FlowState::Ended => self.state = FlowState::ForcedEnd,
            FlowState::Last | FlowState::ForcedEnd | FlowState::Finished | FlowState::Closed => {}
        }
    }

    /// The target's connection broke: nothing goes on.
    pub(super) fn close(&mut self, relay_context: &RelayContext) {
        self.give_kept_back(relay_context);
        // Not empty, perhaps: closed, never pooled.
        self.pipe = None;
        if self.state != FlowState::Finished {
            self.state = FlowState::Closed;
        }
    }

    /// Whether an error of the source would show to nobody who does not look for it: a flow that waits for the source
    /// reads it.
    pub(super) fn is_blind(&self) -> bool {
        let reading = self.state == FlowState::Open && self.is_flushed();
        !reading && !self.broken
    }

    /// Whether it waits for the source, and for the target.
    pub(super) fn waits_for(&self) -> (bool, bool) {
        let writes = !self.is_flushed() && self.state != FlowState::Closed;
        (matches!(self.state, FlowState::Open | FlowState::Last) && !writes, writes)
    }

    /// Whether the source has said FIN.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.state, FlowState::Ended | FlowState::Finished)
    }

    /// Whether the target has been sent FIN.
    pub(super) fn has_finished(&self) -> bool {
        self.state == FlowState::Finished
    }

    /// Whether nothing is left to be read or written after a side broke.
    pub(super) fn is_over(&self) -> bool {
        self.is_flushed() && self.state != FlowState::Last
    }

    /// Whether something was read that is not written yet.
    pub(super) fn holds_bytes(&self) -> bool {
        !self.is_flushed()
    }

    fn is_flushed(&self) -> bool {
        self.kept.as_ref().is_none_or(|kept| kept.rest().is_empty())
            && self.pipe.as_ref().is_none_or(|pipe| pipe.is_empty())
    }

    /// Between turns nothing is held that is empty.
    fn put_back(&mut self, relay_context: &RelayContext) {
        if self.kept.as_ref().is_some_and(|kept| kept.rest().is_empty()) {
            self.give_kept_back(relay_context);
        }
        if self.pipe.as_ref().is_some_and(|pipe| pipe.is_empty())
            && let Some(pipe) = self.pipe.take()
        {
            relay_context.pipes.put_back(pipe);
        }
    }

    fn give_kept_back(&mut self, relay_context: &RelayContext) {
        if let Some(kept) = self.kept.take() {
            relay_context.scratch.put_back(kept);
        }
    }
}

#[cfg(test)]
impl Flow {
    pub(super) fn kept_bytes(&self) -> usize {
        self.kept.as_ref().map_or(0, |kept| kept.rest().len())
    }

    pub(super) fn holds_a_buffer(&self) -> bool {
        self.kept.is_some()
    }
}

/// Whether a direction is bulk: PURE, fed with the sizes of its moves.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bulk {
    /// The mode settles it.
    Always(bool),
    /// Small moves so far; this many large ones in a row.
    No(u8),
    /// Bulk; this many small ones in a row.
    Yes(u8),
}

impl Bulk {
    pub(super) fn new(mode: Mode) -> Self {
        match mode {
            Mode::Auto | Mode::Ring => Self::No(0),
            Mode::Copy => Self::Always(false),
            Mode::Splice => Self::Always(true),
        }
    }

    pub(super) fn is_bulk(self) -> bool {
        matches!(self, Self::Always(true) | Self::Yes(_))
    }

    pub(super) fn saw(&mut self, read: usize) {
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
