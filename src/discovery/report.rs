//! How the source is doing: into the status that metrics and the API read, and into log lines at a bounded rate.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::endpoint::Rejections;
use crate::pool::SourceStatus;

/// While trouble lasts it is told again this often.
const REMINDER: Duration = Duration::from_secs(60);
/// No two lines of a kind are closer, however fast a source fails and recovers.
const GAP: Duration = Duration::from_secs(10);

pub(super) struct SourceReport {
    pool: Arc<str>,
    source: &'static str,
    status: Arc<SourceStatus>,
    /// Of the source itself.
    trouble: Outage,
    /// Of the resolver: it may have its own while the source is well.
    unresolved: Outage,
    /// What of the rejected was told last, and when.
    told: (Rejections, Option<Instant>),
    /// When it was told last that ACLs filter the answers.
    told_filtered: Option<Instant>,
}

/// From the first failure to the next success.
#[derive(Default)]
struct Outage {
    since: Option<Instant>,
    failures: u64,
    /// Whether this one was told.
    told: bool,
    /// When any was told last.
    warned: Option<Instant>,
}

impl SourceReport {
    pub(super) fn new(pool: Arc<str>, source: &'static str, status: Arc<SourceStatus>) -> Self {
        let (trouble, unresolved) = (Outage::default(), Outage::default());
        Self { pool, source, status, trouble, unresolved, told: (Rejections::default(), None), told_filtered: None }
    }

    /// Another source from now on.
    pub(super) fn begin_again(&mut self, source: &'static str) {
        self.source = source;
        self.trouble = Outage::default();
        self.status.begin_again();
    }

    /// The source did not answer, or not with what can be obeyed. `kind` is a metric label.
    pub(super) fn failed(&mut self, now: Instant, kind: &'static str, text: String) {
        if let Some((failures, took)) = self.trouble.failed(now) {
            let (pool, source) = (&*self.pool, self.source);
            let lasts = if failures == 1 { "fails".to_owned() } else { format!("still fails after {took:.0?}") };
            let known = match self.status.age(now) {
                Some(age) => format!("what is known stays and is {age:.0?} old"),
                None => "nothing is known yet".to_owned(),
            };
            tracing::warn!(pool, source, kind, failures, "discovery {lasts}, {known}: {text}");
        }
        self.status.failed(kind, text);
    }

    /// A look-up of a name failed.
    pub(super) fn unresolved(&mut self, now: Instant, text: String) {
        if let Some((failures, _)) = self.unresolved.failed(now) {
            let (pool, source) = (&*self.pool, self.source);
            tracing::warn!(pool, source, failures, "can't resolve {text}; a known address stays");
        }
        self.status.failed("resolve", text);
    }

    /// The last look-up of every name was answered.
    pub(super) fn resolved(&mut self, now: Instant) {
        if let Some((failures, took)) = self.unresolved.ended(now) {
            let (pool, source) = (&*self.pool, self.source);
            tracing::info!(pool, source, failures, "names are resolved again after {took:.1?}");
        }
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
        if let Some((failures, took)) = self.trouble.ended(now) {
            let (pool, source) = (&*self.pool, self.source);
            tracing::info!(pool, source, failures, "discovery works again after {took:.1?}");
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

impl Outage {
    /// One more failure; if it is time for a line, the number of them and how long it has lasted.
    fn failed(&mut self, now: Instant) -> Option<(u64, Duration)> {
        let since = *self.since.get_or_insert(now);
        self.failures += 1;
        let pause = if self.told { REMINDER } else { GAP };
        if self.warned.is_some_and(|warned| now - warned < pause) {
            return None;
        }
        self.told = true;
        self.warned = Some(now);
        Some((self.failures, now - since))
    }

    /// It is over, if there was any: how many failures and how long, if the beginning was told.
    fn ended(&mut self, now: Instant) -> Option<(u64, Duration)> {
        let since = self.since.take()?;
        let failures = std::mem::take(&mut self.failures);
        std::mem::take(&mut self.told).then(|| (failures, now - since))
    }
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
