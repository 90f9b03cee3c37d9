//! One data-plane thread: its own event loop, scratch buffer and sessions. Jobs reach it through its seat, which anybody
//! may hold.

#[cfg(test)]
pub(super) mod tests;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::error;

use super::forced_end::ForcedEnd;
use super::idle_limits::IdleLimits;
use super::late_keepalive::LateKeepalive;
use super::listener::{self, Listener};
use super::live::{Live, SessionKey, SessionList, SessionRef, SessionView};
use super::option::TcpView;
use super::preconnect::{self, Stock};
use super::relay::{Forbidden, PipeCounts, RelayContext, Ring, RingCounts};
use super::session::{self, Accepted};
use super::shares::Places;
use super::socket::Acceptor;
use crate::pool::Pool;

/// Pipes for splicing, over all workers: the kernel gives an unprivileged user 64 of 1 MiB.
const PIPES: usize = 64;

/// How often a worker gives back what it does not use, and a generation of connections grows up.
const TRIM: Duration = Duration::from_secs(2);

/// The least that a worker gets of them.
const PIPES_EACH: usize = 2;

/// Descriptors that the pipes of so many workers may take.
pub fn pipe_descriptors(workers: usize) -> usize {
    2 * PIPES.max(PIPES_EACH * workers)
}

fn pipes_each(workers: usize) -> usize {
    (PIPES / workers).max(PIPES_EACH)
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
pub struct WorkerThreads {
    handles: Arc<[WorkerHandle]>,
    died: watch::Receiver<Option<usize>>,
}

/// Where a worker gets its jobs. What is waiting is bounded by the limits on sessions.
#[derive(Debug)]
pub(super) struct WorkerHandle {
    jobs: mpsc::UnboundedSender<Job>,
    shared: Arc<WorkerShared>,
}

#[derive(Debug)]
struct WorkerShared {
    /// Sessions here or on their way here.
    load: AtomicUsize,
    list: SessionList,
    pipes: Arc<PipeCounts>,
    ring: Arc<RingCounts>,
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
        /// From the begin, so that a stop waits for a job that is still under way.
        tracked: TaskTrackerToken,
    },
    Stop,
}

/// A session's weight on its worker.
#[derive(Debug)]
pub(super) struct Load(Option<Arc<WorkerShared>>);

impl Load {
    /// It stays: the worker itself is going to take it off.
    fn stay(mut self) {
        self.0 = None;
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(shared) = &self.0 {
            shared.load.fetch_sub(1, Relaxed);
        }
    }
}

impl WorkerThreads {
    /// Starts `count` threads.
    ///
    /// # Errors
    /// If the system gives no thread or no event loop.
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

    /// How many there are.
    pub fn count(&self) -> usize {
        self.handles.len()
    }

    /// A view on the workers for metrics and for ending sessions.
    pub fn workers(&self) -> Workers {
        Workers(Arc::clone(&self.handles))
    }

    /// Resolves with a worker's number if its thread dies, or does not accept any more on a socket of its own: a bug,
    /// after which the process can't be trusted.
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
                    // All of them have ended as they should.
                    std::future::pending::<()>().await;
                }
            }
        }
    }
}

/// See [`WorkerThreads::workers`].
#[derive(Clone, Debug)]
pub struct Workers(Arc<[WorkerHandle]>);

impl Workers {
    /// Lets worker `number` mod N accept on a listening socket until `stop`.
    pub fn listen(&self, number: usize, fd: Arc<OwnedFd>, listener: Arc<Listener>, stop: CancellationToken) {
        let tracked = listener.tracked();
        let job = Job::Listen { fd, listener, handles: Arc::clone(&self.0), stop, tracked };
        // A worker that is gone has told so; the process is about to end.
        let _ = self.0[number % self.0.len()].jobs.send(job);
    }

    /// Lets every worker keep its share of the pool's `preconnect` until `stop`; each connection that waits takes one of
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

