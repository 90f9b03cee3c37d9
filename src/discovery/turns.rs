//! Places at an agent. It takes 200 connections from one address by default, and beyond that shuts out every other client of
//! this machine, too; so all queries of one agent together have a budget, and take turns where there are more of them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit, watch};

/// How long a query keeps its place if others wait and there are twice as many queries as places.
const TURN: Duration = Duration::from_secs(1);
/// No turn is shorter, or asking would be all that is done.
const SHORTEST: Duration = Duration::from_millis(500);

/// The places at one address.
#[derive(Debug)]
pub(super) struct Turns {
    /// Given in the order in which they were asked for.
    places: Semaphore,
    size: usize,
    queries: watch::Sender<usize>,
}

/// One query that takes turns.
#[derive(Debug)]
pub(super) struct Taker(Arc<Turns>);

impl Turns {
    /// Of so many connections a few are idle at any moment: from one question to the next.
    pub(super) fn new(connections: usize) -> Arc<Self> {
        let size = connections.saturating_sub(idle(connections)).max(1);
        Arc::new(Self { places: Semaphore::new(size), size, queries: watch::Sender::new(0) })
    }

    /// One more query.
    pub(super) fn join(self: &Arc<Self>) -> Taker {
        self.queries.send_modify(|queries| *queries += 1);
        Taker(Arc::clone(self))
    }

    /// How long a turn may last among so many queries; `None` = there is a place for each.
    fn turn(&self, queries: usize) -> Option<Duration> {
        let share = 2.0 * self.size as f64 / queries.max(1) as f64;
        (queries > self.size).then(|| TURN.mul_f64(share).max(SHORTEST))
    }
}

/// Connections that may be idle, of so many.
pub(super) fn idle(connections: usize) -> usize {
    (connections / 16).max(1)
}

impl Taker {
    /// A place, once it is there.
    pub(super) async fn place(&self) -> Option<SemaphorePermit<'_>> {
        // Nobody closes it.
        self.0.places.acquire().await.ok()
    }

    /// What to wait for an answer instead of `wait`, so that all have their turn.
    pub(super) fn wait(&self, wait: Duration) -> Duration {
        let queries = *self.0.queries.borrow();
        self.0.turn(queries).map_or(wait, |turn| turn.min(wait))
    }

    /// Returns when a place that was taken for long has to be given up, since there are more queries than places by now.
    pub(super) async fn displaced(&self) {
        let mut queries = self.0.queries.subscribe();
        let turn = match queries.wait_for(|queries| *queries > self.0.size).await {
            Ok(queries) => self.0.turn(*queries),
            Err(_) => None,
        };
        // Not all at one moment.
        tokio::time::sleep(turn.unwrap_or(TURN).mul_f64(fastrand::f64())).await;
    }
}

impl Drop for Taker {
    fn drop(&mut self) {
        self.0.queries.send_modify(|queries| *queries -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_shorter_where_there_are_more() {
        let turns = Turns::new(128);
        assert_eq!(turns.size, 120);
        let turn = |queries| turns.turn(queries).map(|turn| turn.as_millis());
        assert_eq!([120, 240, 480, 10_000].map(turn), [None, Some(1000), Some(500), Some(500)]);
    }

    #[tokio::test]
    async fn all_get_their_turn() {
        let turns = Turns::new(4);
        let all: Vec<_> = (0..12).map(|_| turns.join()).collect();
        let mut first: Vec<_> = Vec::new();
        for taker in &all[..turns.size] {
            assert!(taker.wait(Duration::from_secs(300)) <= Duration::from_secs(1));
            first.push(taker.place().await);
        }
        let mut later = Box::pin(all[11].place());
        assert!(tokio::time::timeout(Duration::from_millis(50), &mut later).await.is_err());
        first.pop();
        assert!(later.await.is_some());
        // Who came when there was room learns that there is none any more.
        all[0].displaced().await;
        drop(first);
        drop(all);
        assert_eq!(turns.join().wait(Duration::from_secs(300)), Duration::from_secs(300));
    }
}
