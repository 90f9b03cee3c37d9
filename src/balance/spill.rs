//! PURE. Decides whether a session may go on to the next tier, and behind the last one to the pool's `fallback`: the meaning
//! of the pool's `spill`, in one place.

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

/// What a pool has for a session now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prospect {
    /// A backend that it may get.
    Serves,
    /// The same, but nothing is up: it is a last resort.
    LastResort,
    /// Nothing, and the session may not go past one of its tiers.
    Keeps,
    /// Nothing, and the session may go past all of its tiers.
    LetsPass,
}

/// Where a session goes on among a pool and its fallbacks, by their places in that chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// This pool has a backend for it.
    Picks(usize),
    /// This pool has none for it, and does not let it go.
    Stays(usize),
    /// None has one.
    Over,
}

/// A pool's fallback stands behind its last tier. A backend that is up goes before a last resort, in whatever pool.
pub fn course(chain: impl IntoIterator<Item = Prospect>) -> Course {
    let mut course = Course::Over;
    for (place, prospect) in chain.into_iter().enumerate() {
        match prospect {
            Prospect::Serves => return Course::Picks(place),
            Prospect::LastResort if course == Course::Over => course = Course::Picks(place),
            Prospect::Keeps if course == Course::Over => return Course::Stays(place),
            Prospect::Keeps => return course,
            Prospect::LastResort | Prospect::LetsPass => {}
        }
    }
    course
}

#[cfg(test)]
mod tests {
    use super::*;
    use Prospect::{Keeps, LastResort, LetsPass, Serves};

    #[test]
    fn the_first_that_serves_then_the_first_last_resort() {
        for (chain, wanted) in [
            (&[][..], Course::Over),
            (&[Serves, Serves], Course::Picks(0)),
            (&[LetsPass, Serves], Course::Picks(1)),
            (&[LetsPass, LetsPass, Serves], Course::Picks(2)),
            (&[Keeps, Serves], Course::Stays(0)),
            (&[LetsPass, Keeps, Serves], Course::Stays(1)),
            (&[LastResort, Serves], Course::Picks(1)),
            (&[LastResort, LetsPass, LastResort], Course::Picks(0)),
            (&[LetsPass, LastResort, LetsPass], Course::Picks(1)),
            // Whoever would have to wait there is served here.
            (&[LastResort, Keeps, Serves], Course::Picks(0)),
            (&[LetsPass, LetsPass], Course::Over),
        ] {
            assert_eq!(course(chain.iter().copied()), wanted, "{chain:?}");
        }
    }
}
