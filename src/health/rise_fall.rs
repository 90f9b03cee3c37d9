//! PURE. Rise and fall: `rise` passes or `fall` failures in a row change the state, and the first result decides at once.

words! {
    /// What probes say about a backend.
    pub enum ProbeState {
        /// No result yet.
        Unproven = "unproven",
        /// Passing.
        Up = "up",
        /// Failing.
        Down = "down",
    }
}

/// The effect of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flip {
    /// The state stays.
    None,
    /// The state changed to this.
    To(ProbeState),
}

/// Counts results in a row, and holds the state that follows.
#[derive(Clone, Debug)]
pub struct RiseFall {
    rise: u32,
    fall: u32,
    state: ProbeState,
    last: Option<bool>,
    streak: u32,
}

impl RiseFall {
    /// `rise` and `fall` below 1 count as 1.
    pub fn new(rise: u32, fall: u32) -> Self {
        Self { rise: rise.max(1), fall: fall.max(1), state: ProbeState::Unproven, last: None, streak: 0 }
    }

    /// The state now.
    pub fn state(&self) -> ProbeState {
        self.state
    }

    /// Results in a row that were like the last one.
    pub fn streak(&self) -> u32 {
        self.streak
    }

    /// Whether the last result contradicts the state, or there is none yet: the next probe comes after `fast_interval`.
    pub fn in_doubt(&self) -> bool {
        match self.state {
            ProbeState::Unproven => true,
            ProbeState::Up => self.last == Some(false),
            ProbeState::Down => self.last == Some(true),
        }
    }

    /// Takes a result.
    pub fn record(&mut self, passed: bool) -> Flip {
        self.streak = if self.last == Some(passed) { self.streak.saturating_add(1) } else { 1 };
        self.last = Some(passed);
        let flips = match (self.state, passed) {
            (ProbeState::Unproven, _) => true,
            (ProbeState::Up, false) => self.streak >= self.fall,
            (ProbeState::Down, true) => self.streak >= self.rise,
            (ProbeState::Up, true) | (ProbeState::Down, false) => false,
        };
        if !flips {
            return Flip::None;
        }
        self.state = if passed { ProbeState::Up } else { ProbeState::Down };
        Flip::To(self.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_result_decides() {
        assert_eq!(RiseFall::new(2, 3).record(true), Flip::To(ProbeState::Up));
        assert_eq!(RiseFall::new(2, 3).record(false), Flip::To(ProbeState::Down));
    }

    #[test]
    fn failures_must_be_in_a_row() {
        let mut health = RiseFall::new(2, 3);
        health.record(true);
        for _ in 0..50 {
            assert_eq!(health.record(false), Flip::None);
            assert_eq!(health.record(false), Flip::None);
            assert!(health.in_doubt());
            assert_eq!(health.record(true), Flip::None);
            assert!(!health.in_doubt());
        }
        health.record(false);
        health.record(false);
        assert_eq!(health.record(false), Flip::To(ProbeState::Down));
        assert_eq!(health.streak(), 3);
    }

    #[test]
    fn passes_must_be_in_a_row() {
        let mut health = RiseFall::new(2, 3);
        health.record(false);
        assert!(!health.in_doubt());
        assert_eq!(health.record(true), Flip::None);
        assert!(health.in_doubt());
        assert_eq!(health.record(false), Flip::None);
        assert_eq!(health.record(true), Flip::None);
        assert_eq!(health.record(true), Flip::To(ProbeState::Up));
    }
}
