//! A limit on sessions at once: places that are taken and given back, and whose number may change.
//! Used by `listener` and `shares`.
//! If the number becomes lower, the sessions above it stay, and no new one comes until enough have ended.

use std::sync::atomic::{
    AtomicU64, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

/// A limit and its free places.
#[derive(Debug)]
pub(super) struct Limit {
    free: Semaphore,
    /// Places that disappear when they are given back. Almost always 0, so it is read before it is changed.
    owed: AtomicUsize,
    /// A lock: held while the number changes, so that two changes do not mix.
    places: Mutex<usize>,
}

impl Limit {
    /// `None` = as many as the semaphore can count.
    pub(super) fn new(places: Option<usize>) -> Arc<Self> {
        let places = bounded(places);
        Arc::new(Self { free: Semaphore::new(places), owed: AtomicUsize::new(0), places: Mutex::new(places) })
    }

    /// `None` = unlimited.
    pub(super) fn places(&self) -> Option<usize> {
        let places = *self.places.lock().unwrap_or_else(PoisonError::into_inner);
        (places < Semaphore::MAX_PERMITS).then_some(places)
    }

    /// Changes the number of places.
    pub(super) fn resize(&self, places: Option<usize>) {
        let after = bounded(places);
        let mut now = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *now, after);
        if after >= before {
            let more = after - before;
            self.free.add_permits(more - self.settle(more));
        } else {
            let less = before - after;
            // First owe, then pay: otherwise a place that is to disappear could be taken.
            self.owed.fetch_add(less, SeqCst);
            let paid = self.free.forget_permits(less);
            // A place that was given back meanwhile may have paid a part already.
            self.free.add_permits(paid - self.settle(paid));
        }
    }

    /// Takes a place if one is free.
    pub(super) fn try_take(self: &Arc<Self>) -> Option<Place> {
        self.free.try_acquire().ok()?.forget();
        Some(Place(Some(Arc::clone(self))))
    }

    /// Waits for a place.
    ///
    /// # Cancel safety
    /// Safe, but the place in the queue is lost.
    pub(super) async fn take(self: &Arc<Self>) -> Place {
        match self.free.acquire().await {
            Ok(permit) => permit.forget(),
            // The semaphore is never closed.
            Err(_) => std::future::pending().await,
        }
        Place(Some(Arc::clone(self)))
    }

    /// Makes a place free again, or lets it disappear.
    pub(super) fn give_back(&self) {
        if self.settle(1) == 0 {
            self.free.add_permits(1);
        }
    }

    /// Reduces what is owed by up to `most`. Returns by how much.
    fn settle(&self, most: usize) -> usize {
        if self.owed.load(SeqCst) == 0 {
            return 0;
        }
        let settled = self.owed.fetch_update(SeqCst, SeqCst, |owed| Some(owed.saturating_sub(most)));
        settled.unwrap_or(0).min(most)
    }
}

fn bounded(places: Option<usize>) -> usize {
    places.unwrap_or(Semaphore::MAX_PERMITS).min(Semaphore::MAX_PERMITS)
}

/// A place; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Place(Option<Arc<Limit>>);

impl Place {
    /// Keeps the place taken; [`Limit::give_back`] is called later.
    pub(super) fn stay(mut self) {
        self.0 = None;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(limit) = &self.0 {
            limit.give_back();
        }
    }
}

/// How often clients had to wait for a limit. Relaxed: statistics.
#[derive(Debug, Default)]
pub(super) struct Met {
    times: AtomicU64,
    /// Accept loops (one for each address) with a waiting client and no place.
    waiting: AtomicUsize,
}

/// Counts a waiting accept loop until it is dropped.
pub(super) struct Waits<'a>(&'a Met);

impl Met {
    pub(super) fn enter(&self) -> Waits<'_> {
        self.times.fetch_add(1, Relaxed);
        self.waiting.fetch_add(1, Relaxed);
        Waits(self)
    }

    pub(super) fn times(&self) -> u64 {
        self.times.load(Relaxed)
    }

    pub(super) fn waiting(&self) -> bool {
        self.waiting.load(Relaxed) > 0
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_more_than_there_are_places_whatever_they_become() {
        let mut random = fastrand::Rng::with_seed(3);
        let (limit, mut size, mut taken) = (Limit::new(Some(5)), 5, Vec::new());
        for _ in 0..20_000 {
            match random.u8(..8) {
                0 => {
                    size = random.usize(1..9);
                    limit.resize(Some(size));
                }
                1 if random.u8(..10) == 0 => {
                    size = Semaphore::MAX_PERMITS;
                    limit.resize(None);
                }
                2..=4 if !taken.is_empty() => drop(taken.swap_remove(random.usize(..taken.len()))),
                _ if taken.len() < 40 => {
                    let place = limit.try_take();
                    assert_eq!(place.is_some(), taken.len() < size, "{} of {size}", taken.len());
                    taken.extend(place);
                }
                _ => taken.clear(),
            }
            assert_eq!(limit.places().unwrap_or(Semaphore::MAX_PERMITS), size);
        }
    }

    #[tokio::test]
    async fn who_waits_gets_a_place_that_a_change_brings() {
        let limit = Limit::new(Some(1));
        let first = limit.try_take().unwrap();
        let waiting = tokio::spawn({
            let limit = Arc::clone(&limit);
            async move { limit.take().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        limit.resize(Some(2));
        let second = waiting.await.unwrap();
        // Two are there and one is allowed: the first to leave makes no room.
        limit.resize(Some(1));
        drop(first);
        assert!(limit.try_take().is_none());
        drop(second);
        assert!(limit.try_take().is_some());
    }

    #[test]
    fn threads_that_come_and_go_during_changes_leave_the_right_number() {
        let limit = Limit::new(Some(8));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| (0..20_000).for_each(|_| drop(limit.try_take())));
            }
            for n in 0..2_000 {
                limit.resize(Some(1 + n % 16));
            }
        });
        limit.resize(Some(7));
        let taken: Vec<_> = std::iter::from_fn(|| limit.try_take()).collect();
        assert_eq!(taken.len(), 7);
    }
}
