//! Places at an agent. It takes 200 connections from one address by default, and beyond that shuts out every other client of
//! this machine, too; so all queries of one agent together have a budget, and take turns where there are more of them.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, watch};

/// How long a query keeps its place if others wait and there are twice as many queries as places.
const TURN: Duration = Duration::from_secs(1);
/// No turn is shorter, or asking would be all that is done.
const SHORTEST: Duration = Duration::from_millis(500);
/// From the end of a query until its connection is closed, or is idle and taken by the next one. The place is kept as long:
/// so there are never more connections than places.
const SETTLE: Duration = Duration::from_millis(5);

/// The places at one address.
#[derive(Debug)]
pub(super) struct Turns {
    connections: usize,
    /// Given in the order in which they were asked for.
    places: Arc<Semaphore>,
    load: watch::Sender<Load>,
}

#[derive(Clone, Copy, Debug)]
struct Load {
    places: usize,
    queries: usize,
}

/// The connections of one client that hold no query: the one that asks for the leader, and those that are closed here and not
/// yet at the agent. They are taken from the places.
#[derive(Debug)]
pub(super) struct Share {
    turns: Arc<Turns>,
    places: usize,
}

/// One query that takes turns.
#[derive(Debug)]
pub(super) struct Taker(Arc<Turns>);

impl Turns {
    pub(super) fn new(connections: usize) -> Arc<Self> {
        let load = watch::Sender::new(Load { places: connections, queries: 0 });
        Arc::new(Self { connections, places: Arc::new(Semaphore::new(connections)), load })
    }

    /// One more client.
    pub(super) fn share(self: &Arc<Self>) -> Share {
        let mut taken = 0;
        self.load.send_modify(|load| {
            taken = aside(self.connections).min(load.places - 1);
            load.places -= taken;
        });
        // Those that are in use are taken as they are given back.
        let missing = taken - self.places.forget_permits(taken);
        if missing > 0 {
            let (places, count) = (Arc::clone(&self.places), u32::try_from(missing).unwrap_or(u32::MAX));
            tokio::spawn(async move { places.acquire_many(count).await.map(SemaphorePermit::forget) });
        }
        Share { turns: Arc::clone(self), places: taken }
    }

    /// One more query.
    pub(super) fn join(self: &Arc<Self>) -> Taker {
        self.load.send_modify(|load| load.queries += 1);
        Taker(Arc::clone(self))
    }
}

impl Load {
    /// How long a turn may last; `None` = there is a place for each query.
    fn turn(self) -> Option<Duration> {
        let share = 2.0 * self.places as f64 / self.queries.max(1) as f64;
        (self.queries > self.places).then(|| TURN.mul_f64(share).max(SHORTEST))
    }
}

impl Share {
    pub(super) fn turns(&self) -> &Arc<Turns> {
        &self.turns
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.turns.load.send_modify(|load| load.places += self.places);
        self.turns.places.add_permits(self.places);
    }
}

/// Of so many connections, those of a client that hold no query.
fn aside(connections: usize) -> usize {
    (connections / 16).max(1)
}

/// The right to one connection.
#[derive(Debug)]
pub(super) struct Place(Option<OwnedSemaphorePermit>);

impl Drop for Place {
    fn drop(&mut self) {
        let (Some(permit), Ok(runtime)) = (self.0.take(), Handle::try_current()) else { return };
        runtime.spawn(async move {
            tokio::time::sleep(SETTLE).await;
            drop(permit);
        });
    }
}

impl Taker {
    /// A place, once it is there.
    pub(super) async fn place(&self) -> Place {
        // It is never closed.
        Place(Arc::clone(&self.0.places).acquire_owned().await.ok())
    }

    /// What to wait for an answer instead of `wait`, so that all have their turn.
    pub(super) fn wait(&self, wait: Duration) -> Duration {
        let load = *self.0.load.borrow();
        load.turn().map_or(wait, |turn| turn.min(wait))
    }

    /// Returns when a place that was taken for long has to be given up, because there are more queries than places now.
    pub(super) async fn displaced(&self) {
        let mut load = self.0.load.subscribe();
        let turn = load.wait_for(|load| load.turn().is_some()).await.ok().and_then(|load| load.turn());
        // Not all at one moment.
        tokio::time::sleep(turn.unwrap_or(TURN).mul_f64(fastrand::f64())).await;
    }
}

impl Drop for Taker {
    fn drop(&mut self) {
        self.0.load.send_modify(|load| load.queries -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_shorter_where_there_are_more() {
        let turns = Turns::new(128);
        let _share = turns.share();
        let Load { places, .. } = *turns.load.borrow();
        assert_eq!(places, 120);
        let turn = |queries| Load { places, queries }.turn().map(|turn| turn.as_millis());
        assert_eq!([120, 240, 480, 10_000].map(turn), [None, Some(1000), Some(500), Some(500)]);
    }

    #[tokio::test]
    async fn each_client_has_its_other_connections_within_the_budget() {
        let turns = Turns::new(32);
        let one = turns.share();
        assert_eq!(turns.places.available_permits(), 30);
        let taker = turns.join();
        let mut all = Vec::new();
        for _ in 0..30 {
            all.push(taker.place().await);
        }
        // All are in use; the next two that are given back are the new client's.
        let other = turns.share();
        assert_eq!(turns.load.borrow().places, 28);
        tokio::task::yield_now().await;
        all.truncate(28);
        tokio::time::sleep(SETTLE * 2).await;
        assert_eq!(turns.places.available_permits(), 0);
        let began = tokio::time::Instant::now();
        drop(all);
        while turns.places.available_permits() < 28 {
            tokio::task::yield_now().await;
        }
        assert!(began.elapsed() >= SETTLE, "their connections may not have ended");
        drop((one, other));
        assert_eq!((turns.places.available_permits(), turns.load.borrow().places), (32, 32));
        // However many clients, one query is asked.
        let small = Turns::new(4);
        let _many: Vec<_> = (0..9).map(|_| small.share()).collect();
        assert_eq!(small.places.available_permits(), 1);
    }

    #[tokio::test]
    async fn all_get_their_turn() {
        let turns = Turns::new(4);
        let _share = turns.share();
        let all: Vec<_> = (0..12).map(|_| turns.join()).collect();
        let mut first: Vec<_> = Vec::new();
        for taker in &all[..3] {
            assert!(taker.wait(Duration::from_secs(300)) <= Duration::from_secs(1));
            first.push(taker.place().await);
        }
        let mut later = Box::pin(all[11].place());
        assert!(tokio::time::timeout(Duration::from_millis(50), &mut later).await.is_err());
        first.pop();
        assert!(later.await.0.is_some());
        // A query that began when there was room learns that there is none any more.
        all[0].displaced().await;
        drop(first);
        drop(all);
        assert_eq!(turns.join().wait(Duration::from_secs(300)), Duration::from_secs(300));
    }
}
