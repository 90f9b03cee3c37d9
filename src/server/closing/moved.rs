//! Sessions that are connected to an address that their backend has left: that address is not in the registry any more, as
//! little as a backend that was removed. When to look for them, and what a look found.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Instant;

use super::LOOK;
use crate::config::ClosePolicy;
use crate::pool::{Backend, Pool};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct MovedSearch {
    /// How often backends had moved, and whether the pool closes sessions for it.
    seen: (u64, Option<ClosePolicy>),
    until: Option<Instant>,
}

/// One of each address that was left, with those who left it.
pub(super) type MovedSessions = HashMap<(usize, SocketAddr), Weak<Backend>>;

impl MovedSearch {
    /// Begins if a backend has moved, or the policy is another one. Returns whether it did.
    pub(super) fn compare(&mut self, now: Instant, pool: &Pool) -> bool {
        let settings = pool.settings();
        let seen = (pool.moves(), Some(settings.closing.on_removed));
        if self.seen == seen {
            return false;
        }
        self.seen = seen;
        let may_find = seen.0 > 0 && settings.closing.on_removed != ClosePolicy::Keep;
        // Who had begun to dial the old address connects later.
        self.until = may_find.then(|| now + settings.connect.timeout + LOOK);
        may_find
    }

    /// Whether it goes on.
    pub(super) fn is_on(&self) -> bool {
        self.until.is_some()
    }

    /// A look has begun and is over.
    pub(super) fn looked(&mut self, began: Instant) {
        self.until = self.until.filter(|&until| began < until);
    }

    /// Notes a session if it is one.
    pub(super) fn note(&self, backend: Option<(&Arc<Backend>, SocketAddr)>, moved: &mut MovedSessions) {
        if let Some((backend, address)) =
            backend.filter(|(backend, address)| self.is_on() && backend.has_left(*address))
        {
            moved.entry((Arc::as_ptr(backend).addr(), address)).or_insert_with(|| Arc::downgrade(backend));
        }
    }
}
