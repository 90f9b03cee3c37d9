//! Which routes, and which of their values, no session can reach, because earlier routes take all that they could get.
//! For `warnings`.

use std::collections::{HashMap, HashSet};
use std::fmt;

use super::{Listener, Network, Route, ServerName};

/// Lines are for one file: beyond so many of a listener, the rest is a number.
const MOST: usize = 20;

/// A line for each route of a listener that is hidden, wholly or in part, and for the pool behind them.
pub(super) fn hidden(listener: &Listener) -> Vec<String> {
    let (mut earlier, mut lines) = (Earlier::default(), Vec::new());
    for route in &listener.routes {
        lines.extend(earlier.hides(route));
        earlier.add(route);
    }
    if let Some(pool) = &listener.pool {
        let for_all = Route::FOR_ALL;
        let taken: Vec<_> = [true, false].iter().filter_map(|tls| earlier.taker(&for_all, Part::Tls(*tls))).collect();
        if let [one, other] = taken[..] {
            let by = if one == other {
                format!("routes[{one}] takes")
            } else {
                format!("routes[{one}] and routes[{other}] take")
            };
            lines.push(format!("pool {pool} gets no session: {by} every one"));
        }
    }
    if let more @ 1.. = lines.len().saturating_sub(MOST) {
        lines.truncate(MOST);
        lines.push(format!("{more} more routes get no session, or less than is written"));
    }
    lines
}

/// The routes so far, by what is looked up of a later one.
#[derive(Default)]
struct Earlier<'a> {
    by_name: HashMap<&'a ServerName, Vec<usize>>,
    /// Routes without names.
    by_network: HashMap<Network, Vec<usize>>,
    /// Routes without names and networks.
    rest: Vec<usize>,
    /// By number.
    routes: Vec<Known<'a>>,
}

/// A route with its long lists as sets.
struct Known<'a> {
    route: &'a Route,
    names: HashSet<&'a ServerName>,
    networks: HashSet<Network>,
}

