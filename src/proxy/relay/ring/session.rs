//! A session's handle to its place on the ring.

use std::io;
use std::mem::take;
use std::rc::Rc;
use std::task::Context;
use std::time::Instant;

use super::queue::DirectionQueue;
use super::table::{RingPhase, SessionEntry};
use super::{DirectionState, Ring, RingState};
use crate::pool::ByteCell;
use crate::proxy::socket::TcpFd;

/// Where a session stands on the ring. Directions: to the backend, to the client.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy::relay) struct State {
    pub(in crate::proxy::relay) directions: [DirectionState; 2],
    pub(in crate::proxy::relay) last_progress: Instant,
    pub(in crate::proxy::relay) first_byte: Option<Instant>,
    /// The backend finished while the client had not.
    pub(in crate::proxy::relay) closed_first: bool,
    /// It is off the ring: nothing is in flight any more.
    pub(in crate::proxy::relay) has_left: bool,
}

/// What a session takes with it when it has left.
#[derive(Debug)]
pub(in crate::proxy::relay) struct Rest {
    pub(in crate::proxy::relay) directions: [DirectionState; 2],
    /// Received and not yet sent.
    pub(in crate::proxy::relay) unwritten: [Vec<u8>; 2],
    /// Of the client's and the backend's connection.
    pub(in crate::proxy::relay) broken: [Option<io::Error>; 2],
}

/// A session's place on the ring. Dropping it cancels everything; the ring keeps the sockets until that is done.
pub(in crate::proxy::relay) struct RingSession<'a> {
    ring: &'a Ring,
    key: usize,
}

impl Ring {
    /// From now on the ring drives a session, until [`RingSession::rest`]. Both directions must be [at
    /// rest](DirectionState::is_at_rest) with nothing unwritten, and both sockets out of every event loop.
    pub(in crate::proxy::relay) fn join(
        &self,
        ends: [Rc<TcpFd>; 2],
        bytes: ByteCell,
        directions: [DirectionState; 2],
    ) -> RingSession<'_> {
        let mut inner = self.0.inner.borrow_mut();
        let RingState { raw, table } = &mut *inner;
        let key = table.entries.insert(SessionEntry {
            ends,
            ways: directions.map(DirectionQueue::new),
            course: RingPhase::On,
            pending: 0,
            broken: [None, None],
            waker: None,
            bytes,
            last_progress: Instant::now(),
            first_byte: None,
            closed_first: false,
        });
        table.receive(raw, key, 0);
        table.receive(raw, key, 1);
        drop(inner);
        self.nudge();
        RingSession { ring: self, key }
    }
}

impl RingSession<'_> {
    /// Where the session stands. The task is woken at the backend's first byte, when a
    /// direction has been finished, and when it has left.
    pub(in crate::proxy::relay) fn poll(&self, cx: &mut Context<'_>) -> State {
        let mut inner = self.ring.0.inner.borrow_mut();
        let entry = &mut inner.table.entries[self.key];
        if !entry.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            entry.waker = Some(cx.waker().clone());
        }
        State {
            directions: [0, 1].map(|direction| entry.ways[direction].direction),
            last_progress: entry.last_progress,
            first_byte: entry.first_byte,
            closed_first: entry.closed_first,
            has_left: entry.course == RingPhase::Leaving && entry.pending == 0,
        }
    }

    /// Has the ring take what the kernel has for it by now.
    pub(in crate::proxy::relay) fn catch_up(&self) {
        // The driver meets the same error, and ends the worker.
        let _ = self.ring.pump();
    }

    /// Asks for it to leave the ring.
    pub(in crate::proxy::relay) fn leave(&self) {
        let mut inner = self.ring.0.inner.borrow_mut();
        let RingState { raw, table } = &mut *inner;
        table.leave(raw, self.key);
        table.settle(raw, self.key);
        drop(inner);
        self.ring.nudge();
    }

    /// The way back to readiness: the directions as far as they have come, with all bytes that are still to be written, and
    /// errors still to be told. To be asked once [`State::has_left`]: nothing is in flight then, and nothing more comes.
    pub(in crate::proxy::relay) fn rest(&self) -> Rest {
        let mut inner = self.ring.0.inner.borrow_mut();
        let RingState { raw, table } = &mut *inner;
        let entry = &mut table.entries[self.key];
        let broken = take(&mut entry.broken);
        let directions = [0, 1].map(|direction| entry.ways[direction].direction);
        let mut unwritten = [Vec::new(), Vec::new()];
        for (way, unwritten) in entry.ways.iter_mut().zip(&mut unwritten) {
            way.empty(&table.slots, raw, Some(unwritten));
        }
        drop(inner);
        Rest { directions, unwritten, broken }
    }
}

impl Drop for RingSession<'_> {
    fn drop(&mut self) {
        let mut inner = self.ring.0.inner.borrow_mut();
        let RingState { raw, table } = &mut *inner;
        let entry = &mut table.entries[self.key];
        let was_on = entry.course == RingPhase::On;
        entry.course = RingPhase::Abandoned;
        entry.waker = None;
        if was_on {
            entry.cancel(raw, self.key);
        }
        table.settle(raw, self.key);
        drop(inner);
        self.ring.nudge();
    }
}
