//! The calls. Each is one request: cheap to drop, never repeated here.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use registry_client::reqwest::Method;
use serde::Serialize;

use crate::answer::{self, Answer};
use crate::model::{AgentSelf, CheckStatus, KvPair, ServiceEntry};
use crate::query::{self, HealthQuery};
use crate::register::ServiceRegistration;
use crate::transport::{Body, Reply, Request, Transport};
use crate::{Error, Settings, escape, kv};

/// Beyond what a query was asked to wait: for the connect, the agent's way to a server, and the body.
const MARGIN: Duration = Duration::from_secs(10);

/// One agent. Clones are cheap and share its connections: an agent takes 200 from one address by default.
///
/// **Cancel safety**: every future here may be dropped at any time; the request is then aborted and its connection
/// closed, which ends a blocking query at the agent too. Whether a request that writes was obeyed is then unknown.
///
/// **Errors**: every call returns an [`Error`] as described there; none is repeated here, so that the caller's back-off
/// is the only one. No call panics on what an agent sends.
#[derive(Clone)]
pub struct Client {
    transport: Arc<Transport>,
    margin: Duration,
}

impl Client {
    /// Reads the CA file and, for https, the system's roots. Connects to nothing.
    ///
    /// # Errors
    /// [`Error::Config`] for an address, CA file or token that can't work.
    pub fn new(settings: &Settings) -> Result<Self, Error> {
        Ok(Self { transport: Arc::new(Transport::new(settings)?), margin: MARGIN })
    }

    /// The same client with another time for an answer, beyond what a query asks to wait; the default is 10 s.
    #[must_use]
    pub fn with_margin(mut self, margin: Duration) -> Self {
        self.margin = margin;
        self
    }

    /// A client that asks over the same connections with another token; see [`Settings::token`] and
    /// [`Settings::token_file`].
    ///
    /// # Errors
    /// [`Error::Config`] for a token that can't work.
    pub fn with_token(&self, token: Option<&str>, token_file: Option<PathBuf>) -> Result<Self, Error> {
        Ok(Self { transport: Arc::new(self.transport.with_token(token, token_file)?), margin: self.margin })
    }

    /// The address of the servers' leader, empty if they have none. It needs no token, and goes over a connection of its
    /// own that ends with the answer. Ends at the latest after the margin.
    pub async fn leader(&self) -> Result<String, Error> {
        let request = Request {
            method: Method::GET,
            path: "/v1/status/leader".to_owned(),
            query: Vec::new(),
            body: None,
            deadline: self.margin,
            keep: false,
        };
        let reply = self.transport.send(request).await?.ok()?;
        serde_json::from_slice(&reply.body).map_err(|source| Error::Decode { what: "the leader", source })
    }

    /// What the agent says of itself. It takes a token that may read the agent, and goes over a connection of its own that ends
    /// with the answer. Ends at the latest after the margin.
    pub async fn agent_self(&self) -> Result<AgentSelf, Error> {
        let request = Request {
            method: Method::GET,
            path: "/v1/agent/self".to_owned(),
            query: Vec::new(),
            body: None,
            deadline: self.margin,
            keep: false,
        };
        let reply = self.transport.send(request).await?.ok()?;
        serde_json::from_slice(&reply.body).map_err(|source| Error::Decode { what: "the agent itself", source })
    }

    /// The instances of a service; none for a service that Consul does not know. Ends at the latest after wait +
    /// wait/16 + margin, or for a query that does not block after the margin.
    pub async fn health_service(&self, service: &str, query: &HealthQuery) -> Result<Answer<Vec<ServiceEntry>>, Error> {
        let path = format!("/v1/health/service/{}", escape::segment("service", service)?);
        let reply = self.send(Method::GET, path, query.parameters(), None, query.held_back()).await?.ok()?;
        let list = answer::list("the instances of a service", &reply.body)?;
        Ok(Answer::of_list(list, &reply.headers))
    }

    /// Registers an instance with this agent, or replaces the registration with the same id, its checks included.
    pub async fn register_service(&self, service: &ServiceRegistration) -> Result<(), Error> {
        let query = vec!["replace-existing-checks=true".to_owned()];
        self.put("/v1/agent/service/register".to_owned(), query, Some(json(service)?)).await
    }

    /// Takes an instance out of this agent. One that is not there is status 404 (older agents: 500).
    pub async fn deregister_service(&self, id: &str) -> Result<(), Error> {
        let path = format!("/v1/agent/service/deregister/{}", escape::segment("service id", id)?);
        self.put(path, Vec::new(), None).await
    }

    /// The result of a TTL check. An unknown check, as after an agent's restart, is [`Error::Status`] with 404, kind
    /// `not_found`.
    pub async fn update_ttl(&self, check_id: &str, status: CheckStatus, output: &str) -> Result<(), Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct Update<'a> {
            status: CheckStatus,
            output: &'a str,
        }

        let path = format!("/v1/agent/check/update/{}", escape::segment("check id", check_id)?);
        self.put(path, Vec::new(), Some(json(&Update { status, output })?)).await
    }

    /// Takes an instance out for maintenance, for a reason that people read, or back in.
    pub async fn service_maintenance(&self, id: &str, enable: bool, reason: &str) -> Result<(), Error> {
        let path = format!("/v1/agent/service/maintenance/{}", escape::segment("service id", id)?);
        let mut query = vec![format!("enable={enable}")];
        if !reason.is_empty() {
            query.push(format!("reason={}", escape::escaped(reason)));
        }
        self.put(path, query, None).await
    }

    /// The value of a key, `None` if there is none; blocks as [`HealthQuery::index`] describes.
    pub async fn kv_read(
        &self,
        key: &str,
        index: Option<u64>,
        wait: Option<Duration>,
    ) -> Result<Answer<Option<KvPair>>, Error> {
        let path = format!("/v1/kv/{}", escape::key(key)?);
        let parameters = query::blocking(index, wait);
        let reply = self.send(Method::GET, path, parameters, None, query::held_back(index, wait)).await?;
        // Also this answer has an index, and waits for one.
        if reply.status == 404 {
            return Ok(Answer::new(None, &reply.headers));
        }
        let reply = reply.ok()?;
        let pair = kv::decode(&reply.body).map_err(|source| Error::Decode { what: "a key", source })?;
        Ok(Answer::new(pair, &reply.headers))
    }

    /// Sets a key to a value (up to 512 KiB by default).
    pub async fn kv_write(&self, key: &str, value: &[u8]) -> Result<(), Error> {
        let path = format!("/v1/kv/{}", escape::key(key)?);
        self.put(path, Vec::new(), Some(Body::Bytes(value.to_vec()))).await
    }

    async fn put(&self, path: String, query: Vec<String>, body: Option<Body>) -> Result<(), Error> {
        self.send(Method::PUT, path, query, body, Duration::ZERO).await?.ok().map(drop)
    }

    async fn send(
        &self,
        method: Method,
        path: String,
        query: Vec<String>,
        body: Option<Body>,
        held_back: Duration,
    ) -> Result<Reply, Error> {
        let deadline = held_back.saturating_add(self.margin);
        self.transport.send(Request { method, path, query, body, deadline, keep: true }).await
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// None of the bodies that this crate sends can fail to be written, but the type says that they might.
fn json(value: &impl Serialize) -> Result<Body, Error> {
    match serde_json::to_vec(value) {
        Ok(bytes) => Ok(Body::Json(bytes)),
        Err(error) => Err(Error::Config { what: "can't write the request".to_owned(), source: Some(error.into()) }),
    }
}
