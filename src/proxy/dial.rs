//! Connects to backends: one attempt, or several at once of which the first answer wins.
//! Called by `upstream`.
//! Attempts that began before the winner go on without the session until their own end, because a backend that never answers
//! must be noticed although another one is always faster. Later ones are dropped.

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::shares::Spare;
use super::socket::{Socket, connect_failure};
use super::starttls::Starttls;
use crate::config;
use crate::deadline::within;
use crate::metrics::{ConnectFailure, Hedge};
use crate::pool::{Backend, ChainPool, Lease, Pool};

/// How long, beyond two round trips, a backend that failed the session before may take to fail this one before it is sent
/// anything. It is far more than a program needs to close a connection, and too short to be noticed.
const EARLY_END_WAIT: Duration = Duration::from_millis(10);

/// The limit of that wait, for distant backends.
const EARLY_END_WAIT_LIMIT: Duration = Duration::from_millis(100);

/// A backend that answered.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) socket: Socket,
    pub(super) lease: Lease,
    /// Those of the lease's pool that the session goes by.
    pub(super) settings: Arc<config::Pool>,
}

/// What a backend is sent at once.
#[derive(Debug)]
pub(super) struct FirstBytes {
    /// There is some.
    pub(super) any: bool,
    /// What it has to answer before it gets the client's.
    pub(super) starttls: Option<Starttls>,
}

/// The pool with its settings, and what its backend is sent at once.
type DialTarget<'a> = (&'a ChainPool, FirstBytes);

/// A backend, and perhaps a connection to it that was kept ready.
type Begun = (Lease, Option<Socket>);

/// A failed attempt: its backend and the reason.
pub(super) type Failed = (Arc<Backend>, ConnectFailure, io::Error);

/// The attempts of one session that are under way, in the order of their begin.
#[derive(Default)]
pub(super) struct Dials(Vec<Dial>);

/// One attempt. In whatever way it ends, it gives back its lease and is counted.
struct Dial {
    attempt: Pin<Box<dyn Future<Output = Result<Connected, Failed>>>>,
    hedge: Option<HedgeCount>,
    /// The place of a connection beyond the one that each session may have.
    place: Option<Spare>,
}

impl Dials {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Begins an attempt, when no other is under way.
    pub(super) fn begin(&mut self, begun: Begun, of: DialTarget<'_>, limit: Duration) {
        self.push(begun, of, limit, None, None);
    }

    /// Begins one more beside the others.
    pub(super) fn hedge(&mut self, begun: Begun, of: DialTarget<'_>, limit: Duration, place: Spare) {
        let count = HedgeCount::new(&of.0.pool);
        self.push(begun, of, limit, Some(count), Some(place));
    }

    fn push(
        &mut self,
        begun: Begun,
        (of, first): DialTarget<'_>,
        limit: Duration,
        hedge: Option<HedgeCount>,
        place: Option<Spare>,
    ) {
        // Boxed, so that it can go on without the session.
        let attempt = Box::pin(dial(begun, (of.clone(), first), limit));
        self.0.push(Dial { attempt, hedge, place });
    }

    /// The result of the first that ends. If it connected, no attempt is left here.
    ///
    /// # Cancel safety
    /// Safe: the attempts stay.
    pub(super) async fn first(&mut self) -> Result<Connected, Failed> {
        let (index, result) = poll_fn(|cx| {
            for (index, dial) in self.0.iter_mut().enumerate() {
                if let Poll::Ready(result) = dial.attempt.as_mut().poll(cx) {
                    return Poll::Ready((index, result));
                }
            }
            Poll::Pending
        })
        .await;
        let over = self.0.remove(index);
        if result.is_ok() {
            if let Some(hedge) = over.hedge {
                hedge.won();
            }
            self.leave(index, over.place);
        }
        result
    }

    /// A preconnected connection was found: all attempts are left to themselves.
    pub(super) fn outrun(&mut self) {
        self.leave(self.0.len(), None);
    }

    /// The first `earlier` go on without the session, each in a place of its own.
    fn leave(&mut self, earlier: usize, mut spare: Option<Spare>) {
        for (index, dial) in self.0.drain(..).enumerate() {
            let Dial { attempt, hedge, place } = dial;
            drop(hedge);
            // Without a place it is dropped: descriptors must not run out.
            let place = place.or_else(|| spare.take());
            if index < earlier && place.is_some() {
                // If it connects, that connection is reset without a byte. Its lease lasts as long as the attempt.
                tokio::task::spawn_local(async move {
                    let _ = attempt.await;
                    drop(place);
                });
            }
        }
    }
}

/// Counts a hedge as lost, unless it won.
struct HedgeCount(Arc<Pool>, Hedge);

impl HedgeCount {
    fn new(pool: &Arc<Pool>) -> Self {
        Self(Arc::clone(pool), Hedge::Lost)
    }

    fn won(mut self) {
        self.1 = Hedge::Won;
    }
}

impl Drop for HedgeCount {
    fn drop(&mut self) {
        self.0.second.hedges.count(self.1);
    }
}

