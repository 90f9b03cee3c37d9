//! Sessions that are connected to an address where their backend is not any more: it has moved, or another address of its
//! name is in use. When to look for them, and what a look found.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Instant;

use super::LOOK;
use super::batch::Place;
use crate::config::ClosePolicy;
use crate::pool::{Backend, Pool};

#[derive(Debug, Default)]
pub(super) struct MovedSearch {
    /// What was found out before, if nothing of it has changed.
    seen: Option<SearchGround>,
    until: Option<Instant>,
}

#[derive(Debug, PartialEq, Eq)]
struct SearchGround {
    moves: u64,
    is_open: bool,
    policies: [ClosePolicy; 3],
}

/// One of each such address, with its backend.
pub(super) type MovedSessions = HashMap<Place, Weak<Backend>>;

impl MovedSearch {
    /// Begins if what becomes of them may be another thing than before. Returns whether it did.
    pub(super) fn compare(&mut self, now: Instant, pool: &Pool) -> bool {
        let settings = pool.settings();
        let closing = &settings.closing;
        let policies = [closing.on_down, closing.on_removed, closing.on_maintenance];
        let seen = SearchGround { moves: pool.moves(), is_open: pool.is_open(), policies };
        if self.seen.as_ref() == Some(&seen) {
            return false;
        }
        let may_find = seen.moves > 0 && policies.iter().any(|policy| *policy != ClosePolicy::Keep);
        self.seen = Some(seen);
        // A session that had begun to dial the old address connects later.
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
        if let Some((backend, address)) = backend.filter(|(backend, address)| self.is_on() && !backend.is_at(*address))
        {
            moved.entry((Arc::as_ptr(backend).addr(), address)).or_insert_with(|| Arc::downgrade(backend));
        }
    }
}
