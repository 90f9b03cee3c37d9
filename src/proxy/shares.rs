//! The process's places for sessions.
//! Used by `listener`, `preconnect` and `dial`.
//! A quarter of them is reserved for the listeners, in equal parts, so that a full listener does not starve the others. All
//! listeners share the rest.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::limit::{Limit, Place};

/// The part that is reserved is all places divided by this.
const RESERVED_PART: usize = 4;

/// All places of the process.
#[derive(Debug)]
pub struct Places {
    /// All places, so that there are never more, also while the parts change.
    all: Arc<Limit>,
    /// Places that are not reserved.
    common: Arc<Limit>,
}

/// A place for a connection that is no session of a listener.
#[derive(Debug)]
pub(super) struct Spare {
    _common: Place,
    _all: Place,
}

impl Places {
    /// Nothing is reserved yet.
    pub fn new(places: usize) -> Arc<Self> {
        Arc::new(Self { all: Limit::new(Some(places)), common: Limit::new(Some(places)) })
    }

    /// How many places there are.
    pub fn places(&self) -> usize {
        self.all.places().unwrap_or(usize::MAX)
    }

    /// Changes the number of places.
    pub fn resize(&self, places: usize) {
        self.all.resize(Some(places));
    }

    /// How many places are reserved for each of so many listeners.
    pub fn part(&self, listeners: usize) -> usize {
        // A single listener has all places anyway.
        if listeners > 1 { self.places() / RESERVED_PART / listeners } else { 0 }
    }

    /// Sets how many places are reserved for all listeners together.
    pub fn keep(&self, places: usize) {
        self.common.resize(Some(self.places().saturating_sub(places)));
    }

    pub(super) fn spare(&self) -> Option<Spare> {
        Some(Spare { _common: self.common.try_take()?, _all: self.all.try_take()? })
    }
}

/// A listener's access to the places.
#[derive(Debug)]
pub(super) struct Share {
    places: Arc<Places>,
    kept: Arc<Limit>,
    /// Shared places that its sessions hold. All of its places are equal; these are given back first. Relaxed: each is
    /// counted before it can be given back.
    from_common: AtomicUsize,
}

/// A place; dropping it gives it back, unless [`Share::stay`] keeps it.
pub(super) struct Taken {
    part: Place,
    is_common: bool,
    all: Place,
}

impl Share {
    pub(super) fn new(places: Arc<Places>) -> Self {
        Self { places, kept: Limit::new(Some(0)), from_common: AtomicUsize::new(0) }
    }

    /// Sets how many places are reserved for it.
    pub(super) fn keep(&self, places: usize) {
        self.kept.resize(Some(places));
    }

    pub(super) fn places(&self) -> &Arc<Places> {
        &self.places
    }

    pub(super) fn try_take(&self) -> Option<Taken> {
        let kept = self.kept.try_take();
        let is_common = kept.is_none();
        let part = kept.or_else(|| self.places.common.try_take())?;
        Some(Taken { part, is_common, all: self.places.all.try_take()? })
    }

    /// Waits for a place.
    ///
    /// # Cancel safety
    /// Safe, but the place in the queue is lost.
    pub(super) async fn take(&self) -> Taken {
        let (part, is_common) = tokio::select! {
            biased;
            part = self.kept.take() => (part, false),
            part = self.places.common.take() => (part, true),
        };
        Taken { part, is_common, all: self.places.all.take().await }
    }

    /// Keeps the place taken until [`Self::give_back`].
    pub(super) fn stay(&self, taken: Taken) {
        let Taken { part, is_common, all } = taken;
        self.from_common.fetch_add(usize::from(is_common), Relaxed);
        part.stay();
        all.stay();
    }

    pub(super) fn give_back(&self) {
        let is_common = self.from_common.fetch_update(Relaxed, Relaxed, |count| count.checked_sub(1)).is_ok();
        if is_common {
            self.places.common.give_back()
        } else {
            self.kept.give_back()
        }
        self.places.all.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// That many places, shared by that many listeners.
    fn shares(places: usize, listeners: usize) -> (Arc<Places>, Vec<Share>) {
        let shared = Places::new(places);
        let part = shared.part(listeners);
        shared.keep(part * listeners);
        let share = |_| {
            let share = Share::new(Arc::clone(&shared));
            share.keep(part);
            share
        };
        let all = (0..listeners).map(share).collect();
        (shared, all)
    }

    fn fill(share: &Share) -> usize {
        std::iter::from_fn(|| share.try_take().map(|taken| share.stay(taken))).count()
    }

    #[test]
    fn one_that_takes_all_it_can_get_leaves_the_others_their_parts() {
        for (places, listeners, greedy, each) in [(100, 1, 100, 0), (100, 2, 88, 12), (100, 5, 80, 5), (6, 2, 6, 0)] {
            let (_, all) = shares(places, listeners);
            assert_eq!(fill(&all[0]), greedy, "{places} for {listeners}");
            for other in &all[1..] {
                assert_eq!(fill(other), each, "{places} for {listeners}");
            }
        }
    }

    #[test]
    fn the_number_is_never_exceeded_and_every_part_is_there_whatever_comes_and_goes() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..200 {
            let (places, listeners) = (random.usize(1..60), random.usize(1..5));
            let (shared, all) = shares(places, listeners);
            let (part, mut held) = (shared.part(listeners), vec![0; listeners]);
            for _ in 0..500 {
                let at = random.usize(..listeners);
                if random.bool() {
                    if let Some(taken) = all[at].try_take() {
                        all[at].stay(taken);
                        held[at] += 1;
                    } else {
                        assert!(held[at] >= part, "SEED={seed} {held:?} of {places}, {part} kept");
                    }
                } else if held[at] > 0 {
                    all[at].give_back();
                    held[at] -= 1;
                }
                assert!(held.iter().sum::<usize>() <= places, "SEED={seed}");
            }
        }
    }

    #[test]
    fn a_place_that_is_given_back_is_for_all_as_long_as_its_listener_has_more_than_its_part() {
        let (_, all) = shares(100, 2);
        fill(&all[0]);
        fill(&all[1]);
        all[0].give_back();
        assert_eq!((fill(&all[1]), fill(&all[0])), (1, 0));
    }

    #[tokio::test]
    async fn who_waits_gets_a_place_of_either_kind() {
        let (shared, all) = shares(16, 2);
        fill(&all[0]);
        fill(&all[1]);
        for giver in [0, 1] {
            let waiting = all[1].take();
            tokio::pin!(waiting);
            tokio::select! {
                biased;
                _ = &mut waiting => panic!("a place from nowhere"),
                () = tokio::task::yield_now() => {}
            }
            all[giver].give_back();
            all[1].stay(waiting.await);
        }
        assert!(shared.spare().is_none());
    }
}
