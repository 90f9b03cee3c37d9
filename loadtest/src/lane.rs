//! One load thread: what its slots share, and how they open connections and report what became of them.
//!
//! A slot is one place for a connection; a lane is a thread full of slots. Nothing in a lane is shared with another thread but
//! the gate (all start together) and the meter (read by the progress bar).

use std::cell::RefCell;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::{Barrier, Semaphore};

use crate::alarm::Alarm;
use crate::fault::Fault;
use crate::link::{Desk, Link};
use crate::plan::Plan;
use crate::tally::{Meter, Tally};

/// Bytes per system call of a bulk transfer. More gains nothing measurable and no longer stays in the L2 cache.
const SCRATCH: usize = 128 * 1024;

/// Connects under way at the same time at the start, per lane: half of the smallest usual backlog (128), since a SYN that
/// overflows it is repeated only after a second.
const OPENING: usize = 64;

/// Between a failure and the next attempt: a dead server shall not be hammered, and a fail-over takes about as long.
const PAUSE: Duration = Duration::from_millis(100);

pub(crate) struct Lane {
    pub(crate) plan: Arc<Plan>,
    pub(crate) alarm: Alarm,
    scratch: RefCell<Box<[u8]>>,
    tally: RefCell<Tally>,
    meter: Arc<Meter>,
    gate: Arc<Gate>,
    opening: Semaphore,
}

impl Lane {
    /// Must be called inside a tokio runtime.
    pub(crate) fn new(plan: Arc<Plan>, gate: Arc<Gate>, meter: Arc<Meter>) -> io::Result<Self> {
        Ok(Self {
            plan,
            alarm: Alarm::new()?,
            scratch: RefCell::new(vec![0; SCRATCH].into()),
            tally: RefCell::new(Tally::new()),
            meter,
            gate,
            opening: Semaphore::new(OPENING),
        })
    }

    pub(crate) fn desk(&self) -> Desk<'_> {
        Desk { scratch: &self.scratch, meter: &self.meter }
    }

    /// Opens a connection with a number that no other one has had, within the timeout.
    pub(crate) async fn open(&self) -> Result<Link, Fault> {
        let number = self.gate.number();
        let start = Instant::now();
        let opening = Link::open(self.plan.address, self.plan.header(number), self.plan.plain_echo);
        let link = tokio::time::timeout(self.plan.timeout, opening)
            .await
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "connecting took longer than the timeout")))
            .map_err(|error| Fault::from(error).at(format_args!("connection {number}, connecting")))?;
        self.tally.borrow_mut().connected(start.elapsed());
        Meter::add(&self.meter.opened, 1);
        Ok(link)
    }

    /// [`Self::open`] at the start of a run, when all slots want to at once.
    pub(crate) async fn open_in_turn(&self) -> Result<Link, Fault> {
        // The semaphore is never closed.
        let _turn = self.opening.acquire().await;
        self.open().await
    }

    /// Waits until all slots of all lanes have come here; returns the common start.
    pub(crate) async fn start(&self) -> Instant {
        self.gate.start().await
    }

    pub(crate) fn succeeded(&self, intended: Instant, ended: Instant) {
        self.tally.borrow_mut().operation(intended, ended);
        Meter::add(&self.meter.operations, 1);
    }

    pub(crate) fn faulted(&self, fault: &Fault) {
        self.tally.borrow_mut().fault(fault);
        Meter::add(&self.meter.faults, 1);
    }

    /// A slot is over, with so many operations that it never started.
    pub(crate) fn left(&self, operations: u64) {
        self.tally.borrow_mut().not_started += operations;
    }

    /// After a failure: pauses, unless it was one too many in a row; then the slot gives up (`false`).
    pub(crate) async fn pause(&self, failures_in_a_row: u32) -> bool {
        if failures_in_a_row >= self.plan.attempts {
            self.tally.borrow_mut().abandoned += 1;
            return false;
        }
        tokio::time::sleep(PAUSE).await;
        true
    }

    pub(crate) fn take_tally(&self) -> Tally {
        self.tally.replace(Tally::new())
    }
}

/// Where all slots of all lanes meet before the clock starts.
pub(crate) struct Gate {
    barrier: Barrier,
    start: OnceLock<Instant>,
    /// Relaxed: the numbers only have to differ.
    connections: AtomicU64,
}

impl Gate {
    pub(crate) fn new(slots: u64) -> Self {
        Self { barrier: Barrier::new(slots as usize), start: OnceLock::new(), connections: AtomicU64::new(0) }
    }

    /// When the run started; `None` when it has not.
    pub(crate) fn started(&self) -> Option<Instant> {
        self.start.get().copied()
    }

    async fn start(&self) -> Instant {
        self.barrier.wait().await;
        *self.start.get_or_init(Instant::now)
    }

    fn number(&self) -> u64 {
        self.connections.fetch_add(1, Ordering::Relaxed)
    }
}
