//! What happens, for whoever follows: one stream a process. Nobody waits for a follower: one that is too slow loses the
//! oldest events and is told how many.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio::sync::broadcast;

use crate::standing::Standing;

/// Events that wait for a slow follower: a pool of hundreds that goes down at once fits.
const WAITING: usize = 1_024;

/// See the module.
#[derive(Clone, Debug)]
pub struct Events(Arc<Hub>);

#[derive(Debug)]
struct Hub {
    followers: broadcast::Sender<Arc<Event>>,
    /// A lock, so that numbers arrive in order; held for one send, which does not wait.
    number: Mutex<u64>,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub struct Event {
    /// Counts from 1, without gaps.
    pub number: u64,
    /// When.
    pub at: SystemTime,
    /// What.
    pub what: Happened,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Happened {
    /// A backend's standing changed.
    Standing {
        /// Its pool.
        pool: Arc<str>,
        /// Its identity.
        backend: Arc<str>,
        /// Where it is.
        address: SocketAddr,
        /// What it was; `None` = it is new.
        from: Option<Standing>,
        /// What it is.
        to: Standing,
        /// Why.
        reason: Arc<str>,
    },
    /// An operator said something, or what was said has ended.
    Operator {
        /// Of which pool.
        pool: Arc<str>,
        /// Of which backend; `None` = of the whole pool.
        backend: Option<Arc<str>>,
        /// What, by whom, for how long.
        says: String,
    },
    /// Nothing is up any more, or something is again.
    AllDown {
        /// The pool.
        pool: Arc<str>,
        /// Which of the two.
        all_down: bool,
    },
    /// The pool is discovered and probed.
    Settled {
        /// The pool.
        pool: Arc<str>,
    },
    /// A limit is reached, or is not any more.
    Limit {
        /// Which: `listener`, `process`, `pool` or `descriptors`.
        limit: &'static str,
        /// Which of the two.
        reached: bool,
        /// What that means.
        says: String,
    },
    /// An operator closes sessions.
    Closing {
        /// How many, which, by whom.
        says: String,
    },
    /// The log's level was changed.
    LogLevel {
        /// To what.
        level: String,
    },
    /// A new configuration was applied, or refused.
    Reload {
        /// What came of it.
        says: String,
    },
    /// The balancer is stopping.
    Stopping,
}

impl Default for Events {
    fn default() -> Self {
        Self(Arc::new(Hub { followers: broadcast::Sender::new(WAITING), number: Mutex::new(0) }))
    }
}

impl Events {
    /// It happened, now.
    pub fn tell(&self, what: impl FnOnce() -> Happened) {
        let mut number = self.0.number.lock().unwrap_or_else(PoisonError::into_inner);
        *number += 1;
        if self.0.followers.receiver_count() == 0 {
            return;
        }
        let event = Event { number: *number, at: SystemTime::now(), what: what() };
        // The last follower may just have left.
        let _ = self.0.followers.send(Arc::new(event));
    }

    /// Everything from now on.
    pub fn follow(&self) -> broadcast::Receiver<Arc<Event>> {
        self.0.followers.subscribe()
    }
}

impl Happened {
    /// The word for it in the API.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Standing { .. } => "standing",
            Self::Operator { .. } => "operator",
            Self::AllDown { .. } => "all_down",
            Self::Settled { .. } => "settled",
            Self::Limit { .. } => "limit",
            Self::Closing { .. } => "closing",
            Self::LogLevel { .. } => "log_level",
            Self::Reload { .. } => "reload",
            Self::Stopping => "stopping",
        }
    }

    /// The pool that it is about, if it is about one.
    pub fn pool(&self) -> Option<&str> {
        match self {
            Self::Standing { pool, .. }
            | Self::Operator { pool, .. }
            | Self::AllDown { pool, .. }
            | Self::Settled { pool } => Some(pool),
            Self::Limit { .. }
            | Self::Closing { .. }
            | Self::LogLevel { .. }
            | Self::Reload { .. }
            | Self::Stopping => None,
        }
    }
}
