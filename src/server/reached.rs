//! Limits that are reached: one line, one event and one line of `status` when that begins and when it ends. Who meets a limit
//! only counts; a task looks at the counts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use tokio::time::sleep;
use tracing::{info, warn};

use super::ServerState;
use crate::metrics::AcceptFailure;
use crate::pool::{Happened, Pool};
use crate::proxy::Listener;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);

/// A limit that nobody has met for so long is not reached any more: one that is met time and again is one line.
const QUIET: Duration = Duration::from_secs(5);

/// What is over is shown for so long.
const SHOWN: Duration = Duration::from_secs(600);

/// Lines at one look: where hundreds of pools are full together, the first say enough.
const MOST_LINES: usize = 10;

words! {
    /// Which limit.
    #[derive(PartialOrd, Ord)]
    pub enum LimitKind {
        /// A listener's `max_connections`.
        Listener = "listener",
        /// A listener's share of the process's.
        Process = "process",
        /// The caps of a pool's backends.
        Pool = "pool",
        /// Descriptors, or memory, for a connection that is accepted.
        Descriptors = "descriptors",
        /// The same, for one to a backend.
        DialDescriptors = "dial_descriptors",
    }
}

/// A limit that is reached, or was a short time ago.
#[derive(Clone, Debug)]
pub struct ReachedLimit {
    /// Which.
    pub kind: LimitKind,
    /// Of which listener or pool.
    pub name: Arc<str>,
    /// What that is, for people.
    pub says: Arc<str>,
    /// When it began.
    pub since: SystemTime,
    /// When it ended; `None` = it lasts.
    pub until: Option<SystemTime>,
}

/// What there is to know about a limit at one moment.
struct Look {
    kind: LimitKind,
    name: Arc<str>,
    /// How often somebody met it so far.
    met: u64,
    /// Somebody waits for it now.
    waits: bool,
}

#[derive(Debug, Default)]
struct WatchedLimit {
    met: u64,
    began: Option<Instant>,
    last: Option<Instant>,
    shown: Option<ReachedLimit>,
}

#[derive(Debug, PartialEq)]
enum News {
    Began(Arc<str>),
    EndedCounts(Arc<str>, Duration),
}

/// Those that are watched.
#[derive(Debug, Default)]
pub(super) struct Reached(Mutex<BTreeMap<(LimitKind, Arc<str>), WatchedLimit>>);

impl Reached {
    /// Those that are reached, and those that were a short time ago.
    pub(super) fn list(&self) -> Vec<ReachedLimit> {
        let watched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        watched.values().filter_map(|watched| watched.shown.clone()).collect()
    }

    fn look(&self, now: Instant, looks: Vec<Look>, says: impl Fn(LimitKind, &str) -> String) -> Vec<(LimitKind, News)> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *all);
        let mut news = Vec::new();
        for Look { kind, name, met, waits } in looks {
            let key = (kind, Arc::clone(&name));
            let mut watched = before.remove(&key).unwrap_or_default();
            if waits || met != watched.met {
                (watched.met, watched.last) = (met, Some(now));
                if watched.began.is_none() {
                    let says: Arc<str> = says(kind, &name).into();
                    watched.began = Some(now);
                    let (since, says) = (SystemTime::now(), Arc::clone(&says));
                    news.push((kind, News::Began(Arc::clone(&says))));
                    watched.shown = Some(ReachedLimit { kind, name, says, since, until: None });
                }
            } else if watched.last.is_none_or(|last| now - last >= QUIET) {
                news.extend(watched.ends(now).map(|news| (kind, news)));
            }
            all.insert(key, watched);
        }
        // What is not there any more, such as a listener that has left, is over.
        for ((kind, name), mut watched) in before {
            news.extend(watched.ends(now).map(|news| (kind, news)));
            all.insert((kind, name), watched);
        }
        all.retain(|_, watched| {
            let old = watched.last.is_none_or(|last| now - last >= SHOWN);
            if old && watched.began.is_none() {
                watched.shown = None;
            }
            watched.shown.is_some() || watched.met > 0
        });
        news
    }
}

impl WatchedLimit {
    fn ends(&mut self, now: Instant) -> Option<News> {
        let began = self.began.take()?;
        let took = self.last.unwrap_or(now) - began;
        let shown = self.shown.as_mut()?;
        shown.until = Some(shown.since + took);
        Some(News::EndedCounts(Arc::clone(&shown.says), took))
    }
}

/// Looks until nobody has the state any more.
pub(super) async fn watch(state: Weak<ServerState>) {
    loop {
        sleep(LOOK).await;
        let Some(state) = state.upgrade() else { return };
        state.look_at_limits(Instant::now());
    }
}

impl ServerState {
    /// Limits that are reached, and those that were in the last ten minutes.
    pub fn reached_limits(&self) -> Vec<ReachedLimit> {
        self.reached.list()
    }

