//! A load thread: what its slots share, how they open connections, and how they report results.
//!
//! A slot is the place of one connection; a load thread has many. Threads share only the start gate, where all slots start together,
//! and the live counters, which the progress bar reads.

use std::cell::RefCell;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::{Barrier, Semaphore};

use crate::connection::{Connection, ConnectionContext};
use crate::counters::{LiveCounters, ThreadResults};
use crate::operation_error::OperationError;
use crate::plan::LoadPlan;
use crate::timer::PreciseTimer;

/// Bytes per system call of a bulk transfer. A larger buffer gains nothing and does not stay in the L2 cache.
const SCRATCH: usize = 128 * 1024;

/// Connects at the same time at the start, per thread: half of the smallest usual backlog (128). A SYN that overflows the backlog
/// is repeated only after a second.
const OPENING: usize = 64;

/// Between a failure and the next attempt, so that a dead server does not get a flood of connects.
const PAUSE: Duration = Duration::from_millis(100);

pub(crate) struct LoadThread {
    pub(crate) plan: Arc<LoadPlan>,
    pub(crate) timer: PreciseTimer,
    scratch: RefCell<Box<[u8]>>,
    results: RefCell<ThreadResults>,
    counters: Arc<LiveCounters>,
    gate: Arc<StartGate>,
    opening: Semaphore,
}

impl LoadThread {
    /// Must be called inside a tokio runtime.
    pub(crate) fn new(plan: Arc<LoadPlan>, gate: Arc<StartGate>, counters: Arc<LiveCounters>) -> io::Result<Self> {
        Ok(Self {
            plan,
            timer: PreciseTimer::new()?,
            scratch: RefCell::new(vec![0; SCRATCH].into()),
            results: RefCell::new(ThreadResults::new()),
            counters,
            gate,
            opening: Semaphore::new(OPENING),
        })
    }

    pub(crate) fn context(&self) -> ConnectionContext<'_> {
        ConnectionContext { scratch: &self.scratch, counters: &self.counters }
    }

    /// Opens a connection with a new number, within the timeout.
    pub(crate) async fn open(&self) -> Result<Connection, OperationError> {
        let number = self.gate.number();
        let start = Instant::now();
        let opening = Connection::open(self.plan.address, self.plan.header(number), self.plan.plain_echo);
        let connection = tokio::time::timeout(self.plan.timeout, opening)
            .await
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "connecting took longer than the timeout")))
            .map_err(|error| OperationError::from(error).at(format_args!("connection {number}, connecting")))?;
        self.results.borrow_mut().connected(start.elapsed());
        LiveCounters::add(&self.counters.opened, 1);
        Ok(connection)
    }

    /// [`Self::open`] at the start of a run, when all slots open connections at once.
    pub(crate) async fn open_in_turn(&self) -> Result<Connection, OperationError> {
        // The semaphore is never closed.
        let _turn = self.opening.acquire().await;
        self.open().await
    }

    /// Waits for all slots of all threads; returns the common start.
    pub(crate) async fn start(&self) -> Instant {
        self.gate.start().await
    }

    pub(crate) fn succeeded(&self, intended: Instant, ended: Instant) {
        self.results.borrow_mut().operation(intended, ended);
        LiveCounters::add(&self.counters.operations, 1);
    }

    pub(crate) fn failed(&self, error: &OperationError) {
        self.results.borrow_mut().record_error(error);
        LiveCounters::add(&self.counters.errors, 1);
    }

    /// A slot has ended and never started this many operations.
    pub(crate) fn left(&self, operations: u64) {
        self.results.borrow_mut().not_started += operations;
    }

    /// Pauses after a failure. After too many failures in a row the slot gives up, and this returns `false`.
    pub(crate) async fn pause(&self, failures_in_a_row: u32) -> bool {
        if failures_in_a_row >= self.plan.attempts {
            self.results.borrow_mut().abandoned += 1;
            return false;
        }
        tokio::time::sleep(PAUSE).await;
        true
    }

    pub(crate) fn take_results(&self) -> ThreadResults {
        self.results.replace(ThreadResults::new())
    }
}

/// All slots of all threads wait here until the last one is ready.
pub(crate) struct StartGate {
    barrier: Barrier,
    start: OnceLock<Instant>,
    /// Numbers of connections. Relaxed: they only have to differ.
    connections: AtomicU64,
}

impl StartGate {
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
