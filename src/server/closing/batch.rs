//! Sessions that are closed for one reason, from when it came up until none is left or it is called off; and what the log
//! says of it: a line at the begin, a line at the end.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Instant;

use tracing::info;

use crate::metrics::CloseCause;
use crate::pool::{Backend, Pool};
use crate::proxy::{SessionKey, SessionRef};

/// A backend in memory, and an address that it has or had.
pub(super) type Place = (usize, SocketAddr);

#[derive(Debug)]
pub(super) enum BatchTarget {
    /// Those of this backend that are connected to this address. Weak: the pool may forget it once it has no sessions.
    At(Weak<Backend>, SocketAddr),
    These(HashSet<SessionKey>),
    All,
}

#[derive(Debug)]
pub(super) struct CloseBatch {
    pub(super) name: u64,
    pub(super) whom: BatchTarget,
    pub(super) cause: CloseCause,
    pub(super) from: Instant,
    pub(super) until: Instant,
    /// At the last look, less those that were told to end since.
    waiting: usize,
    looked_at: bool,
    closed: u64,
    said: bool,
}

impl BatchTarget {
    /// The backend's place in memory, which tells it from all others as long as this is held, and the address.
    pub(super) fn place(&self) -> Option<Place> {
        match self {
            Self::At(backend, address) => Some((backend.as_ptr().addr(), *address)),
            Self::These(_) | Self::All => None,
        }
    }
}

impl CloseBatch {
    pub(super) fn new(whom: BatchTarget, cause: CloseCause, from: Instant, until: Instant) -> Self {
        Self { name: 0, whom, cause, from, until, waiting: 0, looked_at: false, closed: 0, said: false }
    }

    pub(super) fn concerns(&self, session: &SessionRef<'_>) -> bool {
        match &self.whom {
            BatchTarget::At(..) => {
                session.backend.map(|(backend, address)| (Arc::as_ptr(backend).addr(), address)) == self.whom.place()
            }
            BatchTarget::These(sessions) => sessions.contains(&session.key),
            BatchTarget::All => true,
        }
    }

    /// Whether only a look at all sessions finds those of it that the last look did not find.
    pub(super) fn may_have_more(&self, pool: &Pool) -> bool {
        match &self.whom {
            BatchTarget::At(backend, _) => {
                backend.upgrade().is_some_and(|backend| pool.sessions_of(&backend) as usize > self.waiting)
            }
            BatchTarget::These(_) => false,
            BatchTarget::All => true,
        }
    }

    /// Notes how many a look found.
    pub(super) fn looked_at(&mut self, now: Instant, waiting: usize, pool: &Pool) {
        self.waiting = waiting;
        self.looked_at = true;
        if waiting > 0 && !self.said && !matches!(self.whom, BatchTarget::All) {
            self.say_begin(now, pool);
        }
        if waiting == 0 && self.said {
            self.say_end(pool);
        }
    }

    /// One was told to end.
    pub(super) fn closed(&mut self, pool: &Pool) {
        if !self.said {
            // A stop: up to now sessions had their time.
            self.say_begin(self.from, pool);
        }
        self.closed += 1;
        self.waiting = self.waiting.saturating_sub(1);
    }

    pub(super) fn call_off(&mut self, pool: &Pool) {
        if self.said && self.waiting == 0 {
            self.say_end(pool);
        } else if self.said {
            let (backend, address) = (self.backend(), self.left());
            info!(
                pool = %pool.name, backend, address, cause = self.cause.name(), closed = self.closed, kept = self.waiting,
                "closing is called off"
            );
        }
    }

    /// Whether nothing is left to be done, now or later.
    pub(super) fn is_over(&self) -> bool {
        match &self.whom {
            // New ones may come to where it is.
            BatchTarget::At(backend, address) => {
                backend.upgrade().is_none_or(|backend| self.looked_at && self.waiting == 0 && !backend.is_at(*address))
            }
            BatchTarget::These(_) => self.looked_at && self.waiting == 0,
            // Some may still come: the backlog is served.
            BatchTarget::All => false,
        }
    }

    fn say_begin(&mut self, now: Instant, pool: &Pool) {
        (self.said, self.closed) = (true, 0);
        let (backend, address) = (self.backend(), self.left());
        let (cause, rate) = (self.cause.name(), pool.settings().closing.rate);
        let wait = self.from.saturating_duration_since(now);
        let after = (!wait.is_zero()).then(|| tracing::field::debug(wait));
        info!(pool = %pool.name, backend, address, cause, sessions = self.waiting, after, rate, "closing sessions");
    }

    fn say_end(&mut self, pool: &Pool) {
        self.said = false;
        let (backend, address, cause) = (self.backend(), self.left(), self.cause.name());
        info!(pool = %pool.name, backend, address, cause, closed = self.closed, "closing is over");
    }

    fn backend(&self) -> Option<String> {
        match &self.whom {
            BatchTarget::At(backend, _) => backend.upgrade().map(|backend| backend.id.to_string()),
            BatchTarget::These(_) | BatchTarget::All => None,
        }
    }

    /// Where that is not where the backend is now.
    fn left(&self) -> Option<String> {
        match &self.whom {
            BatchTarget::At(backend, address) => {
                backend.upgrade().filter(|backend| !backend.is_at(*address)).map(|_| address.to_string())
            }
            BatchTarget::These(_) | BatchTarget::All => None,
        }
    }
}
