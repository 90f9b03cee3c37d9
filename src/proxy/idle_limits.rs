//! How long the relays of a worker may be quiet, by pool: one cell that all relays of the pool there read, so that a change
//! reaches those that run. Used by the worker alone.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Weak};

use super::relay::Limits;
use crate::pool::Pool;

/// See the module. By the pool's place in memory.
#[derive(Debug, Default)]
pub(super) struct IdleLimits(RefCell<HashMap<*const Pool, PoolLimits>>);

#[derive(Debug)]
struct PoolLimits {
    /// Keeps the place, so that no other pool can be taken for it.
    pool: Weak<Pool>,
    limits: Rc<Cell<Limits>>,
}

impl IdleLimits {
    /// What the pool's relays go by, now and when it changes.
    pub(super) fn limits(&self, pool: &Arc<Pool>) -> Rc<Cell<Limits>> {
        let mut all = self.0.borrow_mut();
        if let Some(entry) = all.get(&Arc::as_ptr(pool)) {
            return Rc::clone(&entry.limits);
        }
        all.retain(|_, entry| entry.pool.strong_count() > 0);
        let limits = Rc::new(Cell::new(limits_of(pool)));
        all.insert(Arc::as_ptr(pool), PoolLimits { pool: Arc::downgrade(pool), limits: Rc::clone(&limits) });
        limits
    }

    /// They go by what the pool says now. Returns whether there are any.
    pub(super) fn renew(&self, pool: &Arc<Pool>) -> bool {
        let all = self.0.borrow();
        let entry = all.get(&Arc::as_ptr(pool));
        if let Some(entry) = entry {
            entry.limits.set(limits_of(pool));
        }
        entry.is_some()
    }
}

fn limits_of(pool: &Pool) -> Limits {
    let timeouts = pool.settings().timeouts;
    Limits::new(timeouts.idle, timeouts.half_close, timeouts.first_byte)
}
