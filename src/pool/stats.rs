//! Counts about sessions, in cells that any thread may read at any time.
//! Written by sessions, read by the admin side.
//! They are statistics and order nothing, so every access is `Relaxed` unless a comment says otherwise.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::sync::atomic::{
    AtomicU8, AtomicU32, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::health::Hearing;
use crate::metrics::{
    AcceptFailure, CloseCause, ConnectFailure, Direction, EarlyEnd, FAST_BUCKETS, Hedge, Outcome, Refusal, Replay,
    SESSION_BUCKETS,
};

/// Counts by the words of a closed set.
#[derive(Debug)]
pub struct Counts<W, const N: usize>([AtomicU64; N], PhantomData<fn(W)>);

/// Ended sessions by outcome.
pub type Outcomes = Counts<Outcome, { Outcome::ALL.len() }>;
/// Refused sessions by reason.
pub type Refusals = Counts<Refusal, { Refusal::ALL.len() }>;
/// Failed connects by reason.
pub type Failures = Counts<ConnectFailure, { ConnectFailure::ALL.len() }>;
/// Sessions that ended early, by how.
pub type EarlyEnds = Counts<EarlyEnd, { EarlyEnd::ALL.len() }>;
/// Answers of agent checks.
pub(super) type AgentAnswers = Counts<Hearing, { Hearing::ALL.len() }>;
/// Failed calls of accept(2) by reason.
pub type AcceptFailures = Counts<AcceptFailure, { AcceptFailure::ALL.len() }>;

impl<W, const N: usize> Default for Counts<W, N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)), PhantomData)
    }
}

impl<W: Into<usize>, const N: usize> Counts<W, N> {
    /// Counts one. Release: a reader that sees it also sees what the session had counted before.
    pub fn count(&self, word: W) {
        self.add(word, 1);
    }

    /// Counts several.
    pub fn add(&self, word: W, more: u64) {
        self.0[word.into()].fetch_add(more, Release);
    }

    /// The count.
    pub fn read(&self, word: W) -> u64 {
        self.0[word.into()].load(Acquire)
    }
}

/// Counts of ended sessions by listener and outcome.
#[derive(Debug, Default)]
pub struct EndedCounts(RwLock<BTreeMap<Arc<str>, Arc<Outcomes>>>);

impl EndedCounts {
    /// Counts one. A read lock once in a session; the write lock once for each (listener, backend).
    pub fn count(&self, listener: &Arc<str>, outcome: Outcome) {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner).get(listener).map(Arc::clone);
        let outcomes = known.unwrap_or_else(|| {
            let mut map = self.0.write().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(map.entry(Arc::clone(listener)).or_default())
        });
        outcomes.count(outcome);
    }

    /// The counts, by listener.
    pub fn read(&self) -> Vec<(Arc<str>, Arc<Outcomes>)> {
        let map = self.0.read().unwrap_or_else(PoisonError::into_inner);
        map.iter().map(|(listener, outcomes)| (Arc::clone(listener), Arc::clone(outcomes))).collect()
    }
}

/// Counts by a name, of which there are a few.
#[derive(Debug, Default)]
pub struct CountsByName(RwLock<BTreeMap<Arc<str>, Arc<AtomicU64>>>);

impl CountsByName {
    /// Counts one. A read lock; the write lock once for each name.
    pub fn count(&self, name: &Arc<str>) {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner).get(name).map(Arc::clone);
        let count = known.unwrap_or_else(|| {
            let mut map = self.0.write().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(map.entry(Arc::clone(name)).or_default())
        });
        count.fetch_add(1, Relaxed);
    }

    /// The counts, by name.
    pub fn read(&self) -> BTreeMap<Arc<str>, u64> {
        let map = self.0.read().unwrap_or_else(PoisonError::into_inner);
        map.iter().map(|(name, count)| (Arc::clone(name), count.load(Relaxed))).collect()
    }
}

/// Counts of hedged connects and of replays, by result.
#[derive(Debug, Default)]
pub struct Second {
    /// Hedged connects.
    pub hedges: Counts<Hedge, { Hedge::ALL.len() }>,
    /// Replays.
    pub replays: Counts<Replay, { Replay::ALL.len() }>,
}

/// Bytes of a backend: one cell for each worker, so that no two threads write to one cache line.
#[derive(Debug)]
pub struct Bytes(Arc<[DirectionBytes]>);

#[derive(Debug, Default)]
#[repr(align(64))]
struct DirectionBytes([AtomicU64; Direction::ALL.len()]);

/// The first of the marks of directions that were held up.
const THROTTLED: u8 = 1 << Direction::ALL.len();

