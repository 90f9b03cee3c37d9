//! What became of the configurations that were to be applied: written by who applies them, read by metrics and the API.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::config::Config;

/// The first line about a file that is not valid; then come the places.
pub(crate) const HEADING: &str = "the configuration is not valid";

/// See the module.
#[derive(Debug)]
pub struct Reloads {
    /// A lock: touched once a reload.
    view: Mutex<ReloadView>,
}

/// How the last one went, and how all have.
#[derive(Clone, Debug)]
pub struct ReloadView {
    /// Counts the configurations that were applied, the first one included.
    pub generation: u64,
    /// Of what is in effect; equal for equal configurations of one process.
    pub hash: u64,
    /// When that was applied.
    pub applied_at: SystemTime,
    /// Since the start.
    pub applied: u64,
    /// The same.
    pub unchanged: u64,
    /// The same.
    pub refused: u64,
    /// Differences that take a restart, by place.
    pub needs_restart: Vec<String>,
    /// What the last attempt changed, a line each.
    pub changes: Vec<String>,
    /// The last attempt; `None` = only the start so far.
    pub last: Option<(SystemTime, ReloadResult, Option<String>)>,
}

words! {
    /// What a reload came to.
    pub enum ReloadResult {
        /// In effect.
        Applied = "applied",
        /// No difference.
        Unchanged = "unchanged",
        /// An error; what ran goes on running.
        Refused = "refused",
    }
}

impl ReloadView {
    /// How often it came to that.
    pub fn count(&self, result: ReloadResult) -> u64 {
        match result {
            ReloadResult::Applied => self.applied,
            ReloadResult::Unchanged => self.unchanged,
            ReloadResult::Refused => self.refused,
        }
    }
}

impl ReloadView {
    /// When the last one was refused, and why in one line; `None` = the last one was not.
    pub fn refusal(&self) -> Option<(SystemTime, &str)> {
        let (at, ReloadResult::Refused, Some(error)) = self.last.as_ref()? else { return None };
        // What comes first with a file that has places is only a heading.
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

    /// As it is now.
    pub fn view(&self) -> ReloadView {
        self.lock().clone()
    }

    /// A file could not be made a configuration, or not be applied; `error` is what `evenkeel check` says of it.
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
