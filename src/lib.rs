//! Evenkeel, a TCP load balancer. `ARCHITECTURE.md` in the repository is the map of this crate: its rooms, the life of a
//! connection and of a backend, and where to add what. `docs/glossary.md` has the words.
//!
//! The program is a thin layer over [`Balancer`]. Another program can start one, too, on its own tokio runtime:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let text = r#"
//!     admin = { bind = "off" }
//!     listeners.web = { bind = "127.0.0.1:0", pool = "web" }
//!     pools.web = { backends = ["127.0.0.1:9090"] }
//! "#;
//! let config = evenkeel::config::parse(text, "lb.toml", &|name| std::env::var(name).ok())?;
//! let balancer = evenkeel::Balancer::start(config).await?;
//! for (name, address) in balancer.listeners() {
//!     println!("listener {name} accepts on {address}");
//! }
//! balancer.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! The control plane and the admin side run on the runtime that [`Balancer::start`] was called on; the data plane has threads
//! of its own.

#[macro_use]
mod words;

pub mod admin;
pub mod balance;
mod balancer;
mod clean;
pub mod cli;
pub mod config;
mod deadline;
pub mod discovery;
pub mod endpoint;
pub mod health;
pub mod keeper;
pub mod metrics;
pub mod operator;
pub mod pace;
pub mod pool;
pub mod probe;
pub mod proxy;
pub mod proxy_protocol;
pub mod route;
#[cfg(test)]
mod seeds;
pub mod server;
pub mod standing;
mod watch;

pub use balancer::{Balancer, Options, ReloadError, StartError, WorkerDied};
