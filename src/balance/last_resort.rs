//! PURE. When sessions may try backends that are not up, and what becomes of them otherwise: all of `when_all_down` and
//! `panic_threshold`. Read by the pool, its keeper and `plan`.

use crate::config::{self, WhenAllDown};

/// What a pool's settings say about it.
#[derive(Clone, Copy, Debug)]
pub struct LastResort {
    when_all_down: WhenAllDown,
    /// Percent of the proven backends.
    panic_threshold: u8,
}

impl LastResort {
    /// As written.
    pub fn of(settings: &config::Pool) -> Self {
        Self { when_all_down: settings.when_all_down, panic_threshold: settings.resilience.panic_threshold }
    }

    /// Whether so few of the proven backends are up that sessions may try the others.
    pub fn panics(self, up: usize, proven: usize) -> bool {
        proven > 0 && up * 100 < proven * usize::from(self.panic_threshold)
    }

    /// Whether sessions may try the rest because no backend is up, the unproven ones included. `usable` counts the rest.
    pub fn fails_open(self, up: usize, usable: usize) -> bool {
        let opens = self.when_all_down == WhenAllDown::Any || self.panic_threshold > 0;
        opens && up == 0 && usable > 0
    }

    /// What becomes of new sessions while no backend is up: for the log.
    pub fn says(self, is_open: bool) -> &'static str {
        match self.when_all_down {
            WhenAllDown::Wait if !is_open => "new sessions wait",
            WhenAllDown::Refuse if !is_open => "new sessions are refused",
            WhenAllDown::Any | WhenAllDown::Wait | WhenAllDown::Refuse => "sessions may try any of them",
        }
    }
}

/// Whether no backend is up. It begins when all are proven and ends when one is up: a backend that is not probed yet makes no
/// difference.
pub fn is_all_down(up: usize, unproven: usize, was: bool) -> bool {
    up == 0 && (was || unproven == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(when_all_down: WhenAllDown, panic_threshold: u8) -> LastResort {
        LastResort { when_all_down, panic_threshold }
    }

    #[test]
    fn it_opens_when_the_pool_says_so_and_something_is_left() {
        for closed in [rules(WhenAllDown::Refuse, 0), rules(WhenAllDown::Wait, 0)] {
            assert!(!closed.fails_open(0, 3));
        }
        for open in [rules(WhenAllDown::Any, 0), rules(WhenAllDown::Refuse, 1)] {
            assert!(open.fails_open(0, 1) && !open.fails_open(0, 0) && !open.fails_open(1, 3));
        }
    }

    #[test]
    fn it_panics_below_the_threshold_and_not_without_proof() {
        let half = rules(WhenAllDown::Refuse, 50);
        assert!(half.panics(0, 1) && half.panics(1, 3) && !half.panics(2, 4) && !half.panics(0, 0));
        assert!(!rules(WhenAllDown::Any, 0).panics(0, 9));
    }

    #[test]
    fn all_down_begins_when_all_are_proven_and_ends_when_one_is_up() {
        assert!(is_all_down(0, 0, false) && is_all_down(0, 2, true));
        assert!(!is_all_down(0, 1, false) && !is_all_down(1, 0, true));
    }
}
