//! A session's handle to its lane.

use std::io;
use std::mem::take;
use std::rc::Rc;
use std::task::Context;
use std::time::Instant;

use super::queue::DirectionQueue;
use super::table::{RingPhase, SessionEntry};
use super::{Bulk, Ring, RingState};
use crate::pool::ByteCell;
use crate::proxy::socket::TcpFd;

/// How far a direction has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy::relay) enum Stage {
    Open,
    /// The source has finished.
    Ended,
    /// And the target has been sent FIN.
    Finished,
}

/// Where a session stands on the ring. Directions: to the backend, to the client.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy::relay) struct State {
    pub(in crate::proxy::relay) stages: [Stage; 2],
    pub(in crate::proxy::relay) last_progress: Instant,
    pub(in crate::proxy::relay) first_byte: Option<Instant>,
    /// The backend finished while the client had not.
    pub(in crate::proxy::relay) closed_first: bool,
    /// It is off the ring: nothing is in flight any more.
    pub(in crate::proxy::relay) has_left: bool,
}

/// What a lane that has left hands back.
#[derive(Debug)]
pub(in crate::proxy::relay) struct Rest {
    /// Received and not yet sent.
    pub(in crate::proxy::relay) kept: [Vec<u8>; 2],
    pub(in crate::proxy::relay) paces: [Bulk; 2],
    /// Of the client's and the backend's connection.
    pub(in crate::proxy::relay) broken: [Option<io::Error>; 2],
}

/// A session's place on the ring. Dropping it cancels everything; the ring keeps the sockets until that is done.
pub(in crate::proxy::relay) struct RingSession<'a> {
    ring: &'a Ring,
    key: usize,
}

impl Ring {
    /// Begins to serve a session. Both sockets must be out of every event loop.
    pub(in crate::proxy::relay) fn join(&self, ends: [Rc<TcpFd>; 2], bytes: ByteCell, pace: Bulk) -> RingSession<'_> {
        let mut inner = self.0.inner.borrow_mut();
        let RingState { raw, table } = &mut *inner;
        let key = table.entries.insert(SessionEntry {
            ends,
            ways: [DirectionQueue::new(pace), DirectionQueue::new(pace)],
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
            stages: [entry.ways[0].stage, entry.ways[1].stage],
            last_progress: entry.last_progress,
            first_byte: entry.first_byte,
            closed_first: entry.closed_first,
            has_left: entry.course == RingPhase::Leaving && entry.pending == 0,
        }
    }

    /// Has the ring take what the kernel has for it by now.
    pub(in crate::proxy::relay) fn catch_up(&self) {
        // The driver meets the same error, and is who ends the worker.
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

    /// What is left over; to be asked once [`State::has_left`].
    pub(in crate::proxy::relay) fn rest(&self) -> Rest {
        let mut inner = self.ring.0.inner.borrow_mut();
        let RingState { raw, table } = &mut *inner;
        let entry = &mut table.entries[self.key];
        let (broken, paces) = (take(&mut entry.broken), [entry.ways[0].pace, entry.ways[1].pace]);
        let mut kept = [Vec::new(), Vec::new()];
        for (way, kept) in entry.ways.iter_mut().zip(&mut kept) {
            way.empty(&table.slots, raw, Some(kept));
        }
        drop(inner);
        Rest { kept, paces, broken }
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
