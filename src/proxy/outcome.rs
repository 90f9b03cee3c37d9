//! The end of a session: the outcome, one set of counters, one log line.
//! Filled by `session`.
//! It is written when the record is dropped, so that every way out of a session counts, also a panic.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::info;

use super::client_table::ClientPlace;
use super::dial::Connected;
use super::forced_end::ForcedEnd;
use super::live::{Live, RoutedBy};
use crate::config::{Logged, SessionLog};
use crate::metrics::{Outcome, Refusal};
use crate::pool::ByteCell;

/// What is noted about a session for its end.
#[derive(Debug)]
pub(super) struct SessionRecord {
    pub(super) live: Arc<Live>,
    pub(super) attempts: u32,
    /// The time of the backend's first byte, in nanoseconds from the begin.
    first_byte: Option<NonZeroU64>,
    pub(super) outcome: Option<Outcome>,
    /// Why it is refused, if it is.
    refusal: Option<Refusal>,
    /// The error behind the outcome, if there is one.
    pub(super) detail: Option<Box<str>>,
    /// Which sessions are logged.
    log: SessionLog,
    /// Rare details.
    rare: Option<Box<Rare>>,
}

/// Why a session is over.
#[derive(Debug, PartialEq)]
pub(super) struct Ended {
    pub(super) outcome: Outcome,
    /// Why it is refused, if it is.
    refusal: Option<Refusal>,
    /// The error behind the outcome, if there is one.
    pub(super) detail: Option<String>,
}

impl Ended {
    pub(super) fn because(outcome: Outcome, detail: impl ToString) -> Self {
        Self { outcome, refusal: None, detail: Some(detail.to_string()) }
    }

    /// The client may not have a session.
    pub(super) fn refused(why: Refusal, detail: Option<String>) -> Self {
        Self { outcome: Outcome::Refused, refusal: Some(why), detail }
    }
}

impl From<Outcome> for Ended {
    /// Without a detail.
    fn from(outcome: Outcome) -> Self {
        Self { outcome, refusal: None, detail: None }
    }
}

impl From<ForcedEnd> for Ended {
    fn from(end: ForcedEnd) -> Self {
        end.outcome().into()
    }
}

/// Details that few sessions have.
#[derive(Debug, Default)]
pub(super) struct Rare {
    /// Its place among the sessions of its client, where these are limited. Given back before the client sees the close.
    pub(super) client_place: Option<ClientPlace>,
    /// Its id across proxies, printable.
    pub(super) unique_id: Option<Box<str>>,
    /// Time in the pool's queue.
    pub(super) queued: Option<Duration>,
    /// How often the client's bytes were sent to another backend after a failure.
    pub(super) replays: u16,
    /// Why there was no replay after a failure.
    pub(super) not_replayed: Option<&'static str>,
    /// Bytes that were sent to earlier backends.
    pub(super) sent_before: u64,
}

impl SessionRecord {
    pub(super) fn new(live: Arc<Live>, log: SessionLog) -> Self {
        Self { live, attempts: 0, first_byte: None, outcome: None, refusal: None, detail: None, log, rare: None }
    }

    pub(super) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Notes the backend that was connected. Returns the cell that counts its bytes.
    pub(super) fn reached(&mut self, Connected { socket, lease, .. }: &Connected, worker: usize) -> ByteCell {
        let bytes = lease.backend().stats.bytes.cell(worker);
        self.live.reached(lease, socket.local_address().ok(), &bytes);
        bytes
    }

    /// Notes the backend's first byte.
    pub(super) fn answered(&mut self, at: Instant) {
        let after = at.saturating_duration_since(self.live.began).as_nanos();
        self.first_byte = NonZeroU64::new(u64::try_from(after).unwrap_or(u64::MAX));
    }

    pub(super) fn end(&mut self, Ended { outcome, refusal, detail }: Ended) {
        (self.outcome, self.refusal) = (Some(outcome), refusal);
        self.detail = detail.map(Into::into);
    }
}

