//! PURE. Which pool a session goes to, or that it is refused: the rules of one listener, asked once a session, after its
//! client is known and before a backend is picked.
//!
//! A new kind of rule is a variant of [`Condition`] and its line in `holds`. What it has to know of a client is a field of
//! [`ClientFacts`], which `proxy/session.rs` fills; `config` reads it from the file, and `server/apply.rs` makes the rules.

mod access;
mod affinity;
pub mod hello;
mod networks;

use std::net::SocketAddr;

use crate::metrics::Refusal;
use crate::proxy_protocol::Tlv;

pub use access::{Access, AccessList, ListDifference};
pub use affinity::affinity;
pub use networks::Networks;

/// What is known of a client when its session is routed.
#[derive(Clone, Copy, Debug)]
pub struct ClientFacts<'a> {
    /// The client that the session is for.
    pub address: SocketAddr,
    /// The peer that connected: a proxy, where its header names another client.
    pub peer: SocketAddr,
    /// What it connected to, where its PROXY header says it.
    pub destination: Option<SocketAddr>,
    /// The values of its PROXY header.
    pub tlvs: &'a [Tlv],
}

/// When a rule applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// To every session.
    Always,
}

/// What becomes of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision<P> {
    /// It goes to this pool.
    Pool(P),
    /// It is refused, and why.
    Refused(Refusal),
}

/// The rules of one listener, in order: the first that applies decides. `P` names a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routes<P>(Vec<(Condition, Decision<P>)>);

impl<P> Routes<P> {
    /// One rule: every session goes to this pool.
    pub fn always(pool: P) -> Self {
        Self(vec![(Condition::Always, Decision::Pool(pool))])
    }

    /// What becomes of this client's session. Where no rule applies it is refused.
    pub fn decide(&self, client: &ClientFacts<'_>) -> Decision<&P> {
        let rule = self.0.iter().find(|(condition, _)| condition.holds(client));
        match rule {
            Some((_, Decision::Pool(pool))) => Decision::Pool(pool),
            Some((_, Decision::Refused(why))) => Decision::Refused(*why),
            None => Decision::Refused(Refusal::NoRoute),
        }
    }

    /// Every pool that sessions may go to.
    pub fn pools(&self) -> impl Iterator<Item = &P> {
        self.0.iter().filter_map(|(_, decision)| match decision {
            Decision::Pool(pool) => Some(pool),
            Decision::Refused(_) => None,
        })
    }
}

impl Condition {
    fn holds(self, _client: &ClientFacts<'_>) -> bool {
        match self {
            Self::Always => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> ClientFacts<'static> {
        let address = ([192, 0, 2, 1], 4000).into();
        ClientFacts { address, peer: address, destination: None, tlvs: &[] }
    }

    #[test]
    fn the_first_rule_that_applies_decides() {
        let routes = Routes(vec![
            (Condition::Always, Decision::Pool("first")),
            (Condition::Always, Decision::Refused(Refusal::NoRoute)),
            (Condition::Always, Decision::Pool("last")),
        ]);
        assert_eq!(routes.decide(&client()), Decision::Pool(&"first"));
        assert_eq!(routes.pools().collect::<Vec<_>>(), [&"first", &"last"]);
        assert_eq!(Routes::always(7).decide(&client()), Decision::Pool(&7));
    }

    #[test]
    fn without_a_rule_that_applies_it_is_refused() {
        assert_eq!(Routes::<u8>(Vec::new()).decide(&client()), Decision::Refused(Refusal::NoRoute));
        let refuses = Routes::<u8>(vec![(Condition::Always, Decision::Refused(Refusal::ProxyHeader))]);
        assert_eq!(refuses.decide(&client()), Decision::Refused(Refusal::ProxyHeader));
    }
}
