//! One direction by readiness: drives its [`DirectionState`], and holds the bytes that were read and are not written. It copies,
//! and splices while the traffic shows itself as bulk. Nothing is read before what was read is written, so back-pressure
//! reaches the source through its receive window, and the two ways can never overtake each other.

use std::io;
use std::task::{Context, Poll};

use super::copy::{SCRATCH, Unwritten};
use super::direction::{DirectionState, LARGE, Step};
use super::pacing::Pacing;
use super::splice::Pipe;
use super::window::Window;
use super::{RelayContext, Side};
use crate::pool::Throttle;
use crate::proxy::socket::Socket;

/// Moves in a row before other sessions of the worker get a turn.
const MOVES_IN_A_ROW: usize = 16;

/// A move of at most so much is a small one, fit for the ring.
const SMALL: usize = SCRATCH / 4;

#[derive(Debug)]
pub(super) struct Flow {
    direction: DirectionState,
    /// Read by copying and not yet written.
    kept: Option<Box<Unwritten>>,
    /// From its first large read on, or if it is always spliced or has a limit of bandwidth.
    large: Option<Box<Large>>,
    /// Something in the latest turn was not the way of small messages.
    is_rough: bool,
}

/// What a direction of large moves has, and one with a limit.
#[derive(Debug, Default)]
struct Large {
    pacing: Option<Pacing>,
    /// Held only while bytes are in it, or within a turn.
    pipe: Option<Box<Pipe>>,
    /// `None` = there was no large move yet.
    window: Option<Window>,
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
    /// `unwritten` was read from the source before.
    pub(super) fn new(direction: DirectionState, unwritten: Vec<u8>) -> Self {
        Self { direction, kept: Unwritten::of(unwritten), large: None, is_rough: false }
    }

    /// With a limit of bandwidth; `before` bytes were written before the flow began.
    pub(super) fn paced(mut self, throttle: Option<Throttle>, before: u64) -> Self {
        if let Some(throttle) = throttle {
            let unwritten = self.kept.as_ref().map_or(0, |kept| kept.rest().len()) as u64;
            self.large.get_or_insert_default().pacing = Some(Pacing::new(throttle, before + unwritten));
        }
        self
    }

    /// How far it has come.
    pub(super) fn direction(&self) -> DirectionState {
        self.direction
    }

    /// How far it has come on the ring, where it is driven.
    pub(super) fn follow(&mut self, direction: DirectionState) {
        self.direction = direction;
    }

    /// Is driven from here again, with what the ring had received and not sent.
    pub(super) fn resume(&mut self, direction: DirectionState, unwritten: Vec<u8>) {
        (self.direction, self.kept) = (direction, Unwritten::of(unwritten));
    }

    /// Whether the ring could drive it. There nothing waits for turns.
    pub(super) fn is_at_rest(&self) -> bool {
        let is_paced = self.large.as_ref().is_some_and(|large| large.pacing.is_some());
        self.direction.is_at_rest() && self.is_flushed() && !is_paced
    }

    /// Whether it has to wait before it may read what the source has.
    pub(super) fn is_throttled(&self) -> bool {
        self.large.as_ref().and_then(|large| large.pacing.as_ref()).is_some_and(Pacing::waits)
    }

    /// Whether the latest turn was not the way of small messages.
    pub(super) fn is_rough(&self) -> bool {
        self.is_rough
    }

