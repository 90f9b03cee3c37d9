//! Limits that are reached: one log line, one event and one line of `status` when that begins and when it ends.
//! What meets a limit only counts; a task compares the counts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use tokio::time::sleep;
use tracing::{info, warn};

use super::ServerState;
use crate::config::{LimitAction, LimitMode, PerClient};
use crate::metrics::{AcceptFailure, Refusal};
use crate::pool::{Happened, Pool};
use crate::proxy::Listener;

/// Between two comparisons of the counts.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// How long a limit is not met until it counts as no longer reached. So one that is met again and again is one line.
const OVER_AFTER: Duration = Duration::from_secs(5);

/// How long a limit is still shown after its end.
const SHOWN_FOR_FOR: Duration = Duration::from_secs(600);

/// Log lines for one comparison: if hundreds of pools are full together, the first ones are enough.
const LINE_LIMIT: usize = 10;

words! {
    /// A kind of limit.
    #[derive(PartialOrd, Ord)]
    pub enum LimitKind {
        /// A listener's `max_connections`.
        Listener = "listener",
        /// A listener's `accept.rate`.
        AcceptRate = "accept_rate",
        /// A listener's `accept.handshakes`.
        Handshakes = "handshakes",
        /// A listener's `per_client`.
        PerClient = "per_client",
        /// The process's `max_connections`, as far as the listener may use it.
        Process = "process",
        /// The caps of a pool's backends.
        Pool = "pool",
        /// Descriptors or memory for a connection to accept.
        Descriptors = "descriptors",
        /// Descriptors or memory for a connection to a backend.
        DialDescriptors = "dial_descriptors",
    }
}

/// A limit that is reached, or was a short time ago.
#[derive(Clone, Debug)]
pub struct ReachedLimit {
    /// Its kind.
    pub kind: LimitKind,
    /// The listener or pool.
    pub name: Arc<str>,
    /// What that means, in words.
    pub says: Arc<str>,
    /// When it began.
    pub since: SystemTime,
    /// When it ended; `None` = it lasts.
    pub until: Option<SystemTime>,
}

/// The state of a limit at one moment.
struct LimitSample {
    kind: LimitKind,
    name: Arc<str>,
    /// How often it was met since the start.
    met: u64,
    /// Whether connections or sessions wait because of it now.
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
enum LimitNews {
    Began(Arc<str>),
    Ended(Arc<str>, Duration),
}

/// The limits, by kind and name.
#[derive(Debug, Default)]
pub(super) struct Reached(Mutex<BTreeMap<(LimitKind, Arc<str>), WatchedLimit>>);

impl Reached {
    /// Those that are reached, and those that were a short time ago.
    pub(super) fn list(&self) -> Vec<ReachedLimit> {
        let watched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        watched.values().filter_map(|watched| watched.shown.clone()).collect()
    }

    fn look(
        &self,
        now: Instant,
        samples: Vec<LimitSample>,
        says: impl Fn(LimitKind, &str) -> String,
    ) -> Vec<(LimitKind, LimitNews)> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *all);
        let mut news = Vec::new();
        for LimitSample { kind, name, met, waits } in samples {
            let key = (kind, Arc::clone(&name));
            let mut watched = before.remove(&key).unwrap_or_default();
            if waits || met != watched.met {
                (watched.met, watched.last) = (met, Some(now));
                if watched.began.is_none() {
                    let says: Arc<str> = says(kind, &name).into();
                    watched.began = Some(now);
                    let (since, says) = (SystemTime::now(), Arc::clone(&says));
                    news.push((kind, LimitNews::Began(Arc::clone(&says))));
                    watched.shown = Some(ReachedLimit { kind, name, says, since, until: None });
                }
            } else if watched.last.is_none_or(|last| now - last >= OVER_AFTER) {
                news.extend(watched.ends(now).map(|news| (kind, news)));
            }
            all.insert(key, watched);
        }
        // What does not exist any more, such as a removed listener, is over.
        for ((kind, name), mut watched) in before {
            news.extend(watched.ends(now).map(|news| (kind, news)));
            all.insert((kind, name), watched);
        }
        all.retain(|_, watched| {
            let old = watched.last.is_none_or(|last| now - last >= SHOWN_FOR_FOR);
            if old && watched.began.is_none() {
                watched.shown = None;
            }
            watched.shown.is_some() || watched.met > 0
        });
        news
    }
}

impl WatchedLimit {
    fn ends(&mut self, now: Instant) -> Option<LimitNews> {
        let began = self.began.take()?;
        let took = self.last.unwrap_or(now) - began;
        let shown = self.shown.as_mut()?;
        shown.until = Some(shown.since + took);
        Some(LimitNews::Ended(Arc::clone(&shown.says), took))
    }
}

