//! PURE. What ties a session to a backend. `route` computes it once, after the session has its pool.

use std::net::IpAddr;

/// Which backend a session belongs to, as far as its pool asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// What the pool's `hash` makes of the client: the same for the same client, in every balancer.
    pub hash: u64,
    /// The client as the pool's `sticky` tells clients apart; `None` = it does not.
    pub client: Option<IpAddr>,
}

impl Affinity {
    /// Of a session that belongs nowhere.
    pub const NONE: Self = Self { hash: 0, client: None };
}
