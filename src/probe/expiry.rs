//! Warns of certificates that expire soon: once a day for each backend, and at a bounded rate in all.
//! Called by the probe's task with every result. It does not change the result.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::locked;
use crate::health::ProbeResult;
use crate::pace::Pace;

/// Between two lines about the same backend.
const WARNING_INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// Between two lines of any backends: many backends may share one certificate.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct Expiring {
    /// A lock: it is taken only for a certificate that expires soon.
    pace: Mutex<Pace>,
}

impl Default for Expiring {
    fn default() -> Self {
        Self { pace: Mutex::new(Pace::new(LOG_INTERVAL)) }
    }
}

impl Expiring {
    /// Logs a warning if one is due. `warned` is the time of the last warning about this backend.
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
        if warned.is_some_and(|at| now.duration_since(at) < WARNING_INTERVAL) || locked(&self.pace).allow(now).is_none()
        {
            return false;
        }
        *warned = Some(now);
        true
    }
}
