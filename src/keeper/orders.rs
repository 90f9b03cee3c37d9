//! What operators say, applied to the members.

use std::sync::Arc;
use std::time::Instant;

use tracing::info;

use super::members::Members;
use crate::operator::{Command, Overrides, What};
use crate::pool::{Happened, OrderError};

impl Members {
    /// An operator said something. It holds when this returns, which says how many backends it was about.
    pub(super) fn operate(&mut self, now: Instant, command: Command) -> Result<usize, OrderError> {
        let pool = Arc::clone(&self.pool.name);
        let backend = match &command.what {
            What::Pool(_) | What::Release => None,
            What::Backend(id, _) | What::Weight(id, _) | What::Pause(id, _) => Some(Arc::clone(id)),
        };
        if backend.as_ref().is_some_and(|id| !self.members.contains_key(id)) {
            return Err(OrderError::NoSuchBackend);
        }
        let by = crate::operator::Order {
            value: (),
            by: Arc::clone(&command.by),
            note: command.note.clone(),
            at: command.at,
            lasting: command.lasting,
        };
        let says = format!("{} {by}", command.what);
        match &backend {
            Some(backend) => info!(%pool, %backend, "operator: {says}"),
            None => info!(%pool, "operator: the whole pool: {says}"),
        }
        let released = (command.what == What::Release).then(|| self.believe(now));
        self.overrides.obey(command);
        let touched = self.obey(now, backend.clone());
        self.pool.tell(|| Happened::Operator { pool, backend, says });
        Ok(released.unwrap_or(touched))
    }

    /// Orders whose time is over end.
    pub(super) fn end_orders(&mut self, now: Instant) {
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

    /// Facts follow the ledger: of one member, or of all. Returns of how many.
    fn obey(&mut self, now: Instant, backend: Option<Arc<str>>) -> usize {
        self.pool.orders.show(Overrides::clone(&self.overrides));
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
