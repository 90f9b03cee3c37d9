//! Why a backend has its standing, in words for the log line and the API.

use std::sync::Arc;

use super::member::Member;
use crate::endpoint::Registry;
use crate::health::{ProbeState, Wish};
use crate::standing::{Facts, Guard, Operator, Standing};

/// What decides the standing: while it is the same, so is the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    Operator(String),
    Agent(Wish),
    Removed,
    Maintenance(Option<Arc<str>>),
    Critical(Option<Arc<str>>),
    Held,
    Unchecked,
    Probe(ProbeState),
    /// The same, and an operator lets the check rest.
    Paused(ProbeState, String),
    Ejected,
    Damped,
}

impl Cause {
    pub(super) fn of(facts: &Facts, note: Option<&Arc<str>>, order: impl FnOnce() -> String) -> Self {
        match facts.standing() {
            Standing::Draining | Standing::Maintenance | Standing::Down if by_agent(facts) => Self::Agent(facts.agent),
            Standing::Disabled | Standing::Draining => Self::Operator(order()),
            Standing::Removed => Self::Removed,
            Standing::Maintenance => Self::Maintenance(note.cloned()),
            Standing::Down if facts.registry == Registry::Critical => Self::Critical(note.cloned()),
            Standing::Up if facts.guard == Guard::Held => Self::Held,
            Standing::Up | Standing::Unproven | Standing::Down => facts.probe.map_or(Self::Unchecked, Self::Probe),
            Standing::Ejected => Self::Ejected,
            Standing::Damped => Self::Damped,
        }
    }

    /// For people.
    pub(super) fn explained(&self, member: &Member) -> String {
        match self {
            Self::Operator(order) => order.clone(),
            Self::Agent(Wish::Down) => "its agent says so".to_owned(),
            Self::Agent(_) => "its agent asks for it".to_owned(),
            Self::Removed => "no longer in the registry".to_owned(),
            Self::Maintenance(note) => with_note("the registry has it in maintenance", note.as_deref()),
            Self::Critical(note) => with_note("the registry says critical", note.as_deref()),
            Self::Held => "held: it left the registry while that was in trouble, and its own probes pass".to_owned(),
            Self::Unchecked => "no active check".to_owned(),
            Self::Probe(_) => probed(member),
            Self::Paused(_, order) => format!("{}; probes paused {order}", probed(member)),
            Self::Ejected => member.ejected_because.clone(),
            Self::Damped => {
                let times = if member.damping.flaps() == 1 {
                    "once".to_owned()
                } else {
                    format!("{} times", member.damping.flaps())
                };
                format!("it works again, but flapped {times}: it has to stay up for a while first")
            }
        }
    }
}

fn probed(member: &Member) -> String {
    let report = member.backend.last_report();
    report.map_or_else(|| "no probe has finished yet".to_owned(), |report| report.to_string())
}

fn by_agent(facts: &Facts) -> bool {
    let overruled = matches!(facts.registry, Registry::Maintenance | Registry::Critical);
    facts.agent != Wish::Ready && facts.operator == Operator::Ready && !overruled
}

fn with_note(text: &str, note: Option<&str>) -> String {
    note.map_or_else(|| text.to_owned(), |note| format!("{text}: {note}"))
}
