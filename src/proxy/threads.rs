//! The data-plane threads: each has an event loop, a scratch buffer and sessions of its own. Used by `server` through
//! `WorkerThreads` and `Workers`. A session stays on its worker. Jobs reach a worker through its `WorkerHandle`.
//! This is the top of the data plane: it starts what the other modules are.

#[cfg(test)]
pub(super) mod tests;

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use tokio::runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::error;

use super::forced_end::ForcedEnd;
use super::idle_limits::IdleLimits;
use super::late_keepalive::LateKeepalive;
use super::listener::{self, Accepted, Listener};
use super::live::{SessionKey, SessionList, SessionRef, SessionView};
use super::option::TcpView;
use super::preconnect;
use super::relay::{Forbidden, RelayContext, Ring, RingCounts};
use super::session;
use super::shares::Places;
use super::socket::Acceptor;
use super::stock::Stock;
use super::worker::{Load, Worker, WorkerShared};
use crate::pool::Pool;

/// Pipes for splicing of all workers together: the kernel gives an unprivileged user 64 of 1 MiB.
const PIPE_LIMIT: usize = 64;

/// How often a worker frees what it does not use, and advances `LateKeepalive`.
const TRIM_INTERVAL: Duration = Duration::from_secs(2);

/// The least pipes of one worker.
const LEAST_PIPES: usize = 2;

/// Descriptors that the pipes of that many workers may take.
pub fn pipe_descriptors(workers: usize) -> usize {
    2 * PIPE_LIMIT.max(LEAST_PIPES * workers)
}

fn pipes_each(workers: usize) -> usize {
    (PIPE_LIMIT / workers).max(LEAST_PIPES)
}

/// Whether workers have an io_uring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rings {
    /// None.
    No,
    /// If the kernel allows it.
    IfAllowed,
    /// Always: without one they do not start.
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

/// The threads of all workers.
#[derive(Debug)]
pub struct WorkerThreads {
    handles: Arc<[WorkerHandle]>,
    died: watch::Receiver<Option<usize>>,
}

/// The way to a worker. Waiting jobs are bounded by the limits on sessions.
#[derive(Debug)]
pub(super) struct WorkerHandle {
    jobs: mpsc::UnboundedSender<Job>,
    shared: Arc<WorkerShared>,
}

pub(super) enum Job {
    Serve(Accepted, Load),
    Preconnect(Arc<Pool>, usize, Arc<Places>, CancellationToken),
    /// The pool's timeouts have changed.
    Renew(Arc<Pool>),
    Listen {
        fd: Arc<OwnedFd>,
        listener: Arc<Listener>,
        handles: Arc<[WorkerHandle]>,
        stop: CancellationToken,
        /// Held from the begin, so that a stop waits for a job that is under way.
        tracked: TaskTrackerToken,
    },
    Stop,
}

impl WorkerThreads {
    /// Starts `count` threads.
    ///
    /// # Errors
    /// The system gives no thread or no event loop.
    pub fn start(count: usize, rings: Rings) -> io::Result<Self> {
        let (tell_death, died) = watch::channel(None);
        let mut handles = Vec::with_capacity(count);
        for index in 0..count {
            let (jobs, to_do) = mpsc::unbounded_channel();
            let shared = Arc::new(WorkerShared {
                load: AtomicUsize::new(0),
                list: SessionList::new(index),
                pipes: Arc::default(),
                ring: Arc::default(),
            });
            let mut builder = runtime::Builder::new_current_thread();
            builder.enable_all();
            let for_thread = Arc::clone(&shared);
            let notice = PanicNotice { index, to: tell_death.clone() };
            let (started, start) = std::sync::mpsc::channel();
            thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                let runtime = match builder.build_local(runtime::LocalOptions::default()) {
                    Ok(runtime) => runtime,
                    Err(error) => {
                        let _ = started.send(Err(error));
                        return;
                    }
                };
                // A ring belongs to the thread that makes it.
                let ring = match rings.open(&for_thread.ring) {
                    Ok(ring) => ring,
                    Err(forbidden) => {
                        let _ = started.send(Err(io::Error::other(forbidden)));
                        return;
                    }
                };
                let _ = started.send(Ok(()));
                let relay_context = RelayContext::new(pipes_each(count), Arc::clone(&for_thread.pipes), ring.clone());
                let (stock, idle_limits, late_keepalive) =
                    (Stock::default(), IdleLimits::default(), LateKeepalive::default());
                let worker = Worker { index, relay_context, stock, idle_limits, late_keepalive, shared: for_thread };
                runtime.block_on(work(worker, notice, ring, to_do));
            })?;
            start.recv().unwrap_or_else(|_| Err(io::Error::other("a worker thread died while starting")))?;
            handles.push(WorkerHandle { jobs, shared });
        }
        Ok(Self { handles: handles.into(), died })
    }

    /// How many workers there are.
    pub fn count(&self) -> usize {
        self.handles.len()
    }

    /// The workers, for metrics and for ending sessions.
    pub fn workers(&self) -> Workers {
        Workers(Arc::clone(&self.handles))
    }

    /// Resolves with a worker's number if its thread dies, or can't accept any more on a socket of its own. That is a bug,
    /// and the process can't be trusted after it.
    ///
    /// # Cancel safety
    /// Safe.
    pub fn death(&self) -> impl Future<Output = usize> + Send + use<> {
        let mut died = self.died.clone();
        async move {
            loop {
                if let Some(index) = *died.borrow_and_update() {
                    return index;
                }
                if died.changed().await.is_err() {
                    // All workers have ended normally.
                    std::future::pending::<()>().await;
                }
            }
        }
    }
}

