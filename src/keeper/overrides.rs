//! What operators say, applied to the members.

use std::sync::Arc;
use std::time::Instant;

use tracing::info;

use super::members::Members;
use crate::operator::{Override, Overrides, Wanted};
use crate::pool::{Happened, OverrideError};

impl Members {
    /// An operator said something. It holds when this returns, which says how many backends it was about.
    pub(super) fn operate(&mut self, now: Instant, given: Override<Wanted>) -> Result<usize, OverrideError> {
        let pool = Arc::clone(&self.pool.name);
        let backend = match &given.value {
            Wanted::Pool(_) | Wanted::Release => None,
            Wanted::Backend(id, _) | Wanted::Weight(id, _) | Wanted::Probe(id, _) => Some(Arc::clone(id)),
        };
        if backend.as_ref().is_some_and(|id| !self.members.contains_key(id)) {
            return Err(OverrideError::NoSuchBackend);
        }
        let says = format!("{} {given}", given.value);
        match &backend {
            Some(backend) => info!(%pool, %backend, "operator: {says}"),
            None => info!(%pool, "operator: the whole pool: {says}"),
        }
        let released = (given.value == Wanted::Release).then(|| self.believe(now));
        self.overrides.obey(given);
        let touched = self.obey(now, backend.clone());
        self.pool.tell(|| Happened::Operator { pool, backend, says });
        Ok(released.unwrap_or(touched))
    }

    /// Overrides whose time is over end.
    pub(super) fn end_overrides(&mut self, now: Instant) {
        if self.overrides.next_end().is_none_or(|end| end > now) {
            return;
        }
        for (backend, says) in self.overrides.expire(now) {
            let pool = Arc::clone(&self.pool.name);
            let says = format!("it is over: {says}");
            match &backend {
                Some(backend) => info!(%pool, %backend, "operator: {says}"),
                None => info!(%pool, "operator: the whole pool: {says}"),
            }
            self.pool.tell(|| Happened::Operator { pool, backend, says });
        }
        self.obey(now, None);
    }

    /// Facts follow what holds: of one member, or of all. Returns of how many.
    fn obey(&mut self, now: Instant, backend: Option<Arc<str>>) -> usize {
        self.pool.overrides.show(Overrides::clone(&self.overrides));
        let touched = backend.map_or_else(|| self.members.keys().cloned().collect(), |id| vec![id]);
        for id in &touched {
            self.settle(now, id);
            // A check that rests ends no ejection.
            self.look_at_ejection(now, id);
        }
        self.weigh(now);
        touched.len()
    }
}
