//! Keeps a member registered in a registry, and takes it out at the end.
//!
//! One task does both, so that no registration can come after the end.

mod consul;
mod etcd;

use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub(super) use self::{consul::ConsulMembership, etcd::EtcdMembership};

/// Limit for one answer of the registry. A silent one delays the exit by no more than this.
const PATIENCE: Duration = Duration::from_secs(2);
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(3);
/// So that a very short TTL does not make the loop spin.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);

pub(super) struct Registration {
    id: String,
    /// Its address, for people.
    registry: String,
    ttl: Duration,
    membership: Membership,
}

/// In which registry, and how it is one there.
pub(super) enum Membership {
    Consul(ConsulMembership),
    Etcd(EtcdMembership),
}

impl Registration {
    pub(super) fn new(id: &str, registry: &str, ttl: Duration, membership: Membership) -> Self {
        Self { id: id.to_owned(), registry: registry.to_owned(), ttl, membership }
    }

    /// Runs until `stop`. Returns when the member is out of the registry, or that does not answer.
    pub(super) async fn keep(mut self, stop: CancellationToken) {
        let mut registered = false;
        let mut failures = 0;
        while !stop.is_cancelled() {
            // Not in a `select!` with `stop`: a registration that is sent but not awaited could arrive after the end.
            let pause = match self.refresh(registered).await {
                Ok(()) => {
                    if !registered {
                        crate::note(format_args!("{}: registered with {}", self.id, self.registry));
                    }
                    registered = true;
                    failures = 0;
                    (self.ttl / 3).max(SHORTEST_PAUSE)
                }
                Err(error) => {
                    if failures == 0 {
                        let (id, registry) = (&self.id, &self.registry);
                        crate::note(format_args!("{id}: not registered with {registry}, trying on: {error:#}"));
                    }
                    // The entry may be lost, and registering again does no harm.
                    registered = false;
                    failures += 1;
                    retry_pause(failures)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => {}
            }
        }
        if let Err(error) = self.membership.leave().await {
            crate::note(format_args!("{}: can't deregister from {}: {error:#}", self.id, self.registry));
        }
    }

    async fn refresh(&mut self, registered: bool) -> anyhow::Result<()> {
        if registered {
            if self.membership.refresh().await? {
                return Ok(());
            }
            // It has restarted and lost the entry, or has not heard of us for too long.
            crate::note(format_args!("{}: forgotten by {}, registering again", self.id, self.registry));
        }
        self.membership.register().await
    }
}

impl Membership {
    async fn register(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Consul(consul) => consul.register().await,
            Self::Etcd(etcd) => etcd.register().await,
        }
    }

    /// Says that the member is still there; `false` = the registry does not know it.
    async fn refresh(&mut self) -> anyhow::Result<bool> {
        match self {
            Self::Consul(consul) => consul.refresh().await,
            Self::Etcd(etcd) => etcd.refresh().await,
        }
    }

    async fn leave(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Consul(consul) => consul.leave().await,
            Self::Etcd(etcd) => etcd.leave().await,
        }
    }
}

/// Doubles up to a bound, with jitter, so that the members of a cluster do not retry together.
fn retry_pause(failures: u32) -> Duration {
    let doubled = FIRST_RETRY.saturating_mul(1 << failures.min(6)).min(LAST_RETRY);
    doubled.mul_f64(0.5 + fastrand::f64() / 2.0)
}
