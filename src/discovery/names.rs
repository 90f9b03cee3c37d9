//! The addresses of the host names of one pool, kept fresh: looked up every `resolve.refresh`, sooner after a failure.
//! A name keeps its addresses, in their order, while they are among the answers, and while there is no answer.

use std::collections::BTreeMap;
use std::future::pending;
use std::net::IpAddr;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::pace::{Backoff, Bucket};
use super::resolver::{Resolver, ResolverTimes};
use crate::config::Resolve;

/// Look-ups at once of a name whose address fails, before they are rationed.
const HURRIES: u32 = 3;

/// Addresses of a name that are used: each may be probed, and no name of a service has more.
const MOST_ADDRESSES: usize = 32;

pub(super) struct Names {
    resolver: Resolver,
    resolve: Resolve,
    known: BTreeMap<String, Name>,
    /// Look-ups under way; dropped with this, they end.
    running: JoinSet<(String, Result<Vec<IpAddr>, String>)>,
    random: fastrand::Rng,
}

struct Name {
    /// Empty = it was never resolved.
    addresses: Vec<IpAddr>,
    /// What the last look-up said, if it failed.
    failure: Option<String>,
    retry: Backoff,
    /// For look-ups out of turn.
    hurries: Bucket,
    /// A look-up out of turn is to come.
    hurried: bool,
    /// `None` = a look-up is under way.
    due: Option<Instant>,
}

/// What is known of a name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NameState<'a> {
    /// Its addresses, be they old ones; at least one.
    Addresses(&'a [IpAddr]),
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
    pub(super) fn new(resolver: Resolver, resolve: Resolve) -> Self {
        Self { resolver, resolve, known: BTreeMap::new(), running: JoinSet::new(), random: fastrand::Rng::new() }
    }

    /// Looks names up as often as this says from now on.
    pub(super) fn refresh_as(&mut self, resolve: Resolve) {
        self.resolve = resolve;
        let due = Instant::now() + resolve.refresh;
        for name in self.known.values_mut() {
            name.due = name.due.map(|at| at.min(due));
        }
    }

    /// An address of it fails: it is looked up as soon as it may.
    pub(super) fn hurry(&mut self, name: &str) {
        let Some(name) = self.known.get_mut(name) else { return };
        let (false, Some(due)) = (name.hurried, name.due) else { return };
        let now = Instant::now();
        name.due = Some(due.min(now + name.hurries.take(now)));
        name.hurried = true;
    }

    /// Looks up these names from now on, and no others.
    pub(super) fn want<'a>(&mut self, names: impl Iterator<Item = &'a str>) {
        let mut before = std::mem::take(&mut self.known);
        for name in names {
            let (name, state) =
                before.remove_entry(name).unwrap_or_else(|| (name.to_owned(), Name::new(self.resolver.times)));
            self.known.entry(name).or_insert(state);
        }
    }

    /// What is known of one of the wanted names.
    pub(super) fn known(&self, name: &str) -> NameState<'_> {
        match self.known.get(name) {
            Some(Name { addresses, .. }) if !addresses.is_empty() => NameState::Addresses(addresses),
            Some(Name { failure: Some(why), .. }) => NameState::Failed(why),
            _ => NameState::Pending,
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
                (state.due, state.hurried) = (None, false);
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
        // `look_up` does not panic, and nothing else aborts the task.
        let Ok((name, result)) = ended else { return false };
        // No longer wanted, perhaps.
        let Some(state) = self.known.get_mut(&name) else { return false };
        match result {
            Ok(addresses) => {
                // Spread over a fifth of it, so that names that came together part.
                state.due = Some(Instant::now() + self.resolve.refresh.mul_f64(self.random.f64().mul_add(0.2, 0.9)));
                state.retry.reset();
                let recovered = state.failure.take().is_some();
                let addresses = merged(&state.addresses, &addresses);
                let changed = state.addresses != addresses;
                state.addresses = addresses;
                recovered || changed
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
    fn new(times: ResolverTimes) -> Self {
        Self {
            addresses: Vec::new(),
            failure: None,
            retry: Backoff::new(times.retry_first, times.retry_last),
            hurries: Bucket::new(HURRIES, times.hurry),
            hurried: false,
            due: Some(Instant::now()),
        }
    }
}

/// What was there stays in its order, since servers turn theirs round with each answer; what is new comes behind.
fn merged(before: &[IpAddr], answer: &[IpAddr]) -> Vec<IpAddr> {
    let mut merged: Vec<_> = before.iter().copied().filter(|address| answer.contains(address)).collect();
    for address in answer {
        if !merged.contains(address) && merged.len() < MOST_ADDRESSES {
            merged.push(*address);
        }
    }
    merged
}
