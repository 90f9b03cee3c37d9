//! Long-lived connections with one exchange after another: small and large messages, bulk both ways.
//!
//! A failed connection is opened again after a pause, as often as the plan allows, and goes on with the schedule of its slot. So in
//! an open loop an outage shows as latency of all operations of that time.

use std::time::Instant;

use crate::connection::Connection;
use crate::load_thread::LoadThread;
use crate::operation_error::OperationError;
use crate::operation_timeout::OperationTimeout;
use crate::pacing::{NextOperation, SlotSchedule};

pub(super) async fn run(thread: &LoadThread, slot: u64, index: usize) {
    let first = thread.open_in_turn().await;
    let mut run = SlotRun {
        thread,
        index,
        schedule: thread.plan.pacing().schedule(slot),
        timeout: OperationTimeout::new(thread.plan.timeout),
        start: thread.start().await,
        failures: 0,
    };
    run.run(first).await;
    thread.left(run.schedule.left());
}

/// The state of one slot during the run.
struct SlotRun<'a> {
    thread: &'a LoadThread,
    index: usize,
    schedule: SlotSchedule,
    timeout: OperationTimeout,
    start: Instant,
    /// Failures in a row.
    failures: u32,
}

impl SlotRun<'_> {
    async fn run(&mut self, first: Result<Connection, OperationError>) {
        let mut connection = first;
        loop {
            let result = match connection {
                Ok(connection) => self.drive(connection).await,
                Err(error) => Err(error),
            };
            let Err(error) = result else { return };
            self.thread.failed(&error);
            self.failures += 1;
            if self.over() || !self.thread.pause(self.failures).await || self.over() {
                return;
            }
            connection = self.thread.open().await;
        }
    }

    /// All exchanges on one connection, and its end.
    async fn drive(&mut self, mut connection: Connection) -> Result<(), OperationError> {
        let Self { thread, index, schedule, timeout, start, failures } = self;
        let context = thread.context();
        let body = async {
            let mut now = Instant::now();
            loop {
                let intended = match schedule.take(now.saturating_duration_since(*start)) {
                    NextOperation::Done => break,
                    NextOperation::Now => now,
                    NextOperation::At(offset) => {
                        timeout.rest();
                        let intended = *start + offset;
                        thread.timer.until(intended, *index).await?;
                        now = Instant::now();
                        intended
                    }
                };
                timeout.start(now);
                connection.exchange(&context).await?;
                // Read the clock once per exchange: the end of one is the start of the next.
                now = Instant::now();
                thread.succeeded(intended, now);
                *failures = 0;
            }
            timeout.start(now);
            connection.close(&context).await
        };
        let result = timeout.guard(body).await;
        timeout.rest();
        result
    }

    fn over(&self) -> bool {
        self.schedule.over(self.start.elapsed())
    }
}
