//! What operators want of a pool: the admin side sends it, the keeper obeys and shows what holds.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use crate::operator::{Override, Overrides, Wanted};

/// Overrides that may wait for the keeper; further senders wait.
const QUEUE: usize = 64;

/// What holds, and the way to the keeper.
#[derive(Debug, Default)]
pub struct PoolOverrides {
    current: ArcSwap<Overrides>,
    /// To the present keeper. A lock, because a keeper may follow another one; held for a clone.
    keeper: Mutex<Option<mpsc::Sender<PendingOverride>>>,
}

/// An override on its way to the keeper.
#[derive(Debug)]
pub struct PendingOverride {
    /// What is wanted.
    pub wanted: Override<Wanted>,
    /// Answers when it holds, with the number of backends that it is about.
    pub done: oneshot::Sender<Result<usize, OverrideError>>,
}

/// Why an override has no effect.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum OverrideError {
    /// The pool has no such backend.
    #[error("there is no such backend")]
    NoSuchBackend,
    /// The pool has no keeper any more.
    #[error("the pool is going away")]
    NoKeeper,
}

impl PoolOverrides {
    /// What holds.
    pub fn current(&self) -> Arc<Overrides> {
        self.current.load_full()
    }

    /// Shows what holds: before a keeper starts, what was saved; later the keeper's.
    pub fn show(&self, overrides: Overrides) {
        self.current.store(Arc::new(overrides));
    }

    /// Gives an override to the keeper. When it returns, picks follow it. Returns how many backends it was about.
    ///
    /// # Errors
    /// Nothing has changed.
    ///
    /// # Cancel safety
    /// If the future is dropped, the override may hold or not.
    pub async fn give(&self, wanted: Override<Wanted>) -> Result<usize, OverrideError> {
        let keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (done, answer) = oneshot::channel();
        let keeper = keeper.ok_or(OverrideError::NoKeeper)?;
        keeper.send(PendingOverride { wanted, done }).await.map_err(|_| OverrideError::NoKeeper)?;
        answer.await.unwrap_or(Err(OverrideError::NoKeeper))
    }

    /// For a new keeper: it receives all that follow.
    pub fn listen(&self) -> mpsc::Receiver<PendingOverride> {
        let (send, given) = mpsc::channel(QUEUE);
        *self.keeper.lock().unwrap_or_else(PoisonError::into_inner) = Some(send);
        given
    }
}
