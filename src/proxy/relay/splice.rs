//! Splicing: the kernel moves pages from one socket to the other through a pipe, and no byte enters this process
//! (splice(2)). The door to the kernel's pipes.
//!
//! Rules, each learned the hard way: a pipe is drained to empty before the next fill, so EAGAIN on a fill
//! means that the source is dry, or that urgent data is next, which only recv(2) gets past; the nominal size of a pipe does not bound what is in flight; a pipe that is not empty
//! is closed, never pooled, or one client's bytes would reach another; and when the kernel has no good pipe to give
//! (unprivileged users get 64 MiB, then pipes of two pages) the direction copies.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};

use crate::proxy::socket::Socket;

/// Asked of the kernel for each pipe, and in one call.
const SIZE: usize = 1024 * 1024;

/// A smaller pipe is not worth having.
const LEAST: usize = 64 * 1024;

/// After the kernel had no good pipe, it is asked again only after this.
const PAUSE: Duration = Duration::from_secs(1);

/// The pipes of one worker: as many as its directions that wait with bytes under way, up to a bound.
#[derive(Debug)]
pub(super) struct Pipes {
    #[expect(clippy::vec_box, reason = "they come and go in their boxes: few sessions have one")]
    idle: RefCell<Vec<Box<Pipe>>>,
    /// The fewest that were idle since the last [`Self::trim`].
    unused: Cell<usize>,
    most: usize,
    not_before: Cell<Option<Instant>>,
    counts: Arc<PipeCounts>,
}

/// What is counted about the pipes of a worker. Statistics: `Relaxed`.
#[derive(Debug, Default)]
pub struct PipeCounts {
    open: AtomicUsize,
    missing: AtomicU64,
}

impl PipeCounts {
    /// Pipes now, idle ones included.
    pub fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// How often bulk was copied because there was no pipe.
    pub fn missing(&self) -> u64 {
        self.missing.load(Relaxed)
    }
}

/// An empty or partly filled pipe.
#[derive(Debug)]
pub(super) struct Pipe {
    from: OwnedFd,
    into: OwnedFd,
    holds: usize,
    counts: Arc<PipeCounts>,
}

impl Pipes {
    pub(super) fn new(most: usize, counts: Arc<PipeCounts>) -> Self {
        Self { idle: RefCell::default(), unused: Cell::new(0), most, not_before: Cell::new(None), counts }
    }

    /// An empty pipe. `None`: copy this time.
    pub(super) fn take(&self) -> Option<Box<Pipe>> {
        let mut idle = self.idle.borrow_mut();
        if let Some(pipe) = idle.pop() {
            self.unused.set(self.unused.get().min(idle.len()));
            return Some(pipe);
        }
        let pipe = self.open();
        if pipe.is_none() {
            self.counts.missing.fetch_add(1, Relaxed);
        }
        pipe
    }

    /// Takes back a pipe; only an empty one is kept.
    pub(super) fn put_back(&self, pipe: Box<Pipe>) {
        if pipe.is_empty() {
            self.idle.borrow_mut().push(pipe);
        }
    }

    /// Closes what was not used since the last time: after a storm of bulk, nothing is left.
    pub(super) fn trim(&self) {
        let mut idle = self.idle.borrow_mut();
        let stay = idle.len().saturating_sub(self.unused.get());
        idle.truncate(stay);
        self.unused.set(stay);
    }

    fn open(&self) -> Option<Box<Pipe>> {
        if self.counts.open() >= self.most || self.not_before.get().is_some_and(|at| Instant::now() < at) {
            return None;
        }
        let pipe = Pipe::open(&self.counts).map(Box::new);
        if pipe.is_none() {
            self.not_before.set(Some(Instant::now() + PAUSE));
        }
        pipe
    }
}

impl Pipe {
    fn open(counts: &Arc<PipeCounts>) -> Option<Self> {
        let (from, into) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).ok()?;
        // Over the user's limit this fails, and the pipe stays as small as it was made.
        let size = fcntl_setpipe_size(&into, SIZE).or_else(|_| fcntl_getpipe_size(&into)).ok()?;
        if size < LEAST {
            return None;
        }
        counts.open.fetch_add(1, Relaxed);
        Some(Self { from, into, holds: 0, counts: Arc::clone(counts) })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.holds == 0
    }

    /// Fills it, empty, with what the source has, `most` at most; 0 = FIN or urgent data.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>, source: &Socket, most: usize) -> Poll<io::Result<usize>> {
        debug_assert!(self.is_empty());
        let result = source.poll_splice_to(cx, &self.into, most.min(SIZE));
        if let Poll::Ready(Ok(read)) = &result {
            self.holds += read;
        }
        result
    }

    /// Gives what it holds to the target, as far as that takes it.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>, target: &Socket) -> Poll<io::Result<usize>> {
        let result = target.poll_splice_from(cx, &self.from, self.holds);
        if let Poll::Ready(Ok(written)) = &result {
            self.holds -= written;
        }
        result
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.counts.open.fetch_sub(1, Relaxed);
    }
}
