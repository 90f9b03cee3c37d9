//! The time limit of the operations of one connection, with one lazy timer instead of one per operation.
//!
//! At 200,000 operations a second a timer each would cost more than the traffic. The timer here only looks, at most once per
//! limit, whether the current operation is overdue; a new operation just moves the due time.

use std::cell::Cell;
use std::future::Future;
use std::time::{Duration, Instant};

use crate::fault::Fault;

pub(crate) struct Watch {
    limit: Duration,
    due: Cell<Option<Instant>>,
}

impl Watch {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, due: Cell::new(None) }
    }

    /// An operation starts at `now` (and the one before has ended).
    pub(crate) fn start(&self, now: Instant) {
        self.due.set(Some(now + self.limit));
    }

    /// No operation is under way.
    pub(crate) fn rest(&self) {
        self.due.set(None);
    }

    /// Runs `body`, but no longer than until an operation in it is overdue.
    pub(crate) async fn guard<T>(&self, body: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
        tokio::select! {
            biased;
            result = body => result,
            () = self.overdue() => Err(Fault::timeout("the operation")),
        }
    }

    async fn overdue(&self) {
        loop {
            let now = Instant::now();
            // Whatever starts during this sleep is due after it: nothing is missed by not re-arming.
            let look = self.due.get().unwrap_or(now + self.limit);
            if look <= now {
                return;
            }
            tokio::time::sleep_until(look.into()).await;
        }
    }
}
