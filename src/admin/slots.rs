//! How many connections the admin side has, and which have to go when there are too many: idle ones, the oldest first. So
//! a client that only holds connections open keeps no operator out, sessions' descriptors are never touched, and what waits
//! to be read has a bound in memory and in time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// After that a request that is being answered has had its time, if others wait.
const PATIENCE: Duration = Duration::from_secs(15);

/// For an answer in any case, until its last byte is taken.
const LONGEST: Duration = Duration::from_secs(30);

/// One that has just come is given so long to say what it wants.
const GREETING: Duration = Duration::from_millis(50);

/// Of big answers, which are made or written at the same time: half of all slots, so that the other half turns over
/// quickly and `/live` finds one.
const BIG_SHARE: usize = 2;

/// When that many are there, each has so long.
const BIG_PATIENCE: Duration = Duration::from_secs(3);

/// Bytes of big answers that wait to be read, of all connections; what they share counts once.
const MOST_HELD: usize = 32 << 20;

#[derive(Debug)]
pub(super) struct ConnectionSlots {
    /// A lock, because each connection is a task; held for a look at some dozens of entries.
    taken: Mutex<Vec<Connection>>,
    most: usize,
    /// Told when there may be a slot.
    change: Notify,
}

#[derive(Debug)]
struct Connection {
    number: u64,
    state: SlotState,
    since: Instant,
    /// Which bytes wait to be read, and how many.
    held: Option<(usize, usize)>,
    end: CancellationToken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlotState {
    /// It has just come.
    New,
    /// Between two requests.
    Idle,
    /// A request is being answered.
    Busy,
    /// The same, with a big answer.
    Big,
    /// It follows events: these have a bound of their own.
    Follows,
}

/// A connection's slot, until dropped.
#[derive(Debug)]
pub(super) struct ConnectionSlot {
    slots: Arc<ConnectionSlots>,
    number: u64,
    /// Cancelled when it has to go.
    pub(super) end: CancellationToken,
}

impl ConnectionSlots {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { taken: Mutex::new(Vec::new()), most, change: Notify::new() })
    }

    /// A slot, taken from another connection if need be; `None` = all are being served, try again soon.
    pub(super) fn take(self: &Arc<Self>, number: u64, now: Instant) -> Option<ConnectionSlot> {
        let mut taken = self.lock();
        if taken.len() >= self.most {
            let age = |entry: &Connection| now.saturating_duration_since(entry.since);
            let may_go = |entry: &Connection| match entry.state {
                SlotState::New => age(entry) > GREETING,
                SlotState::Idle => true,
                SlotState::Busy | SlotState::Big | SlotState::Follows => false,
            };
            let is_slow =
                |entry: &Connection| matches!(entry.state, SlotState::Busy | SlotState::Big) && age(entry) > PATIENCE;
            let oldest = oldest(&taken, may_go).or_else(|| oldest(&taken, is_slow));
            taken.swap_remove(oldest?).end.cancel();
        }
        let end = CancellationToken::new();
        taken.push(Connection { number, state: SlotState::New, since: now, held: None, end: end.clone() });
        Some(ConnectionSlot { slots: Arc::clone(self), number, end })
    }

    /// Waits until [`Self::take`] is worth another try.
    pub(super) async fn changed(&self) {
        self.change.notified().await;
    }

    /// Ends what has been answered for too long.
    pub(super) fn sweep(&self, now: Instant) {
        let is_over = |entry: &&Connection| {
            matches!(entry.state, SlotState::Busy | SlotState::Big)
                && now.saturating_duration_since(entry.since) > LONGEST
        };
        self.lock().iter().filter(is_over).for_each(|entry| entry.end.cancel());
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn oldest(taken: &[Connection], which: impl Fn(&Connection) -> bool) -> Option<usize> {
    let fitting = taken.iter().enumerate().filter(|(_, entry)| !entry.end.is_cancelled() && which(entry));
    fitting.min_by_key(|(_, entry)| entry.since).map(|(index, _)| index)
}

impl ConnectionSlot {
    /// What its connection does now.
    pub(super) fn set(&self, state: SlotState) {
        if let Some(entry) = self.slots.lock().iter_mut().find(|entry| entry.number == self.number) {
            (entry.state, entry.since, entry.held) = (state, Instant::now(), None);
        }
        if state == SlotState::Idle {
            self.slots.change.notify_one();
        }
    }

    /// Whether a big answer may be made for it now.
    pub(super) fn begin_big(&self, now: Instant) -> bool {
        let mut taken = self.slots.lock();
        let is_big = |entry: &Connection| entry.state == SlotState::Big && !entry.end.is_cancelled();
        if taken.iter().filter(|entry| is_big(entry)).count() >= self.slots.most / BIG_SHARE {
            let is_slow =
                |entry: &Connection| is_big(entry) && now.saturating_duration_since(entry.since) > BIG_PATIENCE;
            let Some(index) = oldest(&taken, is_slow) else { return false };
            taken[index].end.cancel();
        }
        if let Some(entry) = taken.iter_mut().find(|entry| entry.number == self.number) {
            (entry.state, entry.since) = (SlotState::Big, now);
        }
        true
    }

    /// Notes so many bytes that wait to be read; which they are says `identity`. If that is too much in all, those that
    /// have had the most time have to go.
    pub(super) fn hold(&self, identity: Option<usize>, bytes: usize) {
        let mut taken = self.slots.lock();
        // An own one: no place in memory is the number of a connection with all its bits turned.
        let identity = identity.unwrap_or(!(self.number as usize));
        if let Some(entry) = taken.iter_mut().find(|entry| entry.number == self.number) {
            entry.held = Some((identity, bytes));
        }
        loop {
            let held: BTreeMap<usize, usize> =
                taken.iter().filter(|entry| !entry.end.is_cancelled()).filter_map(|entry| entry.held).collect();
            if held.values().sum::<usize>() <= MOST_HELD {
                return;
            }
            let other = |entry: &Connection| entry.number != self.number && entry.held.is_some();
            let Some(index) = oldest(&taken, other) else { return };
            taken[index].end.cancel();
        }
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.slots.lock().retain(|entry| entry.number != self.number);
        self.slots.change.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn later(start: Instant, milliseconds: u64) -> Instant {
        start + Duration::from_millis(milliseconds)
    }

    #[test]
    fn the_oldest_idle_one_goes_and_nobody_who_is_served() {
        let slots = ConnectionSlots::new(2);
        let start = Instant::now();
        let first = slots.take(1, start).unwrap();
        let second = slots.take(2, later(start, 1_000)).unwrap();
        assert!(slots.take(3, later(start, 20)).is_none(), "who has just come is heard first");
        let third = slots.take(3, later(start, 2_000)).unwrap();
        assert!(first.end.is_cancelled() && !second.end.is_cancelled());
        drop(first);
        second.set(SlotState::Busy);
        third.set(SlotState::Follows);
        assert!(slots.take(4, Instant::now()).is_none());
        assert!(slots.take(5, Instant::now() + PATIENCE * 2).is_some(), "whoever is served for too long");
        assert!(second.end.is_cancelled() && !third.end.is_cancelled());
    }

    #[test]
    fn one_that_was_answered_makes_room_at_once() {
        let slots = ConnectionSlots::new(1);
        let first = slots.take(1, Instant::now()).unwrap();
        first.set(SlotState::Busy);
        assert!(slots.take(2, Instant::now()).is_none());
        first.set(SlotState::Idle);
        assert!(slots.take(2, Instant::now()).is_some() && first.end.is_cancelled());
    }

    #[test]
    fn big_answers_have_half_of_the_seats_and_their_time() {
        let slots = ConnectionSlots::new(4);
        let start = Instant::now();
        let all: Vec<_> = (0..4).map(|number| slots.take(number, start).unwrap()).collect();
        assert!(all[0].begin_big(start) && all[1].begin_big(later(start, 1)));
        assert!(!all[2].begin_big(later(start, 2_000)), "both are quick enough so far");
        assert!(all[2].begin_big(later(start, 3_500)), "the oldest has had its time");
        assert!(all[0].end.is_cancelled() && !all[1].end.is_cancelled());
        slots.sweep(start + LONGEST + Duration::from_secs(1));
        assert!(all[1].end.is_cancelled() && !all[2].end.is_cancelled());
    }

    #[test]
    fn what_waits_to_be_read_is_bounded_and_what_is_shared_counts_once() {
        let slots = ConnectionSlots::new(64);
        let start = Instant::now();
        let all: Vec<_> = (0..20).map(|number| slots.take(number, later(start, number)).unwrap()).collect();
        for (i, slot) in all.iter().enumerate() {
            slot.hold(if i < 10 { Some(7) } else { None }, MOST_HELD / 8);
        }
        // The shared one is an eighth, and seven of their own.
        let left: Vec<_> = (0..20).filter(|&i| !all[i].end.is_cancelled()).collect();
        assert_eq!(left, (12..20).collect::<Vec<_>>());
    }
}
