//! Children whose end nobody waits for. As PID 1 (of a container) this process becomes the parent of whatever loses its own:
//! what checks of kind `exec` leave behind would stay as zombies. It looks before it takes (waitid(2), `WNOWAIT`), and
//! leaves to tokio what tokio waits for.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, WaitOptions, waitpid};
use tokio::process::Child;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use super::kernel;

/// While a child of ours is the first to be waited for, those behind it can't be seen. Tokio takes it within moments.
const AGAIN: Duration = Duration::from_millis(20);

/// Children that are waited for where they were started. A lock, because a child that has just been started must be in it
/// before the reaper looks; held for a fork.
static OURS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// Starts a child whose status is left alone until it is [`over`].
pub(super) fn started(start: impl FnOnce() -> io::Result<Child>) -> io::Result<Child> {
    let mut ours = ours();
    let child = start()?;
    ours.extend(number(&child));
    Ok(child)
}

/// It was waited for: its number may be another's.
pub(super) fn over(id: Option<i32>) {
    if let Some(id) = id {
        ours().remove(&id);
    }
}

/// Its number, until it was waited for.
pub(super) fn number(child: &Child) -> Option<i32> {
    child.id().and_then(|id| i32::try_from(id).ok())
}

/// Waits for every child that nobody else waits for, for ever. Only for a process that is PID 1 and starts no children
/// but by checks: the status of any other would be lost.
///
/// # Errors
/// SIGCHLD can't be caught.
///
/// # Panics
/// Outside of a tokio runtime with I/O and time enabled.
pub async fn reap_orphans() -> io::Result<()> {
    let mut ended = signal(SignalKind::child())?;
    loop {
        if reap() {
            let _ = timeout(AGAIN, ended.recv()).await;
        } else {
            ended.recv().await;
        }
    }
}

/// Takes all that can be seen. Returns whether one that is ours hides what may be behind it.
fn reap() -> bool {
    loop {
        // Held until it is taken, so that its number can't become a new child's in between.
        let ours = ours();
        match kernel::ended_child() {
            Ok(id) if ours.contains(&id) => return true,
            Ok(id) => {
                let Some(id) = Pid::from_raw(id) else { return false };
                let _ = waitpid(Some(id), WaitOptions::NOHANG);
            }
            // There is no child at all.
            Err(_) => return false,
        }
    }
}

fn ours() -> MutexGuard<'static, BTreeSet<i32>> {
    OURS.lock().unwrap_or_else(PoisonError::into_inner)
}
