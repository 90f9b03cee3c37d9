//! Counts the attempts that this machine could not make, and logs them at a bounded rate.
//! Called by probe tasks; read by the stats.
//! No backend is judged by them.

use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::locked;
use crate::pace::Pace;

/// Between two log lines: there may be thousands of these errors a second.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

pub(super) struct LocalErrors {
    /// A lock: errors are rare.
    inner: Mutex<LocalErrorCount>,
}

struct LocalErrorCount {
    total: u64,
    log: Pace,
}

impl Default for LocalErrors {
    fn default() -> Self {
        Self { inner: Mutex::new(LocalErrorCount { total: 0, log: Pace::new(LOG_INTERVAL) }) }
    }
}

impl LocalErrors {
    /// Attempts since the start that could not be made.
    pub(super) fn total(&self) -> u64 {
        locked(&self.inner).total
    }

    /// Counts an error, and logs it if a line is due.
    pub(super) fn record(&self, error: &io::Error, address: SocketAddr, now: Instant) {
        let Some(silent) = self.admit(now) else { return };
        tracing::warn!(%address, silent, "a probe could not be sent, trying again: {error}");
    }

    /// How many errors were not logged since the last line, if the next line is due.
    fn admit(&self, now: Instant) -> Option<u64> {
        let mut inner = locked(&self.inner);
        inner.total += 1;
        inner.log.allow(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_per_interval_says_how_many_it_stands_for() {
        let errors = LocalErrors::default();
        let start = Instant::now();
        assert_eq!(errors.admit(start), Some(0));
        for _ in 0..500 {
            assert_eq!(errors.admit(start + LOG_INTERVAL / 2), None);
        }
        assert_eq!(errors.admit(start + LOG_INTERVAL), Some(500));
        assert_eq!(errors.admit(start + LOG_INTERVAL), None);
        assert_eq!(errors.admit(start + 3 * LOG_INTERVAL), Some(1));
        assert_eq!(errors.total(), 504);
    }
}