/// All workers, as other threads use them.
#[derive(Clone, Debug)]
pub struct Workers(Arc<[WorkerHandle]>);

impl Workers {
    /// Lets worker `number` mod N accept on a listening socket until `stop`.
    pub fn listen(&self, number: usize, fd: Arc<OwnedFd>, listener: Arc<Listener>, stop: CancellationToken) {
        let tracked = listener.tracked();
        let job = Job::Listen { fd, listener, handles: Arc::clone(&self.0), stop, tracked };
        // A worker that has died has reported it; the process is about to end.
        let _ = self.0[number % self.0.len()].jobs.send(job);
    }

    /// Lets every worker keep its part of the pool's `preconnect` until `stop`. Each waiting connection takes one of
    /// `places`.
    pub fn preconnect(&self, pool: &Arc<Pool>, places: &Arc<Places>, stop: &CancellationToken) {
        for (index, handle) in self.0.iter().enumerate() {
            let share = preconnect::share(pool.settings().preconnect, index, self.0.len());
            if share > 0 {
                let job = Job::Preconnect(Arc::clone(pool), share, Arc::clone(places), stop.clone());
                let _ = handle.jobs.send(job);
            }
        }
    }

    /// Visits every live session, worker by worker. Sessions that begin or end meanwhile may be missing. `look` holds the
    /// lock of the session: it must be short, and must not end sessions.
    pub fn visit_sessions(&self, mut look: impl FnMut(SessionRef<'_>)) {
        for handle in self.0.iter() {
            handle.shared.list.visit(&mut look);
        }
    }

    /// Visits one session, if it still lives.
    pub fn visit_session(&self, session: SessionKey, look: impl FnOnce(SessionRef<'_>)) {
        if let Some(handle) = self.0.get(session.worker()) {
            handle.shared.list.visit_one(session, look);
        }
    }

    /// Copies of all live sessions.
    pub fn list_sessions(&self) -> Vec<SessionView> {
        let mut all = Vec::new();
        for handle in self.0.iter() {
            handle.shared.list.view(&mut all);
        }
        all
    }

    /// What the kernel knows about a session's connections, the client's first; `None` = it has ended, or is not connected
    /// yet.
    pub fn tcp(&self, session: SessionKey) -> Option<[TcpView; 2]> {
        self.0.get(session.worker())?.shared.list.tcp(session)
    }

    /// Ends a session. Returns whether it still lived and was not told before.
    pub fn cut(&self, session: SessionKey, cut: ForcedEnd, note: impl FnOnce(Option<&Pool>)) -> bool {
        self.0.get(session.worker()).is_some_and(|handle| handle.shared.list.cut(session, cut, note))
    }

    /// Applies the pool's present timeouts to running sessions.
    pub fn renew(&self, pool: &Arc<Pool>) {
        for handle in self.0.iter() {
            let _ = handle.jobs.send(Job::Renew(Arc::clone(pool)));
        }
    }

    /// Ends every session, also later ones. `note` gets the pool of each that lives and was not told before, if it has one,
    /// just before it is told.
    pub fn cut_all(&self, cut: ForcedEnd, mut note: impl FnMut(Option<&Pool>)) {
        for handle in self.0.iter() {
            handle.shared.list.cut_all(cut, &mut note);
        }
    }

    /// Ends the threads, whatever runs on them.
    pub fn stop(&self) {
        for handle in self.0.iter() {
            let _ = handle.jobs.send(Job::Stop);
        }
    }

    /// Pipes now, and how often bulk data was copied because no pipe was free.
    pub fn pipes(&self) -> (usize, u64) {
        let counts = || self.0.iter().map(|handle| &handle.shared.pipes);
        (counts().map(|pipes| pipes.open()).sum(), counts().map(|pipes| pipes.missing()).sum())
    }

    /// Sessions on io_uring now, and buffers with bytes now.
    pub fn rings(&self) -> (usize, usize) {
        let counts = || self.0.iter().map(|handle| &handle.shared.ring);
        (counts().map(|ring| ring.sessions()).sum(), counts().map(|ring| ring.buffers()).sum())
    }

    /// Sessions by worker.
    pub fn sessions(&self) -> Vec<usize> {
        self.0.iter().map(|handle| handle.shared.load.load(Relaxed)).collect()
    }
}

/// Gives a connection to the worker with the fewest sessions.
fn hand_over(handles: &[WorkerHandle], accepted: Accepted) {
    let Some(handle) = handles.iter().min_by_key(|handle| handle.shared.load.load(Relaxed)) else { return };
    let _ = handle.jobs.send(Job::Serve(accepted, Load::new(&handle.shared)));
}

async fn work(worker: Worker, notice: PanicNotice, ring: Option<Ring>, mut to_do: mpsc::UnboundedReceiver<Job>) {
    let worker = Rc::new(worker);
    tokio::task::spawn_local(trim(Rc::clone(&worker)));
    let mut driving = ring.map(|ring| tokio::task::spawn_local(ring.drive()));
    loop {
        let job = tokio::select! {
            biased;
            job = to_do.recv() => job,
            // Without the ring no session goes on, so the thread ends by a panic.
            why = ended(&mut driving) => panic!("the worker's io_uring failed: {why}"),
        };
        let Some(job) = job else { return };
        match job {
            Job::Serve(accepted, load) => {
                // A panic ends this task only. The drop of its record, lease and sockets counts it.
                tokio::task::spawn_local(session::run(accepted, Rc::clone(&worker), load));
            }
            Job::Listen { fd, listener, handles, stop, tracked } => match Acceptor::new(fd) {
                Ok(acceptor) => {
                    // Unlike a session's panic, this one ends the process: a listener that does not accept must not look
                    // alive.
                    let notice = notice.clone();
                    tokio::task::spawn_local(async move {
                        let hand_over = |accepted| hand_over(&handles, accepted);
                        listener::accept(acceptor, listener, hand_over, stop, tracked).await;
                        drop(notice);
                    });
                }
                Err(error) => {
                    error!(listener = %listener.name, %error, "the event loop does not take the socket");
                    notice.tell();
                }
            },
            Job::Preconnect(pool, share, places, stop) => {
                tokio::task::spawn_local(preconnect::keep_stock(Rc::clone(&worker), pool, share, places, stop));
            }
            Job::Renew(pool) => worker.renew(&pool),
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

/// Frees what is not used, and advances late keepalive, for ever.
async fn trim(worker: Rc<Worker>) {
    loop {
        tokio::time::sleep(TRIM_INTERVAL).await;
        worker.relay_context.trim();
        worker.late_keepalive.advance();
    }
}

/// Reports the worker's death if a panic drops it.
#[derive(Clone)]
struct PanicNotice {
    index: usize,
    to: watch::Sender<Option<usize>>,
}

impl PanicNotice {
    fn tell(&self) {
        self.to.send_replace(Some(self.index));
    }
}

impl Drop for PanicNotice {
    fn drop(&mut self) {
        if thread::panicking() {
            self.tell();
        }
    }
}
