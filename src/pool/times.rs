//! How long backends take, told to the policy where that goes by it.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::{Backend, Pool};
use crate::balance::Timed;

impl Pool {
    /// A backend took so long for something; picks may go by it.
    pub(super) fn timed(&self, backend: &Backend, what: Timed, took: Duration) {
        if self.wants_times.load(Relaxed) {
            let now = Instant::now();
            self.inner().timed(backend, what, took, now);
        }
    }

    /// To be called when the policy may be another one.
    pub(super) fn ask_for_times(&self) {
        let wants = self.inner().picker.wants_times();
        self.wants_times.store(wants, Relaxed);
    }
}
