//! The io_uring of one worker: sessions of small messages whose bytes are received into a ring of shared buffers and sent
//! from there, without a turn of the session's task. It serves the ordinary course of a session only: both sides alive,
//! each taking what it is given. One whose target does not take its bytes at once, that turns bulk, whose connection
//! breaks or that stays half-closed leaves, with what was received and not sent, and goes on through readiness (`flow`),
//! where back-pressure, splicing and errors in every state are dealt with. So no session holds buffers of the ring for longer
//! than a turn of the loop, and an idle session holds none.
//!
//! Its sockets are kept by the ring until the last completion of what was pushed for it, whatever becomes of the session.
//!
//! How far a direction has come is a `DirectionState`, as in `flow`: `join` and `rest` hand it over.

mod queue;
mod raw;
mod session;
mod table;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Poll, Waker};
use std::time::Duration;

use tokio::io::Interest;
use tokio::time::{Instant, sleep_until};

use super::direction::{DirectionState, Step};
use crate::proxy::socket::watch;
pub use raw::Forbidden;
use raw::Raw;
pub(super) use session::{Rest, State};
use table::SessionTable;

/// Submissions at once; more wait in user space.
const ENTRIES: u32 = 1024;

/// Buffers of a worker. When all are taken, receivers wait for one in turn.
const BUFFERS: u16 = 256;

/// Of one buffer. Messages up to this size go in one piece.
const BUFFER: u32 = 16 * 1024;

/// Times that the kernel is entered before other tasks of the worker get a turn.
const ROUNDS: usize = 16;

/// After bytes, until it is looked whether the connection that they came from has broken behind them. All that received
/// meanwhile share one look.
const LOOK_BEHIND: Duration = Duration::from_millis(50);

/// Whether this process may have rings that do what is asked of them here: tries one.
///
/// # Errors
/// What was tried, and what the kernel said.
pub fn try_ring() -> Result<(), Forbidden> {
    Raw::open(8, 8, 64)?.rehearse()
}

/// What is counted about the ring of a worker. Statistics: `Relaxed`.
#[derive(Debug, Default)]
pub struct RingCounts {
    sessions: AtomicUsize,
    buffers: AtomicUsize,
}

impl RingCounts {
    /// Sessions on the ring, also those that wait for their last completion.
    pub fn sessions(&self) -> usize {
        self.sessions.load(Relaxed)
    }

    /// Buffers with bytes in them.
    pub fn buffers(&self) -> usize {
        self.buffers.load(Relaxed)
    }
}

/// A handle; all sessions of a worker share one ring.
#[derive(Clone)]
pub(crate) struct Ring(Rc<RingShared>);

struct RingShared {
    inner: RefCell<RingState>,
    /// Wakes [`Ring::drive`].
    driver: RefCell<Option<Waker>>,
    counts: Arc<RingCounts>,
}

struct RingState {
    raw: Raw,
    table: SessionTable,
}

impl Ring {
    /// To be called on the thread that is going to use it.
    ///
    /// # Errors
    /// If the kernel, or what guards it, does not allow it.
    pub(crate) fn open(counts: Arc<RingCounts>) -> Result<Self, Forbidden> {
        Self::with(ENTRIES, BUFFERS, BUFFER, counts)
    }

    fn with(entries: u32, buffers: u16, size: u32, counts: Arc<RingCounts>) -> Result<Self, Forbidden> {
        let raw = Raw::open(entries, buffers, size)?;
        let table = SessionTable::new(buffers);
        let inner = RefCell::new(RingState { raw, table });
        Ok(Self(Rc::new(RingShared { inner, driver: RefCell::default(), counts })))
    }

    /// Serves all sessions. Must run as long as there are any.
    ///
    /// # Errors
    /// The kernel refuses to go on with the ring: the worker is at its end.
    pub(crate) async fn drive(self) -> io::Error {
        let watched = match watch(self.0.inner.borrow().raw.eventfd(), Interest::READABLE) {
            Ok(watched) => watched,
            Err(error) => return error,
        };
        let (mut timer, mut is_set) = (pin!(sleep_until(Instant::now())), false);
        poll_fn(|cx| {
            *self.0.driver.borrow_mut() = Some(cx.waker().clone());
            // Each signal is an edge, also of an eventfd that is not read.
            while let Poll::Ready(ready) = watched.poll_read_ready(cx) {
                match ready {
                    Ok(mut ready) => ready.clear_ready(),
                    Err(error) => return Poll::Ready(error),
                }
            }
            if is_set && timer.as_mut().poll(cx).is_ready() {
                is_set = false;
                self.look_behind();
            }
            match self.pump() {
                Ok(true) => cx.waker().wake_by_ref(),
                Ok(false) => {}
                Err(error) => return Poll::Ready(error),
            }
            if !is_set && self.0.inner.borrow().table.has_heard() {
                is_set = true;
                timer.as_mut().reset(Instant::now() + LOOK_BEHIND);
                if timer.as_mut().poll(cx).is_ready() {
                    cx.waker().wake_by_ref();
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Submits, completes, and submits what came of it. Returns whether there is more to do at once.
    fn pump(&self) -> io::Result<bool> {
        let mut inner = self.0.inner.borrow_mut();
        let RingState { raw, table } = &mut *inner;
        raw.mute();
        for _ in 0..ROUNDS {
            if !raw.has_work() && !table.can_feed(raw) {
                break;
            }
            let sent = table.begin_round();
            raw.enter()?;
            while let Some(completion) = raw.next() {
                table.take(raw, completion);
            }
            table.end_round(raw, sent);
        }
        raw.unmute();
        let more = raw.has_work() || table.can_feed(raw);
        self.0.counts.sessions.store(table.len(), Relaxed);
        self.0.counts.buffers.store(usize::from(table.buffers()) - raw.free(), Relaxed);
        let mut to_wake = table.take_wakers();
        drop(inner);
        // Not while the ring is borrowed: what is woken may be dropped by it.
        to_wake.drain(..).for_each(Waker::wake);
        self.0.inner.borrow_mut().table.keep(to_wake);
        Ok(more)
    }

    fn look_behind(&self) {
        let mut inner = self.0.inner.borrow_mut();
        let RingState { raw, table } = &mut *inner;
        table.look_behind(raw);
    }

    /// Something was pushed: has it submitted at the driver's next turn.
    fn nudge(&self) {
        if let Some(driver) = &*self.0.driver.borrow() {
            driver.wake_by_ref();
        }
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("counts", &self.0.counts).finish_non_exhaustive()
    }
}
