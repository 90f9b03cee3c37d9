//! The lists of all rules of a listener, indexed: which rules a client can meet at all is known after a few look-ups, so
//! 10,000 names cost what one costs. Written when a configuration is applied; nothing here grows with clients.

use fnv::FnvHashMap;

use super::{ClientFacts, Hello, Networks};
use crate::config::{Route, ServerName};

/// Rules by what a client has to have for them. Numbers of rules are in ascending order everywhere.
#[derive(Clone, Debug)]
pub(super) struct Index {
    exact: FnvHashMap<Box<str>, Vec<usize>>,
    /// By what is behind `*.`.
    wildcard: FnvHashMap<Box<str>, Vec<usize>>,
    protocols: FnvHashMap<Box<[u8]>, Keyed>,
    networks: Networks<Keyed>,
    /// Rules without names, protocols and networks.
    unkeyed: Vec<usize>,
    /// Rules with names or protocols, and without networks: as long as there is no hello, each of them may hold.
    of_hello: Vec<usize>,
}

/// The rules of one key.
#[derive(Clone, Debug, Default)]
pub(super) struct Keyed {
    pub(super) all: Vec<usize>,
    /// Of these, the rules that no more selective key finds: of a protocol those without names, of a network those
    /// without names and protocols.
    pub(super) alone: Vec<usize>,
}

impl Keyed {
    pub(super) fn add(&mut self, number: usize, is_alone: bool) {
        self.all.push(number);
        if is_alone {
            self.alone.push(number);
        }
    }
}

/// What the keys of a client lead to.
pub(super) struct Matches<'a> {
    names: [&'a [usize]; 2],
    protocols: Vec<&'a Keyed>,
    networks: Vec<&'a Keyed>,
    /// Lists that have all rules between them that may hold.
    candidates: Vec<&'a [usize]>,
}

impl Index {
    pub(super) fn new(routes: &[Route]) -> Self {
        let (mut exact, mut wildcard) = (FnvHashMap::default(), FnvHashMap::default());
        let (mut protocols, mut networks) = (FnvHashMap::default(), FnvHashMap::default());
        let (mut unkeyed, mut of_hello) = (Vec::new(), Vec::new());
        for (number, route) in routes.iter().enumerate() {
            for name in &route.sni {
                let (map, key): (&mut FnvHashMap<Box<str>, Vec<usize>>, _) = match name {
                    ServerName::Exact(name) => (&mut exact, name),
                    ServerName::Wildcard(parent) => (&mut wildcard, parent),
                };
                map.entry(key.as_str().into()).or_default().push(number);
            }
            for protocol in &route.alpn {
                let keyed: &mut Keyed = protocols.entry(protocol.as_bytes().into()).or_default();
                keyed.add(number, route.sni.is_empty());
            }
            let has_hello = !route.sni.is_empty() || !route.alpn.is_empty();
            for network in &route.from {
                let keyed: &mut Keyed = networks.entry(*network).or_default();
                keyed.add(number, !has_hello);
            }
            match (has_hello, route.from.is_empty()) {
                (true, true) => of_hello.push(number),
                (false, true) => unkeyed.push(number),
                (_, false) => {}
            }
        }
        Self { exact, wildcard, protocols, networks: Networks::new(networks), unkeyed, of_hello }
    }

    /// Looks up what is known of a client.
    pub(super) fn matches<'a>(&'a self, client: &ClientFacts<'_>) -> Matches<'a> {
        let networks: Vec<_> = self.networks.around(client.address.ip()).collect();
        let mut candidates = vec![&self.unkeyed[..]];
        let (mut names, mut protocols): ([&[usize]; 2], Vec<&Keyed>) = ([&[], &[]], Vec::new());
        match client.hello() {
            Hello::Open => {
                candidates.push(&self.of_hello);
                candidates.extend(networks.iter().map(|keyed| &keyed.all[..]));
            }
            Hello::None => candidates.extend(networks.iter().map(|keyed| &keyed.alone[..])),
            Hello::Read(hello) => {
                names = hello.server_name.as_deref().map_or(names, |name| self.named(name));
                protocols.extend(hello.alpn.iter().filter_map(|protocol| self.protocols.get(protocol)));
                candidates.extend(names);
                candidates.extend(protocols.iter().chain(&networks).map(|keyed| &keyed.alone[..]));
            }
        }
        candidates.retain(|list| !list.is_empty());
        Matches { names, protocols, networks, candidates }
    }

    /// The rules with that name, and those with a wildcard for it.
    fn named(&self, name: &str) -> [&[usize]; 2] {
        let parent = name.split_once('.').map(|(_, parent)| parent);
        let wildcard = parent.and_then(|parent| self.wildcard.get(parent));
        [self.exact.get(name), wildcard].map(|found| found.map_or(&[][..], Vec::as_slice))
    }
}

impl Matches<'_> {
    /// The rules that may hold, each once, in their order.
    pub(super) fn candidates(&self) -> impl Iterator<Item = usize> {
        let mut lists = self.candidates.clone();
        std::iter::from_fn(move || {
            let next = lists.iter().filter_map(|list| list.first()).min().copied()?;
            for list in &mut lists {
                // A list has a rule once, a few of them may have the same.
                *list = list.strip_prefix(&[next]).unwrap_or(list);
            }
            Some(next)
        })
    }

    pub(super) fn has_name(&self, rule: usize) -> bool {
        self.names.iter().any(|list| list.binary_search(&rule).is_ok())
    }

    pub(super) fn has_protocol(&self, rule: usize) -> bool {
        self.protocols.iter().any(|keyed| keyed.all.binary_search(&rule).is_ok())
    }

    pub(super) fn has_network(&self, rule: usize) -> bool {
        self.networks.iter().any(|keyed| keyed.all.binary_search(&rule).is_ok())
    }
}