    /// Moves bytes until one of the sockets has to be waited for; returns how many the target took.
    pub(super) fn turn(&mut self, cx: &mut Context<'_>, way: Way<'_>, relay_context: &RelayContext) -> (u64, Turn) {
        let mut moved = 0;
        self.is_rough = false;
        let turn = self.moves(cx, way, relay_context, &mut moved);
        if let Some(window) = self.window() {
            window.moved(moved, way.1.tcp_fd(), way.2.tcp_fd());
        }
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
            match self.direction.next(false) {
                Step::Read => {}
                Step::Finish => {
                    if let Err(error) = target.send_fin() {
                        return Turn::Broken(side.other(), error);
                    }
                    self.direction.finished();
                    return Turn::Waiting;
                }
                Step::Write | Step::Rest => return Turn::Waiting,
            }
            let Poll::Ready(most) = self.may_read(cx, way.1) else { return Turn::Waiting };
            if self.direction.is_bulk() {
                let pipe = &mut self.large.get_or_insert_default().pipe;
                *pipe = pipe.take().or_else(|| relay_context.pipes.take());
            }
            let mut read = self.fill(cx, way, most);
            let is_spliced = !matches!(read, Poll::Ready(Ok(0)));
            // No pipe; or FIN, or urgent data, and splice(2) can't tell one from the other.
            if !is_spliced {
                read = self.copy(cx, way, relay_context, (most, moved));
            }
            self.was_read(&read);
            match read {
                Poll::Ready(Ok(0)) => self.direction.read_end(),
                Poll::Ready(Ok(read)) => {
                    self.is_rough |= read > SMALL;
                    self.direction.read(read);
                    if read >= LARGE && self.window().is_none() {
                        let window = Window::open(way.1.tcp_fd(), target.tcp_fd(), *moved);
                        self.large.get_or_insert_default().window = Some(window);
                    }
                }
                Poll::Ready(Err((broken, error))) => {
                    // splice(2) says it before the bytes behind urgent data.
                    let is_news = broken != side || self.direction.read_failed(is_spliced);
                    if is_news {
                        return Turn::Broken(broken, error);
                    }
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
        if let Some(pipe) = self.pipe() {
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
        (most, moved): (usize, &mut u64),
    ) -> Poll<Result<usize, (Side, io::Error)>> {
        let mut buffer = relay_context.scratch.buffer();
        let most = most.min(buffer.len());
        let Poll::Ready(read) = source.poll_read(cx, &mut buffer[..most]).map_err(|error| (side, error))? else {
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
    fn fill(
        &mut self,
        cx: &mut Context<'_>,
        (side, source, _): Way<'_>,
        most: usize,
    ) -> Poll<Result<usize, (Side, io::Error)>> {
        let Some(pipe) = self.pipe() else { return Poll::Ready(Ok(0)) };
        pipe.poll_fill(cx, source, most).map_err(|error| (side, error))
    }

    /// How much may be read now, as far as a limit says.
    fn may_read(&mut self, cx: &mut Context<'_>, source: &Socket) -> Poll<usize> {
        let pacing = self.large.as_mut().and_then(|large| large.pacing.as_mut());
        pacing.map_or(Poll::Ready(usize::MAX), |pacing| pacing.poll(cx, source))
    }

    fn was_read(&mut self, read: &Poll<Result<usize, (Side, io::Error)>>) {
        if let Some(pacing) = self.large.as_mut().and_then(|large| large.pacing.as_mut()) {
            pacing.read(if let Poll::Ready(Ok(read)) = read { *read } else { 0 });
        }
    }

    fn window(&mut self) -> Option<&mut Window> {
        self.large.as_mut()?.window.as_mut()
    }

    fn pipe(&mut self) -> Option<&mut Pipe> {
        self.large.as_mut()?.pipe.as_deref_mut()
    }

    /// The source's connection broke: only what it had sent before goes on.
    pub(super) fn source_broke(&mut self) {
        self.direction.source_broke();
    }

    /// The target's connection broke: nothing goes on.
    pub(super) fn target_broke(&mut self, relay_context: &RelayContext) {
        self.give_kept_back(relay_context);
        // Its pipe is not empty, perhaps: closed, never pooled.
        self.large = None;
        self.direction.target_broke();
    }

    /// Whether an error of the source would not show by itself.
    pub(super) fn is_blind(&self) -> bool {
        self.direction.is_blind(self.holds_bytes() || self.is_throttled())
    }

    /// Whether it waits for the source, and for the target.
    pub(super) fn waits_for(&self) -> (bool, bool) {
        let next = self.direction.next(self.holds_bytes());
        (next == Step::Read, next == Step::Write)
    }

    /// Whether the source has said FIN.
    pub(super) fn has_ended(&self) -> bool {
        self.direction.has_ended()
    }

    /// Whether the target has been sent FIN.
    pub(super) fn has_finished(&self) -> bool {
        self.direction.has_finished()
    }

    /// Whether nothing is left to be read or written after a side broke.
    pub(super) fn is_over(&self) -> bool {
        self.is_flushed() && self.direction.is_over()
    }

    /// Whether something was read that is not written yet.
    pub(super) fn holds_bytes(&self) -> bool {
        !self.is_flushed()
    }

    fn is_flushed(&self) -> bool {
        self.kept.as_ref().is_none_or(|kept| kept.rest().is_empty())
            && self.large.as_ref().and_then(|large| large.pipe.as_ref()).is_none_or(|pipe| pipe.is_empty())
    }

    /// Between turns nothing is held that is empty.
    fn put_back(&mut self, relay_context: &RelayContext) {
        if self.kept.as_ref().is_some_and(|kept| kept.rest().is_empty()) {
            self.give_kept_back(relay_context);
        }
        if let Some(large) = &mut self.large
            && large.pipe.as_ref().is_some_and(|pipe| pipe.is_empty())
            && let Some(pipe) = large.pipe.take()
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
