//! Sessions that wait for a backend because all that they may use are at their cap: first come, first served.
//! It is behind the pool's lock. A waiting session is served under that lock, so that no new session is faster, and woken
//! after it.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::sync::oneshot;

use super::lease::Claim;
use super::{Lease, NoneLeft, Pool};
use crate::balance::Affinity;

/// The waiting sessions, in the order of their tickets.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: VecDeque<Waiter>,
    /// Tickets given.
    tickets: u64,
}

#[derive(Debug)]
struct Waiter {
    ticket: u64,
    affinity: Affinity,
    to: oneshot::Sender<Claim>,
}

/// A claim on its way to a waiting session.
pub(super) type Served = (oneshot::Sender<Claim>, Claim);

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn enter(&mut self, affinity: Affinity) -> (u64, oneshot::Receiver<Claim>) {
        let (to, claim) = oneshot::channel();
        self.tickets += 1;
        self.waiting.push_back(Waiter { ticket: self.tickets, affinity, to });
        (self.tickets, claim)
    }

    /// Removes a session; no effect if it was served.
    pub(super) fn leave(&mut self, ticket: u64) {
        if let Ok(place) = self.waiting.binary_search_by_key(&ticket, |waiter| waiter.ticket) {
            self.waiting.remove(place);
        }
    }

    /// Serves sessions while `pick` has a backend for the first one.
    pub(super) fn serve(&mut self, mut pick: impl FnMut(Affinity) -> Option<Claim>) -> Vec<Served> {
        let mut served = Vec::new();
        while let Some(first) = self.waiting.front()
            && let Some(claim) = pick(first.affinity)
            && let Some(first) = self.waiting.pop_front()
        {
            served.push((first.to, claim));
        }
        served
    }
}

/// The result of a pick for a session that may wait.
#[derive(Debug)]
pub enum PickOrWait {
    /// A backend at once.
    Now(Lease),
    /// A place in the queue.
    Later(Waiting),
    /// The queue is full.
    Full,
}

/// A session's place in the queue. It resolves to a lease. Dropping it gives up the place, or a lease that was not taken.
///
/// # Cancel safety
/// Safe: a lease stays until it is taken.
#[derive(Debug)]
pub struct Waiting {
    pool: Arc<Pool>,
    ticket: u64,
    claim: oneshot::Receiver<Claim>,
    since: Instant,
}

impl Waiting {
    pub(super) fn new(pool: Arc<Pool>, (ticket, claim): (u64, oneshot::Receiver<Claim>)) -> Self {
        Self { pool, ticket, claim, since: Instant::now() }
    }
}

impl Future for Waiting {
    type Output = Result<Lease, NoneLeft>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let claim = Pin::new(&mut self.claim).poll(cx);
        // An error would mean that the pool panicked while it served.
        claim.map(|claim| claim.map(|claim| Lease::new(Arc::clone(&self.pool), claim)).map_err(|_| NoneLeft))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.pool.queue_time.observe(self.since.elapsed());
        self.pool.inner().queue.leave(self.ticket);
        // From now on a claim can't be sent any more and goes back to the pool. One that was sent before is given back here.
        self.claim.close();
        if let Ok(claim) = self.claim.try_recv() {
            drop(Lease::new(Arc::clone(&self.pool), claim));
        }
    }
}
