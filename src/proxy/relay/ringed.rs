//! The part of a relay's life that it spends on the ring.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::time::Sleep;

use super::ring::{Rest, Ring, State};
use super::{End, RelayContext, RelayTask, Side};
use crate::metrics::Direction;
use crate::proxy::socket::Socket;

/// On the ring, an error of a side that has finished shows nowhere. Most sessions end soon after the first FIN; one that
/// does not leaves the ring after this, and is watched again.
const HALF_CLOSED: Duration = Duration::from_millis(20);

/// Turns in a row with nothing but small messages, after which a session that has left the ring joins it again.
const CALM: u8 = 16;

/// PURE. Whether a session is small messages, which the ring is for: fed with what its turns were like.
#[derive(Debug)]
pub(super) struct Calm(u8);

impl Calm {
    /// A session begins as one.
    pub(super) fn new() -> Self {
        Self(CALM)
    }

    /// Something was large, or had to wait: from here on turns count again.
    pub(super) fn end(&mut self) {
        self.0 = 0;
    }

    /// A turn moved something, and nothing else is known of it.
    pub(super) fn extend(&mut self) {
        self.0 = self.0.saturating_add(1);
    }

    pub(super) fn is_enough(&self) -> bool {
        self.0 >= CALM
    }
}

impl RelayTask<'_> {
    /// The way from readiness to the ring: relays there until an end, or (`None`) until it has left it.
    pub(super) fn on_ring<'r, C>(
        &'r mut self,
        ring: &'r Ring,
        ends: [&Socket; 2],
        relay_context: &'r RelayContext,
        cut: &'r mut (impl Future<Output = C> + Unpin),
        mut timer: Pin<&'r mut Sleep>,
    ) -> impl Future<Output = Option<End<C>>> {
        let ends = ends.map(|socket| Rc::clone(socket.tcp_fd()));
        let directions = [self.upward.direction(), self.downward.direction()];
        let session = ring.join(ends.clone(), self.bytes.clone(), directions);
        let mut ending = None;
        // One side has finished, and the timer says until when that may go on here.
        let mut is_leaving = false;
        poll_fn(move |cx| {
            if timer.is_elapsed() {
                session.catch_up();
            }
            let state = session.poll(cx);
            self.follow(&state);
            if self.have_both_finished() {
                return Poll::Ready(Some(End::Completed));
            }
            if state.has_left {
                if ending.is_none() {
                    self.come_back(session.rest(), relay_context);
                }
                return Poll::Ready(ending.take());
            }
            if ending.is_some() {
                return Poll::Pending;
            }
            if let Poll::Ready(wish) = Pin::new(&mut *cut).poll(cx) {
                ending = Some(End::Forced(wish));
            }
            if self.has_one_ended() {
                let now = Instant::now();
                let due = timer.deadline().into_std();
                if is_leaving && now >= due {
                    session.leave();
                } else if !is_leaving && now + HALF_CLOSED < due {
                    timer.as_mut().reset((now + HALF_CLOSED).into());
                }
                is_leaving = true;
            }
            ending = ending.take().or_else(|| self.check_time(cx, timer.as_mut(), [&ends[0], &ends[1]]));
            if ending.is_some() {
                // What is being sent counts, too: the end is when nothing is.
                session.leave();
            }
            Poll::Pending
        })
    }

    fn follow(&mut self, state: &State) {
        self.upward.follow(state.directions[0]);
        self.downward.follow(state.directions[1]);
        if self.last_progress < state.last_progress {
            self.progress(state.last_progress);
        }
        if self.bytes.of_session(Direction::ToBackend) > 0 {
            self.answer.ask(self.last_progress);
        }
        if state.closed_first {
            self.answer.close_first();
        }
        if let Some(at) = state.first_byte {
            self.arrived(at);
        }
    }

    /// The way from the ring back to readiness.
    fn come_back(&mut self, rest: Rest, relay_context: &RelayContext) {
        let ([upward, downward], [up, down]) = (rest.directions, rest.unwritten);
        if !up.is_empty() {
            self.answer.ask(self.last_progress);
        }
        self.upward.resume(upward, up);
        self.downward.resume(downward, down);
        self.calm.end();
        for (side, error) in [Side::Client, Side::Backend].into_iter().zip(rest.broken) {
            if let Some(error) = error {
                self.side_broke(side, error, relay_context);
            }
        }
    }
}
