//! Which live sessions of a listener would go to another pool by the routes of a file: for `evenkeel plan`. It goes by what
//! the balancer kept of each session when it was routed.

use std::collections::BTreeMap;

use super::CommandError;
use super::client::{AdminClient, escaped};
use crate::admin::{RoutedSessionBody, RoutedSessionsBody};
use crate::config::Listener;
use crate::route::hello::{ClientHello, Reading, read};
use crate::route::{ClientFacts, Decision, Hello, Routes};

/// Lines about where sessions would go: the largest groups are enough.
const MOST_NOTES: usize = 5;

/// Sessions by the pool that they are in and the one that they would get, if those differ.
#[derive(Default)]
pub(super) struct Rerouted {
    moved: BTreeMap<(String, String), u64>,
    /// Too little is known of them.
    unknown: u64,
}

/// Asks the balancer for the live sessions of a listener, and routes them by what the file says of it.
pub(super) async fn ask(client: &AdminClient, listener: &Listener) -> Result<Rerouted, CommandError> {
    let RoutedSessionsBody { sessions, all } = sessions(client, &listener.name).await?;
    let mut rerouted = Rerouted { unknown: all.saturating_sub(sessions.len()) as u64, ..Rerouted::default() };
    let Some(routes) = Routes::new(listener, |name| Some(name.to_owned())) else { return Ok(rerouted) };
    for session in &sessions {
        rerouted.count(&routes, session);
    }
    Ok(rerouted)
}

/// How many live sessions of a listener are in one of these pools.
pub(super) async fn in_pools(client: &AdminClient, listener: &str, pools: &[String]) -> Result<u64, CommandError> {
    let sessions = sessions(client, listener).await?.sessions;
    Ok(sessions.iter().filter(|session| session.pool.as_ref().is_some_and(|pool| pools.contains(pool))).count() as u64)
}

async fn sessions(client: &AdminClient, listener: &str) -> Result<RoutedSessionsBody, CommandError> {
    client.read(&format!("/api/v1/listeners/{}/routed", escaped(listener))).await
}

impl Rerouted {
    fn count(&mut self, routes: &Routes<String>, client: &RoutedSessionBody) {
        // One without a route gets it by the routes that are in effect then.
        let Some(pool) = &client.pool else { return };
        match decide(routes, client) {
            None | Some(Decision::NeedsBytes) => self.unknown += 1,
            Some(Decision::Pool(other, _)) if other == pool => {}
            Some(Decision::Pool(other, _)) => self.add(pool, &format!("pool {other}")),
            Some(Decision::Refused(why)) => self.add(pool, &format!("be refused ({})", why.name())),
        }
    }

    fn add(&mut self, from: &str, to: &str) {
        *self.moved.entry((from.to_owned(), to.to_owned())).or_default() += 1;
    }

    /// Sessions that would not get the pool that they are in.
    pub(super) fn elsewhere(&self) -> u64 {
        self.moved.values().sum()
    }

    pub(super) fn notes(&self) -> Vec<String> {
        let mut groups: Vec<_> = self.moved.iter().collect();
        groups.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let line = |((from, to), count): &(&(String, String), &u64)| {
            let way = if to.starts_with("be refused") { to.clone() } else { format!("go to {to}") };
            format!("{count} sessions of pool {from} would {way} if they came now")
        };
        let mut notes: Vec<_> = groups.iter().take(MOST_NOTES).map(line).collect();
        if let more @ 1.. = groups.iter().skip(MOST_NOTES).map(|(_, count)| **count).sum::<u64>() {
            notes.push(format!("{more} more would not get the pool that they are in"));
        }
        if self.unknown > 0 {
            notes.push(format!("of {} sessions too little is known to say where they would go", self.unknown));
        }
        notes
    }
}

/// `None` = the answer is not understood.
fn decide<'a>(routes: &'a Routes<String>, client: &RoutedSessionBody) -> Option<Decision<&'a String>> {
    let digits = client.first_bytes.as_bytes().chunks(2);
    let first_bytes: Option<Vec<u8>> =
        digits.map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()).collect();
    let first_bytes = first_bytes?;
    let hello = client.hello.as_ref().map(|hello| ClientHello {
        server_name: hello.sni.as_deref().map(Into::into),
        alpn: hello.alpn.iter().map(|protocol| protocol.as_bytes().into()).collect(),
    });
    let is = match (&hello, read(&first_bytes)) {
        (Some(hello), _) => Hello::Read(hello),
        (None, Reading::NotHello) => Hello::None,
        (None, _) => Hello::Open,
    };
    let lot = u64::from_str_radix(&client.lot, 16).unwrap_or(0);
    let facts = ClientFacts {
        first_bytes: &first_bytes,
        hello: is,
        is_all: client.is_all,
        lot,
        ..ClientFacts::of(client.client.parse().ok()?)
    };
    Some(routes.decide(&facts))
}
