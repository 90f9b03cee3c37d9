//! What a session has to say about its backend, and what the data plane counts of it.

use crate::metrics::{ConnectFailure, EarlyEnd};

/// One session's word. Successes are only counted, unless the session was a trial: they are as many as sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observation {
    /// Its connect failed, by the backend's fault.
    ConnectFailed(ConnectFailure),
    /// The connect succeeded, and the backend then failed it before its first byte.
    EndedEarly(EarlyEnd),
    /// So, too, and before it had been sent anything: it is dialled elsewhere, as after a failed connect.
    EndedUnasked(EarlyEnd),
    /// The backend did what the last ejection says that it can't: it was reached, or it sent a byte.
    Succeeded,
}

/// What sessions have met at one backend so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ObservationCounts {
    /// Connects that failed in a row; ended by one that succeeds.
    pub connects_in_a_row: u32,
    /// Sessions that ended early in a row; ended by one that gets a byte.
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

/// What a client pays who is sent to a backend that fails still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrialCost {
    /// Retried or replayed elsewhere at once, and unseen.
    Nothing,
    /// So, too, but after a timeout.
    Time,
    /// The session.
    Session,
}

/// What has failed, which says what it takes to disprove it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failing {
    /// Connects.
    Connect,
    /// What comes after a connect.
    Exchange,
}

impl Observation {
    /// What it says is failing; `None` = nothing.
    pub fn failing(self) -> Option<Failing> {
        match self {
            Self::ConnectFailed(_) => Some(Failing::Connect),
            Self::EndedEarly(_) | Self::EndedUnasked(_) => Some(Failing::Exchange),
            Self::Succeeded => None,
        }
    }

    /// Its words, to be read after "the last one".
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

    /// What a client pays for finding it again, where early ends are replayed elsewhere or are not.
    pub fn price(self, replays: bool) -> TrialCost {
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
    /// Failures in a row of any kind.
    pub fn in_a_row(&self) -> u32 {
        self.connects_in_a_row.saturating_add(self.early_in_a_row)
    }

    /// Failures in all.
    pub fn failed(&self) -> u64 {
        self.failed_connects + self.early_ends
    }

    /// Sessions that did not fail, as far as is known: a protocol in which the backend says nothing has no other sign
    /// than the connect.
    pub fn succeeded(&self) -> u64 {
        self.answered.max(self.connected.saturating_sub(self.early_ends))
    }

    /// Sessions in which what was failing worked.
    pub fn disproofs(&self, failing: Failing) -> u64 {
        match failing {
            Failing::Connect => self.connected.max(self.answered),
            Failing::Exchange => self.answered,
        }
    }
}
