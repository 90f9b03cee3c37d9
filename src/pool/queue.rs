//! Sessions that wait for a backend because all that may be picked are at their cap: first come, first served. It stands
//! behind the pool's lock; who is served is picked for under the lock, so that no newcomer slips in, and woken after it.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::sync::oneshot;

use super::lease::Claim;
use super::{Lease, NoneLeft, Pool};

/// Those that wait, in the order of their tickets.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: VecDeque<Waiter>,
    /// Given so far.
    tickets: u64,
}

#[derive(Debug)]
struct Waiter {
    ticket: u64,
    client: SocketAddr,
    to: oneshot::Sender<Claim>,
}

/// What was picked for a session that waited, on its way to it.
pub(super) type Served = (oneshot::Sender<Claim>, Claim);

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn enter(&mut self, client: SocketAddr) -> (u64, oneshot::Receiver<Claim>) {
        let (to, claim) = oneshot::channel();
        self.tickets += 1;
        self.waiting.push_back(Waiter { ticket: self.tickets, client, to });
        (self.tickets, claim)
    }

    /// Nothing happens if it was served.
    pub(super) fn leave(&mut self, ticket: u64) {
        if let Ok(place) = self.waiting.binary_search_by_key(&ticket, |waiter| waiter.ticket) {
            self.waiting.remove(place);
        }
    }

    /// Serves as many as `pick` has something for; it is told for which client.
    pub(super) fn serve(&mut self, mut pick: impl FnMut(SocketAddr) -> Option<Claim>) -> Vec<Served> {
        let mut served = Vec::new();
        while let Some(first) = self.waiting.front()
            && let Some(claim) = pick(first.client)
            && let Some(first) = self.waiting.pop_front()
        {
            served.push((first.to, claim));
        }
        served
    }
}

/// What a session gets that may wait.
#[derive(Debug)]
pub enum PickOrWait {
    /// It was its turn at once.
    Now(Lease),
    /// It has a place in the queue.
    Later(Waiting),
    /// The queue is full.
    Full,
}

/// A session's place in the queue. Resolves with a lease; dropping it gives up the place, or the lease that nobody has
/// taken.
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
        // An error would be a panic of who served it.
        claim.map(|claim| claim.map(|claim| Lease::new(Arc::clone(&self.pool), claim)).map_err(|_| NoneLeft))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.pool.queue_time.observe(self.since.elapsed());
        self.pool.inner().queue.leave(self.ticket);
        // Who serves it from now on finds nobody and gives the claim back; one that came before is given back here.
        self.claim.close();
        if let Ok(claim) = self.claim.try_recv() {
            drop(Lease::new(Arc::clone(&self.pool), claim));
        }
    }
}
