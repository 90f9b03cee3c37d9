//! Everything that is said about a session when it ends: the outcome, one set of counters, one log line. Written when the
//! record is dropped, so that no way out of a session, a panic included, forgets it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::info;

use super::listener::Listener;
use crate::metrics::Outcome;
use crate::pool::{Backend, Lease};

/// See the module.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) id: u64,
    pub(super) listener: Arc<Listener>,
    /// Whom the session is for.
    pub(super) client: SocketAddr,
    /// Who connected: a proxy, where its header names another client.
    pub(super) peer: SocketAddr,
    /// What the session is called across proxies, printable.
    pub(super) unique_id: Option<String>,
    pub(super) accepted: Instant,
    pub(super) backend: Option<(Arc<Backend>, SocketAddr)>,
    pub(super) attempts: u32,
    /// Backends that were sent the client's bytes after another one had failed.
    pub(super) replays: u32,
    /// From accept to a connected backend.
    pub(super) connected_after: Option<Duration>,
    /// From then to the backend's first byte.
    pub(super) first_byte: Option<Duration>,
    pub(super) to_backend: u64,
    pub(super) to_client: u64,
    pub(super) outcome: Option<Outcome>,
    /// What the outcome's word leaves open: the error behind it.
    pub(super) detail: Option<String>,
    /// Whether there is a log line.
    pub(super) log: bool,
}

impl Record {
    pub(super) fn new(id: u64, listener: Arc<Listener>, peer: SocketAddr, accepted: Instant, log: bool) -> Self {
        Self {
            id,
            listener,
            client: peer,
            peer,
            unique_id: None,
            accepted,
            backend: None,
            attempts: 0,
            replays: 0,
            connected_after: None,
            first_byte: None,
            to_backend: 0,
            to_client: 0,
            outcome: None,
            detail: None,
            log,
        }
    }

    /// A backend was connected.
    pub(super) fn reached(&mut self, lease: &Lease) {
        self.backend = Some((Arc::clone(lease.backend()), lease.address()));
        self.connected_after = Some(self.accepted.elapsed());
    }

    /// Its first byte came.
    pub(super) fn answered(&mut self, at: Instant) {
        self.first_byte = self.connected_after.map(|after| at.saturating_duration_since(self.accepted + after));
    }

    pub(super) fn end(&mut self, outcome: Outcome, detail: Option<String>) {
        self.outcome = Some(outcome);
        self.detail = detail;
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // Nobody said: the task was ended from outside, or by a panic.
        let unsaid = if std::thread::panicking() { Outcome::Panicked } else { Outcome::Killed };
        let outcome = self.outcome.unwrap_or(unsaid);
        let total = self.accepted.elapsed();
        let pool = &self.listener.pool;

        self.listener.ended.count(outcome);
        pool.times.session.observe(total);
        if let Some(first_byte) = self.first_byte {
            pool.times.first_byte.observe(first_byte);
        }
        match &self.backend {
            None => pool.ended_without_backend.count(&self.listener.name, outcome),
            Some((backend, _)) => {
                backend.stats.ended.count(&self.listener.name, outcome);
                backend.stats.times.session.observe(total);
                if let Some(first_byte) = self.first_byte {
                    backend.stats.times.first_byte.observe(first_byte);
                }
            }
        }
        if !self.log {
            return;
        }
        info!(
            target: "evenkeel::session",
            session = self.id,
            listener = %self.listener.name,
            pool = %pool.name,
            client = %self.client,
            peer = (self.peer != self.client).then(|| tracing::field::display(self.peer)),
            unique_id = self.unique_id,
            backend = self.backend.as_ref().map(|(backend, _)| tracing::field::display(&backend.id)),
            address = self.backend.as_ref().map(|(_, address)| tracing::field::display(address)),
            outcome = outcome.name(),
            detail = self.detail,
            attempts = self.attempts,
            replays = (self.replays > 0).then_some(self.replays),
            connected_ms = self.connected_after.map(milliseconds),
            first_byte_ms = self.first_byte.map(milliseconds),
            total_ms = milliseconds(total),
            to_backend = self.to_backend,
            to_client = self.to_client,
            "session ended"
        );
    }
}

/// With microseconds as decimals.
fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
