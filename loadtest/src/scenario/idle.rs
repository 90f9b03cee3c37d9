//! Connections with one exchange at the start and one at the end, and nothing in between.
//!
//! A broken connection is not opened again, because this scenario looks for broken connections.

use std::time::{Duration, Instant};

use crate::connection::Connection;
use crate::load_thread::LoadThread;
use crate::operation_error::OperationError;

pub(super) async fn run(thread: &LoadThread) {
    let opened = match thread.open_in_turn().await {
        Ok(mut connection) => exchange(thread, &mut connection).await.map(|()| connection),
        Err(error) => Err(error),
    };
    let start = thread.start().await;
    let mut connection = match opened {
        Ok(connection) => connection,
        Err(error) => return thread.failed(&error),
    };
    tokio::time::sleep_until((start + thread.plan.duration.unwrap_or(Duration::ZERO)).into()).await;
    if let Err(error) = exchange(thread, &mut connection).await {
        return thread.failed(&error);
    }
    let closing = tokio::time::timeout(thread.plan.timeout, connection.close(&thread.context())).await;
    if let Err(error) = closing.unwrap_or_else(|_| Err(OperationError::timeout("closing"))) {
        thread.failed(&error);
    }
}

async fn exchange(thread: &LoadThread, connection: &mut Connection) -> Result<(), OperationError> {
    let start = Instant::now();
    tokio::time::timeout(thread.plan.timeout, connection.exchange(&thread.context()))
        .await
        .unwrap_or_else(|_| Err(OperationError::timeout("the exchange")))?;
    thread.succeeded(start, Instant::now());
    Ok(())
}
