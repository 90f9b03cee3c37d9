//! From a session to a connected backend: pick, dial, and retry while no byte of the client has been sent. Backends that
//! have not been tried come first; when none is left, any eligible one after a pause.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::preconnect::Stock;
use super::socket::{Socket, connect_failure};
use crate::config;
use crate::metrics::ConnectFailure;
use crate::pool::{Backend, Lease, NoneLeft, Pool};

/// A backend that answered.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) socket: Socket,
    pub(super) lease: Lease,
}

/// Why there is none.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Nothing was eligible.
    NoBackend,
    /// Every attempt failed; the last reason, and on whom.
    Failed(Arc<Backend>, ConnectFailure, io::Error),
}

/// Connects to a backend of the pool, or takes a connection that the worker has in stock for it. `attempts` counts the dials, also when the future is dropped.
///
/// # Cancel safety
/// Dropping it closes the socket in the making and gives back the lease; the attempt is counted as abandoned.
pub(super) async fn connect(
    (pool, settings): (&Arc<Pool>, &config::Pool),
    stock: &Stock,
    random: &mut fastrand::Rng,
    attempts: &mut u32,
) -> Result<Connected, Refusal> {
    let policy = &settings.connect;
    let deadline = Instant::now() + policy.deadline;
    let mut tried: Vec<Arc<Backend>> = Vec::new();
    let mut last = None;
    while *attempts < policy.attempts {
        let mut lease = match pool.pick(&tried) {
            Ok(lease) => lease,
            Err(NoneLeft) if tried.is_empty() => break,
            Err(NoneLeft) => {
                tried.clear();
                let pause = jittered(policy.retry_delay, random);
                if Instant::now() + pause >= deadline {
                    break;
                }
                tokio::time::sleep(pause).await;
                continue;
            }
        };
        if let Some(socket) = stock.take(&mut lease) {
            return Ok(Connected { socket, lease });
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        *attempts += 1;
        match dial(&mut lease, (pool, settings), policy.timeout.min(left)).await {
            Ok(socket) => return Ok(Connected { socket, lease }),
            Err((reason, error)) => {
                tried.push(Arc::clone(lease.backend()));
                last = Some((Arc::clone(lease.backend()), reason, error));
            }
        }
    }
    Err(last.map_or(Refusal::NoBackend, |(backend, reason, error)| Refusal::Failed(backend, reason, error)))
}

async fn dial(
    lease: &mut Lease,
    (pool, settings): (&Pool, &config::Pool),
    limit: Duration,
) -> Result<Socket, (ConnectFailure, io::Error)> {
    if settings.sources.is_empty() {
        return dial_from(lease, settings, None, limit).await;
    }
    let began = Instant::now();
    let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "no `source` of the backend's address family");
    for source in pool.sources_for(settings, lease.address()) {
        let left = limit.saturating_sub(began.elapsed());
        match dial_from(lease, settings, Some(source), left).await {
            // This address has no free port towards that backend; another one may.
            Err((ConnectFailure::AddressNotAvailable, error)) => last = error,
            result => return result,
        }
    }
    Err((ConnectFailure::AddressNotAvailable, last))
}

async fn dial_from(
    lease: &mut Lease,
    settings: &config::Pool,
    source: Option<IpAddr>,
    limit: Duration,
) -> Result<Socket, (ConnectFailure, io::Error)> {
    if let Some(source) = source {
        lease.set_source(source);
    }
    let attempt = Attempt { lease, over: false };
    attempt.lease.dialled();
    let began = Instant::now();
    let result = timeout(limit, Socket::connect(attempt.lease.address(), source, &settings.tcp)).await;
    let (reason, error) = match result {
        Ok(Ok(socket)) => {
            attempt.succeeded(began.elapsed());
            return Ok(socket);
        }
        Ok(Err(error)) => (connect_failure(&error), error),
        Err(_) => {
            let text = format!("no answer within {limit:?}");
            (ConnectFailure::Timeout, io::Error::new(io::ErrorKind::TimedOut, text))
        }
    };
    attempt.failed(reason);
    Err((reason, error))
}

/// Counts an attempt that nobody waits for any more.
struct Attempt<'a> {
    lease: &'a Lease,
    over: bool,
}

impl Attempt<'_> {
    fn succeeded(mut self, took: Duration) {
        self.over = true;
        self.lease.connected(took);
    }

    fn failed(mut self, reason: ConnectFailure) {
        self.over = true;
        self.lease.failed(reason);
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.lease.failed(ConnectFailure::Abandoned);
        }
    }
}

/// 50 % to 100 % of it, so that the clients of a dead pool do not come back together.
fn jittered(delay: Duration, random: &mut fastrand::Rng) -> Duration {
    delay.mul_f64(0.5 + random.f64() / 2.0)
}
