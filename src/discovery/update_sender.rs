//! The way out to the keeper: passes on a set only if it is not the one that was sent last.

use tokio::sync::mpsc;

use crate::endpoint::{Endpoint, Trust, Update};

/// The receiver is gone: the follower ends.
#[derive(Debug)]
pub(super) struct Closed;

pub(super) struct UpdateSender {
    updates: mpsc::Sender<Update>,
    last: Option<Update>,
}

impl UpdateSender {
    pub(super) fn new(updates: mpsc::Sender<Update>) -> Self {
        Self { updates, last: None }
    }

    /// Sends it unless it is what the receiver has.
    pub(super) async fn send(&mut self, mut update: Update) -> Result<(), Closed> {
        // The order that a source has has no meaning, and Consul's changes.
        update.endpoints.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        if self.last.as_ref().is_some_and(|last| is_no_news(last, &update)) {
            return Ok(());
        }
        self.updates.send(update.clone()).await.map_err(|_| Closed)?;
        self.last = Some(update);
        Ok(())
    }

    /// The set that was sent last.
    pub(super) fn last(&self) -> Option<&[Endpoint]> {
        self.last.as_ref().map(|update| update.endpoints.as_slice())
    }

    /// What was sent last for an id.
    pub(super) fn last_of(&self, id: &str) -> Option<&Endpoint> {
        let last = self.last()?;
        let at = last.binary_search_by(|endpoint| (*endpoint.id).cmp(id)).ok()?;
        last.get(at)
    }

    /// Returns when the receiver is gone. Cancel safe.
    pub(super) async fn closed(&self) {
        self.updates.closed().await;
    }
}

/// A mistrust is always news: it begins again with each.
fn is_no_news(last: &Update, now: &Update) -> bool {
    let is_as_good = match (last.trust, now.trust) {
        (_, Trust::Doubted(_)) => false,
        (last, Trust::Calm) => last != Trust::Failing,
        (last, now) => last == now,
    };
    is_as_good && last.endpoints == now.endpoints
}
