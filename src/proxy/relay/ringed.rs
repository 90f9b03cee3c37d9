//! The part of a relay's life that it spends on the ring.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::time::Sleep;

use super::ring::{Ring, Stage, State};
use super::{End, Gear, Relay, Side};
use crate::proxy::socket::Socket;

/// On the ring, an error of a side that has finished shows to nobody. Most sessions end soon after the first FIN; one that
/// does not leaves the ring after this, and is watched again.
const HALF_CLOSED: Duration = Duration::from_millis(20);

impl Relay<'_> {
    /// Relays on the ring until an end, or (`None`) until it has left it.
    pub(super) async fn on_ring<C>(
        &mut self,
        ring: &Ring,
        ends: [&Socket; 2],
        gear: &Gear,
        mut cut: Pin<&mut impl Future<Output = C>>,
        mut timer: Pin<&mut Sleep>,
    ) -> Option<End<C>> {
        let base = [self.to_backend, self.to_client];
        let ends = ends.map(|socket| Rc::clone(socket.bare()));
        let lane = ring.join(ends, self.bytes.clone(), self.upward.pace());
        let mut half_closed_at: Option<Instant> = None;
        let mut ending = None;
        let end = poll_fn(|cx| {
            let state = lane.poll(cx);
            self.follow(&state, base);
            if state.stages == [Stage::Finished; 2] {
                return Poll::Ready(Some(End::Completed));
            }
            if state.has_left {
                return Poll::Ready(ending.take());
            }
            if ending.is_some() {
                return Poll::Pending;
            }
            if let Poll::Ready(wish) = cut.as_mut().poll(cx) {
                ending = Some(End::Cut(wish));
            }
            if self.has_one_ended() {
                let leave_at = *half_closed_at.get_or_insert_with(Instant::now) + HALF_CLOSED;
                if Instant::now() >= leave_at {
                    lane.leave();
                } else if leave_at < timer.deadline().into_std() {
                    timer.as_mut().reset(leave_at.into());
                }
            }
            ending = ending.take().or_else(|| self.check_time(cx, timer.as_mut()));
            if ending.is_some() {
                // What is being sent counts, too: the end is when nothing is.
                lane.leave();
            }
            Poll::Pending
        })
        .await;
        if end.is_none() {
            self.come_back(lane.rest(), gear);
        }
        end
    }

    fn follow(&mut self, state: &State, base: [u64; 2]) {
        self.upward.follow(state.stages[0]);
        self.downward.follow(state.stages[1]);
        (self.to_backend, self.to_client) = (base[0] + state.moved[0], base[1] + state.moved[1]);
        self.last_progress = self.last_progress.max(state.last_progress);
        if self.to_backend > 0 {
            self.answer.ask(self.last_progress);
        }
        if state.closed_first {
            self.answer.close_first();
        }
        if let Some(at) = state.first_byte {
            self.arrived(at);
        }
    }

    fn come_back(&mut self, rest: super::ring::Rest, gear: &Gear) {
        let [up, down] = rest.kept;
        if !up.is_empty() {
            self.answer.ask(self.last_progress);
        }
        self.upward.resume(up, rest.paces[0]);
        self.downward.resume(down, rest.paces[1]);
        self.calm = 0;
        for (side, error) in [Side::Client, Side::Backend].into_iter().zip(rest.broken) {
            if let Some(error) = error {
                self.side_broke(side, error, gear);
            }
        }
    }
}
