//! The time limit of the operations on one connection, with one timer for all of them.
//!
//! At 200,000 operations a second, one timer for each would cost more than the traffic. This timer fires at most once per limit and
//! only looks whether the current operation is overdue; a new operation just moves the due time.

use std::cell::Cell;
use std::future::Future;
use std::time::{Duration, Instant};

use crate::operation_error::OperationError;

pub(crate) struct OperationTimeout {
    limit: Duration,
    due: Cell<Option<Instant>>,
}

impl OperationTimeout {
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

    /// Runs `body`; fails when an operation in it is overdue.
    pub(crate) async fn guard<T>(
        &self,
        body: impl Future<Output = Result<T, OperationError>>,
    ) -> Result<T, OperationError> {
        tokio::select! {
            biased;
            result = body => result,
            () = self.overdue() => Err(OperationError::timeout("the operation")),
        }
    }

    async fn overdue(&self) {
        loop {
            let now = Instant::now();
            // An operation that starts during this sleep is due after it, so the timer need not be set again.
            let look = self.due.get().unwrap_or(now + self.limit);
            if look <= now {
                return;
            }
            tokio::time::sleep_until(look.into()).await;
        }
    }
}
