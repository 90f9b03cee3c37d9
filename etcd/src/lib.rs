//! A small async client for the parts of etcd's v3 JSON gateway that a load balancer and its backends need: range, watch,
//! leases, users. It tries several endpoints in turn and stays with one that is good, renews its token, bounds what it reads
//! and tolerates what it does not know. How a server is reached is `registry_client`'s, as with the Consul client.
//!
//! The gateway is that of etcd 3.4 and later (`/v3/…`); it speaks for gRPC, whose status codes are in its errors. Users have a
//! name and a password: it does not know users by the common name of a certificate.
//!
//! ```no_run
//! # async fn example() -> Result<(), etcd::Error> {
//! let client = etcd::Client::new(&etcd::Settings::new("http://127.0.0.1:2379"))?;
//! let range = client.range(b"/services/web/").await?;
//! let mut watch = client.watch(b"/services/web/", range.header.revision + 1).await?;
//! loop {
//!     for event in watch.next().await?.events {
//!         println!("{event:?}");
//!     }
//! }
//! # }
//! ```

mod client;
mod error;
mod login;
mod model;
mod settings;
mod transport;
mod watch;

pub use client::Client;
pub use error::Error;
pub use model::{Changes, Event, Header, KeyValue, Range};
pub use registry_client::Tls;
pub use settings::Settings;
pub use watch::Watch;
