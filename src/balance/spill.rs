//! PURE. Decides whether a session may go on to the next tier: the meaning of the pool's `spill`, in one place.

use super::Affinity;
use crate::config::Spill;

/// What a pick knows about the session.
#[derive(Clone, Copy, Debug)]
pub struct PickContext<'a, T> {
    /// Which backend it belongs to, where the policy asks.
    pub affinity: Affinity,
    /// What it has tried, each once: it gets another one.
    pub tried: &'a [T],
    /// The part of `tried` that has not answered yet; the rest has failed.
    pub dialling: &'a [T],
    /// Whether it waits for room in its tier, instead of going on because the tier is full.
    pub waits: bool,
}

impl<'a, T> PickContext<'a, T> {
    /// A session that belongs nowhere, has tried nothing and does not wait.
    pub const FIRST: Self = Self { affinity: Affinity::NONE, tried: &[], dialling: &[], waits: false };

    /// A session whose attempts at `tried` have failed; each once.
    pub fn having_tried(tried: &'a [T]) -> Self {
        Self { tried, ..Self::FIRST }
    }
}

/// Why a session can get nothing from a tier now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dead {
    /// The tier has nothing that may be picked.
    Empty,
    /// What the session tried there failed, and the rest, if any, is full.
    Failed,
    /// What the session tried there failed, and all are full now.
    FailedAndFull,
    /// Something that the session tried there has not answered yet.
    Slow,
    /// All are full, and the session has tried none.
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