    fn look_at_limits(&self, now: Instant) {
        let set = self.set();
        let mut looks: Vec<_> = set.listeners.iter().flat_map(of_listener).collect();
        looks.extend(set.pools.iter().flat_map(of_pool));
        let says = |kind, name: &str| {
            let listener = || set.listeners.iter().find(|listener| *listener.name == *name);
            let pool = || set.pools.iter().find(|pool| *pool.name == *name);
            match kind {
                LimitKind::Listener => {
                    let max = listener().and_then(|listener| listener.settings().file.max_connections);
                    let max = max.map_or_else(String::new, |max| format!(" = {max}"));
                    format!("listener `{name}` has reached its max_connections{max}: clients wait in the backlog")
                }
                LimitKind::Process => format!(
                    "listener `{name}` has all it may have of the process's {} connections (max_connections): \
                     clients wait in the backlog",
                    self.limit.places()
                ),
                LimitKind::Pool => {
                    let waits = pool().is_some_and(|pool| pool.settings().queue.is_some());
                    let then = if waits { "wait in its queue" } else { "are refused" };
                    format!("every backend of pool `{name}` that may serve is at its max_sessions: sessions {then}")
                }
                LimitKind::Descriptors => format!(
                    "listener `{name}` can't accept, open files or memory are used up: clients wait in the backlog"
                ),
                LimitKind::DialDescriptors => format!(
                    "pool `{name}` can't dial its backends, open files or memory are used up: sessions fail as local_error"
                ),
            }
        };
        let news = self.reached.look(now, looks, says);
        let more = news.len().saturating_sub(MOST_LINES);
        for (place, (kind, news)) in news.into_iter().enumerate() {
            let limit = kind.name();
            let (reached, says) = match news {
                News::Began(says) => (true, says.to_string()),
                News::EndedCounts(says, took) => (false, format!("it is over after {took:.1?}: {says}")),
            };
            match reached {
                _ if place >= MOST_LINES => {}
                true => warn!(limit, "limit reached: {says}"),
                false => info!(limit, "limit reached: {says}"),
            }
            self.events.tell(|| Happened::Limit { limit, reached, says });
        }
        if more > 0 {
            info!("limits reached, or over: {more} more");
        }
    }
}

fn of_listener(listener: &Arc<Listener>) -> [Look; 3] {
    let look = |kind, met, waits| Look { kind, name: Arc::clone(&listener.name), met, waits };
    let ((own, waits_own), (shared, waits_shared)) = listener.met_limits();
    [
        look(LimitKind::Listener, own, waits_own),
        look(LimitKind::Process, shared, waits_shared),
        look(LimitKind::Descriptors, listener.accept_errors(AcceptFailure::NoResources), false),
    ]
}

fn of_pool(pool: &Arc<Pool>) -> [Look; 2] {
    let look = |kind, met, waits| Look { kind, name: Arc::clone(&pool.name), met, waits };
    [
        look(LimitKind::Pool, pool.times_full(), pool.is_full()),
        look(LimitKind::DialDescriptors, pool.times_lacking_resources(), false),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(reached: &Reached, now: Instant, met: u64, waits: bool) -> Vec<News> {
        let look = Look { kind: LimitKind::Listener, name: "web".into(), met, waits };
        let news = reached.look(now, vec![look], |_, name| format!("{name} is full"));
        news.into_iter().map(|(_, news)| news).collect()
    }

    fn shown(reached: &Reached) -> Vec<bool> {
        reached.list().iter().map(|limit| limit.until.is_none()).collect()
    }

    #[test]
    fn it_is_told_when_it_begins_and_once_when_it_has_been_over_for_a_while() {
        let (reached, start) = (Reached::default(), Instant::now());
        let second = |n: u64| start + Duration::from_secs(n);
        let says: Arc<str> = "web is full".into();
        assert_eq!(at(&reached, second(0), 0, false), []);
        assert_eq!(at(&reached, second(1), 1, false), [News::Began(Arc::clone(&says))]);
        // Met again before it was quiet for long enough: the same.
        for n in 2..30 {
            assert_eq!(at(&reached, second(4 * n), 10 * n, false), []);
        }
        assert_eq!(shown(&reached), [true]);
        // It lasts as long as somebody waits, although nobody is new.
        assert_eq!(at(&reached, second(200), 290, true), []);
        assert_eq!(at(&reached, second(204), 290, false), []);
        assert_eq!(at(&reached, second(205), 290, false), [News::EndedCounts(says, Duration::from_secs(199))]);
        assert_eq!(at(&reached, second(206), 290, false), []);
        assert_eq!(shown(&reached), [false]);
        assert_eq!(at(&reached, second(801), 290, false), []);
        assert_eq!(shown(&reached), [] as [bool; 0]);
        assert_eq!(at(&reached, second(802), 291, false).len(), 1);
    }

    #[test]
    fn what_is_gone_is_over() {
        let (reached, start) = (Reached::default(), Instant::now());
        at(&reached, start, 1, true);
        let news = reached.look(start, Vec::new(), |_, _| unreachable!());
        assert!(matches!(news[..], [(LimitKind::Listener, News::EndedCounts(..))]), "{news:?}");
        assert_eq!(reached.look(start, Vec::new(), |_, _| unreachable!()), []);
    }
}
