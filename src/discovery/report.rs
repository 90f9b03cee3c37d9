//! How a pool's source is doing: into the status that metrics and the API read, and into log lines at a bounded rate. Lines
//! about trouble are those of all pools that have it: `outages`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::AskError;
use super::outages::{GATHER, Outages};
use crate::endpoint::Rejections;
use crate::pool::SourceStatus;

/// That answers are filtered is told this often.
const REMINDER: Duration = Duration::from_secs(60);
/// No two lines about what is rejected are closer.
const GAP: Duration = Duration::from_secs(10);

pub(super) struct SourceReport {
    pool: Arc<str>,
    source: &'static str,
    status: Arc<SourceStatus>,
    /// Of the source itself; `None` = it can't fail.
    outages: Option<Arc<Outages>>,
    /// Of the resolver: it may have its own while the source is well.
    unresolved: Arc<Outages>,
    /// When something is to be told.
    tell_at: Option<Instant>,
    /// What of the rejected was told last, and when.
    told: (Rejections, Option<Instant>),
    /// When it was told last that ACLs filter the answers.
    told_filtered: Option<Instant>,
}

impl SourceReport {
    pub(super) fn new(pool: Arc<str>, status: Arc<SourceStatus>, unresolved: Arc<Outages>) -> Self {
        let (told, told_filtered) = ((Rejections::default(), None), None);
        Self { pool, source: "", status, outages: None, unresolved, tell_at: None, told, told_filtered }
    }

    /// This source from now on. Its errors are of these kinds.
    pub(super) fn begin(
        &mut self,
        source: &'static str,
        outages: Option<Arc<Outages>>,
        kinds: &'static [&'static str],
    ) {
        self.forget();
        (self.source, self.outages) = (source, outages);
        self.status.begin(kinds);
    }

    /// The source did not answer, or not with what can be obeyed.
    pub(super) fn failed(&mut self, now: Instant, failure: AskError) {
        if let Some(outages) = &self.outages {
            outages.failed((&self.pool, self.source), now, failure.clone(), self.status.age(now));
            self.tell_at.get_or_insert(now + GATHER);
        }
        self.status.failed(failure.kind, failure.text.to_string());
    }

    /// A look-up of a name failed.
    pub(super) fn unresolved(&mut self, now: Instant, text: String) {
        let failure = AskError { kind: "resolve", text: text.as_str().into() };
        self.unresolved.failed((&self.pool, self.source), now, failure, None);
        self.tell_at.get_or_insert(now + GATHER);
        self.status.failed("resolve", text);
    }

    /// The last look-up of every name was answered.
    pub(super) fn resolved(&mut self, now: Instant) {
        if self.unresolved.ended(&self.pool, now) {
            self.tell_at.get_or_insert(now + GATHER);
        }
    }

    /// Returns when there is something to tell; [`Self::tell`] does so. Cancel safe.
    pub(super) async fn due(&self) {
        match self.tell_at {
            Some(at) => tokio::time::sleep_until(at.into()).await,
            None => std::future::pending().await,
        }
    }

    /// Writes the lines for which it is time.
    pub(super) fn tell(&mut self, now: Instant) {
        self.tell_at = self.outages.iter().chain([&self.unresolved]).filter_map(|outages| outages.tell(now)).min();
    }

    fn forget(&self) {
        self.outages.iter().for_each(|outages| outages.forget(&self.pool));
    }

    /// ACLs keep something of the last answer from us, or nothing any more.
    pub(super) fn filtered(&mut self, now: Instant, filtered: bool) {
        if self.status.filtered(filtered) == filtered {
            return;
        }
        let (pool, source) = (&*self.pool, self.source);
        if !filtered {
            tracing::info!(pool, source, "the registry's answers are no longer filtered by ACLs");
        } else if self.told_filtered.is_none_or(|told| now - told >= REMINDER) {
            self.told_filtered = Some(now);
            tracing::warn!(
                pool,
                source,
                "the registry's answers are filtered by ACLs: the token may not read all instances, or their nodes"
            );
        }
    }

    /// The source answered in full, but for `rejected`.
    pub(super) fn succeeded(&mut self, now: Instant, rejected: Rejections) {
        if self.outages.as_ref().is_some_and(|outages| outages.ended(&self.pool, now)) {
            self.tell_at.get_or_insert(now + GATHER);
        }
        if rejected != self.told.0 && self.told.1.is_none_or(|told| now - told >= GAP) {
            if let Some(first) = rejected.first() {
                tracing::warn!(
                    pool = &*self.pool,
                    source = self.source,
                    rejected = rejected.count(),
                    "instances that can't be used are left out; the first is {}: {}",
                    first.id,
                    first.why
                );
            } else {
                tracing::info!(pool = &*self.pool, source = self.source, "every instance can be used again");
            }
            self.told = (rejected.clone(), Some(now));
        }
        self.status.succeeded(now, rejected);
    }
}

impl Drop for SourceReport {
    fn drop(&mut self) {
        self.forget();
        self.unresolved.forget(&self.pool);
    }
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
