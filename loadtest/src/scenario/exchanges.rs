//! Long-lived connections that carry one exchange after the other: small and large messages, bulk both ways.
//!
//! A connection that fails is opened again, after a pause and as often as the plan says, and goes on with the schedule of its
//! slot: in an open loop the outage shows as latency of everything that was due meanwhile.

use std::time::Instant;

use crate::fault::Fault;
use crate::lane::Lane;
use crate::link::Link;
use crate::pacing::{Next, Turns};
use crate::watch::Watch;

pub(super) async fn run(lane: &Lane, slot: u64, place: usize) {
    let first = lane.open_in_turn().await;
    let mut course = Course {
        lane,
        place,
        turns: lane.plan.pacing().turns(slot),
        watch: Watch::new(lane.plan.timeout),
        start: lane.start().await,
        failures: 0,
    };
    course.run(first).await;
    lane.left(course.turns.left());
}

/// The way of one slot through its turns.
struct Course<'a> {
    lane: &'a Lane,
    place: usize,
    turns: Turns,
    watch: Watch,
    start: Instant,
    /// In a row.
    failures: u32,
}

impl Course<'_> {
    async fn run(&mut self, first: Result<Link, Fault>) {
        let mut link = first;
        loop {
            let result = match link {
                Ok(link) => self.drive(link).await,
                Err(fault) => Err(fault),
            };
            let Err(fault) = result else { return };
            self.lane.faulted(&fault);
            self.failures += 1;
            if self.over() || !self.lane.pause(self.failures).await || self.over() {
                return;
            }
            link = self.lane.open().await;
        }
    }

    /// All turns on one connection, and its end.
    async fn drive(&mut self, mut link: Link) -> Result<(), Fault> {
        let Self { lane, place, turns, watch, start, failures } = self;
        let desk = lane.desk();
        let body = async {
            let mut now = Instant::now();
            loop {
                let intended = match turns.take(now.saturating_duration_since(*start)) {
                    Next::Done => break,
                    Next::Now => now,
                    Next::At(offset) => {
                        watch.rest();
                        let intended = *start + offset;
                        lane.alarm.until(intended, *place).await?;
                        now = Instant::now();
                        intended
                    }
                };
                watch.start(now);
                link.exchange(&desk).await?;
                // One look at the clock per exchange: the end of one is the start of the next.
                now = Instant::now();
                lane.succeeded(intended, now);
                *failures = 0;
            }
            watch.start(now);
            link.close(&desk).await
        };
        let result = watch.guard(body).await;
        watch.rest();
        result
    }

    fn over(&self) -> bool {
        self.turns.over(self.start.elapsed())
    }
}