/// A part of what a route could get: one value of one of its conditions, or all.
#[derive(Clone, Copy)]
enum Part<'a> {
    Name(&'a ServerName),
    Protocol(&'a str),
    Network(Network),
    Prefix(&'a [u8]),
    Tls(bool),
}

impl<'a> Earlier<'a> {
    fn add(&mut self, route: &'a Route) {
        let number = self.routes.len();
        let known = Known { route, names: route.sni.iter().collect(), networks: route.from.iter().copied().collect() };
        known.names.iter().for_each(|name| self.by_name.entry(name).or_default().push(number));
        if route.sni.is_empty() {
            known.networks.iter().for_each(|network| self.by_network.entry(*network).or_default().push(number));
        }
        if route.sni.is_empty() && route.from.is_empty() {
            self.rest.push(number);
        }
        self.routes.push(known);
    }

    /// What hides the next route, or some values of it. Where each value of one condition is taken, whatever the others are,
    /// it gets nothing.
    fn hides(&self, route: &'a Route) -> Option<String> {
        let (number, mut partly) = (self.routes.len(), None);
        for (key, parts) in parts(route) {
            let taker = |part: &Part<'a>| Some((*part, self.taker(route, *part)?));
            let taken: Vec<_> = parts.iter().filter_map(taker).collect();
            let Some((part, by)) = taken.first() else { continue };
            if taken.len() == parts.len() {
                let is_one = taken.iter().all(|(_, other)| other == by);
                let take =
                    if is_one { format!("routes[{by}] before it takes") } else { "earlier routes take".to_owned() };
                return Some(format!("routes[{number}] gets no session: {take} all that it could get"));
            }
            if !matches!(part, Part::Tls(_)) {
                let more = if taken.len() > 1 { format!(" and {} more", taken.len() - 1) } else { String::new() };
                let line =
                    || format!("routes[{number}]: {key} {part}{more} gets no session: routes[{by}] before it takes it");
                partly.get_or_insert_with(line);
            }
        }
        partly
    }

    /// The earlier route that takes every client of this part of a route.
    fn taker(&self, route: &Route, part: Part<'_>) -> Option<usize> {
        let name = match part {
            Part::Name(name) => Some(name),
            _ => route.sni.first(),
        };
        let above = name.and_then(ServerName::wildcard_above);
        let names = name.into_iter().chain(above.as_ref()).filter_map(|name| self.by_name.get(name)).flatten();
        let network = match part {
            Part::Network(network) => Some(network),
            _ => route.from.first().copied(),
        };
        let networks = network.into_iter().flat_map(Network::around);
        let networks = networks.filter_map(|network| self.by_network.get(&network)).flatten();
        let candidates = names.chain(networks).chain(&self.rest).copied();
        candidates.filter(|number| self.routes[*number].takes(route, part)).min()
    }
}

impl Known<'_> {
    /// Whether every client of this part of a later route meets all conditions here.
    fn takes(&self, later: &Route, part: Part<'_>) -> bool {
        let has_name = |name: &ServerName| {
            self.names.contains(name) || name.wildcard_above().is_some_and(|above| self.names.contains(&above))
        };
        let has_protocol = |protocol: &str| self.route.alpn.iter().any(|known| known == protocol);
        let has_network = |network: Network| network.around().any(|around| self.networks.contains(&around));
        let has_prefix = |prefix: &[u8]| self.route.prefixes().any(|known| prefix.starts_with(known));
        let names = self.names.is_empty()
            || match part {
                Part::Name(name) => has_name(name),
                _ => !later.sni.is_empty() && later.sni.iter().all(has_name),
            };
        let protocols = self.route.alpn.is_empty()
            || match part {
                Part::Protocol(protocol) => has_protocol(protocol),
                _ => !later.alpn.is_empty() && later.alpn.iter().all(|protocol| has_protocol(protocol)),
            };
        let networks = self.networks.is_empty()
            || match part {
                Part::Network(network) => has_network(network),
                _ => !later.from.is_empty() && later.from.iter().copied().all(has_network),
            };
        let prefixes = self.route.prefixes().next().is_none()
            || match part {
                Part::Prefix(prefix) => has_prefix(prefix),
                _ => later.prefixes().next().is_some() && later.prefixes().all(has_prefix),
            };
        let tls = match (self.route.tls, part) {
            (None, _) => true,
            (Some(wanted), Part::Tls(tls)) => wanted == tls,
            (Some(wanted), _) => later.wants_tls() == Some(wanted),
        };
        names && protocols && networks && prefixes && tls
    }
}

/// The values of each condition of a route, by its key. TLS or not are those of a route that says nothing of it.
fn parts(route: &Route) -> Vec<(&'static str, Vec<Part<'_>>)> {
    let tls = route.wants_tls().map_or_else(|| vec![true, false], |tls| vec![tls]);
    let begins = if route.starts_with.is_empty() { "starts_with_hex" } else { "starts_with" };
    let all = vec![
        ("sni", route.sni.iter().map(Part::Name).collect::<Vec<_>>()),
        ("alpn", route.alpn.iter().map(|protocol| Part::Protocol(protocol)).collect()),
        ("from", route.from.iter().map(|network| Part::Network(*network)).collect()),
        (begins, route.prefixes().map(Part::Prefix).collect()),
        ("tls", tls.into_iter().map(Part::Tls).collect()),
    ];
    all.into_iter().filter(|(_, parts)| !parts.is_empty()).collect()
}

impl fmt::Display for Part<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Protocol(protocol) => write!(f, "{}", protocol.escape_debug()),
            Self::Network(network) => network.fmt(f),
            Self::Prefix(prefix) => write!(f, "\"{}\"", prefix.escape_ascii()),
            Self::Tls(tls) => tls.fmt(f),
        }
    }
}