async fn dial(
    (mut lease, kept): Begun,
    (ChainPool { pool, settings, .. }, first): (ChainPool, FirstBytes),
    limit: Duration,
) -> Result<Connected, Failed> {
    let backend = Arc::clone(lease.backend());
    if let Some(socket) = kept {
        match first.answered(&socket, limit).await {
            Ok(()) => return Ok(Connected { socket, lease, settings }),
            Err((reason @ ConnectFailure::Starttls, error)) => {
                lease.failed(reason);
                return Err((backend, reason, error));
            }
            // It was kept for a while, and the backend may have got tired of it.
            Err(_) => {}
        }
    }
    let result = if settings.sources.is_empty() {
        dial_from(&mut lease, (&settings, &first), None, limit).await
    } else {
        dial_from_any(&mut lease, (&pool, &settings, &first), limit).await
    };
    match result {
        Ok(socket) => Ok(Connected { socket, lease, settings }),
        Err((reason, error)) => Err((backend, reason, error)),
    }
}

async fn dial_from_any(
    lease: &mut Lease,
    (pool, settings, first): (&Pool, &config::Pool, &FirstBytes),
    limit: Duration,
) -> Result<Socket, (ConnectFailure, io::Error)> {
    let began = Instant::now();
    let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "no `source` of the backend's address family");
    for source in pool.sources_for(settings, lease.address()) {
        let left = limit.saturating_sub(began.elapsed());
        match dial_from(lease, (settings, first), Some(source), left).await {
            // This local address has no free port towards that backend; another may have.
            Err((ConnectFailure::AddressNotAvailable, error)) => last = error,
            result => return result,
        }
    }
    Err((ConnectFailure::AddressNotAvailable, last))
}

async fn dial_from(
    lease: &mut Lease,
    (settings, first): (&config::Pool, &FirstBytes),
    source: Option<IpAddr>,
    limit: Duration,
) -> Result<Socket, (ConnectFailure, io::Error)> {
    if let Some(source) = source {
        lease.set_source(source);
    }
    let attempt = AttemptCount { lease, over: false };
    attempt.lease.dialled();
    let is_doubtful = attempt.lease.is_doubtful();
    let began = Instant::now();
    // With fast open the backend has the bytes before it could end the connection without them.
    let connecting = Socket::connect(attempt.lease.address(), source, &settings.tcp, first.any && !is_doubtful);
    let result = within(limit, connecting).await;
    let (reason, error) = match result {
        Ok(Ok(socket)) => {
            let took = began.elapsed();
            let ended = if is_doubtful { early_end(&socket, took).await } else { None };
            match ended {
                Some(BackendEnd::Broken(error)) => (connect_failure(&error), error),
                Some(BackendEnd::Closed) if first.any => {
                    (ConnectFailure::Closed, io::Error::new(io::ErrorKind::UnexpectedEof, "it said and heard nothing"))
                }
                // The client has sent nothing, so a close is no failure.
                Some(BackendEnd::Closed) | None => match first.answered(&socket, limit).await {
                    Ok(()) => {
                        attempt.succeeded(took);
                        return Ok(socket);
                    }
                    Err(failure) => failure,
                },
            }
        }
        Ok(Err(error)) => (connect_failure(&error), error),
        Err(_) => {
            attempt.lease.waited(limit);
            let text = format!("no answer within {limit:?}");
            (ConnectFailure::Timeout, io::Error::new(io::ErrorKind::TimedOut, text))
        }
    };
    attempt.failed(reason);
    Err((reason, error))
}

impl FirstBytes {
    /// Waits for the answer of a backend that has to give one.
    async fn answered(&self, backend: &Socket, limit: Duration) -> Result<(), (ConnectFailure, io::Error)> {
        match &self.starttls {
            Some(starttls) => starttls.ask(backend, limit).await,
            None => Ok(()),
        }
    }
}

/// How a backend ended a connection without being sent anything.
enum BackendEnd {
    Closed,
    Broken(io::Error),
}

/// A backend that accepts and fails at once does so before it could read anything. As long as it has been sent nothing, the
/// session may go to another one. `took`: the time of the connect, a round trip.
async fn early_end(socket: &Socket, took: Duration) -> Option<BackendEnd> {
    let mut byte = [0];
    let sign = poll_fn(|cx| socket.poll_peek(cx, &mut byte));
    match within((2 * took + EARLY_END_WAIT).min(EARLY_END_WAIT_LIMIT), sign).await {
        Ok(Ok(0)) => Some(BackendEnd::Closed),
        Ok(Ok(_)) | Err(_) => None,
        Ok(Err(error)) => Some(BackendEnd::Broken(error)),
    }
}

/// Counts an attempt as abandoned if it is dropped before its result.
struct AttemptCount<'a> {
    lease: &'a Lease,
    over: bool,
}

impl AttemptCount<'_> {
    fn succeeded(mut self, took: Duration) {
        self.over = true;
        self.lease.connected(took);
    }

    fn failed(mut self, reason: ConnectFailure) {
        self.over = true;
        self.lease.failed(reason);
    }
}

impl Drop for AttemptCount<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.lease.failed(ConnectFailure::Abandoned);
        }
    }
}
