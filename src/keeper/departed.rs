//! Identities that left are remembered for a while, so that a restarted instance finds its counters. There is a limit to
//! how many: a registry that names new ids all the time must not fill the memory.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::members::Members;

/// How long an identity is remembered after it left.
const REMEMBERED: Duration = Duration::from_secs(600);

/// How many are remembered, or as many as are in the pool where that is more.
pub(super) const MOST_REMEMBERED: usize = 1_000;

/// How long an identity with sessions is left alone before it is looked at again.
const LOOKED_AT_AGAIN: Duration = Duration::from_secs(10);

/// Members that have left, in the order in which they are forgotten.
#[derive(Default)]
pub(super) struct Departed(BTreeSet<(Instant, Arc<str>)>);

impl Departed {
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.first().map(|(at, _)| *at)
    }
}

impl Members {
    /// It has left.
    pub(super) fn remember(&mut self, now: Instant, id: &Arc<str>) {
        self.forget_at(now + REMEMBERED, id);
    }

    /// It is back.
    pub(super) fn stays(&mut self, id: &Arc<str>) {
        let Some(member) = self.members.get_mut(id) else { return };
        if let Some(at) = member.forget_at.take() {
            self.departed.0.remove(&(at, Arc::clone(id)));
        }
    }

    /// Forgets those whose time is over, and the first of those that are too many. Returns whether there was any.
    pub(super) fn forget_departed(&mut self, now: Instant) -> bool {
        let present = self.members.len().saturating_sub(self.departed.0.len());
        let excess = self.departed.0.len().saturating_sub(present.max(MOST_REMEMBERED));
        if excess == 0 && self.departed.next().is_none_or(|at| at > now) {
            return false;
        }
        let (mut forgotten, mut early) = (0, 0);
        for (at, id) in self.departed.0.clone() {
            if at > now && forgotten >= excess {
                break;
            }
            let Some(member) = self.members.get(&id) else { continue };
            if !self.pool.forget(&member.backend) {
                // It has sessions.
                self.forget_at(now + LOOKED_AT_AGAIN, &id);
                continue;
            }
            self.stays(&id);
            self.members.remove(&id);
            forgotten += 1;
            early += u64::from(at > now);
        }
        self.pool.forgotten_early.fetch_add(early, Relaxed);
        forgotten > 0
    }

    fn forget_at(&mut self, at: Instant, id: &Arc<str>) {
        self.stays(id);
        let Some(member) = self.members.get_mut(id) else { return };
        member.forget_at = Some(at);
        self.departed.0.insert((at, Arc::clone(id)));
    }
}
