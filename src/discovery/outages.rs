//! Pools that fail together are one line in the log, now and then, and so are those that work again together.
//! Those of one source share an `Outages`, and so do all whose names the resolver looks up.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::error::AskError;

/// From the first failure, or success, to the line about it: others follow within that, for the same reason.
pub(super) const GATHER: Duration = Duration::from_millis(500);

/// While trouble lasts it is told again this often.
const REMINDER: Duration = Duration::from_secs(60);
/// No two lines about trouble are closer, however fast pools fail and recover.
const GAP: Duration = Duration::from_secs(10);

/// So many pools are named in a line.
const NAMED: usize = 3;

#[derive(Debug)]
pub(super) struct Outages {
    of: Subject,
    /// A lock: touched once a failure, and with the first success after it.
    state: Mutex<State>,
}

/// Whose trouble it is.
#[derive(Debug)]
enum Subject {
    /// That of what is called so: an agent at its address, a file at its path.
    Source(String),
    Resolver,
}

#[derive(Debug, Default)]
struct State {
    failing: BTreeMap<Arc<str>, Failing>,
    /// Those that were told to fail.
    recovered: Vec<(Arc<str>, Failing, Instant)>,
    /// When a failure was told last.
    warned: Option<Instant>,
}

/// A pool, from its first failure to the next success.
#[derive(Clone, Debug)]
pub(super) struct Failing {
    source: &'static str,
    since: Instant,
    failures: u64,
    /// The last one, and when it was.
    last: (AskError, Instant),
    /// How old what is known was then.
    age: Option<Duration>,
    told: bool,
}

impl Outages {
    pub(super) fn of_source(name: &str) -> Arc<Self> {
        Arc::new(Self { of: Subject::Source(name.to_owned()), state: Mutex::default() })
    }

    pub(super) fn of_resolver() -> Arc<Self> {
        Arc::new(Self { of: Subject::Resolver, state: Mutex::default() })
    }

