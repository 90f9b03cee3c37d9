//! One connection per exchange: connect, request, reply, close. An operation is timed from its start to the last reply byte.
//!
//! The close is checked too, but not timed: if the server closes first it comes with the reply, if the client closes first it takes
//! another round trip, and the times could not be compared.

use std::time::Instant;

use crate::load_thread::LoadThread;
use crate::operation_error::OperationError;
use crate::pacing::NextOperation;
use crate::plan::CloseSide;

pub(super) async fn run(thread: &LoadThread, slot: u64, index: usize) {
    let mut schedule = thread.plan.pacing().schedule(slot);
    let start = thread.start().await;
    let mut failures = 0;
    loop {
        let now = Instant::now();
        let intended = match schedule.take(now.saturating_duration_since(start)) {
            NextOperation::Done => break,
            NextOperation::Now => now,
            NextOperation::At(offset) => start + offset,
        };
        let result = match thread.timer.until(intended, index).await {
            Ok(()) => one(thread, intended).await,
            Err(error) => Err(error.into()),
        };
        let Err(error) = result else {
            failures = 0;
            continue;
        };
        thread.failed(&error);
        failures += 1;
        if schedule.over(start.elapsed()) || !thread.pause(failures).await {
            break;
        }
    }
    thread.left(schedule.left());
}

async fn one(thread: &LoadThread, intended: Instant) -> Result<(), OperationError> {
    let context = thread.context();
    let operation = async {
        let mut connection = thread.open().await?;
        connection.exchange(&context).await?;
        let ended = Instant::now();
        match thread.plan.close {
            CloseSide::Server => connection.closed(&context).await?,
            CloseSide::Client => connection.close(&context).await?,
        }
        thread.succeeded(intended, ended);
        Ok(())
    };
    tokio::time::timeout(thread.plan.timeout, operation)
        .await
        .unwrap_or_else(|_| Err(OperationError::timeout("the operation")))
}
