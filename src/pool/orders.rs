//! What operators want of a pool: the admin side gives commands here, the keeper takes them and shows what holds.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use crate::operator::{Command, Overrides};

/// Commands that may wait for the keeper; who gives more waits, too.
const WAITING: usize = 64;

/// See the module.
#[derive(Debug, Default)]
pub struct OrderDesk {
    overrides: ArcSwap<Overrides>,
    /// To the keeper that listens now. A lock, because a keeper may follow another; it is held for a clone.
    keeper: Mutex<Option<mpsc::Sender<Given>>>,
}

/// A command on its way to the keeper.
#[derive(Debug)]
pub struct Given {
    /// What is wanted.
    pub command: Command,
    /// Told when it holds, and of how many backends.
    pub done: oneshot::Sender<Result<usize, OrderError>>,
}

/// Why a command was not obeyed.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum OrderError {
    /// There is no such backend, or not any more.
    #[error("there is no such backend")]
    NoSuchBackend,
    /// Nobody keeps the pool any more.
    #[error("the pool is going away")]
    NoKeeper,
}

impl OrderDesk {
    /// What holds.
    pub fn overrides(&self) -> Arc<Overrides> {
        self.overrides.load_full()
    }

    /// Before a keeper starts: what held. From the keeper: what holds now.
    pub fn show(&self, overrides: Overrides) {
        self.overrides.store(Arc::new(overrides));
    }

    /// Gives a command. When it returns, picks follow it; it says how many backends it was about.
    ///
    /// # Errors
    /// Nothing has changed.
    ///
    /// # Cancel safety
    /// May be dropped; the command may hold or not.
    pub async fn give(&self, command: Command) -> Result<usize, OrderError> {
        let keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (done, answer) = oneshot::channel();
        let keeper = keeper.ok_or(OrderError::NoKeeper)?;
        keeper.send(Given { command, done }).await.map_err(|_| OrderError::NoKeeper)?;
        answer.await.unwrap_or(Err(OrderError::NoKeeper))
    }

    /// For a new keeper: from now on commands come here.
    pub fn listen(&self) -> mpsc::Receiver<Given> {
        let (send, commands) = mpsc::channel(WAITING);
        *self.keeper.lock().unwrap_or_else(PoisonError::into_inner) = Some(send);
        commands
    }
}