    /// A pool failed once more; what it knows is that old.
    pub(super) fn failed(
        &self,
        (pool, source): (&Arc<str>, &'static str),
        now: Instant,
        failure: AskError,
        age: Option<Duration>,
    ) {
        let (mut state, last) = (self.lock(), (failure, now));
        match state.failing.get_mut(pool) {
            Some(failing) => *failing = Failing { failures: failing.failures + 1, last, age, ..failing.clone() },
            None => {
                let failing = Failing { source, since: now, failures: 1, last, age, told: false };
                state.failing.insert(Arc::clone(pool), failing);
            }
        }
    }

    /// A pool works; whether there is something to tell.
    pub(super) fn ended(&self, pool: &Arc<str>, now: Instant) -> bool {
        let mut state = self.lock();
        let told = state.failing.remove(pool).filter(|failing| failing.told);
        let is_news = told.is_some();
        state.recovered.extend(told.map(|failing| (Arc::clone(pool), failing, now)));
        is_news
    }

    /// A pool that asks no more.
    pub(super) fn forget(&self, pool: &str) {
        self.lock().failing.remove(pool);
    }

    /// Writes the lines for which it is time; when to look again, if something waits to be told.
    pub(super) fn tell(&self, now: Instant) -> Option<Instant> {
        let mut state = self.lock();
        // In this order: what has failed again since is told after its recovery.
        let (recovered, failing) = (state.recovered_due(now), state.failing_due(now));
        let next = state.recovered.first().map(|(.., at)| *at + GAP);
        drop(state);
        self.tell_recovered(&recovered);
        self.tell_failing(&failing);
        next
    }

    fn tell_failing(&self, all: &[(Arc<str>, Failing)]) {
        let Some((_, newest)) = all.iter().max_by_key(|(_, failing)| failing.last.1) else { return };
        let (pools, failures) = (names(all.iter().map(|(pool, _)| pool)), sum(all.iter().map(|(_, failing)| failing)));
        let Failing { source, last: (AskError { kind, text }, at), .. } = newest;
        let began = all.iter().map(|(_, failing)| failing.since).min().unwrap_or(*at);
        let lasts = match at.saturating_duration_since(began) {
            took if took < 2 * GATHER => "fails".to_owned(),
            took => format!("still fails after {took:.0?}"),
        };
        let (count, oldest) = (all.len(), all.iter().filter_map(|(_, failing)| failing.age).max());
        match (&self.of, &all, oldest) {
            (Subject::Source(_), [(pool, _)], age) => {
                let known = match age {
                    Some(age) => format!("what is known stays and is {age:.0?} old"),
                    None => "nothing is known yet".to_owned(),
                };
                tracing::warn!(pool = &**pool, source, kind, failures, "discovery {lasts}, {known}: {text}");
            }
            (Subject::Source(_), _, age) => {
                let known = if age.is_some() { "what is known stays" } else { "nothing is known yet" };
                tracing::warn!(pools, source, kind, failures, "discovery of {count} pools {lasts}, {known}: {text}");
            }
            (Subject::Resolver, [(pool, _)], _) => {
                tracing::warn!(pool = &**pool, source, failures, "can't resolve {text}; a known address stays");
            }
            (Subject::Resolver, ..) => {
                tracing::warn!(
                    pools,
                    failures,
                    "can't resolve names of {count} pools, such as {text}; known addresses stay"
                );
            }
        }
    }

    fn tell_recovered(&self, all: &[(Arc<str>, Failing, Instant)]) {
        let Some((pool, Failing { source, .. }, _)) = all.first() else { return };
        let took = all.iter().map(|(_, failing, at)| at.saturating_duration_since(failing.since)).max();
        let (took, count) = (took.unwrap_or_default(), all.len());
        let (pools, failures) =
            (names(all.iter().map(|(pool, ..)| pool)), sum(all.iter().map(|(_, failing, _)| failing)));
        match (&self.of, count) {
            (Subject::Source(_), 1) => {
                tracing::info!(pool = &**pool, source, failures, "discovery works again after {took:.1?}");
            }
            (Subject::Source(agent), _) => {
                tracing::info!(
                    pools,
                    source,
                    failures,
                    "discovery of {count} pools works again after {took:.1?}: {agent}"
                );
            }
            (Subject::Resolver, 1) => {
                tracing::info!(pool = &**pool, source, failures, "names are resolved again after {took:.1?}");
            }
            (Subject::Resolver, _) => {
                tracing::info!(pools, failures, "names of {count} pools are resolved again after {took:.1?}");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Those whose trouble is to be told, and is taken to be.
    fn failing_due(&mut self, now: Instant) -> Vec<(Arc<str>, Failing)> {
        let is_new = self.failing.values().any(|failing| !failing.told);
        let pause = if is_new { GAP } else { REMINDER };
        if self.warned.is_some_and(|warned| now.saturating_duration_since(warned) < pause) {
            return Vec::new();
        }
        let mut due = Vec::new();
        for (pool, failing) in self.failing.iter_mut().filter(|(_, failing)| !(is_new && failing.told)) {
            failing.told = true;
            due.push((Arc::clone(pool), failing.clone()));
        }
        if !due.is_empty() {
            self.warned = Some(now);
        }
        due
    }

    /// Those whose recovery is to be told, and is taken to be: when the others have recovered, too, or not for a while.
    fn recovered_due(&mut self, now: Instant) -> Vec<(Arc<str>, Failing, Instant)> {
        let is_late = self.recovered.first().is_some_and(|(.., at)| now.saturating_duration_since(*at) >= GAP);
        match is_late || !self.failing.values().any(|failing| failing.told) {
            true => {
                self.recovered.sort_by(|a, b| a.0.cmp(&b.0));
                std::mem::take(&mut self.recovered)
            }
            false => Vec::new(),
        }
    }
}

fn sum<'a>(all: impl Iterator<Item = &'a Failing>) -> u64 {
    all.map(|failing| failing.failures).sum()
}

/// `a, b, c and 217 more`
fn names<'a>(pools: impl ExactSizeIterator<Item = &'a Arc<str>>) -> String {
    let more = pools.len().saturating_sub(NAMED);
    let named: Vec<&str> = pools.take(NAMED).map(|pool| &**pool).collect();
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    named.join(", ") + &more
}

#[cfg(test)]
#[path = "outages_tests.rs"]
mod tests;
