//! PURE. Which pool a session goes to, or that it is refused: the rules of one listener, asked for each session after its
//! client is known, and again with every piece of its first bytes for as long as a rule needs more of them.
//!
//! A new kind of condition is a key of [`config::Route`], a part of `index` or a field of `Rule`, and its line in
//! `Rule::holds`. What it has to know of a client is a field of [`ClientFacts`], which `proxy` fills.

mod access;
mod affinity;
mod clients;
pub mod hello;
mod index;
mod networks;
pub mod postgres;
mod rate;
mod split;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;

use crate::config::{self, HashBy, Target};
use crate::metrics::Refusal;
use crate::proxy_protocol::Tlv;

pub use access::{Access, AccessList, ListDifference};
pub use affinity::affinity;
pub use clients::{ClientLimits, ClientSlot, ClientView, Clients, Over};
use hello::ClientHello;
use index::{Index, Matches};
pub use networks::Networks;
pub use rate::{SessionBucket, SessionRate};
use split::Split;

/// What is known of a client when its session is routed.
#[derive(Clone, Copy, Debug)]
pub struct ClientFacts<'a> {
    /// The client that the session is for.
    pub address: SocketAddr,
    /// What it connected to, where its PROXY header says it, or where that was asked for.
    pub destination: Option<SocketAddr>,
    /// The values of its PROXY header.
    pub tlvs: &'a [Tlv],
    /// What it has sent so far, from its first byte on.
    pub first_bytes: &'a [u8],
    /// What these are.
    pub hello: Hello<'a>,
    /// Nothing more is read: what is there is all there is.
    pub is_all: bool,
    /// A random number that the session keeps.
    pub lot: u64,
}

/// Whether a client begins with a TLS ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hello<'a> {
    /// That can't be told yet.
    Open,
    /// It does not.
    None,
    /// It does.
    Read(&'a ClientHello),
}

/// What becomes of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision<P> {
    /// It goes to this pool, by the route of that number; `None` = no route took it, and this is the listener's own pool.
    Pool(P, Option<usize>),
    /// It is refused, and why.
    Refused(Refusal),
    /// The next rule needs more of what the client sends.
    NeedsBytes,
}

/// The rules of one listener, in order: the first that holds decides. `P` is a pool.
#[derive(Clone, Debug)]
pub struct Routes<P> {
    /// Each once, in the order of their names.
    pools: Vec<P>,
    rules: Vec<Rule>,
    index: Index,
    /// The place in `pools` of the one for what no rule takes.
    rest: Option<usize>,
}

/// A route without its lists, which the index holds for all of them.
#[derive(Clone, Debug)]
struct Rule {
    has_names: bool,
    has_protocols: bool,
    has_networks: bool,
    prefixes: Vec<Box<[u8]>>,
    tls: Option<bool>,
    split: Split,
}

/// Whether a rule holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    Yes,
    No,
    /// That depends on bytes that are not there yet.
    Open,
}

impl<P> Routes<P> {
    /// Those of a listener. `pool_named` knows the pools; `None` = one of them is missing.
    pub fn new(listener: &config::Listener, mut pool_named: impl FnMut(&str) -> Option<P>) -> Option<Self> {
        let names: Vec<&str> = listener.pools().into_iter().collect();
        let place = |name: &str| names.binary_search(&name).ok();
        let rules = listener.routes.iter().map(|route| Rule::new(route, &place)).collect::<Option<_>>()?;
        Some(Self {
            pools: names.iter().map(|name| pool_named(name)).collect::<Option<_>>()?,
            rules,
            index: Index::new(&listener.routes),
            rest: listener.pool.as_deref().and_then(place),
        })
    }

    /// What becomes of this client's session, as far as it is known now.
    pub fn decide(&self, client: &ClientFacts<'_>) -> Decision<&P> {
        if !self.rules.is_empty() {
            let matches = self.index.matches(client);
            for number in matches.candidates() {
                let rule = &self.rules[number];
                match rule.holds(number, client, &matches) {
                    Holds::Yes => return Decision::Pool(&self.pools[rule.split.pick(client)], Some(number)),
                    Holds::Open => return Decision::NeedsBytes,
                    Holds::No => {}
                }
            }
        }
        match self.rest {
            Some(pool) => Decision::Pool(&self.pools[pool], None),
            None => Decision::Refused(Refusal::NoRoute),
        }
    }

