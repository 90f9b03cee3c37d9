//! Whether one session may go on to the next tier: what the pool's `spill` means, in one place.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::config::Spill;

const NO_CLIENT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// What a session that wants a slot has behind it.
#[derive(Clone, Copy, Debug)]
pub struct PickContext<'a, T> {
    /// Whom it is for: what a policy may go by.
    pub client: SocketAddr,
    /// What it has tried, each once: it gets something else.
    pub tried: &'a [T],
    /// Of these, what has not answered yet; the rest has failed.
    pub dialling: &'a [T],
    /// Whether it waits for a place in its tier rather than go on because that is full.
    pub waits: bool,
}

impl<'a, T> PickContext<'a, T> {
    /// It has tried nothing and does not wait; no client in particular.
    pub const FIRST: Self = Self { client: NO_CLIENT, tried: &[], dialling: &[], waits: false };

    /// These have failed it, each written once.
    pub fn having_tried(tried: &'a [T]) -> Self {
        Self { tried, ..Self::FIRST }
    }
}

/// Why a session can get nothing from a tier now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dead {
    /// Nothing of it may be picked at all.
    Empty,
    /// What it tried there failed, and the rest, if any, is full.
    Failed,
    /// It tried something there that failed, and all are full now.
    FailedAndFull,
    /// Something that it tried there does not answer.
    Slow,
    /// All are full, and it has tried none.
    Full,
}

impl Dead {
    /// Whether the session may go on to the next tier.
    pub(super) fn lets_pass(self, spill: Spill, waits: bool) -> bool {
        match self {
            Self::Empty => true,
            Self::Failed => spill.failed,
            Self::FailedAndFull => spill.failed || (spill.full && !waits),
            Self::Slow => spill.slow,
            Self::Full => spill.full && !waits,
        }
    }
}
