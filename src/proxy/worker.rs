//! One data-plane thread: its own event loop, scratch buffer and sessions. Jobs reach it through its seat, which anybody
//! may hold.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

use tokio::runtime;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::cut::{Cut, Enlisted, List};
use super::listener::{self, Listener};
use super::relay::{Forbidden, Gear, PipeCounts, Ring, RingCounts};
use super::session::{self, Accepted};
use super::socket::Acceptor;

/// Pipes for splicing, over all workers: the kernel gives an unprivileged user 64 of 1 MiB.
const PIPES: usize = 64;

/// Descriptors that the pipes of so many workers may take.
pub fn pipe_descriptors(workers: usize) -> usize {
    2 * workers * pipes_each(workers)
}

fn pipes_each(workers: usize) -> usize {
    (PIPES / workers).max(2)
}

/// Whether workers have an io_uring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rings {
    /// None.
    No,
    /// Unless it turns out that they may not.
    IfAllowed,
    /// Without one they do not start.
    Must,
}

impl Rings {
    fn open(self, counts: &Arc<RingCounts>) -> Result<Option<Ring>, Forbidden> {
        match self {
            Self::No => Ok(None),
            Self::IfAllowed => Ok(Ring::open(Arc::clone(counts)).ok()),
            Self::Must => Ring::open(Arc::clone(counts)).map(Some),
        }
    }
}

/// All workers, seen from outside.
#[derive(Debug)]
pub struct Workers {
    seats: Arc<[Seat]>,
    died: mpsc::Receiver<usize>,
}

/// Where a worker gets its jobs. What is waiting is bounded by the limits on sessions.
#[derive(Debug)]
pub(super) struct Seat {
    jobs: mpsc::UnboundedSender<Job>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Sessions here or on their way here.
    load: AtomicUsize,
    list: List,
    pipes: Arc<PipeCounts>,
    ring: Arc<RingCounts>,
}

pub(super) enum Job {
    Serve(Accepted, Load),
    Listen(OwnedFd, Arc<Listener>, Arc<[Seat]>, CancellationToken),
    Stop,
}

/// A session's weight on its worker.
#[derive(Debug)]
pub(super) struct Load(Arc<Shared>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.load.fetch_sub(1, Relaxed);
    }
}

impl Workers {
    /// Starts `count` threads.
    ///
    /// # Errors
    /// If the system gives no thread or no event loop.
    pub fn start(count: usize, log_sessions: bool, rings: Rings) -> io::Result<Self> {
        let (tell_death, died) = mpsc::channel(count);
        let mut seats = Vec::with_capacity(count);
        for index in 0..count {
            let (jobs, to_do) = mpsc::unbounded_channel();
            let shared = Arc::new(Shared::default());
            let mut builder = runtime::Builder::new_current_thread();
            builder.enable_all();
            let for_thread = Arc::clone(&shared);
            let obituary = Obituary { index, tell: tell_death.clone() };
            let (started, start) = std::sync::mpsc::channel();
            thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                let runtime = match builder.build_local(runtime::LocalOptions::default()) {
                    Ok(runtime) => runtime,
                    Err(error) => {
                        let _ = started.send(Err(error));
                        return std::mem::forget(obituary);
                    }
                };
                // A ring belongs to the thread that makes it.
                let ring = match rings.open(&for_thread.ring) {
                    Ok(ring) => ring,
                    Err(forbidden) => {
                        let _ = started.send(Err(io::Error::other(forbidden)));
                        return std::mem::forget(obituary);
                    }
                };
                let _ = started.send(Ok(()));
                let gear = Gear::new(pipes_each(count), Arc::clone(&for_thread.pipes), ring.clone());
                runtime.block_on(work(Worker { index, gear, log_sessions, shared: for_thread }, ring, to_do));
                std::mem::forget(obituary);
            })?;
            start.recv().unwrap_or_else(|_| Err(io::Error::other("a worker thread died while starting")))?;
            seats.push(Seat { jobs, shared });
        }
        Ok(Self { seats: seats.into(), died })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.seats.len()
    }

    /// A view on the workers for metrics and for ending sessions.
    pub fn floor(&self) -> Floor {
        Floor(Arc::clone(&self.seats))
    }

    /// Resolves with a worker's number if its thread dies: a bug, after which the process can't be trusted.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn death(&mut self) -> usize {
        match self.died.recv().await {
            Some(index) => index,
            None => std::future::pending().await,
        }
    }
}

