//! Ending sessions from outside: each live session of a worker is on that worker's list, and can be told to end.

use std::future::{Future, poll_fn};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

use slab::Slab;

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
    wish: Mutex<Wish>,
}

/// A wish and who waits for one. Instead of a `Notify`, whose waiter would take 60 bytes of every idle session.
#[derive(Debug, Default)]
struct Wish {
    cut: Option<Cut>,
    waiting: Option<Waker>,
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
        let mut wish = self.wish.lock().unwrap_or_else(PoisonError::into_inner);
        wish.cut = Some(cut);
        if let Some(waiting) = wish.waiting.take() {
            waiting.wake();
        }
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
    pub(super) fn cut(&self) -> impl Future<Output = Cut> {
        poll_fn(|cx| {
            let mut wish = self.live.wish.lock().unwrap_or_else(PoisonError::into_inner);
            match wish.cut {
                Some(cut) => Poll::Ready(cut),
                None => {
                    if !wish.waiting.as_ref().is_some_and(|waiting| waiting.will_wake(cx.waker())) {
                        wish.waiting = Some(cx.waker().clone());
                    }
                    Poll::Pending
                }
            }
        })
    }
}

impl Drop for Enlisted<'_> {
    fn drop(&mut self) {
        self.list.0.lock().unwrap_or_else(PoisonError::into_inner).live.remove(self.key);
    }
}
