//! The addresses of the host names of one pool, kept fresh: looked up every 30 s, sooner after a failure.
//! A name keeps its address while that is still among the answers, and while there is no answer.

use std::collections::BTreeMap;
use std::future::pending;
use std::net::IpAddr;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::pace::Backoff;
use super::resolver::{Resolver, Times};

pub(super) struct Names {
    resolver: Resolver,
    known: BTreeMap<String, Name>,
    /// Look-ups under way; dropped with this, they end.
    running: JoinSet<(String, Result<Vec<IpAddr>, String>)>,
    random: fastrand::Rng,
}

struct Name {
    address: Option<IpAddr>,
    /// What the last look-up said, if it failed.
    failure: Option<String>,
    retry: Backoff,
    /// `None` = a look-up is under way.
    due: Option<Instant>,
}

/// What is known of a name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Known<'a> {
    /// Its address, be it an old one.
    Address(IpAddr),
    /// The first look-up is not over.
    Pending,
    /// Never resolved, for this reason.
    Failed(&'a str),
}

/// What some look-ups brought.
#[derive(Debug, Default)]
pub(super) struct Looked {
    /// Each `name: why`.
    pub(super) failures: Vec<String>,
}

impl Names {
    pub(super) fn new(resolver: Resolver) -> Self {
        Self { resolver, known: BTreeMap::new(), running: JoinSet::new(), random: fastrand::Rng::new() }
    }

    /// From now on these and no others.
    pub(super) fn want<'a>(&mut self, names: impl Iterator<Item = &'a str>) {
        let mut before = std::mem::take(&mut self.known);
        for name in names {
            let (name, state) =
                before.remove_entry(name).unwrap_or_else(|| (name.to_owned(), Name::new(self.resolver.times)));
            self.known.entry(name).or_insert(state);
        }
    }

    /// What is known of one of the wanted names.
    pub(super) fn known(&self, name: &str) -> Known<'_> {
        match self.known.get(name) {
            Some(Name { address: Some(address), .. }) => Known::Address(*address),
            Some(Name { failure: Some(why), .. }) => Known::Failed(why),
            _ => Known::Pending,
        }
    }

    /// Whether the last look-up of any name failed.
    pub(super) fn failing(&self) -> bool {
        self.known.values().any(|name| name.failure.is_some())
    }

    /// Looks up what is due; returns when something failed or is other than before. Cancel safe.
    pub(super) async fn news(&mut self) -> Looked {
        loop {
            let next = self.start_due(Instant::now());
            let timer = async {
                match next {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                Some(ended) = self.running.join_next() => {
                    let mut looked = Looked::default();
                    let mut news = self.learn(ended, &mut looked);
                    // Names that came together are told together.
                    while let Some(ended) = self.running.try_join_next() {
                        news |= self.learn(ended, &mut looked);
                    }
                    if news {
                        return looked;
                    }
                }
                () = timer => {}
            }
        }
    }

    /// Starts the look-ups that are due and says when the next one is.
    fn start_due(&mut self, now: Instant) -> Option<Instant> {
        for (name, state) in &mut self.known {
            if state.due.is_some_and(|due| due <= now) {
                state.due = None;
                let (resolver, name) = (self.resolver.clone(), name.clone());
                self.running.spawn(async move {
                    let result = resolver.look_up(name.clone()).await;
                    (name, result)
                });
            }
        }
        self.known.values().filter_map(|name| name.due).min()
    }

    fn learn(
        &mut self,
        ended: Result<(String, Result<Vec<IpAddr>, String>), tokio::task::JoinError>,
        looked: &mut Looked,
    ) -> bool {
        // `look_up` has nothing that panics, and nobody else aborts it.
        let Ok((name, result)) = ended else { return false };
        // No longer wanted, perhaps.
        let Some(state) = self.known.get_mut(&name) else { return false };
        match result {
            Ok(addresses) => {
                state.due =
                    Some(Instant::now() + self.resolver.times.refresh.mul_f64(self.random.f64().mul_add(0.2, 0.9)));
                state.retry.reset();
                let recovered = state.failure.take().is_some();
                if state.address.is_some_and(|address| addresses.contains(&address)) {
                    return recovered;
                }
                state.address = addresses.first().copied();
                true
            }
            Err(why) => {
                state.due = Some(Instant::now() + state.retry.next(&mut self.random));
                looked.failures.push(format!("{name}: {why}"));
                state.failure = Some(why);
                true
            }
        }
    }
}

impl Name {
    fn new(times: Times) -> Self {
        Self {
            address: None,
            failure: None,
            retry: Backoff::new(times.retry_first, times.retry_last),
            due: Some(Instant::now()),
        }
    }
}
