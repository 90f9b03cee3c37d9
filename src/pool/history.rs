//! The last changes of a backend's standing, for who asks what happened to it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use super::BackendView;
use crate::standing::Standing;

/// Changes that are kept: a night of flapping is seen, and 10,000 backends stay within some 30 MB.
const KEPT: usize = 20;

/// See the module. A lock, because the admin side reads what the keeper writes; held for a copy.
#[derive(Debug, Default)]
pub struct History(Mutex<VecDeque<StandingChange>>);

/// One of them.
#[derive(Clone, Debug)]
pub struct StandingChange {
    /// When.
    pub at: SystemTime,
    /// What it was; `None` = it was new.
    pub from: Option<Standing>,
    /// What it became.
    pub to: Standing,
    /// Why.
    pub reason: Arc<str>,
}

impl History {
    pub(super) fn add(&self, from: Option<Standing>, view: &BackendView) {
        let mut changes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if changes.len() == KEPT {
            changes.pop_front();
        }
        let BackendView { since: at, standing: to, .. } = *view;
        changes.push_back(StandingChange { at, from, to, reason: Arc::clone(&view.reason) });
    }

    /// Newest first.
    pub fn read(&self) -> Vec<StandingChange> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().rev().cloned().collect()
    }
}