/// See [`Workers::floor`].
#[derive(Clone, Debug)]
pub struct Floor(Arc<[Seat]>);

impl Floor {
    /// Lets worker `number` mod N accept on a listening socket until `stop`.
    pub fn listen(&self, number: usize, fd: OwnedFd, listener: Arc<Listener>, stop: CancellationToken) {
        let job = Job::Listen(fd, listener, Arc::clone(&self.0), stop);
        // A worker that is gone has told so; the process is about to end.
        let _ = self.0[number % self.0.len()].jobs.send(job);
    }

    /// Ends every session, also those that come later.
    pub fn cut_all(&self, cut: Cut) {
        for seat in self.0.iter() {
            seat.shared.list.cut_all(cut);
        }
    }

    /// Lets the threads end, without regard to what still lives on them.
    pub fn stop(&self) {
        for seat in self.0.iter() {
            let _ = seat.jobs.send(Job::Stop);
        }
    }

    /// Pipes now, and how often bulk was copied for want of one.
    pub fn pipes(&self) -> (usize, u64) {
        let counts = || self.0.iter().map(|seat| &seat.shared.pipes);
        (counts().map(|pipes| pipes.open()).sum(), counts().map(|pipes| pipes.missing()).sum())
    }

    /// Sessions on io_uring, and buffers with bytes in them, now.
    pub fn rings(&self) -> (usize, usize) {
        let counts = || self.0.iter().map(|seat| &seat.shared.ring);
        (counts().map(|ring| ring.lanes()).sum(), counts().map(|ring| ring.buffers()).sum())
    }

    /// Sessions by worker.
    pub fn sessions(&self) -> Vec<usize> {
        self.0.iter().map(|seat| seat.shared.load.load(Relaxed)).collect()
    }
}

/// Gives a connection to the worker with the fewest sessions.
pub(super) fn hand_over(seats: &[Seat], accepted: Accepted) {
    let Some(seat) = seats.iter().min_by_key(|seat| seat.shared.load.load(Relaxed)) else { return };
    seat.shared.load.fetch_add(1, Relaxed);
    let load = Load(Arc::clone(&seat.shared));
    let _ = seat.jobs.send(Job::Serve(accepted, load));
}

/// What the sessions of one worker share.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) index: usize,
    pub(super) gear: Gear,
    pub(super) log_sessions: bool,
    shared: Arc<Shared>,
}

impl Worker {
    pub(super) fn enlist(&self) -> Enlisted<'_> {
        self.shared.list.enlist()
    }

    pub(super) fn random(&self) -> fastrand::Rng {
        fastrand::Rng::new()
    }
}

async fn work(worker: Worker, ring: Option<Ring>, mut to_do: mpsc::UnboundedReceiver<Job>) {
    let worker = Rc::new(worker);
    let mut driving = ring.map(|ring| tokio::task::spawn_local(ring.drive()));
    loop {
        let job = tokio::select! {
            biased;
            job = to_do.recv() => job,
            // Without it no session goes on: the thread dies of it.
            why = ended(&mut driving) => panic!("the worker's io_uring failed: {why}"),
        };
        let Some(job) = job else { return };
        match job {
            Job::Serve(accepted, load) => {
                let worker = Rc::clone(&worker);
                // A panic ends this task only; its record, lease and sockets say so while they are dropped.
                tokio::task::spawn_local(async move {
                    session::run(accepted, worker).await;
                    drop(load);
                });
            }
            Job::Listen(fd, listener, seats, stop) => match Acceptor::new(fd) {
                Ok(acceptor) => {
                    tokio::task::spawn_local(listener::accept(acceptor, listener, seats, stop));
                }
                Err(error) => error!(listener = %listener.name, %error, "the event loop does not take the socket"),
            },
            Job::Stop => return,
        }
    }
}

async fn ended(driving: &mut Option<JoinHandle<io::Error>>) -> String {
    match driving {
        None => std::future::pending().await,
        Some(driving) => driving.await.map_or_else(|error| error.to_string(), |error| error.to_string()),
    }
}

/// Tells of the thread's death unless it is forgotten.
struct Obituary {
    index: usize,
    tell: mpsc::Sender<usize>,
}

impl Drop for Obituary {
    fn drop(&mut self) {
        let _ = self.tell.try_send(self.index);
    }
}
