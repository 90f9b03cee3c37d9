//! The state of a pool's discovery: written by its one discovery task, read by metrics, the API and `/ready`.
//! A mutex, because it changes a few times a minute and is read as a whole.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::endpoint::Rejections;

/// The shared state.
#[derive(Debug, Default)]
pub struct SourceStatus {
    view: Mutex<SourceView>,
}

/// A copy of a [`SourceStatus`].
#[derive(Clone, Debug, Default)]
pub struct SourceView {
    /// When the source last answered in full, also if nothing had changed: the age of its data.
    pub last_success: Option<Instant>,
    /// The error since the last success: its time, its kind and its text.
    pub error: Option<(SystemTime, &'static str, String)>,
    /// The last error, also if a success followed.
    pub last_error: Option<(SystemTime, &'static str, String)>,
    /// Errors since the start by kind, of those kinds that there were.
    pub errors: BTreeMap<&'static str, Errors>,
    /// Every kind that the source has: `server_error`, `timeout`, `decode`, …
    pub kinds: &'static [&'static str],
    /// Instances of the last full answer that can't be used.
    pub rejected: Rejections,
    /// Whether the registry says that ACLs removed something from the last full answer.
    pub filtered: bool,
}

/// Errors of one kind since the start.
#[derive(Clone, Copy, Debug)]
pub struct Errors {
    /// How many.
    pub count: u64,
    /// The time of the last one.
    pub last: SystemTime,
}

impl SourceStatus {
    /// The source answered in full at `now`; `rejected` can't be used.
    pub fn succeeded(&self, now: Instant, rejected: Rejections) {
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        view.last_success = Some(now);
        view.error = None;
        view.rejected = rejected;
    }

    /// Sets whether ACLs removed something from the last answer. Returns the value before.
    pub fn filtered(&self, filtered: bool) -> bool {
        std::mem::replace(&mut self.view.lock().unwrap_or_else(PoisonError::into_inner).filtered, filtered)
    }

    /// The source is replaced by one whose errors are of these kinds. The last data stays until the new one answers.
    pub fn begin(&self, kinds: &'static [&'static str]) {
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        view.kinds = kinds;
        view.error = None;
        view.filtered = false;
    }

    /// The source did not answer, or its answer can't be used. `kind` is a metric label, one of those that the source began
    /// with.
    pub fn failed(&self, kind: &'static str, text: String) {
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        debug_assert!(view.kinds.contains(&kind), "{kind} is no kind of this source");
        let now = SystemTime::now();
        view.last_error = Some((now, kind, text));
        view.error = view.last_error.clone();
        let errors = view.errors.entry(kind).or_insert(Errors { count: 0, last: now });
        *errors = Errors { count: errors.count + 1, last: now };
    }

    /// The age of the data; `None` = there is none.
    pub fn age(&self, now: Instant) -> Option<Duration> {
        let at = self.view.lock().unwrap_or_else(PoisonError::into_inner).last_success?;
        Some(now.saturating_duration_since(at))
    }

    /// A copy of the present state.
    pub fn view(&self) -> SourceView {
        self.view.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
