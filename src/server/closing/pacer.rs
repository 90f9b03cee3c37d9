//! PURE. When each of the sessions that may be closed is: longest idle first, at a rate, with jitter; what has waited until
//! its deadline goes at once. It keeps nothing about sessions but the last look at them.

use std::time::{Duration, Instant};

/// How far behind its rate it may make up for: a thread that had no CPU is no reason for a wave.
const CATCH_UP: Duration = Duration::from_millis(100);

/// A session that may be closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate<K> {
    pub(super) key: K,
    pub(super) idle_since: Instant,
    /// Not before.
    pub(super) from: Instant,
    /// From then on regardless of the rate.
    pub(super) until: Instant,
}

#[derive(Debug)]
pub(super) struct Pacer<K> {
    random: fastrand::Rng,
    /// The mean between two closes; `None` = no pause.
    interval: Option<Duration>,
    /// When the rate allows the next one.
    next: Option<Instant>,
    /// May be closed now; the one that has been idle longest is last.
    open: Vec<Candidate<K>>,
    /// May be closed later; the first to be closed is last.
    later: Vec<Candidate<K>>,
    /// No deadline of `open` is sooner.
    soonest: Option<Instant>,
}

impl<K> Pacer<K> {
    pub(super) fn new(seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        Self { random, interval: None, next: None, open: Vec::new(), later: Vec::new(), soonest: None }
    }

    /// Sessions that wait.
    pub(super) fn len(&self) -> usize {
        self.open.len() + self.later.len()
    }

    /// What waits, in no order.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &K> {
        self.open.iter().chain(&self.later).map(|candidate| &candidate.key)
    }

    /// What is there to be closed now, instead of what was there at the last look; and how many of it in a second.
    pub(super) fn replace(&mut self, now: Instant, rate: Option<u32>, mut candidates: Vec<Candidate<K>>) {
        self.interval = rate.map(|rate| Duration::from_secs(1) / rate.max(1));
        let nobody_waited = self.open.is_empty();
        candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.from));
        (self.open, self.later, self.soonest) = (Vec::new(), candidates, None);
        self.admit(now, nobody_waited || rate.is_none());
    }

    /// Drops some of what is there: they are not to be closed any more.
    pub(super) fn retain(&mut self, mut is_wanted: impl FnMut(&K) -> bool) {
        self.open.retain(|candidate| is_wanted(&candidate.key));
        self.later.retain(|candidate| is_wanted(&candidate.key));
    }

    /// When [`Self::due`] has something to say.
    pub(super) fn next(&self) -> Option<Instant> {
        let open = (!self.open.is_empty()).then(|| match (self.next, self.soonest) {
            (Some(next), Some(soonest)) => next.min(soonest),
            (next, soonest) => next.or(soonest).unwrap_or(self.open[0].from),
        });
        let later = self.later.last().map(|candidate| candidate.from);
        open.into_iter().chain(later).min()
    }

    /// Takes out those that are to be closed now.
    pub(super) fn due(&mut self, now: Instant) -> Vec<K> {
        self.admit(now, self.open.is_empty());
        let mut due = Vec::new();
        if self.soonest.is_some_and(|soonest| soonest <= now) {
            let late = self.open.extract_if(.., |candidate| candidate.until <= now);
            due.extend(late.map(|candidate| candidate.key));
            due.reverse();
            self.soonest = self.open.iter().map(|candidate| candidate.until).min();
        }
        let Some(interval) = self.interval else {
            due.extend(self.open.drain(..).rev().map(|candidate| candidate.key));
            return due;
        };
        let mut next = self.next.unwrap_or(now).max(now.checked_sub(CATCH_UP).unwrap_or(now));
        while next <= now
            && let Some(candidate) = self.open.pop()
        {
            due.push(candidate.key);
            next += interval.mul_f64(0.5 + self.random.f64());
        }
        self.next = Some(next);
        due
    }

    /// Moves those whose time has come to `open`. If none waited before them, there is nothing to make up for.
    fn admit(&mut self, now: Instant, nobody_waited: bool) {
        let waiting = self.open.len();
        while let Some(candidate) = self.later.pop_if(|candidate| candidate.from <= now) {
            self.open.push(candidate);
        }
        if self.open.len() > waiting {
            self.soonest = self.open.iter().map(|candidate| candidate.until).min();
            self.open.sort_by_key(|candidate| std::cmp::Reverse(candidate.idle_since));
            if nobody_waited {
                self.next = Some(self.next.filter(|_| self.interval.is_some()).map_or(now, |next| next.max(now)));
            }
        }
    }
}

/// When closing has to begin, so that at this rate `sessions` are closed by `until`; not before `earliest`.
pub(super) fn latest_start(sessions: usize, rate: Option<u32>, earliest: Instant, until: Instant) -> Instant {
    let takes = rate.map_or(Duration::ZERO, |rate| {
        Duration::from_secs(1).saturating_mul(u32::try_from(sessions).unwrap_or(u32::MAX)) / rate.max(1)
    });
    until.checked_sub(takes).map_or(earliest, |start| start.max(earliest))
}
