//! Keeps a member registered and passing in Consul, and deregisters it at the end.
//!
//! One task does both, so that no registration can come after the end.

use std::{net::SocketAddr, time::Duration};

use consul::{CheckRegistration, CheckStatus, Client, Error, ServiceRegistration, Settings};
use tokio_util::sync::CancellationToken;

/// Limit for one answer of the agent. A silent agent delays the exit by no more than this.
const PATIENCE: Duration = Duration::from_secs(2);
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(3);
/// So that a very short TTL does not make the loop spin.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
/// How long Consul lists a silent member as critical before it removes it; the shortest time that Consul allows.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

pub(super) struct Registration {
    client: Client,
    agent: String,
    id: String,
    check_id: String,
    service: ServiceRegistration,
    ttl: Duration,
}

impl Registration {
    /// Does not connect yet.
    pub(super) fn new(
        agent: &Settings,
        name: &str,
        id: &str,
        address: SocketAddr,
        ttl: Duration,
    ) -> Result<Self, Error> {
        let check_id = format!("service:{id}");
        let check = CheckRegistration {
            check_id: Some(check_id.clone()),
            // The member serves already. Without this, all members would be critical for a moment after a restart of the agent.
            status: Some(CheckStatus::Passing),
            deregister_critical_service_after: Some(FORGOTTEN_AFTER),
            ..CheckRegistration::ttl(ttl)
        };
        let service = ServiceRegistration {
            name: name.to_owned(),
            id: Some(id.to_owned()),
            // A member on all addresses has the address of its agent.
            address: Some(address.ip()).filter(|ip| !ip.is_unspecified()).map(|ip| ip.to_string()),
            port: address.port(),
            checks: vec![check],
            ..ServiceRegistration::default()
        };
        let client = Client::new(agent)?.with_margin(PATIENCE);
        Ok(Self { client, agent: agent.address.clone(), id: id.to_owned(), check_id, service, ttl })
    }

    /// Runs until `stop`. Returns when the member is deregistered, or the agent does not answer.
    pub(super) async fn keep(self, stop: CancellationToken) {
        let mut registered = false;
        let mut failures = 0;
        while !stop.is_cancelled() {
            // Not in a `select!` with `stop`: a registration that is sent but not awaited could arrive after the deregistration.
            let pause = match self.refresh(registered).await {
                Ok(()) => {
                    if !registered {
                        crate::note(format_args!("{}: registered with {}", self.id, self.agent));
                    }
                    registered = true;
                    failures = 0;
                    (self.ttl / 3).max(SHORTEST_PAUSE)
                }
                Err(error) => {
                    if failures == 0 {
                        crate::note(format_args!(
                            "{}: not registered with {}, trying on: {error}",
                            self.id, self.agent
                        ));
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
        if let Err(error) = self.leave().await
            && error.status() != Some(404)
        {
            crate::note(format_args!("{}: can't deregister from {}: {}", self.id, self.agent, chain(error)));
        }
    }

    async fn leave(&self) -> Result<(), Error> {
        let left = self.client.deregister_service(&self.id).await;
        match &left {
            // The agent has restarted and the kept connection is broken.
            Err(Error::Broken(_)) => self.client.deregister_service(&self.id).await,
            _ => left,
        }
    }

    async fn refresh(&self, registered: bool) -> Result<(), Error> {
        if registered {
            let refreshed = self.client.update_ttl(&self.check_id, CheckStatus::Passing, "serving").await;
            match refreshed {
                // The agent has restarted and lost the entry: register at once.
                Err(error) if error.status() == Some(404) => {
                    crate::note(format_args!("{}: forgotten by {}, registering again", self.id, self.agent));
                }
                other => return other,
            }
        }
        self.client.register_service(&self.service).await?;
        self.client.update_ttl(&self.check_id, CheckStatus::Passing, "serving").await
    }
}

/// Doubles up to a bound, with jitter, so that the members of a cluster do not retry together.
fn retry_pause(failures: u32) -> Duration {
    let doubled = FIRST_RETRY.saturating_mul(1 << failures.min(6)).min(LAST_RETRY);
    doubled.mul_f64(0.5 + fastrand::f64() / 2.0)
}

fn chain(error: Error) -> String {
    format!("{:#}", anyhow::Error::from(error))
}
