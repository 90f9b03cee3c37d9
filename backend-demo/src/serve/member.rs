//! What all connections of a member share: who it is, where requests are stored, how it misbehaves.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use tokio::sync::Notify;

use super::store::{Request, Store};

/// How a member fails, for experiments. The default does not.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Misbehaviour {
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
pub(super) struct Member {
    hello: String,
    store: Option<Store>,
    misbehaviour: Misbehaviour,
    /// Relaxed everywhere: a count and a flag on which nothing else depends.
    served: AtomicU64,
    leaving: AtomicBool,
    /// Told when `refuse_after` is reached.
    full: Notify,
}

impl Member {
    pub(super) fn new(id: &str, store: Option<Store>, misbehaviour: Misbehaviour) -> Self {
        Self {
            hello: format!("Hello, world! I am {id}\n"),
            store,
            misbehaviour,
            served: AtomicU64::new(0),
            leaving: AtomicBool::new(false),
            full: Notify::new(),
        }
    }

    pub(super) fn hello(&self) -> &str {
        &self.hello
    }

    pub(super) fn delay(&self) -> Duration {
        self.misbehaviour.delay
    }

    pub(super) fn fails_now(&self) -> bool {
        self.misbehaviour.fail_rate > 0.0 && fastrand::f64() < self.misbehaviour.fail_rate
    }

    /// Stores and counts. False: it could not be stored and must not be answered.
    pub(super) async fn record(&self, request: Request) -> bool {
        if let Some(store) = &self.store
            && !store.record(request).await
        {
            return false;
        }
        let served = self.served.fetch_add(1, Ordering::Relaxed) + 1;
        if self.misbehaviour.refuse_after.is_some_and(|limit| served >= limit) {
            self.full.notify_one();
        }
        true
    }

    pub(super) fn is_healthy(&self) -> bool {
        let served = self.served.load(Ordering::Relaxed);
        !self.leaving.load(Ordering::Relaxed) && self.misbehaviour.unhealthy_after.is_none_or(|limit| served < limit)
    }

    /// From now on unhealthy.
    pub(super) fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Resolves when the member is to stop listening by `refuse_after`. Cancel safe.
    pub(super) async fn refuses(&self) {
        if self.misbehaviour.refuse_after == Some(0) {
            return;
        }
        self.full.notified().await;
    }
}
