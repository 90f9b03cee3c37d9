//! What the kernels may hold of one direction: the one place that bounds it.
//!
//! A kernel lets a receive queue grow with what is read from it, and a relay reads as fast as the target's kernel takes
//! bytes in. So a burst that only filled buffers looks like a fast reader: the queue grows tenfold at once, and stays full
//! while the target does not read. A bound at that moment comes too late, since an offered window can't be taken back.
//!
//! So from its first large read on a direction has a window of its own, and the source's kernel takes in no more. It
//! follows what the target *acknowledges*, in two ways:
//!
//! - What the target acknowledges in one round trip of the source must be less than half of the window, else the window
//!   grows to four times as much: a long path gets what it needs, as fast as its sender can begin.
//! - A target that reads quickly (half of a window within [`QUICK`]) gets [`LIVELY`], and its own kernel may hold what it
//!   wants: fewer, larger moves, which cost less.
//!
//! A window that the kernel would not allow by this way ends it all: the kernel's own tuning goes on.

use std::time::{Duration, Instant};

use crate::proxy::socket::TcpFd;

/// The window to begin with, in bytes: what a pipe takes.
pub(super) const FIRST: u32 = 1 << 20;

/// Bytes that the target's kernel takes in beyond those that are on their way, until the target has shown that it reads.
pub(super) const UNSENT: u32 = 1 << 20;

/// The least window of a quick reader.
const LIVELY: u32 = 4 << 20;

/// Half of a window within this time is quick: ten megabytes a second or more.
const QUICK: Duration = Duration::from_millis(50);

/// How the kernels are told, and what they tell.
#[derive(Debug)]
pub(super) struct Window {
    /// `None` = the kernel tunes by itself.
    pace: Option<Pace>,
}

impl Window {
    /// Begins to bound what the kernels hold. On a kernel that does not know how (before Linux 5.14), or where the
    /// configuration has settled the size of the buffer, the source's receive queue stays as it is.
    /// `moved` is what is going to be counted although the target has it already.
    pub(super) fn open(source: &TcpFd, target: &TcpFd, moved: u64) -> Self {
        // It can only fail for a socket that is no socket.
        let _ = target.bound_unsent(Some(UNSENT));
        let is_bounded = !source.has_fixed_receive_buffer() && source.bound_received(FIRST);
        let unacknowledged = i64::from(target.unacknowledged()) - moved.cast_signed();
        Self { pace: is_bounded.then(|| Pace::new(FIRST, Instant::now(), unacknowledged)) }
    }

    /// The target's kernel has taken so many bytes.
    pub(super) fn moved(&mut self, bytes: u64, source: &TcpFd, target: &TcpFd) {
        let Some(pace) = &mut self.pace else { return };
        if !pace.moved(bytes) {
            return;
        }
        let before = pace.is_quick;
        let larger = pace.look(Instant::now(), target.unacknowledged(), source.round_trip());
        if pace.is_quick && !before {
            let _ = target.bound_unsent(None);
        }
        if larger.is_some_and(|window| !source.bound_received(window)) {
            self.pace = None;
        }
    }
}

/// PURE. How large the window has to be: fed with what was moved, and what of it the target has acknowledged.
#[derive(Debug)]
struct Pace {
    window: u32,
    /// Since the latest look.
    moved: u64,
    /// At the latest look, less what was moved before and is counted since.
    unacknowledged: i64,
    at: Instant,
    /// The target has shown that it reads quickly.
    is_quick: bool,
}

impl Pace {
    fn new(window: u32, at: Instant, unacknowledged: i64) -> Self {
        Self { window, moved: 0, unacknowledged, at, is_quick: false }
    }

    /// Returns whether it is time for a look: a window has been moved.
    fn moved(&mut self, bytes: u64) -> bool {
        self.moved += bytes;
        self.moved >= u64::from(self.window)
    }

    /// The larger window, if the target's pace asks for one.
    fn look(&mut self, now: Instant, unacknowledged: u32, round_trip: Duration) -> Option<u32> {
        let unacknowledged = i64::from(unacknowledged);
        let taken = u64::try_from(self.moved.cast_signed() + self.unacknowledged - unacknowledged).unwrap_or(0);
        let time = now.duration_since(self.at);
        (self.moved, self.unacknowledged, self.at) = (0, unacknowledged, now);
        let half = u64::from(self.window / 2);
        self.is_quick |= taken >= half && time <= QUICK;
        let in_round_trip = u128::from(taken) * round_trip.as_nanos() / time.as_nanos().max(1);
        let wanted = if in_round_trip > u128::from(half) {
            // What is acknowledged within moments may be what had waited: one step at a time.
            u32::try_from(4 * in_round_trip).unwrap_or(u32::MAX).min(self.window.saturating_mul(4))
        } else {
            self.window
        };
        let wanted = if self.is_quick { wanted.max(LIVELY) } else { wanted };
        (wanted > self.window).then(|| {
            self.window = wanted;
            wanted
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u32 = 1 << 20;
    const MILLISECOND: Duration = Duration::from_millis(1);

    /// Moves a window, and looks after some time.
    fn look(pace: &mut Pace, time: Duration, unacknowledged: u32, round_trip: Duration) -> Option<u32> {
        assert!(!pace.moved(u64::from(pace.window) - 1));
        assert!(pace.moved(1));
        pace.look(pace.at + time, unacknowledged, round_trip)
    }

    #[test]
    fn a_long_path_gets_what_it_needs_and_no_more() {
        let (mut pace, path) = (Pace::new(MIB, Instant::now(), 0), 80 * MILLISECOND);
        // As long as the window is all that can be on its way, one goes by in a round trip.
        assert_eq!(look(&mut pace, path, 0, path), Some(4 * MIB));
        assert_eq!(look(&mut pace, path, 0, path), Some(16 * MIB));
        // Now something else is the limit: 100 MiB a second, of which 8 are on the way.
        for _ in 0..10 {
            assert_eq!(look(&mut pace, 160 * MILLISECOND, 0, path), None);
        }
    }

    #[test]
    fn a_target_that_does_not_read_gets_no_more() {
        let mut pace = Pace::new(MIB, Instant::now(), 0);
        // Its kernel took in a little; the rest waits here.
        assert_eq!(look(&mut pace, MILLISECOND, MIB - 100_000, MILLISECOND), None);
        assert!(!pace.is_quick);
        // Nor one that reads a megabyte a second over a short path.
        for _ in 0..10 {
            assert_eq!(look(&mut pace, 1_000 * MILLISECOND, MIB - 100_000, MILLISECOND), None);
            assert!(!pace.is_quick);
        }
    }

    #[test]
    fn a_quick_reader_gets_a_larger_one_once() {
        let mut pace = Pace::new(MIB, Instant::now(), 0);
        let path = MILLISECOND / 10;
        assert_eq!(look(&mut pace, 5 * MILLISECOND, 0, path), Some(LIVELY));
        assert!(pace.is_quick);
        for _ in 0..10 {
            assert_eq!(look(&mut pace, 20 * MILLISECOND, 0, path), None);
        }
    }

    #[test]
    fn no_time_and_no_path_are_no_reason_to_grow_beyond_a_step() {
        let mut pace = Pace::new(MIB, Instant::now(), 0);
        assert_eq!(look(&mut pace, Duration::ZERO, 0, MILLISECOND), Some(4 * MIB));
        assert_eq!(look(&mut pace, Duration::ZERO, 0, Duration::ZERO), None);
    }
}
