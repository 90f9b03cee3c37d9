//! Warns of certificates that will soon be of no use: once a day each, and at a bounded rate for all together.
//! Told of every result by the probe's task; a backend is not judged by it.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::locked;
use crate::health::ProbeResult;
use crate::pace::Pace;

/// Until the next line about the same backend.
const AGAIN: Duration = Duration::from_secs(24 * 3600);
/// Between two lines: a fleet with one certificate must not fill the log with it.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Expiring {
    /// A lock, as this is the rare path.
    pace: Mutex<Pace>,
}

impl Default for Expiring {
    fn default() -> Self {
        Self { pace: Mutex::new(Pace::new(LOG_INTERVAL)) }
    }
}

impl Expiring {
    /// Logs it if it is time to. `warned` is when this backend was last warned of.
    pub(super) fn warn(&self, result: &ProbeResult, address: SocketAddr, warned: &mut Option<Instant>, now: Instant) {
        if let Some(certificate) = result.certificate.filter(|_| self.is_due(result, warned, now)) {
            tracing::warn!(%address, "{certificate}; renew it");
        }
    }

    fn is_due(&self, result: &ProbeResult, warned: &mut Option<Instant>, now: Instant) -> bool {
        if !result.certificate.is_some_and(|certificate| certificate.expires_soon) {
            *warned = None;
            return false;
        }
        if warned.is_some_and(|at| now.duration_since(at) < AGAIN) || locked(&self.pace).allow(now).is_none() {
            return false;
        }
        *warned = Some(now);
        true
    }
}
