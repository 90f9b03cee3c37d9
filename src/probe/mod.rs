//! Active health checks: a task set keyed by (address, check).
