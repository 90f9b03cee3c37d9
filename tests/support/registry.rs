//! A registry for one test, and a balancer that uses it.

use std::net::SocketAddr;
use std::ops::Deref;

use backend_demo::registry;

use super::Rig;

/// Dereferences to the registry itself.
pub struct Registry(registry::Registry);

impl Registry {
    pub async fn new() -> Self {
        Self::at("127.0.0.1:0".parse().unwrap()).await
    }

    /// At a given address, such as that of one that was stopped.
    pub async fn at(address: SocketAddr) -> Self {
        Self(registry::Registry::start(address).await.unwrap())
    }

    /// The identity that an instance has in pools.
    pub fn id(&self, instance: &str) -> String {
        format!("dev/{instance}")
    }

    /// One listener `front`, one pool `back` fed by the service `web`; `consul` is added to its `consul` table (", key =
    /// value"), `more` to the pool's.
    pub async fn rig(&self, consul: &str, more: &str) -> Rig {
        Rig::start(&self.config(consul, more)).await
    }

    pub fn config(&self, consul: &str, more: &str) -> String {
        let check = if more.contains("check") {
            ""
        } else {
            "check = { interval = \"100ms\", fast_interval = \"20ms\", timeout = \"10s\" }\n"
        };
        format!(
            "consul.address = \"{}\"\n[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n\n\
             [pools.back]\nconsul = {{ service = \"web\"{consul} }}\n{check}{more}",
            self.0.url()
        )
    }
}

impl Deref for Registry {
    type Target = registry::Registry;

    fn deref(&self) -> &registry::Registry {
        &self.0
    }
}
