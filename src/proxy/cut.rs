//! Ending sessions from outside: each live session of a worker is on that worker's list, and can be told to end.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use slab::Slab;
use tokio::sync::Notify;

use crate::metrics::Outcome;

/// Why a session is ended from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The time that a drain gives is over.
    Drained,
    /// An operator does not want to wait.
    Killed,
}

impl Cut {
    pub(super) fn outcome(self) -> Outcome {
        match self {
            Self::Drained => Outcome::Drained,
            Self::Killed => Outcome::Killed,
        }
    }

    fn from_wish(wish: u8) -> Option<Self> {
        match wish {
            1 => Some(Self::Drained),
            2 => Some(Self::Killed),
            _ => None,
        }
    }

    fn wish(self) -> u8 {
        match self {
            Self::Drained => 1,
            Self::Killed => 2,
        }
    }
}

/// The live sessions of one worker. Locked at the begin and end of a session by its worker, and by who ends sessions.
#[derive(Debug, Default)]
pub(super) struct List(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    live: Slab<Arc<Live>>,
    /// Wanted of every session, also of those that come later.
    all: Option<Cut>,
}

#[derive(Debug, Default)]
struct Live {
    /// 0 = none. `Relaxed`: the notification that follows it orders it.
    wish: AtomicU8,
    told: Notify,
}

impl List {
    pub(super) fn enlist(&self) -> Enlisted<'_> {
        let live = Arc::new(Live::default());
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cut) = inner.all {
            live.tell(cut);
        }
        let key = inner.live.insert(Arc::clone(&live));
        Enlisted { list: self, key, live }
    }

    pub(super) fn cut_all(&self, cut: Cut) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.all = Some(cut);
        for (_, live) in &inner.live {
            live.tell(cut);
        }
    }
}

impl Live {
    fn tell(&self, cut: Cut) {
        self.wish.store(cut.wish(), Relaxed);
        // Keeps a permit if the session is not waiting just now.
        self.told.notify_one();
    }
}

/// A session's place on the list, until it is dropped.
pub(super) struct Enlisted<'a> {
    list: &'a List,
    key: usize,
    live: Arc<Live>,
}

impl Enlisted<'_> {
    /// Resolves when the session is to end.
    ///
    /// # Cancel safety
    /// Safe: a wish stays.
    pub(super) async fn cut(&self) -> Cut {
        loop {
            if let Some(cut) = Cut::from_wish(self.live.wish.load(Relaxed)) {
                return cut;
            }
            self.live.told.notified().await;
        }
    }
}

impl Drop for Enlisted<'_> {
    fn drop(&mut self) {
        self.list.0.lock().unwrap_or_else(PoisonError::into_inner).live.remove(self.key);
    }
}
