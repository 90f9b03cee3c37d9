//! Why a session is ended from outside: by a drain, an operator, its age or its backend's standing.

use crate::metrics::Outcome;

/// The numbers are those in `live`; 0 is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum ForcedEnd {
    /// The time that a drain gives is over.
    Drained = 1,
    /// An operator does not want to wait.
    Killed,
    /// It has lasted for the pool's `max_lifetime`.
    MaxLifetime,
    /// Its backend is down.
    BackendDown,
    /// Its backend left the registry.
    BackendRemoved,
    /// Its backend has more sessions than its part.
    Rebalanced,
}

impl ForcedEnd {
    const ALL: [Self; 6] =
        [Self::Drained, Self::Killed, Self::MaxLifetime, Self::BackendDown, Self::BackendRemoved, Self::Rebalanced];

    pub(super) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|cut| *cut as u8 == number)
    }

    pub(super) fn outcome(self) -> Outcome {
        match self {
            Self::Drained => Outcome::Drained,
            Self::Killed => Outcome::Killed,
            Self::MaxLifetime => Outcome::MaxLifetime,
            Self::BackendDown => Outcome::BackendDown,
            Self::BackendRemoved => Outcome::BackendRemoved,
            Self::Rebalanced => Outcome::Rebalanced,
        }
    }
}