/// The bytes of one session with a backend, and when the last of them moved. They are added to its worker's cell of the
/// backend, too. Only that worker's thread writes.
#[derive(Clone, Debug)]
pub struct ByteCell(Arc<ByteTally>);

#[derive(Debug)]
struct ByteTally {
    cells: Arc<[DirectionBytes]>,
    worker: usize,
    session: [AtomicU64; Direction::ALL.len()],
    since: Instant,
    /// Milliseconds since `since`.
    last_activity: AtomicU64,
    /// A bit for each direction whose source has finished; and from [`THROTTLED`] on for each that was held up.
    marks: AtomicU8,
}

impl Bytes {
    /// Cells for workers 0 to `workers` − 1.
    pub fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| DirectionBytes::default()).collect())
    }

    /// A cell for a session on that worker that has just reached the backend.
    pub fn cell(&self, worker: usize) -> ByteCell {
        ByteCell(Arc::new(ByteTally {
            cells: Arc::clone(&self.0),
            worker,
            session: Default::default(),
            since: Instant::now(),
            last_activity: AtomicU64::new(0),
            marks: AtomicU8::new(0),
        }))
    }

    /// The bytes of all workers.
    pub fn read(&self, direction: Direction) -> u64 {
        self.0.iter().map(|cell| cell.0[direction as usize].load(Relaxed)).sum()
    }
}

impl ByteCell {
    /// Adds `bytes`. It is no atomic addition, because only one thread writes.
    pub fn add(&self, direction: Direction, bytes: u64) {
        let ByteTally { cells, worker, session, .. } = &*self.0;
        for count in [&cells[*worker].0[direction as usize], &session[direction as usize]] {
            count.store(count.load(Relaxed).wrapping_add(bytes), Relaxed);
        }
    }

    /// Notes that bytes moved.
    pub fn touch(&self, now: Instant) {
        let after = now.duration_since(self.0.since);
        let milliseconds = after.as_secs() * 1_000 + u64::from(after.subsec_millis());
        self.0.last_activity.store(milliseconds, Relaxed);
    }

    /// Notes that the source of this direction has finished: no more bytes come.
    pub fn finish(&self, direction: Direction) {
        let marks = &self.0.marks;
        marks.store(marks.load(Relaxed) | 1 << direction as u8, Relaxed);
    }

    /// Notes that this direction has been held up by its limit of bandwidth.
    pub fn throttle(&self, direction: Direction) {
        let marks = &self.0.marks;
        marks.store(marks.load(Relaxed) | THROTTLED << direction as u8, Relaxed);
    }

    /// Whether it ever was.
    pub fn was_throttled(&self, direction: Direction) -> bool {
        self.0.marks.load(Relaxed) & THROTTLED << direction as u8 != 0
    }

    /// Whether the source of this direction has finished.
    pub fn has_finished(&self, direction: Direction) -> bool {
        self.0.marks.load(Relaxed) >> direction as u8 & 1 == 1
    }

    /// When the backend was reached.
    pub fn since(&self) -> Instant {
        self.0.since
    }

    /// When bytes last moved, to the millisecond.
    pub fn last_activity(&self) -> Instant {
        self.0.since + Duration::from_millis(self.0.last_activity.load(Relaxed))
    }

    /// The session's own bytes.
    pub fn of_session(&self, direction: Direction) -> u64 {
        self.0.session[direction as usize].load(Relaxed)
    }
}

/// Sessions that are closed although both sides live.
#[derive(Debug, Default)]
pub struct Closes {
    /// Sessions that wait to be closed now, also at the end of a drain.
    pub waiting: AtomicUsize,
    /// What the rebalance that goes on may still close; 0 = none goes on.
    pub rebalancing: AtomicU32,
    /// Sessions that were told to end.
    pub closed: Counts<CloseCause, { CloseCause::ALL.len() }>,
}

/// Sessions by the local address from which they dial.
#[derive(Debug, Default)]
pub struct Sources(RwLock<BTreeMap<IpAddr, Arc<AtomicUsize>>>);

impl Sources {
    /// Sessions from that address now.
    pub fn read(&self, address: IpAddr) -> usize {
        let map = self.0.read().unwrap_or_else(PoisonError::into_inner);
        map.get(&address).map_or(0, |count| count.load(Relaxed))
    }

    /// Counts one until the guard is dropped. A read lock once in a dial; the write lock once for each (address, backend).
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

/// Counts a session until it is dropped.
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
    /// One more than `bounds`: the last counts what is above all of them.
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

    /// Counts a duration.
    pub fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = self.bounds.partition_point(|&bound| bound < seconds);
        self.counts[bucket].fetch_add(1, Relaxed);
        self.nanoseconds.fetch_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Cumulative counts by upper bound, as in Prometheus; then the count and the sum in seconds.
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
