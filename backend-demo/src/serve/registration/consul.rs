//! With Consul: a service with a TTL check, which the member keeps passing.

use std::{net::SocketAddr, time::Duration};

use consul::{CheckRegistration, CheckStatus, Client, Error, ServiceRegistration, Settings};

use super::PATIENCE;

/// How long Consul lists a silent member as critical before it removes it; the shortest time that Consul allows.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

pub(in crate::serve) struct ConsulMembership {
    client: Client,
    id: String,
    check_id: String,
    service: ServiceRegistration,
}

impl ConsulMembership {
    /// Does not connect yet.
    pub(in crate::serve) fn new(
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
        Ok(Self { client: Client::new(agent)?.with_margin(PATIENCE), id: id.to_owned(), check_id, service })
    }

    pub(super) async fn register(&self) -> anyhow::Result<()> {
        self.client.register_service(&self.service).await?;
        Ok(self.client.update_ttl(&self.check_id, CheckStatus::Passing, "serving").await?)
    }

    pub(super) async fn refresh(&self) -> anyhow::Result<bool> {
        match self.client.update_ttl(&self.check_id, CheckStatus::Passing, "serving").await {
            Err(error) if error.status() == Some(404) => Ok(false),
            other => Ok(other.map(|()| true)?),
        }
    }

    pub(super) async fn leave(&self) -> anyhow::Result<()> {
        let mut left = self.client.deregister_service(&self.id).await;
        if matches!(left, Err(Error::Broken(_))) {
            // The agent has restarted and the kept connection is broken.
            left = self.client.deregister_service(&self.id).await;
        }
        match left {
            Err(error) if error.status() == Some(404) => Ok(()),
            other => Ok(other?),
        }
    }
}
