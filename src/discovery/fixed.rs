//! `backends = [...]`: what is written is what exists; only the addresses of host names can change.

use std::sync::Arc;
use std::time::Duration;

use super::feed::{Feed, Heard};
use super::instance::Instance;
use super::update_sender::Closed;
use crate::config::StaticBackend;
use crate::endpoint::{Registry, Rejections};

/// How often a list without host names says that it is still what it was.
const CONFIRM: Duration = Duration::from_secs(30);

/// Addresses at once; names as they are resolved.
pub(super) async fn follow(backends: &[StaticBackend], feed: &mut Feed) -> Result<(), Closed> {
    let instances = backends
        .iter()
        .zip(0..)
        .map(|(backend, position)| Instance {
            id: Arc::from(backend.id.as_str()),
            host: backend.address.host.clone(),
            candidates: Vec::new(),
            port: backend.address.port,
            weight: backend.weight,
            priority: backend.priority,
            zone: backend.zone.as_deref().map(Arc::from),
            position,
            max_sessions: backend.max_sessions,
            registry: Registry::Passing,
            note: None,
        })
        .collect();
    feed.put(instances, Rejections::default(), Heard::Written).await?;
    loop {
        feed.until(tokio::time::sleep(CONFIRM)).await?;
        feed.confirm();
    }
}
