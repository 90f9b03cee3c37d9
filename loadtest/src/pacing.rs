//! Computes when an operation is meant to start, from the time since the start of the run. Pure.
//!
//! An open loop has one schedule for the whole run; slot `s` of `n` has every n-th place in it. The intended times do not depend on
//! the progress of the run, so a stalled system can't hide its stall (coordinated omission).

use std::time::Duration;

/// The load, and how the slots share it. A slot does one operation at a time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pacing {
    /// Number of slots.
    pub slots: u64,
    /// Operations per second of all slots together; `None` = closed loop, each starts when the last one has ended.
    pub rate: Option<f64>,
    /// Operations of all slots together.
    pub total: Option<u64>,
    /// No operation starts later than this after the start.
    pub duration: Option<Duration>,
}

/// The next operation of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextOperation {
    /// An operation with this intended time after the start of the run, which may have passed already.
    At(Duration),
    /// An operation, as soon as possible.
    Now,
    /// No more operations.
    Done,
}

impl Pacing {
    /// The operations of one slot; slots are numbered from 0.
    pub fn schedule(self, slot: u64) -> SlotSchedule {
        SlotSchedule { pacing: self, slot, taken: 0 }
    }

    /// The offset from the start of operation number `turn` of `slot`.
    fn intended(&self, rate: f64, slot: u64, turn: u64) -> Duration {
        // Computed from the start each time, so there is no drift. f64 is exact to the nanosecond here for a hundred days.
        let place = turn as f64 * self.slots as f64 + slot as f64;
        Duration::from_nanos((place * 1e9 / rate) as u64)
    }

    fn quota(&self, slot: u64) -> u64 {
        let Some(total) = self.total else { return u64::MAX };
        total / self.slots + u64::from(slot < total % self.slots)
    }
}

/// The operations of one slot, in order.
#[derive(Debug, Clone, Copy)]
pub struct SlotSchedule {
    pacing: Pacing,
    slot: u64,
    taken: u64,
}

impl SlotSchedule {
    /// Takes the next operation; `elapsed` is the time since the start.
    pub fn take(&mut self, elapsed: Duration) -> NextOperation {
        let next = self.peek(elapsed);
        if next != NextOperation::Done {
            self.taken += 1;
        }
        next
    }

    /// Whether there is nothing more to do.
    pub fn over(&self, elapsed: Duration) -> bool {
        self.peek(elapsed) == NextOperation::Done
    }

    /// Scheduled operations of this slot that were never started. A run that ends by time has some if the other side is slower than
    /// the rate. They have no latency, so the report must name them.
    pub fn left(&self) -> u64 {
        let scheduled = match (self.pacing.rate, self.pacing.duration) {
            (Some(rate), Some(duration)) => self.scheduled_within(rate, duration).min(self.pacing.quota(self.slot)),
            (_, Some(_)) => return 0,
            (_, None) => self.pacing.quota(self.slot),
        };
        scheduled.saturating_sub(self.taken)
    }

    fn peek(&self, elapsed: Duration) -> NextOperation {
        let Pacing { rate, duration, .. } = self.pacing;
        let late = |at: Duration| duration.is_some_and(|duration| at >= duration);
        if self.taken >= self.pacing.quota(self.slot) || late(elapsed) {
            return NextOperation::Done;
        }
        let Some(rate) = rate else { return NextOperation::Now };
        let at = self.pacing.intended(rate, self.slot, self.taken);
        if late(at) { NextOperation::Done } else { NextOperation::At(at) }
    }

    fn scheduled_within(&self, rate: f64, duration: Duration) -> u64 {
        let places = (duration.as_secs_f64() * rate / self.pacing.slots as f64) as u64;
        // The division is a first guess: the result has to agree exactly with `intended`.
        (places.saturating_sub(1)..).find(|&turn| self.pacing.intended(rate, self.slot, turn) >= duration).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const CLOSED: Pacing = Pacing { slots: 3, rate: None, total: None, duration: None };

    fn all(mut turns: SlotSchedule) -> Vec<NextOperation> {
        std::iter::from_fn(|| Some(turns.take(Duration::ZERO)).filter(|next| *next != NextOperation::Done)).collect()
    }

    #[test]
    fn a_total_is_dealt_out_exactly() {
        for total in 0..20 {
            let pacing = Pacing { total: Some(total), ..CLOSED };
            let dealt: Vec<_> = (0..3).map(|slot| all(pacing.schedule(slot)).len() as u64).collect();
            assert_eq!(dealt.iter().sum::<u64>(), total);
            assert!(dealt.iter().max().unwrap() - dealt.iter().min().unwrap() <= 1);
        }
    }

    #[test]
    fn a_closed_loop_ends_with_the_duration() {
        let mut turns = Pacing { duration: Some(SECOND), ..CLOSED }.schedule(0);
        assert_eq!(turns.take(Duration::ZERO), NextOperation::Now);
        assert_eq!(turns.take(SECOND - Duration::from_nanos(1)), NextOperation::Now);
        assert_eq!(turns.take(SECOND), NextOperation::Done);
        assert_eq!(turns.left(), 0);
    }

    #[test]
    fn the_slots_together_make_one_even_schedule() {
        let pacing = Pacing { rate: Some(1_000.0), duration: Some(SECOND), ..CLOSED };
        let mut times: Vec<_> = (0..3)
            .flat_map(|slot| all(pacing.schedule(slot)))
            .map(|next| match next {
                NextOperation::At(at) => at,
                other => panic!("{other:?} in an open loop"),
            })
            .collect();
        times.sort();
        let wanted: Vec<_> = (0..1_000).map(Duration::from_millis).collect();
        assert_eq!(times, wanted);
    }

    #[test]
    fn the_schedule_does_not_move_when_operations_are_late() {
        let mut turns = Pacing { rate: Some(10.0), slots: 1, ..CLOSED }.schedule(0);
        assert_eq!(turns.take(Duration::ZERO), NextOperation::At(Duration::ZERO));
        assert_eq!(turns.take(Duration::from_secs(60)), NextOperation::At(Duration::from_millis(100)));
    }

    #[test]
    fn the_schedule_does_not_drift() {
        let pacing = Pacing { rate: Some(333_333.0), slots: 1, ..CLOSED };
        let turn = 333_333 * 3_600 * 24;
        assert_eq!(pacing.intended(333_333.0, 0, turn), Duration::from_secs(3_600 * 24));
    }

    #[test]
    fn operations_that_never_started_are_counted() {
        let pacing = Pacing { rate: Some(1_000.0), duration: Some(SECOND), ..CLOSED };
        let left: u64 = (0..3).map(|slot| pacing.schedule(slot).left()).sum();
        assert_eq!(left, 1_000);

        let mut turns = pacing.schedule(1);
        let before = turns.left();
        turns.take(Duration::ZERO);
        assert_eq!(turns.take(SECOND), NextOperation::Done, "a backlog is not worked off after the end");
        assert_eq!(turns.left(), before - 1);
    }

    #[test]
    fn the_rest_of_a_quota_counts_as_not_started() {
        let mut turns = Pacing { total: Some(30), ..CLOSED }.schedule(0);
        turns.take(Duration::ZERO);
        assert_eq!(turns.left(), 9);
    }
}