/// Compares the counts until the state is dropped.
pub(super) async fn watch(state: Weak<ServerState>) {
    loop {
        sleep(CHECK_INTERVAL).await;
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
        let mut samples: Vec<_> = set.listeners.iter().flat_map(of_listener).collect();
        samples.extend(set.pools.iter().flat_map(of_pool));
        let says = |kind, name: &str| {
            let listener = || set.listeners.iter().find(|listener| *listener.name == *name);
            let pool = || set.pools.iter().find(|pool| *pool.name == *name);
            match kind {
                LimitKind::Listener => {
                    let max = listener().and_then(|listener| listener.settings().file.max_connections);
                    let max = max.map_or_else(String::new, |max| format!(" = {max}"));
                    format!("listener `{name}` has reached its max_connections{max}: clients wait in the backlog")
                }
                LimitKind::AcceptRate => {
                    let accept = listener().and_then(|listener| listener.settings().file.accept.clone());
                    let rate = accept
                        .and_then(|accept| accept.rate)
                        .map_or_else(String::new, |keys| format!(" = {}", keys.rate));
                    format!("listener `{name}` has reached its accept.rate{rate}: clients wait in the backlog")
                }
                LimitKind::Handshakes => format!(
                    "listener `{name}` has reached its accept.handshakes: the oldest sessions that have not said their \
                     header or first bytes are refused"
                ),
                LimitKind::PerClient => {
                    let keys = listener().and_then(|listener| listener.settings().file.per_client.clone());
                    let then = match keys {
                        Some(PerClient { mode: LimitMode::Observe, .. }) => "their sessions are counted and served",
                        Some(PerClient { action: LimitAction::Wait, .. }) => "their sessions wait, or are refused",
                        _ => "their sessions are refused",
                    };
                    format!(
                        "clients of listener `{name}` have reached its per_client limits: {then} (`evenkeel clients`)"
                    )
                }
                LimitKind::Process => format!(
                    "listener `{name}` has all it may have of the process's {} connections (max_connections): \
                     clients wait in the backlog",
                    self.limit.places()
                ),
                LimitKind::Pool => {
                    let settings = pool().map(|pool| pool.settings());
                    let fallback = settings.as_ref().filter(|settings| settings.resilience.spill.full);
                    let then = match fallback.and_then(|settings| settings.fallback.as_deref()) {
                        _ if settings.as_ref().is_some_and(|settings| settings.queue.is_some()) => {
                            "wait in its queue".to_owned()
                        }
                        Some(fallback) => format!("go to pool `{fallback}`"),
                        None => "are refused".to_owned(),
                    };
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
        let news = self.reached.look(now, samples, says);
        let more = news.len().saturating_sub(LINE_LIMIT);
        for (place, (kind, news)) in news.into_iter().enumerate() {
            let limit = kind.name();
            let (reached, says) = match news {
                LimitNews::Began(says) => (true, says.to_string()),
                LimitNews::Ended(says, took) => (false, format!("it is over after {took:.1?}: {says}")),
            };
            match reached {
                _ if place >= LINE_LIMIT => {}
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

fn of_listener(listener: &Arc<Listener>) -> [LimitSample; 6] {
    let look = |kind, met, waits| LimitSample { kind, name: Arc::clone(&listener.name), met, waits };
    let [(own, waits_own), (shared, waits_shared), (rate, waits_rate)] = listener.met_limits();
    let (clients, refused) = (listener.settings().clients.clone(), |reason| listener.refusals.read(reason));
    let of_clients = [Refusal::ClientConnections, Refusal::ClientRate];
    let observed = |reason| clients.as_ref().map_or(0, |clients| clients.observed(reason));
    let over: u64 = of_clients.into_iter().map(|reason| refused(reason) + observed(reason)).sum();
    let waits_client = clients.as_ref().is_some_and(|clients| clients.waiting() > 0);
    [
        look(LimitKind::AcceptRate, rate, waits_rate),
        look(LimitKind::Handshakes, refused(Refusal::Handshakes), false),
        look(LimitKind::PerClient, over, waits_client),
        look(LimitKind::Listener, own, waits_own),
        look(LimitKind::Process, shared, waits_shared),
        look(LimitKind::Descriptors, listener.accept_errors(AcceptFailure::NoResources), false),
    ]
}

fn of_pool(pool: &Arc<Pool>) -> [LimitSample; 2] {
    let look = |kind, met, waits| LimitSample { kind, name: Arc::clone(&pool.name), met, waits };
    [
        look(LimitKind::Pool, pool.times_full(), pool.is_full()),
        look(LimitKind::DialDescriptors, pool.times_lacking_resources(), false),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(reached: &Reached, now: Instant, met: u64, waits: bool) -> Vec<LimitNews> {
        let look = LimitSample { kind: LimitKind::Listener, name: "web".into(), met, waits };
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
        assert_eq!(at(&reached, second(1), 1, false), [LimitNews::Began(Arc::clone(&says))]);
        // Met again before it was quiet for long enough: the same.
        for n in 2..30 {
            assert_eq!(at(&reached, second(4 * n), 10 * n, false), []);
        }
        assert_eq!(shown(&reached), [true]);
        // It lasts as long as a client waits, although none is new.
        assert_eq!(at(&reached, second(200), 290, true), []);
        assert_eq!(at(&reached, second(204), 290, false), []);
        assert_eq!(at(&reached, second(205), 290, false), [LimitNews::Ended(says, Duration::from_secs(199))]);
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
        assert!(matches!(news[..], [(LimitKind::Listener, LimitNews::Ended(..))]), "{news:?}");
        assert_eq!(reached.look(start, Vec::new(), |_, _| unreachable!()), []);
    }
}