    /// Looks at every live session, worker by worker; one that begins or ends meanwhile may be among them or not. `look`
    /// holds up the session that it is shown: it must be short, and must not end sessions.
    pub fn visit_sessions(&self, mut look: impl FnMut(SessionRef<'_>)) {
        for handle in self.0.iter() {
            handle.shared.list.visit(&mut look);
        }
    }

    /// As [`Self::visit_sessions`], at one session, if it still lives.
    pub fn visit_session(&self, session: SessionKey, look: impl FnOnce(SessionRef<'_>)) {
        if let Some(handle) = self.0.get(session.worker()) {
            handle.shared.list.visit_one(session, look);
        }
    }

    /// Every live session, with everything that is known about it.
    pub fn list_sessions(&self) -> Vec<SessionView> {
        let mut all = Vec::new();
        for handle in self.0.iter() {
            handle.shared.list.view(&mut all);
        }
        all
    }

    /// What the kernel knows of a session's connections, the client's first; `None` = it is gone, or not connected yet.
    pub fn tcp(&self, session: SessionKey) -> Option<[TcpView; 2]> {
        self.0.get(session.worker())?.shared.list.tcp(session)
    }

    /// Ends a session. Returns whether it still lived and nobody had ended it before.
    pub fn cut(&self, session: SessionKey, cut: ForcedEnd, note: impl FnOnce(&Pool)) -> bool {
        self.0.get(session.worker()).is_some_and(|handle| handle.shared.list.cut(session, cut, note))
    }

    /// Lets running sessions go by the timeouts that the pool has now.
    pub fn renew(&self, pool: &Arc<Pool>) {
        for handle in self.0.iter() {
            let _ = handle.jobs.send(Job::Renew(Arc::clone(pool)));
        }
    }

    /// Ends every session, also those that come later. `note` is shown the pool of each that lives and that nobody
    /// had ended before, just before it is ended.
    pub fn cut_all(&self, cut: ForcedEnd, mut note: impl FnMut(&Pool)) {
        for handle in self.0.iter() {
            handle.shared.list.cut_all(cut, &mut note);
        }
    }

    /// Lets the threads end, without regard to what still lives on them.
    pub fn stop(&self) {
        for handle in self.0.iter() {
            let _ = handle.jobs.send(Job::Stop);
        }
    }

    /// Pipes now, and how often bulk was copied for want of one.
    pub fn pipes(&self) -> (usize, u64) {
        let counts = || self.0.iter().map(|handle| &handle.shared.pipes);
        (counts().map(|pipes| pipes.open()).sum(), counts().map(|pipes| pipes.missing()).sum())
    }

    /// Sessions on io_uring, and buffers with bytes in them, now.
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
pub(super) fn hand_over(handles: &[WorkerHandle], accepted: Accepted) {
    let Some(handle) = handles.iter().min_by_key(|handle| handle.shared.load.load(Relaxed)) else { return };
    handle.shared.load.fetch_add(1, Relaxed);
    let load = Load(Some(Arc::clone(&handle.shared)));
    let _ = handle.jobs.send(Job::Serve(accepted, load));
}

/// What the sessions of one worker share.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) index: usize,
    pub(super) relay_context: RelayContext,
    pub(super) stock: Stock,
    /// What relays go by, for each pool that has had sessions here.
    pub(super) idle_limits: IdleLimits,
    /// Connections to backends that have yet to live for a while.
    pub(super) late_keepalive: LateKeepalive,
    shared: Arc<WorkerShared>,
}

impl Worker {
    pub(super) fn enlist(
        &self,
        id: u64,
        front: (Arc<Listener>, Arc<Pool>),
        peer: SocketAddr,
        began: Instant,
    ) -> Arc<Live> {
        self.shared.list.enlist(id, front, peer, began)
    }

    fn renew(&self, pool: &Arc<Pool>) {
        if self.idle_limits.renew(pool) {
            self.shared.list.wake(pool);
        }
    }

    pub(super) fn random(&self) -> fastrand::Rng {
        fastrand::Rng::new()
    }
}

/// A session's place on its worker's list and in its load, until it is dropped.
pub(super) struct SessionGuard {
    worker: Rc<Worker>,
    place: u32,
}

impl SessionGuard {
    pub(super) fn new(worker: Rc<Worker>, live: &Live, load: Load) -> Self {
        load.stay();
        Self { worker, place: live.place() }
    }

    pub(super) fn worker(&self) -> &Worker {
        &self.worker
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        self.worker.shared.list.strike(self.place);
        self.worker.shared.load.fetch_sub(1, Relaxed);
    }
}

async fn work(worker: Worker, notice: PanicNotice, ring: Option<Ring>, mut to_do: mpsc::UnboundedReceiver<Job>) {
    let worker = Rc::new(worker);
    tokio::task::spawn_local(trim(Rc::clone(&worker)));
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
                // A panic ends this task only; its record, lease and sockets say so while they are dropped.
                tokio::task::spawn_local(session::run(accepted, Rc::clone(&worker), load));
            }
            Job::Listen { fd, listener, handles, stop, tracked } => match Acceptor::new(fd) {
                Ok(acceptor) => {
                    // Unlike a session's, its panic is the end: a front that nobody serves must not look alive.
                    let notice = notice.clone();
                    tokio::task::spawn_local(async move {
                        listener::accept(acceptor, listener, handles, stop, tracked).await;
                        drop(notice);
                    });
                }
                Err(error) => {
                    error!(listener = %listener.name, %error, "the event loop does not take the socket");
                    notice.tell();
                }
            },
            Job::Preconnect(pool, share, places, stop) => {
                tokio::task::spawn_local(preconnect::tend(Rc::clone(&worker), pool, share, places, stop));
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

/// Lets go of what is not used, and sees to what is not young any more, for ever.
async fn trim(worker: Rc<Worker>) {
    loop {
        tokio::time::sleep(TRIM).await;
        worker.relay_context.trim();
        worker.late_keepalive.grow();
    }
}

/// Tells of the worker's death if a panic drops it.
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
