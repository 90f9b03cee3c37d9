//! What is wrong with the file or its watch, for `status`: kept while it lasts.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::{info, warn};

/// A disk that has not answered for so long is told.
const HUNG: Duration = Duration::from_secs(2);

/// A file that is replaced may be away for a moment.
pub(super) const GONE: Duration = Duration::from_secs(1);

/// A lock: touched a few times a second at most, and for as long as it takes to copy.
#[derive(Debug, Default)]
pub(super) struct Troubles(Mutex<TroubleState>);

#[derive(Debug, Default)]
struct TroubleState {
    /// Since when a system call has been under way.
    busy: Option<Instant>,
    /// Since when the file has been written.
    late: Option<Instant>,
    /// Since when it has not been there.
    gone: Option<Instant>,
    /// Why the kernel does not tell of changes.
    blind: Option<String>,
}

impl Troubles {
    pub(super) fn busy(&self, since: Option<Instant>) {
        self.lock().busy = since;
    }

    pub(super) fn late(&self, since: Option<Instant>) {
        let was = std::mem::replace(&mut self.lock().late, since);
        match (was, since) {
            (None, Some(_)) => {
                warn!("the file is still being written: it is not applied; SIGHUP applies what is there")
            }
            (Some(_), None) => info!("the file is not being written any more"),
            _ => {}
        }
    }

    pub(super) fn gone(&self, gone: bool) {
        let mut state = self.lock();
        state.gone = gone.then(|| state.gone.unwrap_or_else(Instant::now));
    }

    pub(super) fn blind(&self, error: Option<io::Error>) {
        let error = error.map(|error| why_blind(&error));
        let was = std::mem::replace(&mut self.lock().blind, error.clone());
        match (was, error) {
            (None, Some(error)) => {
                warn!(%error, "the file can't be watched: it is looked at every 5 s, which is tried again then")
            }
            (Some(_), None) => info!("the file is watched again"),
            _ => {}
        }
    }

    pub(super) fn clear(&self) {
        *self.lock() = TroubleState::default();
    }

    pub(super) fn text(&self, now: Instant) -> Option<String> {
        let state = self.lock();
        let age = |since: Instant| format!("{} s", now.saturating_duration_since(since).as_secs());
        let gone = state.gone.filter(|since| now.saturating_duration_since(*since) >= GONE);
        let hung = state.busy.filter(|since| now.saturating_duration_since(*since) >= HUNG);
        match &*state {
            _ if let Some(since) = hung => Some(format!("its disk has not answered for {}", age(since))),
            TroubleState { late: Some(since), .. } => Some(format!(
                "it has been written for {} and is not closed: it is not applied; SIGHUP applies what is there",
                age(*since)
            )),
            _ if let Some(since) = gone => Some(format!("it has not been there for {}", age(since))),
            TroubleState { blind: Some(error), .. } => {
                Some(format!("it can't be watched ({error}): it is looked at every 5 s, which is tried again then"))
            }
            _ => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, TroubleState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why something can't be watched, and what helps.
pub(super) fn why_blind(error: &io::Error) -> String {
    match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
        Some(rustix::io::Errno::NOSPC) => "no watch is left; raise fs.inotify.max_user_watches".to_owned(),
        Some(rustix::io::Errno::MFILE) => "no inotify instance is left; raise fs.inotify.max_user_instances".to_owned(),
        _ => error.to_string(),
    }
}
