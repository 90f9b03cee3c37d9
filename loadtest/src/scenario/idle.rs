//! Connections that carry one exchange, are left alone for the duration, and have to carry another one at the end.
//!
//! Nothing is opened again: a connection that did not survive is exactly what this looks for.

use std::time::{Duration, Instant};

use crate::fault::Fault;
use crate::lane::Lane;
use crate::link::Link;

pub(super) async fn run(lane: &Lane) {
    let opened = match lane.open_in_turn().await {
        Ok(mut link) => exchange(lane, &mut link).await.map(|()| link),
        Err(fault) => Err(fault),
    };
    let start = lane.start().await;
    let mut link = match opened {
        Ok(link) => link,
        Err(fault) => return lane.faulted(&fault),
    };
    tokio::time::sleep_until((start + lane.plan.duration.unwrap_or(Duration::ZERO)).into()).await;
    if let Err(fault) = exchange(lane, &mut link).await {
        return lane.faulted(&fault);
    }
    let closing = tokio::time::timeout(lane.plan.timeout, link.close(&lane.desk())).await;
    if let Err(fault) = closing.unwrap_or_else(|_| Err(Fault::timeout("closing"))) {
        lane.faulted(&fault);
    }
}

async fn exchange(lane: &Lane, link: &mut Link) -> Result<(), Fault> {
    let start = Instant::now();
    tokio::time::timeout(lane.plan.timeout, link.exchange(&lane.desk()))
        .await
        .unwrap_or_else(|_| Err(Fault::timeout("the exchange")))?;
    lane.succeeded(start, Instant::now());
    Ok(())
}
