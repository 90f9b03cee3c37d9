//! How many connections the admin side has, and who has to go when there are too many: idle ones, the oldest first. So
//! nobody who only holds connections open keeps an operator out, and sessions' descriptors are never touched.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// After that a request that is being answered has had its time, if others wait.
const PATIENCE: Duration = Duration::from_secs(15);

/// See the module.
#[derive(Debug)]
pub(super) struct Seats {
    /// A lock, because each connection is a task; held for a look at some dozens of entries.
    taken: Mutex<Vec<Entry>>,
    most: usize,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    state: State,
    since: Instant,
    end: CancellationToken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// No request, or not yet a whole one.
    Idle,
    /// A request is being answered.
    Busy,
    /// It follows events: these have a bound of their own.
    Follows,
}

/// A connection's seat, until dropped.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Arc<Seats>,
    number: u64,
    /// Cancelled when it has to go.
    pub(super) end: CancellationToken,
}

impl Seats {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { taken: Mutex::new(Vec::new()), most })
    }

    /// A seat, at somebody else's cost if need be; `None` = everybody is being served, try again soon.
    pub(super) fn take(self: &Arc<Self>, number: u64, now: Instant) -> Option<Seat> {
        let mut taken = self.lock();
        if taken.len() >= self.most {
            let idle = taken.iter().enumerate().filter(|(_, entry)| entry.state == State::Idle);
            let slow = taken.iter().enumerate().filter(|(_, entry)| {
                entry.state == State::Busy && now.saturating_duration_since(entry.since) > PATIENCE
            });
            let oldest = idle.min_by_key(|(_, entry)| entry.since).or_else(|| slow.min_by_key(|(_, e)| e.since));
            let (index, _) = oldest?;
            taken.swap_remove(index).end.cancel();
        }
        let end = CancellationToken::new();
        taken.push(Entry { number, state: State::Idle, since: now, end: end.clone() });
        Some(Seat { seats: Arc::clone(self), number, end })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// What its connection does now.
    pub(super) fn set(&self, state: State) {
        if let Some(entry) = self.seats.lock().iter_mut().find(|entry| entry.number == self.number) {
            (entry.state, entry.since) = (state, Instant::now());
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.lock().retain(|entry| entry.number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_idle_one_goes_and_nobody_who_is_served() {
        let seats = Seats::new(2);
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        let first = seats.take(1, start).unwrap();
        let second = seats.take(2, later(1)).unwrap();
        let third = seats.take(3, later(2)).unwrap();
        assert!(first.end.is_cancelled() && !second.end.is_cancelled());
        drop(first);
        second.set(State::Busy);
        third.set(State::Follows);
        assert!(seats.take(4, Instant::now()).is_none());
        assert!(seats.take(5, Instant::now() + PATIENCE * 2).is_some(), "whoever is served for too long");
        assert!(second.end.is_cancelled() && !third.end.is_cancelled());
    }
}
