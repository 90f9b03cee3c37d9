//! The bytes of a session, both ways. Knows two sockets, counters and limits; no pool, no backend, no configuration.
//!
//! Ends: FIN is passed on and the other direction goes on; what arrived before a reset is written before
//! the reset is passed on; a side that has been sent FIN is closed, any other side of a cut stream is reset.

mod copy;
mod direction;
#[cfg(test)]
mod early_tests;
mod first_byte;
mod flow;
#[cfg(test)]
mod late_tests;
mod pacing;
mod ring;
mod ringed;
mod splice;
#[cfg(test)]
mod tests;
mod timing;
mod window;

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::{Sleep, sleep_until};

use super::socket::Socket;
use crate::metrics::{Direction, EarlyEnd};
use crate::pool::{ByteCell, Throttle};
use copy::Scratch;
use direction::DirectionState;
use first_byte::FirstByte;
pub(crate) use first_byte::early_break;
use flow::{Flow, Turn};
pub(crate) use ring::Ring;
pub use ring::{Forbidden, RingCounts, try_ring};
use ringed::Calm;
pub use splice::PipeCounts;
use splice::Pipes;
pub(crate) use timing::Limits;

/// Which way bytes take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Copied, and spliced while a direction is bulk.
    Auto,
    /// Always copied.
    Copy,
    /// Always spliced, as long as there is a pipe.
    Splice,
    /// On the io_uring of the worker while it is small messages; else as `Auto`.
    Ring,
}

/// What the relays of one worker share.
#[derive(Debug)]
pub(crate) struct RelayContext {
    scratch: Scratch,
    pipes: Pipes,
    ring: Option<Ring>,
}

impl RelayContext {
    /// With at most `pipes` pipes.
    pub(crate) fn new(pipes: usize, counts: Arc<PipeCounts>, ring: Option<Ring>) -> Self {
        Self { scratch: Scratch::new(), pipes: Pipes::new(pipes, counts), ring }
    }

    /// Whether [`Mode::Ring`] is more than [`Mode::Auto`].
    pub(crate) fn has_ring(&self) -> bool {
        self.ring.is_some()
    }

    /// Gives back what has not been used since the last time.
    pub(crate) fn trim(&self) {
        self.pipes.trim();
    }
}

/// Which end of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Backend,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Client => Self::Backend,
            Self::Backend => Self::Client,
        }
    }
}

/// What one relay is told.
#[derive(Debug)]
pub(crate) struct Terms {
    pub(crate) mode: Mode,
    /// Read again each time: they may change while it runs, and a change wakes it.
    pub(crate) limits: Rc<Cell<Limits>>,
    /// Read from the client before the relay began; the first bytes that the backend gets.
    pub(crate) early: Vec<u8>,
    /// What else was before.
    pub(crate) before: Option<Box<Before>>,
    /// The limits of bandwidth: to the backend, and to the client.
    pub(crate) throttles: Option<Box<[Option<Throttle>; 2]>>,
}

/// What happened between the two sockets before their relay began.
#[derive(Debug, Default)]
pub(crate) struct Before {
    /// When the first of them was sent, or could not be.
    pub(crate) asked: Option<Instant>,
    /// The backend has been sent the client's FIN.
    pub(crate) has_finished: bool,
    /// This side's connection is known to have broken; bytes from it may still wait to be read.
    pub(crate) broken: Option<(Side, io::Error)>,
    /// The latest that anything moved.
    pub(crate) last_progress: Option<Instant>,
    /// How the backend fails before its first byte has been said already.
    pub(crate) is_judged: bool,
}

/// Why a relay ended.
#[derive(Debug)]
pub(crate) enum End<C> {
    /// Both sides have finished, and know that the other has.
    Completed,
    /// That side's connection broke.
    Broken(Side, io::Error),
    /// Quiet for too long, both sides open.
    Idle,
    /// No progress for too long after one side had finished or broken.
    HalfClosed,
    /// The backend did not answer in time.
    FirstByte,
    /// It was ended from outside.
    Forced(C),
    /// The worker's event loop does not take the sockets.
    Local(io::Error),
}

/// What a relay came to. Its bytes are in the cell that it was given: those that the receiving socket accepted.
#[derive(Debug)]
pub(crate) struct Done<C> {
    pub(crate) end: End<C>,
    /// When the backend's first byte came.
    pub(crate) first_byte: Option<Instant>,
    /// How the backend failed the session before that, although the client had sent something.
    pub(crate) early: Option<EarlyEnd>,
    /// Whether that side may be closed as it is; else it is to be reset.
    pub(crate) finished_client: bool,
    pub(crate) finished_backend: bool,
}