    /// The pool of every session, where there are no rules.
    pub fn only(&self) -> Option<&P> {
        self.rest.filter(|_| self.rules.is_empty()).map(|pool| &self.pools[pool])
    }

    /// Whether some rule goes by what a client connected to.
    pub fn hashes_destination(&self) -> bool {
        self.rules.iter().any(|rule| rule.split.hash == Some(HashBy::Destination))
    }

    /// Every pool that sessions may go to, each once.
    pub fn pools(&self) -> impl Iterator<Item = &P> {
        self.pools.iter()
    }
}

impl Rule {
    fn new(route: &config::Route, place: &impl Fn(&str) -> Option<usize>) -> Option<Self> {
        let hash = match &route.target {
            Target::Split { hash, .. } => *hash,
            Target::Pool { .. } => None,
        };
        let shares = route.target.pools().map(|(pool, share)| Some((place(pool)?, share)));
        Some(Self {
            has_names: !route.sni.is_empty(),
            has_protocols: !route.alpn.is_empty(),
            has_networks: !route.from.is_empty(),
            prefixes: route.prefixes().map(Into::into).collect(),
            tls: route.tls,
            split: Split::new(shares.collect::<Option<_>>()?, hash),
        })
    }

    fn holds(&self, number: usize, client: &ClientFacts<'_>, matches: &Matches<'_>) -> Holds {
        if self.has_networks && !matches.has_network(number) {
            return Holds::No;
        }
        let is_open = self.split.hash == Some(HashBy::Sni) && client.hello() == Hello::Open;
        let split = if is_open { Holds::Open } else { Holds::Yes };
        self.holds_for_hello(number, client, matches).and(self.holds_for_bytes(client)).and(split)
    }

    fn holds_for_hello(&self, number: usize, client: &ClientFacts<'_>, matches: &Matches<'_>) -> Holds {
        if !self.has_names && !self.has_protocols && self.tls.is_none() {
            return Holds::Yes;
        }
        match client.hello() {
            Hello::Open => Holds::Open,
            Hello::None => Holds::of(!self.has_names && !self.has_protocols && self.tls == Some(false)),
            Hello::Read(_) => Holds::of(
                self.tls != Some(false)
                    && (!self.has_names || matches.has_name(number))
                    && (!self.has_protocols || matches.has_protocol(number)),
            ),
        }
    }

    fn holds_for_bytes(&self, client: &ClientFacts<'_>) -> Holds {
        let bytes = client.first_bytes;
        let mut is_open = false;
        for prefix in &self.prefixes {
            if bytes.starts_with(prefix) {
                return Holds::Yes;
            }
            is_open |= prefix.starts_with(bytes);
        }
        match (self.prefixes.is_empty(), is_open && !client.is_all) {
            (true, _) => Holds::Yes,
            (false, true) => Holds::Open,
            (false, false) => Holds::No,
        }
    }
}

impl<'a> ClientFacts<'a> {
    /// Of a client of which no more is known, and will be.
    pub const fn of(address: SocketAddr) -> Self {
        Self { address, destination: None, tlvs: &[], first_bytes: &[], hello: Hello::None, is_all: true, lot: 0 }
    }

    /// The same as the field, where that is still open although nothing more comes.
    fn hello(&self) -> Hello<'a> {
        match self.hello {
            Hello::Open if self.is_all => Hello::None,
            hello => hello,
        }
    }
}

impl Holds {
    fn of(holds: bool) -> Self {
        if holds { Self::Yes } else { Self::No }
    }

    /// What can't hold any more is not waited for.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Open, _) | (_, Self::Open) => Self::Open,
            (Self::Yes, Self::Yes) => Self::Yes,
        }
    }
}
