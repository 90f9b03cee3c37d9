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

#[derive(Debug)]
pub(super) enum BatchTarget {
    /// Those that hold this backend. Weak: the pool may forget it once it has no sessions.
    Of(Weak<Backend>),
    /// Those that are connected to this address, which the backend has left.
    Left(Weak<Backend>, SocketAddr),
    These(HashSet<SessionKey>),
    All,
}

#[derive(Debug)]
pub(super) struct CloseBatch {
    pub(super) name: u64,
    pub(super) whom: BatchTarget,
    pub(super) cause: CloseCause,
    /// Where the backend was when it went down: that is what is down.
    address: Option<SocketAddr>,
    pub(super) from: Instant,
    pub(super) until: Instant,
    /// At the last look.
    waiting: usize,
    looked_at: bool,
    closed: u64,
    said: bool,
}

impl BatchTarget {
    /// Of the backend in memory, which tells it from all others as long as this is held.
    pub(super) fn address(&self) -> Option<usize> {
        match self {
            Self::Of(backend) => Some(backend.as_ptr().addr()),
            Self::Left(..) | Self::These(_) | Self::All => None,
        }
    }
}

impl CloseBatch {
    pub(super) fn new(whom: BatchTarget, cause: CloseCause, from: Instant, until: Instant) -> Self {
        let address = match &whom {
            BatchTarget::Of(backend) if cause == CloseCause::BackendDown => backend.upgrade().map(|b| b.view().address),
            _ => None,
        };
        Self { name: 0, whom, cause, address, from, until, waiting: 0, looked_at: false, closed: 0, said: false }
    }

    pub(super) fn concerns(&self, session: &SessionRef<'_>) -> bool {
        match &self.whom {
            BatchTarget::Of(_) => {
                session.backend.is_some_and(|(_, address)| self.address.is_none_or(|down| down == address))
            }
            BatchTarget::Left(backend, left) => {
                session.backend.is_some_and(|(its, address)| address == *left && Arc::as_ptr(its) == backend.as_ptr())
            }
            BatchTarget::These(sessions) => sessions.contains(&session.key),
            BatchTarget::All => true,
        }
    }

    /// Whether a look at the sessions may find some of it.
    pub(super) fn may_have_some(&self, pool: &Pool) -> bool {
        match &self.whom {
            BatchTarget::Of(backend) | BatchTarget::Left(backend, _) => {
                backend.upgrade().is_some_and(|backend| pool.sessions_of(&backend) > 0)
            }
            BatchTarget::These(_) | BatchTarget::All => true,
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
    }

    pub(super) fn call_off(&self, pool: &Pool) {
        if self.said {
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
            BatchTarget::Of(backend) => backend.strong_count() == 0,
            BatchTarget::Left(..) | BatchTarget::These(_) => self.looked_at && self.waiting == 0,
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
            BatchTarget::Of(backend) | BatchTarget::Left(backend, _) => {
                backend.upgrade().map(|backend| backend.id.to_string())
            }
            BatchTarget::These(_) | BatchTarget::All => None,
        }
    }

    fn left(&self) -> Option<String> {
        match &self.whom {
            BatchTarget::Left(_, address) => Some(address.to_string()),
            BatchTarget::Of(_) | BatchTarget::These(_) | BatchTarget::All => None,
        }
    }
}