impl Drop for SessionRecord {
    fn drop(&mut self) {
        // No outcome was noted: the task was ended from outside, or by a panic.
        let unsaid = if std::thread::panicking() { Outcome::Panicked } else { Outcome::Killed };
        let outcome = self.outcome.unwrap_or(unsaid);
        let total = self.live.began.elapsed();
        let listener = &self.live.listener;
        let leg = self.live.leg();
        let backend = leg.as_ref().map(|leg| &leg.backend);
        let connected_after = leg.as_ref().map(|leg| leg.connected.saturating_duration_since(self.live.began));
        // Measured from the connect.
        let first_byte = self.first_byte.zip(connected_after).map(|(nanoseconds, connected_after)| {
            Duration::from_nanos(nanoseconds.get()).saturating_sub(connected_after)
        });

        if let Some(refusal) = self.refusal {
            listener.refusals.count(refusal);
        }
        listener.ended.count(outcome);
        self.live.in_pool(|pool| {
            let Some(pool) = pool else { return listener.ended_unrouted.count(outcome) };
            pool.times.session.observe(total);
            if let Some(first_byte) = first_byte {
                pool.times.first_byte.observe(first_byte);
            }
            if backend.is_none() {
                pool.ended_without_backend.count(&listener.name, outcome);
            }
        });
        if let Some(backend) = backend {
            backend.stats.ended.count(&listener.name, outcome);
            backend.stats.times.session.observe(total);
            if let Some(first_byte) = first_byte {
                backend.stats.times.first_byte.observe(first_byte);
            }
        }
        let rare = self.rare.take().unwrap_or_default();
        let to_backend = rare.sent_before + leg.as_ref().map_or(0, |leg| leg.to_backend);
        let to_client = leg.as_ref().map_or(0, |leg| leg.to_client);
        let went_well = outcome == Outcome::Completed && self.attempts <= 1 && rare.replays == 0;
        if !is_logged(self.log, went_well, to_backend + to_client == 0) {
            return;
        }
        let (client, peer) = (self.live.client(), self.live.peer);
        let pool = self.live.in_pool(|pool| pool.map(|pool| Arc::clone(&pool.name)));
        let routed_by = self.live.routed_by();
        info!(
            target: "evenkeel::session",
            session = self.live.id(),
            listener = %listener.name,
            pool = pool.as_deref().map(tracing::field::display),
            fallback_of = self.live.fallback_of().as_deref().map(|pool| tracing::field::display(&pool.name)),
            route = routed_by.as_ref().and_then(|by| by.route),
            sni = routed_by.as_ref().and_then(RoutedBy::server_name),
            alpn = routed_by.as_ref().and_then(RoutedBy::protocols),
            client = %client,
            peer = (peer != client).then(|| tracing::field::display(peer)),
            unique_id = rare.unique_id.as_deref(),
            backend = backend.map(|backend| tracing::field::display(&backend.id)),
            address = leg.as_ref().map(|leg| tracing::field::display(leg.address)),
            local = leg.as_ref().and_then(|leg| leg.local).map(tracing::field::display),
            outcome = outcome.name(),
            reason = self.refusal.map(Refusal::name),
            detail = self.detail.as_deref(),
            attempts = self.attempts,
            failed_attempts = self.live.failed_attempts().as_deref(),
            replays = (rare.replays > 0).then_some(rare.replays),
            not_replayed = rare.not_replayed,
            queued_ms = rare.queued.map(milliseconds),
            connected_ms = connected_after.map(milliseconds),
            first_byte_ms = first_byte.map(milliseconds),
            total_ms = milliseconds(total),
            to_backend,
            to_client,
            "session ended"
        );
    }
}

fn is_logged(log: SessionLog, went_well: bool, is_empty: bool) -> bool {
    let by_outcome = match log.outcome {
        Logged::All => true,
        Logged::Failed => !went_well,
        Logged::None => false,
    };
    by_outcome && !(log.skip_empty && is_empty)
}

/// Milliseconds, with microseconds as decimals.
fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
