//! One connection per exchange: connect, request, reply, close. An operation is timed from its start to the last reply byte.
//!
//! The close is checked too (end of stream, not a byte before it), but not timed: with a server that closes it comes with
//! the reply, with a client that closes it takes a round trip more, and the two could not be compared.

use std::time::Instant;

use crate::fault::Fault;
use crate::lane::Lane;
use crate::pacing::Next;
use crate::plan::CloseSide;

pub(super) async fn run(lane: &Lane, slot: u64, place: usize) {
    let mut turns = lane.plan.pacing().turns(slot);
    let start = lane.start().await;
    let mut failures = 0;
    loop {
        let now = Instant::now();
        let intended = match turns.take(now.saturating_duration_since(start)) {
            Next::Done => break,
            Next::Now => now,
            Next::At(offset) => start + offset,
        };
        let result = match lane.alarm.until(intended, place).await {
            Ok(()) => one(lane, intended).await,
            Err(error) => Err(error.into()),
        };
        let Err(fault) = result else {
            failures = 0;
            continue;
        };
        lane.faulted(&fault);
        failures += 1;
        if turns.over(start.elapsed()) || !lane.pause(failures).await {
            break;
        }
    }
    lane.left(turns.left());
}

async fn one(lane: &Lane, intended: Instant) -> Result<(), Fault> {
    let desk = lane.desk();
    let operation = async {
        let mut link = lane.open().await?;
        link.exchange(&desk).await?;
        let ended = Instant::now();
        match lane.plan.close {
            CloseSide::Server => link.closed(&desk).await?,
            CloseSide::Client => link.close(&desk).await?,
        }
        lane.succeeded(intended, ended);
        Ok(())
    };
    tokio::time::timeout(lane.plan.timeout, operation).await.unwrap_or_else(|_| Err(Fault::timeout("the operation")))
}
