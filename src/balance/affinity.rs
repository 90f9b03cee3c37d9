//! PURE. What ties a session to a backend. `route` computes it once, after the session has its pool.

/// Which backend a session belongs to, as far as its policy asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// What the pool's `hash` makes of the client: the same for the same client, in every balancer.
    pub hash: u64,
}

impl Affinity {
    /// Of a session that belongs nowhere.
    pub const NONE: Self = Self { hash: 0 };
}
