//! What all connections of a member share: its greeting, the store, how it fails.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use tokio::sync::Notify;

use super::store::{Request, Store};

/// How a member fails, for experiments. The default never fails.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct FailureOptions {
    /// Wait before answering (200ms, 1.5s)
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = crate::duration::parse_argument)]
    pub delay: Duration,
    /// Reset this share of the requests instead of answering (0 to 1)
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = parse_share)]
    pub fail_rate: f64,
    /// Stop listening after this many requests
    #[arg(long, value_name = "N")]
    pub refuse_after: Option<u64>,
    /// GET /health says 503 after this many requests (the TTL check in Consul stays passing)
    #[arg(long, value_name = "N")]
    pub unhealthy_after: Option<u64>,
}

fn parse_share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| "wants a number from 0 to 1".to_owned())?;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err("wants a number from 0 to 1".to_owned()) }
}

#[derive(Debug)]
pub(super) struct MemberState {
    hello: String,
    store: Option<Store>,
    failures: FailureOptions,
    /// Relaxed: nothing else depends on the count and the flag.
    served: AtomicU64,
    leaving: AtomicBool,
    /// Notified when `refuse_after` is reached.
    full: Notify,
}

impl MemberState {
    pub(super) fn new(id: &str, store: Option<Store>, failures: FailureOptions) -> Self {
        Self {
            hello: format!("Hello, world! I am {id}\n"),
            store,
            failures,
            served: AtomicU64::new(0),
            leaving: AtomicBool::new(false),
            full: Notify::new(),
        }
    }

    pub(super) fn hello(&self) -> &str {
        &self.hello
    }

    pub(super) fn delay(&self) -> Duration {
        self.failures.delay
    }

    pub(super) fn fails_now(&self) -> bool {
        self.failures.fail_rate > 0.0 && fastrand::f64() < self.failures.fail_rate
    }

    /// Stores and counts a request. If this returns false, it is not stored and must not be answered.
    pub(super) async fn record(&self, request: Request) -> bool {
        if let Some(store) = &self.store
            && !store.record(request).await
        {
            return false;
        }
        let served = self.served.fetch_add(1, Ordering::Relaxed) + 1;
        if self.failures.refuse_after.is_some_and(|limit| served >= limit) {
            self.full.notify_one();
        }
        true
    }

    pub(super) fn is_healthy(&self) -> bool {
        let served = self.served.load(Ordering::Relaxed);
        !self.leaving.load(Ordering::Relaxed) && self.failures.unhealthy_after.is_none_or(|limit| served < limit)
    }

    pub(super) fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Returns when `refuse_after` is reached. Cancel safe.
    pub(super) async fn refuses(&self) {
        if self.failures.refuse_after == Some(0) {
            return;
        }
        self.full.notified().await;
    }
}
