//! What goes wrong, with how many backends, and when: a closed set of faults, each a list of timed steps.
//!
//! Pure. Every fault leaves its backends as it found them, so that what is counted after it is the way back.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Of `flap`: how long a backend is gone, and how long it is back.
const PHASE: Duration = Duration::from_secs(1);

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Fault {
    /// kill -9 of one backend
    Kill,
    /// kill -9 of two of three backends
    KillTwo,
    /// SIGSTOP: it accepts and says nothing
    Stop,
    /// Its packets are dropped, both ways
    Blackhole,
    /// It resets what it has accepted
    ResetOnAccept,
    /// It closes what it has accepted
    FinOnAccept,
    /// It reads a request and resets
    ResetAfterRequest,
    /// kill -9 and back again, every second
    Flap,
    /// Half the pool at once: two of four backends are blackholed
    Half,
}

/// What active checks look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Check {
    /// They connect
    Tcp,
    /// They send a line and expect an answer
    Script,
}

/// What a backend does with connections: switched while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Answers.
    Serve,
    /// Resets what it accepts.
    ResetOnAccept,
    /// Closes what it accepts.
    FinOnAccept,
    /// Resets where a request was read, one of a check included.
    ResetAfterRequest,
}

/// What is done to each backend that a fault hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// SIGKILL.
    Kill,
    /// Start it again.
    Start,
    /// SIGSTOP.
    Stop,
    /// SIGCONT.
    Continue,
    /// Drop its packets.
    Drop,
    /// Drop them no longer.
    Pass,
    /// Change what it does.
    Mode(Mode),
}

/// An action, so long after the fault began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) at: Duration,
    pub(super) action: Action,
}

impl Fault {
    /// All, in the order of the report.
    pub(super) const ALL: [Self; 9] = [
        Self::Kill,
        Self::KillTwo,
        Self::Stop,
        Self::Blackhole,
        Self::ResetOnAccept,
        Self::FinOnAccept,
        Self::ResetAfterRequest,
        Self::Flap,
        Self::Half,
    ];

    /// As it is written on the command line and in the JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::KillTwo => "kill-two",
            Self::Stop => "stop",
            Self::Blackhole => "blackhole",
            Self::ResetOnAccept => "reset-on-accept",
            Self::FinOnAccept => "fin-on-accept",
            Self::ResetAfterRequest => "reset-after-request",
            Self::Flap => "flap",
            Self::Half => "half",
        }
    }

    /// For people.
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

    /// Backends in the pool.
    pub(super) fn backends(self) -> u8 {
        if self == Self::Half { 4 } else { 3 }
    }

    /// How many of them are hit: the first so many.
    pub(super) fn hit(self) -> u8 {
        if matches!(self, Self::KillTwo | Self::Half) { 2 } else { 1 }
    }

    /// Whether it makes a difference what checks look at: a backend that accepts passes one that connects.
    pub(super) fn hides_from_a_connect(self) -> bool {
        matches!(self, Self::Stop | Self::ResetOnAccept | Self::FinOnAccept | Self::ResetAfterRequest)
    }

    /// What is done, in order, for a fault of this length.
    pub(super) fn steps(self, length: Duration) -> Vec<Step> {
        let pair = |begin, end| vec![Step { at: Duration::ZERO, action: begin }, Step { at: length, action: end }];
        match self {
            Self::Kill | Self::KillTwo => pair(Action::Kill, Action::Start),
            Self::Stop => pair(Action::Stop, Action::Continue),
            Self::Blackhole | Self::Half => pair(Action::Drop, Action::Pass),
            Self::ResetOnAccept => pair(Action::Mode(Mode::ResetOnAccept), Action::Mode(Mode::Serve)),
            Self::FinOnAccept => pair(Action::Mode(Mode::FinOnAccept), Action::Mode(Mode::Serve)),
            Self::ResetAfterRequest => pair(Action::Mode(Mode::ResetAfterRequest), Action::Mode(Mode::Serve)),
            Self::Flap => {
                let falls = (0..).map(|turn| PHASE * 2 * turn).take_while(|at| *at < length);
                falls
                    .flat_map(|at| {
                        let back = (at + PHASE).min(length);
                        [Step { at, action: Action::Kill }, Step { at: back, action: Action::Start }]
                    })
                    .collect()
            }
        }
    }
}

impl Check {
    /// Both, in the order of the report.
    pub(super) const ALL: [Self; 2] = [Self::Tcp, Self::Script];

    /// For people.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Tcp => "tcp check",
            Self::Script => "send/expect check",
        }
    }
}

impl Action {
    /// Whether it breaks something, rather than mending it.
    pub(super) fn is_blow(self) -> bool {
        match self {
            Self::Kill | Self::Stop | Self::Drop => true,
            Self::Start | Self::Continue | Self::Pass => false,
            Self::Mode(mode) => mode != Mode::Serve,
        }
    }
}

impl Mode {
    /// As it goes over the control socket.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Serve => "serve",
            Self::ResetOnAccept => "reset-on-accept",
            Self::FinOnAccept => "fin-on-accept",
            Self::ResetAfterRequest => "reset-after-request",
        }
    }

    /// The mode of that word.
    pub(super) fn of(word: &str) -> Option<Self> {
        let all = [Self::Serve, Self::ResetOnAccept, Self::FinOnAccept, Self::ResetAfterRequest];
        all.into_iter().find(|mode| mode.word() == word)
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
        for fault in Fault::ALL {
            assert_eq!(fault.to_possible_value().unwrap().get_name(), fault.name());
            assert_eq!(serde_json::to_value(fault).unwrap(), fault.name());
        }
    }

    #[test]
    fn every_fault_begins_with_a_blow_and_mends_each_of_its_blows_in_time() {
        for fault in Fault::ALL {
            for length in [LENGTH, Duration::from_millis(300)] {
                let steps = fault.steps(length);
                assert_eq!(steps[0].at, Duration::ZERO, "{fault:?}");
                assert!(steps.iter().step_by(2).all(|step| step.action.is_blow()), "{fault:?}");
                assert!(steps.iter().skip(1).step_by(2).all(|step| !step.action.is_blow()), "{fault:?}");
                assert!(steps.is_sorted_by_key(|step| step.at), "{fault:?}");
                assert!(steps.len().is_multiple_of(2) && steps.last().unwrap().at <= length, "{fault:?}");
            }
            assert!(fault.hit() < fault.backends(), "somebody has to be left");
        }
    }

    #[test]
    fn flapping_is_a_second_gone_and_a_second_back() {
        let seconds: Vec<_> = Fault::Flap.steps(LENGTH).iter().map(|step| step.at.as_secs()).collect();
        assert_eq!(seconds, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn a_mode_is_what_its_word_says() {
        for mode in [Mode::Serve, Mode::ResetOnAccept, Mode::FinOnAccept, Mode::ResetAfterRequest] {
            assert_eq!(Mode::of(mode.word()), Some(mode));
        }
        assert_eq!(Mode::of("nonsense"), None);
    }
}
