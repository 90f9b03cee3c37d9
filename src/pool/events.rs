//! The stream of events, one for each process.
//! Written by the planes, followed by the admin side.
//! A follower delays nothing: one that is too slow loses the oldest events, and is told how many.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio::sync::broadcast;

use crate::standing::Standing;

/// Events that wait for a slow follower: room for a pool of hundreds that goes down at once.
const FOLLOWER_QUEUE: usize = 1_024;

/// The stream. Clones share it.
#[derive(Clone, Debug)]
pub struct Events(Arc<Hub>);

#[derive(Debug)]
struct Hub {
    followers: broadcast::Sender<Arc<Event>>,
    /// A lock, so that numbers arrive in order. Held for one send, which does not wait.
    number: Mutex<u64>,
}

/// An event with its number and time.
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
        /// Its address.
        address: SocketAddr,
        /// The standing before; `None` = it is new.
        from: Option<Standing>,
        /// The standing now.
        to: Standing,
        /// Why.
        reason: Arc<str>,
    },
    /// An operator gave an order, or an order ended.
    Operator {
        /// The pool.
        pool: Arc<str>,
        /// The backend; `None` = the whole pool.
        backend: Option<Arc<str>>,
        /// The order, its author and its duration, in words.
        says: String,
    },
    /// Nothing is up any more, or something is up again.
    AllDown {
        /// The pool.
        pool: Arc<str>,
        /// True for the first.
        all_down: bool,
        /// The pool where its sessions go then, if it has a fallback.
        fallback: Option<Arc<str>>,
    },
    /// The pool is settled.
    Settled {
        /// The pool.
        pool: Arc<str>,
    },
    /// A limit is reached, or is no longer reached.
    Limit {
        /// Which: `listener`, `process`, `pool` or `descriptors`.
        limit: &'static str,
        /// True for the first.
        reached: bool,
        /// The effect, in words.
        says: String,
    },
    /// An operator closes sessions.
    Closing {
        /// How many, which, and by which operator, in words.
        says: String,
    },
    /// The log's level was changed.
    LogLevel {
        /// The new level.
        level: String,
    },
    /// A new configuration was applied, or refused.
    Reload {
        /// The result, in words.
        says: String,
    },
    /// The balancer is stopping.
    Stopping,
}

impl Default for Events {
    fn default() -> Self {
        Self(Arc::new(Hub { followers: broadcast::Sender::new(FOLLOWER_QUEUE), number: Mutex::new(0) }))
    }
}

impl Events {
    /// Sends an event with the present time.
    pub fn tell(&self, what: impl FnOnce() -> Happened) {
        let mut number = self.0.number.lock().unwrap_or_else(PoisonError::into_inner);
        *number += 1;
        if self.0.followers.receiver_count() == 0 {
            return;
        }
        let event = Event { number: *number, at: SystemTime::now(), what: what() };
        // The last follower may have left by now.
        let _ = self.0.followers.send(Arc::new(event));
    }

    /// Receives every event from now on.
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
