//! Where the demo's registry is, of whichever kind.

use evenkeel::config;

/// The service, and where its keys are.
const PREFIX: &str = "/services/web/";

#[derive(Clone, Debug)]
pub(super) enum RegistryUrl {
    Consul(String),
    Etcd(String),
}

impl RegistryUrl {
    pub(super) fn url(&self) -> &str {
        match self {
            Self::Consul(url) | Self::Etcd(url) => url,
        }
    }

    /// What `serve` has for it.
    pub(super) fn option(&self) -> &'static str {
        match self {
            Self::Consul(_) => "--consul",
            Self::Etcd(_) => "--etcd",
        }
    }

    /// The variable that the balancer takes it from.
    pub(super) fn variable(&self) -> &'static str {
        match self {
            Self::Consul(_) => "CONSUL_HTTP_ADDR",
            Self::Etcd(_) => "ETCDCTL_ENDPOINTS",
        }
    }

    /// The configuration for it: with etcd, a pool of the service `web` in Consul becomes one of the keys of `web`.
    pub(super) fn adapted(&self, text: &str) -> String {
        match self {
            Self::Consul(_) => text.to_owned(),
            Self::Etcd(_) => {
                text.replace("consul = { service = \"web\" }", &format!("etcd = {{ prefix = \"{PREFIX}\" }}"))
            }
        }
    }

    /// The ids of the members that are in it and work.
    pub(super) async fn members(&self) -> anyhow::Result<Vec<String>> {
        match self {
            Self::Consul(agent) => {
                let client = consul::Client::new(&backend_demo::serve::agent_settings(agent))?;
                let query = consul::HealthQuery { passing: true, ..consul::HealthQuery::default() };
                let answer = client.health_service("web", &query).await?;
                Ok(answer.value.into_iter().map(|entry| entry.service.id).collect())
            }
            Self::Etcd(endpoints) => {
                let client = etcd::Client::new(&backend_demo::serve::cluster_settings(endpoints, None))?;
                let range = client.range(PREFIX.as_bytes()).await?;
                let id = |pair: &etcd::KeyValue| String::from_utf8_lossy(&pair.key[PREFIX.len()..]).into_owned();
                Ok(range.pairs.iter().map(id).collect())
            }
        }
    }
}

/// Whether the environment's settings for a registry are kept from a registry of the demo's own.
pub(super) fn is_setting(variable: &str) -> bool {
    variable.starts_with("CONSUL_") || variable.starts_with("ETCDCTL_")
}

/// The balancer's configuration: its text, and what it is called in messages.
pub(super) fn parse(
    registry: &RegistryUrl,
    text: &str,
    origin: &str,
    own_registry: bool,
) -> Result<config::Config, config::ConfigError> {
    let environment = |name: &str| match name {
        name if name == registry.variable() => Some(registry.url().to_owned()),
        // The demo's own registry does not get the tokens and certificates of a real one.
        name if own_registry && is_setting(name) => None,
        name => std::env::var(name).ok(),
    };
    config::parse(&registry.adapted(text), origin, &environment)
}
