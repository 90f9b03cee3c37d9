//! A session's handle to its lane.

use std::io;
use std::mem::take;
use std::rc::Rc;
use std::task::Context;
use std::time::Instant;

use super::lanes::{Course, Entry};
use super::way::Way;
use super::{Bulk, Inner, Ring};
use crate::pool::ByteCell;
use crate::proxy::socket::Bare;

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
pub(in crate::proxy::relay) struct Lane<'a> {
    ring: &'a Ring,
    key: usize,
}

impl Ring {
    /// Begins to serve a session. Both sockets must be out of every event loop.
    pub(in crate::proxy::relay) fn join(&self, ends: [Rc<Bare>; 2], bytes: ByteCell, pace: Bulk) -> Lane<'_> {
        let mut inner = self.0.inner.borrow_mut();
        let Inner { raw, lanes } = &mut *inner;
        let key = lanes.entries.insert(Entry {
            ends,
            ways: [Way::new(pace), Way::new(pace)],
            course: Course::On,
            pending: 0,
            broken: [None, None],
            waker: None,
            bytes,
            last_progress: Instant::now(),
            first_byte: None,
            closed_first: false,
        });
        lanes.receive(raw, key, 0);
        lanes.receive(raw, key, 1);
        drop(inner);
        self.nudge();
        Lane { ring: self, key }
    }
}

impl Lane<'_> {
    /// Where the session stands. The task is woken at the backend's first byte, when a
    /// direction has been finished, and when it has left.
    pub(in crate::proxy::relay) fn poll(&self, cx: &mut Context<'_>) -> State {
        let mut inner = self.ring.0.inner.borrow_mut();
        let entry = &mut inner.lanes.entries[self.key];
        if !entry.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            entry.waker = Some(cx.waker().clone());
        }
        State {
            stages: [entry.ways[0].stage, entry.ways[1].stage],
            last_progress: entry.last_progress,
            first_byte: entry.first_byte,
            closed_first: entry.closed_first,
            has_left: entry.course == Course::Leaving && entry.pending == 0,
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
        let Inner { raw, lanes } = &mut *inner;
        lanes.leave(raw, self.key);
        lanes.settle(raw, self.key);
        drop(inner);
        self.ring.nudge();
    }

    /// What is left over; to be asked once [`State::has_left`].
    pub(in crate::proxy::relay) fn rest(&self) -> Rest {
        let mut inner = self.ring.0.inner.borrow_mut();
        let Inner { raw, lanes } = &mut *inner;
        let entry = &mut lanes.entries[self.key];
        let (broken, paces) = (take(&mut entry.broken), [entry.ways[0].pace, entry.ways[1].pace]);
        let mut kept = [Vec::new(), Vec::new()];
        for (way, kept) in entry.ways.iter_mut().zip(&mut kept) {
            way.empty(&lanes.slots, raw, Some(kept));
        }
        drop(inner);
        Rest { kept, paces, broken }
    }
}

impl Drop for Lane<'_> {
    fn drop(&mut self) {
        let mut inner = self.ring.0.inner.borrow_mut();
        let Inner { raw, lanes } = &mut *inner;
        let entry = &mut lanes.entries[self.key];
        let was_on = entry.course == Course::On;
        entry.course = Course::Abandoned;
        entry.waker = None;
        if was_on {
            entry.cancel(raw, self.key);
        }
        lanes.settle(raw, self.key);
        drop(inner);
        self.ring.nudge();
    }
}
