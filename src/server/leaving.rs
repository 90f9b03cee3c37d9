//! Listeners and pools that the configuration has no more. They stay until their last session has ended, or until it is
//! closed because `reload.drain_timeout` is over.
//! Called by `apply`.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::apply::Running;
use super::{ServerState, Set};
use crate::metrics::CloseCause;
use crate::pool::Pool;
use crate::proxy::Listener;

/// Between two checks of those that are leaving. Usually there are none.
const CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// Between two orders to close the remaining sessions: the first one may still be carried out, at its pace.
const CLOSE_INTERVAL: Duration = Duration::from_secs(1);

/// Listeners and pools that are leaving, by name, and since when.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    listeners: BTreeMap<Arc<str>, Instant>,
    pools: BTreeMap<Arc<str>, Instant>,
    /// When to look again for sessions whose time is over; `None` = now.
    close_at: Option<Instant>,
    /// Whether the task runs that checks them.
    is_watched: bool,
}

impl ServerState {
    /// Notes what is leaving and what came back, and starts the task that checks the former.
    pub(super) fn note_leaving(self: &Arc<Self>, running: &mut Running) {
        let (now, set) = (Instant::now(), self.set());
        let before = std::mem::take(&mut running.leaving);
        for listener in set.listeners.iter().filter(|listener| !set.listener_stays(listener)) {
            let since = before.listeners.get(&listener.name).copied().unwrap_or_else(|| {
                info!(listener = %listener.name, sessions = listener.sessions(), "removed: accepts no more");
                now
            });
            running.leaving.listeners.insert(Arc::clone(&listener.name), since);
        }
        for pool in set.pools.iter().filter(|pool| !set.stays(pool)) {
            let since = before.pools.get(&pool.name).copied().unwrap_or_else(|| {
                info!(pool = %pool.name, sessions = pool.sessions(), "removed: gets no new sessions");
                now
            });
            running.leaving.pools.insert(Arc::clone(&pool.name), since);
        }
        running.leaving.is_watched = before.is_watched;
        let any_left = !running.leaving.listeners.is_empty() || !running.leaving.pools.is_empty();
        if any_left && !running.leaving.is_watched {
            running.leaving.is_watched = true;
            tokio::spawn(watch(Arc::downgrade(self)));
        }
    }

    /// Removes those without sessions, and closes the sessions of those whose time is over. Returns whether any is left.
    fn check_leaving(&self, now: Instant) -> bool {
        let mut running = self.running();
        let set = self.set();
        if let Some(timeout) = set.config.reload.drain_timeout
            && running.leaving.close_at.is_none_or(|at| at <= now)
        {
            running.leaving.close_at = Some(now + CLOSE_INTERVAL);
            let over = |since: &BTreeMap<Arc<str>, Instant>, name: &Arc<str>| {
                since.get(name).is_some_and(|&since| now >= since + timeout)
            };
            let (listeners, pools) = (&running.leaving.listeners, &running.leaving.pools);
            if listeners.keys().any(|name| over(listeners, name)) || pools.keys().any(|name| over(pools, name)) {
                let closed = self.close(CloseCause::Shutdown, |session| {
                    over(listeners, &session.listener.name) || session.pool.is_some_and(|pool| over(pools, &pool.name))
                });
                if closed > 0 {
                    warn!(sessions = closed, "reload.drain_timeout is over: sessions of what is removed are closed");
                }
            }
        }
        let has_left = |listener: &Listener, running: &Running| {
            let bound = running.bound.get(&*listener.name);
            let accepts = bound.is_some_and(|all| all.iter().any(|bound| bound.socket.strong_count() > 0));
            !accepts && listener.sessions() == 0
        };
        let (mut listeners, mut pools) = (set.listeners.clone(), set.pools.clone());
        listeners.retain(|listener| {
            let gone = !set.listener_stays(listener) && has_left(listener, &running);
            if gone {
                running.leaving.listeners.remove(&listener.name);
                running.bound.remove(&*listener.name);
                info!(listener = %listener.name, "removed: its last session has ended");
            }
            !gone
        });
        let used = |pool: &Arc<Pool>| listeners.iter().any(|listener| listener.settings().leads_to(pool));
        pools.retain(|pool| {
            let gone = !set.stays(pool) && pool.sessions() == 0 && !used(pool);
            if gone {
                running.leaving.pools.remove(&pool.name);
                running.controls.remove(&*pool.name);
                info!(pool = %pool.name, "removed: its last session has ended");
            }
            !gone
        });
        if (listeners.len(), pools.len()) != (set.listeners.len(), set.pools.len()) {
            let mut closers = set.closers.clone();
            closers.retain(|closer| pools.iter().any(|pool| Arc::ptr_eq(pool, &closer.pool)));
            self.set.store(Arc::new(Set { config: Arc::clone(&set.config), pools, listeners, closers }));
        }
        running.leaving.is_watched = !running.leaving.listeners.is_empty() || !running.leaving.pools.is_empty();
        running.leaving.is_watched
    }
}

async fn watch(state: Weak<ServerState>) {
    while state.upgrade().is_some_and(|state| state.check_leaving(Instant::now())) {
        tokio::time::sleep(CHECK_INTERVAL).await;
    }
}
