//! The results of reloads: written when one is applied or refused, read by metrics and the API.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::config::Config;

/// The first line about an invalid file; the places follow.
pub(crate) const HEADING: &str = "the configuration is not valid";

/// The results since the start.
#[derive(Debug)]
pub struct Reloads {
    /// A lock: taken once for each reload.
    view: Mutex<ReloadView>,
}

/// The last result, and the counts of all.
#[derive(Clone, Debug)]
pub struct ReloadView {
    /// The number of the configuration in effect; the first one is 1.
    pub generation: u64,
    /// A hash of the configuration in effect. Within one process, equal configurations have equal hashes.
    pub hash: u64,
    /// When it was applied.
    pub applied_at: SystemTime,
    /// Reloads that were applied.
    pub applied: u64,
    /// Reloads without a difference.
    pub unchanged: u64,
    /// Reloads that were refused.
    pub refused: u64,
    /// Differences that need a restart, by place.
    pub needs_restart: Vec<String>,
    /// What the last attempt changed, a line each.
    pub changes: Vec<String>,
    /// The last reload; `None` = there was none.
    pub last: Option<(SystemTime, ReloadResult, Option<String>)>,
}

words! {
    /// The result of a reload.
    pub enum ReloadResult {
        /// In effect.
        Applied = "applied",
        /// No difference.
        Unchanged = "unchanged",
        /// An error: the configuration before stays in effect.
        Refused = "refused",
    }
}

impl ReloadView {
    /// How often that was the result.
    pub fn count(&self, result: ReloadResult) -> u64 {
        match result {
            ReloadResult::Applied => self.applied,
            ReloadResult::Unchanged => self.unchanged,
            ReloadResult::Refused => self.refused,
        }
    }
}

impl ReloadView {
    /// When the last reload was refused, and why in one line; `None` = it was not refused.
    pub fn refusal(&self) -> Option<(SystemTime, &str)> {
        let (at, ReloadResult::Refused, Some(error)) = self.last.as_ref()? else { return None };
        // The first line about an invalid file is only a heading.
        let line = error.lines().find(|line| !line.is_empty() && *line != HEADING);
        Some((*at, line.unwrap_or(HEADING)))
    }
}

impl Reloads {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            view: Mutex::new(ReloadView {
                generation: 1,
                hash: hash(config),
                applied_at: SystemTime::now(),
                applied: 0,
                unchanged: 0,
                refused: 0,
                needs_restart: Vec::new(),
                changes: Vec::new(),
                last: None,
            }),
        }
    }

    /// A copy of the present state.
    pub fn view(&self) -> ReloadView {
        self.lock().clone()
    }

    /// Notes a file that is invalid or could not be applied. `error` is the text of `evenkeel check`.
    pub fn refused(&self, error: String) {
        let mut view = self.lock();
        view.refused += 1;
        view.changes.clear();
        view.last = Some((SystemTime::now(), ReloadResult::Refused, Some(error)));
    }

    pub(super) fn unchanged(&self) {
        let mut view = self.lock();
        view.unchanged += 1;
        view.changes.clear();
        view.last = Some((SystemTime::now(), ReloadResult::Unchanged, None));
    }

    pub(super) fn applied(&self, config: &Config, needs_restart: Vec<String>, changes: Vec<String>) -> u64 {
        let (now, mut view) = (SystemTime::now(), self.lock());
        view.generation += 1;
        view.hash = hash(config);
        view.applied_at = now;
        view.applied += 1;
        view.needs_restart = needs_restart;
        view.changes = changes;
        view.last = Some((now, ReloadResult::Applied, None));
        view.generation
    }

    fn lock(&self) -> MutexGuard<'_, ReloadView> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn hash(config: &Config) -> u64 {
    let mut hasher = DefaultHasher::new();
    config.effective().to_string().hash(&mut hasher);
    hasher.finish()
}