/// Relays until an end. `answered` is called at the backend's first byte, with the time
/// since the first byte to it, or since the connect if it speaks first. `cut` resolves when the session is to
/// end. The sockets are the caller's, to be closed or reset.
///
/// Not cancel safe: dropping it loses what was read and not yet written.
pub(crate) fn relay<'a, C: 'a>(
    [client, backend]: [&'a mut Socket; 2],
    relay_context: &'a RelayContext,
    terms: Terms,
    bytes: ByteCell,
    answered: &'a dyn Fn(Duration),
    mut cut: impl Future<Output = C> + Unpin + 'a,
) -> impl Future<Output = Done<C>> + 'a {
    let mode = terms.mode;
    let mut state = RelayTask::new(terms, bytes, answered, relay_context);
    // No `async fn`: see "What an idle session costs" in `proxy`; so for what follows.
    async move {
        let mut timer = pin!(sleep_until(state.deadline().into()));
        let end = loop {
            if let Some(ring) = &relay_context.ring
                && state.may_join(mode)
            {
                client.unwatch();
                backend.unwatch();
                if let Some(end) = state.on_ring(ring, [client, backend], relay_context, &mut cut, timer.as_mut()).await
                {
                    break end;
                }
            }
            if let Err(error) = client.watch().and_then(|_| backend.watch()) {
                break End::Local(error);
            }
            let turn = Box::pin(state.on_loop(client, backend, relay_context, mode, &mut cut, timer.as_mut()));
            if let Some(end) = turn.await {
                break end;
            }
        };
        Done {
            early: state.answer.early(&end),
            end,
            first_byte: state.answer.came(),
            finished_client: state.downward.has_finished(),
            finished_backend: state.upward.has_finished(),
        }
    }
}

struct LazyError<'a>(Option<Pin<Box<dyn Future<Output = io::Error> + 'a>>>);

impl<'a> LazyError<'a> {
    fn poll(&mut self, cx: &mut Context<'_>, socket: &'a Socket) -> Poll<io::Error> {
        self.0.get_or_insert_with(|| Box::pin(socket.error())).as_mut().poll(cx)
    }
}

struct RelayTask<'a> {
    /// Client to backend.
    upward: Flow,
    /// Backend to client.
    downward: Flow,
    /// Counts what the receiving sockets took; begins with what was sent before.
    bytes: ByteCell,
    answer: FirstByte,
    answered: &'a dyn Fn(Duration),
    broken: Option<(Side, io::Error)>,
    last_progress: Instant,
    calm: Calm,
    /// In a row, after a limit was over, that found something to be moved.
    looks: u8,
    limits: Rc<Cell<Limits>>,
}

impl<'a> RelayTask<'a> {
    fn new(terms: Terms, bytes: ByteCell, answered: &'a dyn Fn(Duration), relay_context: &RelayContext) -> Self {
        let before = terms.before.map_or_else(Before::default, |before| *before);
        let mut upward = DirectionState::new(terms.mode);
        if before.has_finished {
            upward.read_end();
            upward.finished();
        }
        let [to_backend, to_client] = terms.throttles.map_or([None, None], |throttles| *throttles);
        let sent = bytes.of_session(Direction::ToBackend);
        let mut relay = Self {
            upward: Flow::new(upward, terms.early).paced(to_backend, sent),
            downward: Flow::new(DirectionState::new(terms.mode), Vec::new()).paced(to_client, 0),
            bytes,
            answer: FirstByte::new(terms.limits.get().first_byte, before.asked, before.is_judged),
            answered,
            broken: None,
            last_progress: before.last_progress.unwrap_or_else(Instant::now),
            calm: Calm::new(),
            looks: 0,
            limits: terms.limits,
        };
        if before.has_finished {
            relay.bytes.finish(Direction::ToBackend);
        }
        if let Some((side, error)) = before.broken {
            relay.side_broke(side, error, relay_context);
        }
        relay
    }

    /// Whether the ring is the place for it now. Nothing there watches the clock of the first byte.
    fn may_join(&self, mode: Mode) -> bool {
        let is_at_rest = self.upward.is_at_rest() && self.downward.is_at_rest();
        mode == Mode::Ring && self.calm.is_enough() && is_at_rest && !self.answer.is_timed()
    }

