//! What is counted about sessions, in cells that any thread may read at any time. All of them are statistics: they order
//! nothing, so every access is `Relaxed` where nothing else is said.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{
    AtomicU8, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::metrics::{CloseCause, ConnectFailure, Direction, FAST_BUCKETS, Hedge, Outcome, Replay, SESSION_BUCKETS};

/// Counts by outcome.
#[derive(Debug, Default)]
pub struct Outcomes([AtomicU64; Outcome::ALL.len()]);

impl Outcomes {
    /// One more. Release: who sees it sees what its session had counted before.
    pub fn count(&self, outcome: Outcome) {
        self.0[outcome as usize].fetch_add(1, Release);
    }

    /// So far.
    pub fn read(&self, outcome: Outcome) -> u64 {
        self.0[outcome as usize].load(Acquire)
    }
}

/// Counts of ended sessions by listener and outcome.
#[derive(Debug, Default)]
pub struct EndedCounts(RwLock<BTreeMap<Arc<str>, Arc<Outcomes>>>);

impl EndedCounts {
    /// One more. A read lock, once a session; the write lock once in the life of a (listener, backend).
    pub fn count(&self, listener: &Arc<str>, outcome: Outcome) {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner).get(listener).map(Arc::clone);
        let outcomes = known.unwrap_or_else(|| {
            let mut map = self.0.write().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(map.entry(Arc::clone(listener)).or_default())
        });
        outcomes.count(outcome);
    }

    /// So far, by listener.
    pub fn read(&self) -> Vec<(Arc<str>, Arc<Outcomes>)> {
        let map = self.0.read().unwrap_or_else(PoisonError::into_inner);
        map.iter().map(|(listener, outcomes)| (Arc::clone(listener), Arc::clone(outcomes))).collect()
    }
}

/// Counts of failed connects by reason.
#[derive(Debug, Default)]
pub struct Failures([AtomicU64; ConnectFailure::ALL.len()]);

impl Failures {
    /// One more.
    pub fn count(&self, reason: ConnectFailure) {
        self.0[reason as usize].fetch_add(1, Relaxed);
    }

    /// So far.
    pub fn read(&self, reason: ConnectFailure) -> u64 {
        self.0[reason as usize].load(Relaxed)
    }
}

/// Counts of second chances by what became of them.
#[derive(Debug, Default)]
pub struct Second {
    hedges: [AtomicU64; Hedge::ALL.len()],
    replays: [AtomicU64; Replay::ALL.len()],
}

impl Second {
    /// One more hedged connect.
    pub fn count_hedge(&self, result: Hedge) {
        self.hedges[result as usize].fetch_add(1, Relaxed);
    }

    /// So far.
    pub fn hedges(&self, result: Hedge) -> u64 {
        self.hedges[result as usize].load(Relaxed)
    }

    /// One more replay.
    pub fn count_replay(&self, result: Replay) {
        self.replays[result as usize].fetch_add(1, Relaxed);
    }

    /// So far.
    pub fn replays(&self, result: Replay) -> u64 {
        self.replays[result as usize].load(Relaxed)
    }
}

/// Bytes of a backend: one cell for each worker, so that no two threads write to one cache line.
#[derive(Debug)]
pub struct Bytes(Arc<[DirectionBytes]>);

#[derive(Debug, Default)]
#[repr(align(64))]
struct DirectionBytes([AtomicU64; Direction::ALL.len()]);

/// The bytes of one session with a backend, and when the last of them moved; each counts in its worker's share of the
/// backend's bytes, too. Written by that worker's thread only.
#[derive(Clone, Debug)]
pub struct ByteCell(Arc<ByteTally>);

#[derive(Debug)]
struct ByteTally {
    cells: Arc<[DirectionBytes]>,
    worker: usize,
    session: [AtomicU64; Direction::ALL.len()],
    since: Instant,
    /// Milliseconds from `since` on.
    last_activity: AtomicU64,
    /// A bit for each direction whose source has finished.
    finished: AtomicU8,
}

impl Bytes {
    /// For workers 0 to `workers` − 1.
    pub fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| DirectionBytes::default()).collect())
    }

    /// For a session on a worker that has just reached the backend.
    pub fn cell(&self, worker: usize) -> ByteCell {
        ByteCell(Arc::new(ByteTally {
            cells: Arc::clone(&self.0),
            worker,
            session: Default::default(),
            since: Instant::now(),
            last_activity: AtomicU64::new(0),
            finished: AtomicU8::new(0),
        }))
    }

    /// So far, over all workers.
    pub fn read(&self, direction: Direction) -> u64 {
        self.0.iter().map(|cell| cell.0[direction as usize].load(Relaxed)).sum()
    }
}

impl ByteCell {
    /// Adds `bytes`. Not a read-modify-write: only one thread writes here.
    pub fn add(&self, direction: Direction, bytes: u64) {
        let ByteTally { cells, worker, session, .. } = &*self.0;
        for count in [&cells[*worker].0[direction as usize], &session[direction as usize]] {
            count.store(count.load(Relaxed).wrapping_add(bytes), Relaxed);
        }
    }

    /// Something moved.
    pub fn touch(&self, now: Instant) {
        let after = now.duration_since(self.0.since);
        let milliseconds = after.as_secs() * 1_000 + u64::from(after.subsec_millis());
        self.0.last_activity.store(milliseconds, Relaxed);
    }

