//! With etcd: a key that hangs on a lease, which the member keeps alive. Without that, etcd takes the key away.

use std::{net::SocketAddr, time::Duration};

use etcd::{Client, Error, Settings};

use super::PATIENCE;

pub(in crate::serve) struct EtcdMembership {
    client: Client,
    key: String,
    value: String,
    seconds: i64,
    lease: Option<i64>,
}

impl EtcdMembership {
    /// Does not connect yet. etcd counts leases in whole seconds.
    pub(in crate::serve) fn new(
        cluster: &Settings,
        prefix: &str,
        id: &str,
        address: SocketAddr,
        ttl: Duration,
    ) -> Result<Self, Error> {
        let client = Client::with_patience(cluster, PATIENCE)?;
        let seconds = i64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
        Ok(Self { client, key: format!("{prefix}{id}"), value: address.to_string(), seconds, lease: None })
    }

    pub(super) async fn register(&mut self) -> anyhow::Result<()> {
        let lease = self.client.grant(self.seconds).await?;
        self.lease = Some(lease);
        // The key leaves a lease from before, which then ends without it.
        Ok(self.client.put(self.key.as_bytes(), self.value.as_bytes(), Some(lease)).await?)
    }

    pub(super) async fn refresh(&self) -> anyhow::Result<bool> {
        let Some(lease) = self.lease else { return Ok(false) };
        match self.client.keep_alive(lease).await {
            Err(error) if error.is_not_found() => Ok(false),
            other => Ok(other.map(|()| true)?),
        }
    }

    pub(super) async fn leave(&self) -> anyhow::Result<()> {
        let Some(lease) = self.lease else { return Ok(()) };
        let mut left = self.client.revoke(lease).await;
        if matches!(left, Err(Error::Broken(_))) {
            // etcd has restarted and the kept connection is broken.
            left = self.client.revoke(lease).await;
        }
        match left {
            // It has ended already, and the key with it.
            Err(error) if error.is_not_found() => Ok(()),
            other => Ok(other?),
        }
    }
}
