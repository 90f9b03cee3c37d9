//! Orders of operators for a pool: the admin side sends commands, the keeper obeys them and shows what holds.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use crate::operator::{Command, Overrides};

/// Commands that may wait for the keeper; further senders wait.
const COMMAND_QUEUE: usize = 64;

/// The orders that hold, and the way to the keeper.
#[derive(Debug, Default)]
pub struct OperatorOrders {
    overrides: ArcSwap<Overrides>,
    /// To the present keeper. A lock, because a keeper may follow another one; held for a clone.
    keeper: Mutex<Option<mpsc::Sender<PendingCommand>>>,
}

/// A command on its way to the keeper.
#[derive(Debug)]
pub struct PendingCommand {
    /// The command.
    pub command: Command,
    /// Answers when it holds, with the number of backends that it is about.
    pub done: oneshot::Sender<Result<usize, OrderError>>,
}

/// Why a command has no effect.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum OrderError {
    /// The pool has no such backend.
    #[error("there is no such backend")]
    NoSuchBackend,
    /// The pool has no keeper any more.
    #[error("the pool is going away")]
    NoKeeper,
}

impl OperatorOrders {
    /// The orders that hold.
    pub fn overrides(&self) -> Arc<Overrides> {
        self.overrides.load_full()
    }

    /// Shows the orders that hold: before a keeper starts, the saved ones; later the keeper's.
    pub fn show(&self, overrides: Overrides) {
        self.overrides.store(Arc::new(overrides));
    }

    /// Gives a command to the keeper. When it returns, picks follow it. Returns how many backends it was about.
    ///
    /// # Errors
    /// Nothing has changed.
    ///
    /// # Cancel safety
    /// If the future is dropped, the command may hold or not.
    pub async fn give(&self, command: Command) -> Result<usize, OrderError> {
        let keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (done, answer) = oneshot::channel();
        let keeper = keeper.ok_or(OrderError::NoKeeper)?;
        keeper.send(PendingCommand { command, done }).await.map_err(|_| OrderError::NoKeeper)?;
        answer.await.unwrap_or(Err(OrderError::NoKeeper))
    }

    /// For a new keeper: it receives all further commands.
    pub fn listen(&self) -> mpsc::Receiver<PendingCommand> {
        let (send, commands) = mpsc::channel(COMMAND_QUEUE);
        *self.keeper.lock().unwrap_or_else(PoisonError::into_inner) = Some(send);
        commands
    }
}
