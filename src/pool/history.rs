//! The last changes of a backend's standing. The keeper writes them, the admin side reads them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use super::BackendView;
use crate::standing::Standing;

/// Changes that are kept. It shows a night of flapping, and 10,000 backends stay within about 30 MB.
const KEPT_CHANGES: usize = 20;

/// The changes of one backend. A lock, because the admin side reads what the keeper writes; held for a copy.
#[derive(Debug, Default)]
pub struct History(Mutex<VecDeque<StandingChange>>);

/// One change.
#[derive(Clone, Debug)]
pub struct StandingChange {
    /// When.
    pub at: SystemTime,
    /// The standing before; `None` = it was new.
    pub from: Option<Standing>,
    /// The standing after.
    pub to: Standing,
    /// Why.
    pub reason: Arc<str>,
}

impl History {
    pub(super) fn add(&self, from: Option<Standing>, view: &BackendView) {
        let mut changes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if changes.len() == KEPT_CHANGES {
            changes.pop_front();
        }
        let BackendView { since: at, standing: to, .. } = *view;
        changes.push_back(StandingChange { at, from, to, reason: Arc::clone(&view.reason) });
    }

    /// The changes, newest first.
    pub fn read(&self) -> Vec<StandingChange> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().rev().cloned().collect()
    }
}
