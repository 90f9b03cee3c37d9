//! PURE. What sessions observe of their backend, and the counts of it.
//! Written by sessions, judged by the keeper with [`Outlier`](super::Outlier).

use crate::metrics::{ConnectFailure, EarlyEnd};

/// The observation of one session. Successes are only counted, unless the session was a trial: there are as many as
/// sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observation {
    /// Its connect failed by the backend's fault.
    ConnectFailed(ConnectFailure),
    /// The connect succeeded, and then the backend failed before its first byte.
    EndedEarly(EarlyEnd),
    /// The same, and no byte had been sent to it: the session dials another backend, as after a failed connect.
    EndedUnasked(EarlyEnd),
    /// What failed at the last ejection worked: the connect, or the first byte.
    Succeeded,
}

/// Counts of one backend's observations since it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ObservationCounts {
    /// Connects that failed in a row; a successful one sets it to 0.
    pub connects_in_a_row: u32,
    /// Sessions that ended early in a row; one that gets a byte sets it to 0.
    pub early_in_a_row: u32,
    /// Connects that failed, in all.
    pub failed_connects: u64,
    /// Sessions that ended early, in all.
    pub early_ends: u64,
    /// Connects that succeeded, in all.
    pub connected: u64,
    /// Sessions that got a byte, in all.
    pub answered: u64,
}

/// What a trial costs the client if the backend still fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrialCost {
    /// Nothing: the session is retried or replayed elsewhere at once.
    Nothing,
    /// A timeout; then it is retried or replayed elsewhere.
    Time,
    /// The session.
    Session,
}

/// What fails at a backend. It decides what proves the opposite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failing {
    /// Connects.
    Connect,
    /// What comes after a connect.
    Exchange,
}

impl Observation {
    /// What fails according to it; `None` = nothing.
    pub fn failing(self) -> Option<Failing> {
        match self {
            Self::ConnectFailed(_) => Some(Failing::Connect),
            Self::EndedEarly(_) | Self::EndedUnasked(_) => Some(Failing::Exchange),
            Self::Succeeded => None,
        }
    }

    /// A text that completes "the last one: …".
    pub fn words(self) -> &'static str {
        match self {
            Self::ConnectFailed(reason) => reason.name(),
            Self::EndedEarly(EarlyEnd::Reset) => "reset before its first byte",
            Self::EndedEarly(EarlyEnd::Closed) => "closed before its first byte",
            Self::EndedEarly(EarlyEnd::Silent) | Self::EndedUnasked(EarlyEnd::Silent) => "no first byte in time",
            Self::EndedUnasked(EarlyEnd::Reset) => "reset before it was sent anything",
            Self::EndedUnasked(EarlyEnd::Closed) => "closed before it was sent anything",
            Self::Succeeded => "succeeded",
        }
    }

    /// What a trial costs the client if it ends like this. `replays`: whether sessions that end early are replayed
    /// elsewhere.
    pub fn cost(self, replays: bool) -> TrialCost {
        match self {
            Self::ConnectFailed(ConnectFailure::Timeout) => TrialCost::Time,
            Self::EndedEarly(EarlyEnd::Silent) if replays => TrialCost::Time,
            Self::EndedEarly(EarlyEnd::Reset | EarlyEnd::Closed) if replays => TrialCost::Nothing,
            Self::EndedEarly(_) => TrialCost::Session,
            Self::ConnectFailed(_) | Self::EndedUnasked(_) | Self::Succeeded => TrialCost::Nothing,
        }
    }
}

impl ObservationCounts {
    /// Failures of any kind in a row.
    pub fn in_a_row(&self) -> u32 {
        self.connects_in_a_row.saturating_add(self.early_in_a_row)
    }

    /// Failures of any kind since the backend is known.
    pub fn failed(&self) -> u64 {
        self.failed_connects + self.early_ends
    }

    /// Sessions that did not fail, as far as is known. If the backend never speaks first, the connect is the only sign.
    pub fn succeeded(&self) -> u64 {
        self.answered.max(self.connected.saturating_sub(self.early_ends))
    }

    /// Sessions in which `failing` worked.
    pub fn disproofs(&self, failing: Failing) -> u64 {
        match failing {
            Failing::Connect => self.connected.max(self.answered),
            Failing::Exchange => self.answered,
        }
    }
}
