//! A small async client for the parts of Consul's HTTP API that a load balancer and its backends need: health queries
//! that block, registration, TTL checks, maintenance, KV. It keeps the HTTP status of what went wrong, bounds what it
//! reads, escapes what it sends and tolerates what it does not know; one entry of a list that is not as documented
//! spoils that entry, not the list.
//!
//! ```no_run
//! # async fn example() -> Result<(), consul::Error> {
//! use std::time::Duration;
//!
//! let client = consul::Client::new(&consul::Settings::new("http://127.0.0.1:8500"))?;
//! let mut query = consul::HealthQuery::default();
//! loop {
//!     let answer = client.health_service("web", &query).await?;
//!     for entry in &answer.value {
//!         println!("{} on {}:{}", entry.service.id, entry.address(), entry.service.port);
//!     }
//!     query.index = answer.index; // see `HealthQuery::index` for what a loop that runs for years has to mind
//!     query.wait = Some(Duration::from_secs(300));
//! }
//! # }
//! ```

mod answer;
mod client;
mod error;
mod escape;
mod kv;
mod model;
mod query;
mod register;
mod settings;
mod transport;

pub use answer::{Answer, RejectedEntry};
pub use client::Client;
pub use error::Error;
pub use model::{AgentSelf, CheckStatus, HealthCheck, KvPair, Locality, Node, Service, ServiceEntry, Weights};
pub use query::{Consistency, HealthQuery};
pub use register::{CheckRegistration, ServiceRegistration};
pub use settings::Settings;