    /// The source of this direction has finished: no more bytes will come.
    pub fn finish(&self, direction: Direction) {
        let finished = &self.0.finished;
        finished.store(finished.load(Relaxed) | 1 << direction as u8, Relaxed);
    }

    /// Whether it has.
    pub fn has_finished(&self, direction: Direction) -> bool {
        self.0.finished.load(Relaxed) >> direction as u8 & 1 == 1
    }

    /// When the backend was reached.
    pub fn since(&self) -> Instant {
        self.0.since
    }

    /// When something last moved; to the millisecond.
    pub fn last_activity(&self) -> Instant {
        self.0.since + Duration::from_millis(self.0.last_activity.load(Relaxed))
    }

    /// The session's own bytes so far.
    pub fn of_session(&self, direction: Direction) -> u64 {
        self.0.session[direction as usize].load(Relaxed)
    }
}

/// Sessions that are ended although both their sides live.
#[derive(Debug, Default)]
pub struct Closes {
    /// Sessions that wait for it now, also for the end of a drain.
    pub waiting: AtomicUsize,
    closed: [AtomicU64; CloseCause::ALL.len()],
}

impl Closes {
    /// So many more were told to end.
    pub fn count(&self, cause: CloseCause, sessions: u64) {
        self.closed[cause as usize].fetch_add(sessions, Relaxed);
    }

    /// So far.
    pub fn read(&self, cause: CloseCause) -> u64 {
        self.closed[cause as usize].load(Relaxed)
    }
}

/// Sessions by the local address that they dial from.
#[derive(Debug, Default)]
pub struct Sources(RwLock<BTreeMap<IpAddr, Arc<AtomicUsize>>>);

impl Sources {
    /// Sessions from an address now.
    pub fn read(&self, address: IpAddr) -> usize {
        let map = self.0.read().unwrap_or_else(PoisonError::into_inner);
        map.get(&address).map_or(0, |count| count.load(Relaxed))
    }

    /// One more. A read lock, once a dial; the write lock once in the life of an (address, backend).
    pub(super) fn enter(&self, address: IpAddr) -> SourceCount {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner).get(&address).map(Arc::clone);
        let count = known.unwrap_or_else(|| {
            let mut map = self.0.write().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(map.entry(address).or_default())
        });
        count.fetch_add(1, Relaxed);
        SourceCount(count)
    }
}

/// One session more, until it is dropped.
#[derive(Debug)]
pub(super) struct SourceCount(Arc<AtomicUsize>);

impl Drop for SourceCount {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Durations in fixed buckets.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One more than `bounds`: the last holds what is above all of them.
    counts: Box<[AtomicU64]>,
    nanoseconds: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(), nanoseconds: AtomicU64::new(0) }
    }

    /// For connects, first bytes and probes.
    pub fn fast() -> Self {
        Self::new(&FAST_BUCKETS)
    }

    /// For whole sessions.
    pub fn sessions() -> Self {
        Self::new(&SESSION_BUCKETS)
    }

    /// Takes one duration.
    pub fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = self.bounds.partition_point(|&bound| bound < seconds);
        self.counts[bucket].fetch_add(1, Relaxed);
        self.nanoseconds.fetch_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Cumulative counts by upper bound, as Prometheus has them; then the count and the sum in seconds of all.
    pub fn read(&self) -> (Vec<(f64, u64)>, u64, f64) {
        let mut total = 0;
        let mut buckets = Vec::with_capacity(self.bounds.len());
        for (i, count) in self.counts.iter().enumerate() {
            total += count.load(Relaxed);
            if let Some(&bound) = self.bounds.get(i) {
                buckets.push((bound, total));
            }
        }
        (buckets, total, Duration::from_nanos(self.nanoseconds.load(Relaxed)).as_secs_f64())
    }
}

/// The three times of a session, kept per pool and per backend.
#[derive(Debug)]
pub struct SessionTimes {
    /// Of successful connects.
    pub connect: Histogram,
    /// From the connect to the backend's first byte.
    pub first_byte: Histogram,
    /// From accept to the end.
    pub session: Histogram,
}

impl Default for SessionTimes {
    fn default() -> Self {
        Self { connect: Histogram::fast(), first_byte: Histogram::fast(), session: Histogram::sessions() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_cumulative_and_bounds_are_inclusive() {
        let histogram = Histogram::fast();
        histogram.observe(Duration::from_millis(1));
        histogram.observe(Duration::from_micros(1_001));
        histogram.observe(Duration::from_secs(60));
        let (buckets, count, sum) = histogram.read();
        assert_eq!(count, 3);
        assert!((sum - 60.002_001).abs() < 1e-9);
        let up_to = |bound: f64| buckets.iter().find(|b| b.0 == bound).unwrap().1;
        assert_eq!((up_to(0.000_5), up_to(0.001), up_to(0.002_5), up_to(5.0)), (0, 1, 2, 2));
    }

    #[test]
    fn ended_counts_by_listener() {
        let ended = EndedCounts::default();
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        ended.count(&a, Outcome::Completed);
        ended.count(&a, Outcome::Completed);
        ended.count(&b, Outcome::Killed);
        let read = ended.read();
        assert_eq!(read[0].1.read(Outcome::Completed), 2);
        assert_eq!(read[1].1.read(Outcome::Killed), 1);
    }
}