    /// Relays by readiness until an end, or (`None`) until it may join the ring.
    async fn on_loop<C>(
        &mut self,
        client: &Socket,
        backend: &Socket,
        relay_context: &RelayContext,
        mode: Mode,
        cut: &mut (impl Future<Output = C> + Unpin),
        mut timer: Pin<&mut Sleep>,
    ) -> Option<End<C>> {
        // Made when they are first needed: most sessions never are blocked.
        let mut client_error = LazyError(None);
        let mut backend_error = LazyError(None);
        poll_fn(|cx| {
            let mut may_go_on = self.turns(cx, client, backend, relay_context);
            // While a flow reads from a side, the read shows that side's error, after the bytes that came before it. Each
            // of these futures is polled until it is ready, never again: its flow knows that the side is broken.
            if self.upward.is_blind()
                && let Poll::Ready(error) = client_error.poll(cx, client)
            {
                self.side_broke(Side::Client, error, relay_context);
                may_go_on = true;
            }
            if self.downward.is_blind()
                && let Poll::Ready(error) = backend_error.poll(cx, backend)
            {
                self.side_broke(Side::Backend, error, relay_context);
                may_go_on = true;
            }
            if let Some(end) = self.end() {
                return Poll::Ready(Some(end));
            }
            if let Poll::Ready(wish) = Pin::new(&mut *cut).poll(cx) {
                return Poll::Ready(Some(End::Forced(wish)));
            }
            if let Some(end) = self.check_time(cx, timer.as_mut(), [client.tcp_fd(), backend.tcp_fd()]) {
                return Poll::Ready(Some(end));
            }
            if relay_context.has_ring() && self.may_join(mode) {
                return Poll::Ready(None);
            }
            if may_go_on {
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        })
        .await
    }

    /// One turn for each direction. Returns whether there may be more to do at once.
    fn turns(&mut self, cx: &mut Context<'_>, client: &Socket, backend: &Socket, relay_context: &RelayContext) -> bool {
        let mut may_go_on = false;
        let ended = self.has_one_ended();

        let (moved, turn) = self.upward.turn(cx, (Side::Client, client, backend), relay_context);
        let mut progress = moved > 0;
        // Also what it did not take because it was gone.
        let asked = moved > 0 || matches!(turn, Turn::Broken(Side::Backend, _));
        if moved > 0 {
            self.bytes.add(Direction::ToBackend, moved);
        }
        may_go_on |= self.take(turn, relay_context);

        let (moved, turn) = self.downward.turn(cx, (Side::Backend, backend, client), relay_context);
        progress |= moved > 0;
        if moved > 0 {
            self.bytes.add(Direction::ToClient, moved);
        }
        may_go_on |= self.take(turn, relay_context);

        if self.upward.is_rough() || self.downward.is_rough() {
            self.calm.end();
        } else if progress {
            self.calm.extend();
        }
        if progress || ended != self.has_one_ended() {
            for (flow, direction) in [(&self.upward, Direction::ToBackend), (&self.downward, Direction::ToClient)] {
                if flow.has_ended() {
                    self.bytes.finish(direction);
                }
            }
            self.progress(Instant::now());
            self.bytes.touch(self.last_progress);
            if self.downward.has_ended() && !self.upward.has_ended() {
                self.answer.close_first();
            }
        }
        if asked {
            self.answer.ask(self.last_progress);
        }
        for (flow, direction) in [(&self.upward, Direction::ToBackend), (&self.downward, Direction::ToClient)] {
            if flow.is_throttled() {
                self.bytes.throttle(direction);
                self.answer.postpone(self.last_progress);
            }
        }
        if !self.answer.is_here() && (self.bytes.of_session(Direction::ToClient) > 0 || self.downward.holds_bytes()) {
            self.arrived(Instant::now());
        }
        may_go_on
    }

    /// The backend has sent something.
    fn arrived(&mut self, at: Instant) {
        let asked = self.answer.asked().unwrap_or_else(|| self.bytes.since());
        if self.answer.arrive(at) {
            (self.answered)(at.saturating_duration_since(asked));
        }
    }

    fn take(&mut self, turn: Turn, relay_context: &RelayContext) -> bool {
        match turn {
            Turn::Waiting => false,
            Turn::Yield => true,
            Turn::Broken(side, error) => {
                self.side_broke(side, error, relay_context);
                // The other flow may have bytes that now are the last ones.
                true
            }
        }
    }

    fn side_broke(&mut self, side: Side, error: io::Error, relay_context: &RelayContext) {
        let (from, to) = match side {
            Side::Client => (&mut self.upward, &mut self.downward),
            Side::Backend => (&mut self.downward, &mut self.upward),
        };
        from.source_broke();
        to.target_broke(relay_context);
        if self.broken.is_none() {
            self.broken = Some((side, error));
            self.progress(Instant::now());
        }
    }

    fn end<C>(&mut self) -> Option<End<C>> {
        if self.broken.is_some() {
            if !self.upward.is_over() || !self.downward.is_over() {
                return None;
            }
            return self.broken.take().map(|(side, error)| End::Broken(side, error));
        }
        self.have_both_finished().then_some(End::Completed)
    }

    fn have_both_finished(&self) -> bool {
        self.upward.has_finished() && self.downward.has_finished()
    }

    fn has_one_ended(&self) -> bool {
        self.upward.has_ended() || self.downward.has_ended()
    }
}
