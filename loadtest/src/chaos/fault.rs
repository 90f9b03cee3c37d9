//! The faults: how many backends each hits, and what happens to them at which time. Pure.
//!
//! Every fault leaves its backends as it found them, so that the counts after it show the recovery.

use std::time::Duration;

use crate::closed_set::closed_set;

/// How long a backend of the fault `flap` is gone, and how long it is back.
const PHASE: Duration = Duration::from_secs(1);

closed_set! {
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub(super) serde enum Fault {
        /// kill -9 of one backend
        Kill = "kill",
        /// kill -9 of two of three backends
        KillTwo = "kill-two",
        /// SIGSTOP: the backend accepts and sends nothing
        Stop = "stop",
        /// The packets of the backend are dropped, both ways
        Blackhole = "blackhole",
        /// The backend resets connections after it has accepted them
        ResetOnAccept = "reset-on-accept",
        /// The backend closes connections after it has accepted them
        FinOnAccept = "fin-on-accept",
        /// The backend reads a request and resets
        ResetAfterRequest = "reset-after-request",
        /// kill -9 and a new start, again and again, every second
        Flap = "flap",
        /// Half of the pool at once: two of four backends are blackholed
        Half = "half",
    }
}

closed_set! {
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub(super) serde enum CheckKind {
        /// They connect
        Tcp = "tcp",
        /// They send a line and expect an answer
        Script = "script",
    }
}

closed_set! {
    /// What a backend does with connections. The names are commands on its control socket.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) enum BackendMode {
        Serve = "serve",
        ResetOnAccept = "reset-on-accept",
        FinOnAccept = "fin-on-accept",
        /// Resets after it has read a request, also a request of a check.
        ResetAfterRequest = "reset-after-request",
    }
}

/// What is done to each backend that a fault hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FaultAction {
    Kill,
    Start,
    Stop,
    Continue,
    Drop,
    Pass,
    Mode(BackendMode),
}

/// An action and its time since the beginning of the fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FaultStep {
    pub(super) at: Duration,
    pub(super) action: FaultAction,
}

impl Fault {
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Kill => "kill -9",
            Self::KillTwo => "kill -9, two of three",
            Self::Stop => "SIGSTOP",
            Self::Blackhole => "blackhole",
            Self::ResetOnAccept => "reset right after accept",
            Self::FinOnAccept => "FIN right after accept",
            Self::ResetAfterRequest => "reset after the request was read",
            Self::Flap => "flapping 1 s / 1 s",
            Self::Half => "half the pool blackholed, two of four",
        }
    }

    pub(super) fn backends(self) -> u8 {
        if self == Self::Half { 4 } else { 3 }
    }

    /// The number of backends that are hit; these are the first of the pool.
    pub(super) fn hit(self) -> u8 {
        if matches!(self, Self::KillTwo | Self::Half) { 2 } else { 1 }
    }

    /// Whether the backend still accepts connections, so that a check that only connects passes.
    pub(super) fn hides_from_a_connect(self) -> bool {
        matches!(self, Self::Stop | Self::ResetOnAccept | Self::FinOnAccept | Self::ResetAfterRequest)
    }

    /// The steps of a fault of this length, in order.
    pub(super) fn steps(self, length: Duration) -> Vec<FaultStep> {
        let pair =
            |begin, end| vec![FaultStep { at: Duration::ZERO, action: begin }, FaultStep { at: length, action: end }];
        match self {
            Self::Kill | Self::KillTwo => pair(FaultAction::Kill, FaultAction::Start),
            Self::Stop => pair(FaultAction::Stop, FaultAction::Continue),
            Self::Blackhole | Self::Half => pair(FaultAction::Drop, FaultAction::Pass),
            Self::ResetOnAccept => {
                pair(FaultAction::Mode(BackendMode::ResetOnAccept), FaultAction::Mode(BackendMode::Serve))
            }
            Self::FinOnAccept => {
                pair(FaultAction::Mode(BackendMode::FinOnAccept), FaultAction::Mode(BackendMode::Serve))
            }
            Self::ResetAfterRequest => {
                pair(FaultAction::Mode(BackendMode::ResetAfterRequest), FaultAction::Mode(BackendMode::Serve))
            }
            Self::Flap => {
                let falls = (0..).map(|turn| PHASE * 2 * turn).take_while(|at| *at < length);
                falls
                    .flat_map(|at| {
                        let back = (at + PHASE).min(length);
                        [
                            FaultStep { at, action: FaultAction::Kill },
                            FaultStep { at: back, action: FaultAction::Start },
                        ]
                    })
                    .collect()
            }
        }
    }
}

impl CheckKind {
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Tcp => "tcp check",
            Self::Script => "send/expect check",
        }
    }
}

impl FaultAction {
    /// Whether it breaks something; the others repair.
    pub(super) fn breaks(self) -> bool {
        match self {
            Self::Kill | Self::Stop | Self::Drop => true,
            Self::Start | Self::Continue | Self::Pass => false,
            Self::Mode(mode) => mode != BackendMode::Serve,
        }
    }
}

impl BackendMode {
    pub(super) fn of(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|mode| mode.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    const LENGTH: Duration = Duration::from_secs(10);

    #[test]
    fn all_are_listed_once_with_the_name_of_the_command_line_and_the_json() {
        assert_eq!(Fault::value_variants(), Fault::ALL);
        for &fault in Fault::ALL {
            assert_eq!(fault.to_possible_value().unwrap().get_name(), fault.name());
            assert_eq!(serde_json::to_value(fault).unwrap(), fault.name());
        }
    }

    #[test]
    fn every_fault_begins_with_a_breakage_and_repairs_each_in_time() {
        for &fault in Fault::ALL {
            for length in [LENGTH, Duration::from_millis(300)] {
                let steps = fault.steps(length);
                assert_eq!(steps[0].at, Duration::ZERO, "{fault:?}");
                assert!(steps.iter().step_by(2).all(|step| step.action.breaks()), "{fault:?}");
                assert!(steps.iter().skip(1).step_by(2).all(|step| !step.action.breaks()), "{fault:?}");
                assert!(steps.is_sorted_by_key(|step| step.at), "{fault:?}");
                assert!(steps.len().is_multiple_of(2) && steps.last().unwrap().at <= length, "{fault:?}");
            }
            assert!(fault.hit() < fault.backends(), "one backend has to stay healthy");
        }
    }

    #[test]
    fn flapping_is_a_second_gone_and_a_second_back() {
        let seconds: Vec<_> = Fault::Flap.steps(LENGTH).iter().map(|step| step.at.as_secs()).collect();
        assert_eq!(seconds, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn a_mode_is_what_its_word_says() {
        for &mode in BackendMode::ALL {
            assert_eq!(BackendMode::of(mode.name()), Some(mode));
        }
        assert_eq!(BackendMode::of("nonsense"), None);
    }
}
