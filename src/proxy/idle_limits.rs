//! The time limits of a worker's relays, by pool.
//! Used by that worker alone.
//! All relays of a pool read one cell, so that a change reaches the running ones.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Weak};

use super::relay::Limits;
use crate::pool::Pool;

/// The cells, by the pool's address in memory.
#[derive(Debug, Default)]
pub(super) struct IdleLimits(RefCell<HashMap<*const Pool, PoolLimits>>);

#[derive(Debug)]
struct PoolLimits {
    /// Keeps the address, so that no other pool can get it.
    pool: Weak<Pool>,
    limits: Rc<Cell<Limits>>,
}

impl IdleLimits {
    /// The limits of the pool's relays; the cell changes with the pool's settings.
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

    /// Updates the limits from the pool's settings. Returns whether the pool has had relays here.
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
