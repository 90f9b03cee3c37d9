//! Waits for orphaned children. As PID 1 of a container this process becomes the parent of processes that checks of kind
//! `exec` leave behind; without it they would stay as zombies.
//! Started by the program if it is PID 1; `exec` registers its own children here.
//! It looks before it takes (waitid(2), `WNOWAIT`), and leaves to tokio the children that tokio waits for.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, WaitOptions, waitpid};
use tokio::process::Child;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use super::kernel;

/// While one of our own children is the first that has ended, the ones behind it can't be seen. Tokio takes it within
/// moments.
const RETRY_DELAY: Duration = Duration::from_millis(20);

/// Children that `exec` waits for. A lock, because a new child must be in it before the reaper looks; held during a fork.
static OURS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// Starts a child whose status the reaper leaves alone until [`over`].
pub(super) fn started(start: impl FnOnce() -> io::Result<Child>) -> io::Result<Child> {
    let mut ours = ours();
    let child = start()?;
    ours.extend(number(&child));
    Ok(child)
}

/// The child was waited for: its id may belong to another process now.
pub(super) fn over(id: Option<i32>) {
    if let Some(id) = id {
        ours().remove(&id);
    }
}

/// Its process id, until it was waited for.
pub(super) fn number(child: &Child) -> Option<i32> {
    child.id().and_then(|id| i32::try_from(id).ok())
}

/// Waits for every other child, for ever. Only for a process that is PID 1 and starts no children except by checks: the
/// status of any other child would be lost.
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
            let _ = timeout(RETRY_DELAY, ended.recv()).await;
        } else {
            ended.recv().await;
        }
    }
}

/// Takes all that can be seen. Returns whether one of our own children hides what may be behind it.
fn reap() -> bool {
    loop {
        // Held until the child is taken, so that its id can't become a new child's in between.
        let ours = ours();
        match kernel::ended_child() {
            Ok(id) if ours.contains(&id) => return true,
            Ok(id) => {
                let Some(id) = Pid::from_raw(id) else { return false };
                let _ = waitpid(Some(id), WaitOptions::NOHANG);
            }
            // There are no children.
            Err(_) => return false,
        }
    }
}

fn ours() -> MutexGuard<'static, BTreeSet<i32>> {
    OURS.lock().unwrap_or_else(PoisonError::into_inner)
}
