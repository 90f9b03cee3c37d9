//! Connections to backends that are opened before a session needs them, so that the session saves the round trip of the
//! connect.
//! Used by `upstream`; each worker keeps its part of `preconnect` for every backend that is up.
//! A connection is checked before use and serves one session. It is replaced when it was used, is old, or the backend closed
//! it.

use std::collections::HashMap;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::late_keepalive::spread;
use super::shares::Places;
use super::socket::{Socket, connect_failure};
use super::stock::SpareConnection;
use super::worker::Worker;
use crate::deadline::within;
use crate::metrics::ConnectFailure;
use crate::pool::{Backend, Pool, Preconnected};

/// Between two checks of the connections. One that a session takes is replaced at once.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// A connection is replaced at this age, less up to a fifth: servers and firewalls close silent connections.
const CONNECTION_AGE: Duration = Duration::from_secs(60);

/// After a failed connect, the backend is not dialled for this long.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Keeps a worker's connections for one pool until `stop`.
pub(super) async fn keep_stock(
    worker: Rc<Worker>,
    pool: Arc<Pool>,
    share: usize,
    places: Arc<Places>,
    stop: CancellationToken,
) {
    let mut random = worker.random();
    let mut avoid: HashMap<Arc<str>, Instant> = HashMap::new();
    'keeping: while !stop.is_cancelled() {
        let now = Instant::now();
        worker.stock.drop_unusable(&pool, now);
        avoid.retain(|_, until| *until > now);
        for backend in pool.members().iter().filter(|backend| backend.wants_sessions()) {
            while worker.stock.count(backend) < share && !avoid.contains_key(&backend.id) {
                let age = CONNECTION_AGE.mul_f64(1.0 - random.f64() / 5.0);
                let opened = tokio::select! {
                    opened = open(&pool, backend, age, &places) => opened,
                    () = stop.cancelled() => break 'keeping,
                };
                match opened {
                    Some(kept) => worker.stock.kept.borrow_mut().entry(Arc::as_ptr(backend)).or_default().push(kept),
                    None => {
                        avoid.insert(Arc::clone(&backend.id), Instant::now() + RETRY_DELAY);
                    }
                }
            }
        }
        tokio::select! {
            () = worker.stock.wanted.notified() => {}
            () = sleep(CHECK_INTERVAL) => {}
            () = stop.cancelled() => {}
        }
    }
    worker.stock.clear(&pool);
}

/// Opens one connection; `None` = not now. A failure is not reported: the next session's own connect will show it.
async fn open(
    pool: &Arc<Pool>,
    backend: &Arc<Backend>,
    age: Duration,
    places: &Arc<Places>,
) -> Option<SpareConnection> {
    let place = places.spare()?;
    let address = backend.view().address;
    let settings = pool.settings();
    let source = pool.sources_for(&settings, address).next();
    if source.is_none() && !settings.sources.is_empty() {
        return None;
    }
    let connecting = Socket::connect(address, source, &settings.tcp, false);
    let connected = within(settings.connect.timeout, connecting).await.ok()?;
    if connected.as_ref().is_err_and(|error| connect_failure(error) == ConnectFailure::NoResources) {
        pool.lacks_resources();
    }
    let socket = connected.ok()?;
    if let Some(keepalive) = settings.tcp.keepalive {
        let keepalive = spread(keepalive, socket.tcp_fd().as_raw_fd().unsigned_abs());
        socket.tcp_fd().keep_alive(keepalive).ok()?;
    }
    backend.stats.preconnects.opened.fetch_add(1, Relaxed);
    let counted = Preconnected::new(pool, backend, address);
    Some(SpareConnection { socket, counted, old_at: Instant::now() + age, source, _place: place })
}

/// A worker's part of `all` connections.
pub(super) fn share(all: usize, worker: usize, workers: usize) -> usize {
    all / workers + usize::from(worker < all % workers)
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn shares_add_up() {
        for (all, workers) in [(1, 4), (4, 4), (5, 2), (7, 3), (0, 2)] {
            assert_eq!((0..workers).map(|worker| share(all, worker, workers)).sum::<usize>(), all);
        }
    }
}
