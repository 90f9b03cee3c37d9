//! How a pool's discovery is doing: written by its one discovery task, read by metrics, the API and `/ready`.
//! Behind a mutex because it is touched a few times a minute and read as a whole.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::endpoint::Rejections;

/// See the module.
#[derive(Debug, Default)]
pub struct SourceStatus {
    view: Mutex<SourceView>,
}

/// A copy of a [`SourceStatus`].
#[derive(Clone, Debug, Default)]
pub struct SourceView {
    /// When the source last answered in full, be it that nothing changed; its data is that old.
    pub last_success: Option<Instant>,
    /// The error since the last success: when, its kind and its text.
    pub error: Option<(SystemTime, &'static str, String)>,
    /// The same, and stays when it is over.
    pub last_error: Option<(SystemTime, &'static str, String)>,
    /// Errors since the start by kind, of those kinds that there were.
    pub errors: BTreeMap<&'static str, Errors>,
    /// Every kind that the source has: `server_error`, `timeout`, `decode`, …
    pub kinds: &'static [&'static str],
    /// What the last full answer named and could not be used.
    pub rejected: Rejections,
    /// ACLs keep something of the last full answer from us, as the registry says.
    pub filtered: bool,
}

/// Of one kind, since the start.
#[derive(Clone, Copy, Debug)]
pub struct Errors {
    /// How many.
    pub count: u64,
    /// When the last one was.
    pub last: SystemTime,
}

impl SourceStatus {
    /// The source answered in full at `now`, and `rejected` is what of it can't be used.
    pub fn succeeded(&self, now: Instant, rejected: Rejections) {
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        view.last_success = Some(now);
        view.error = None;
        view.rejected = rejected;
    }

    /// Whether ACLs keep something of the last answer from us. Returns what held before.
    pub fn filtered(&self, filtered: bool) -> bool {
        std::mem::replace(&mut self.view.lock().unwrap_or_else(PoisonError::into_inner).filtered, filtered)
    }

    /// A source is asked from now on whose errors are of these kinds: what another one said stays for as long as that one says
    /// nothing.
    pub fn begin(&self, kinds: &'static [&'static str]) {
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        view.kinds = kinds;
        view.error = None;
        view.filtered = false;
    }

    /// The source did not answer, or not with anything that can be obeyed. `kind` is a metric label, one of those that the
    /// source began with.
    pub fn failed(&self, kind: &'static str, text: String) {
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        debug_assert!(view.kinds.contains(&kind), "{kind} is no kind of this source");
        let now = SystemTime::now();
        view.last_error = Some((now, kind, text));
        view.error = view.last_error.clone();
        let errors = view.errors.entry(kind).or_insert(Errors { count: 0, last: now });
        *errors = Errors { count: errors.count + 1, last: now };
    }

    /// How old the data is; `None` = there is none.
    pub fn age(&self, now: Instant) -> Option<Duration> {
        let at = self.view.lock().unwrap_or_else(PoisonError::into_inner).last_success?;
        Some(now.saturating_duration_since(at))
    }

    /// As it is now.
    pub fn view(&self) -> SourceView {
        self.view.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
