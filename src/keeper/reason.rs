//! Why a backend has its standing, in words for the log line and the API.

use std::sync::Arc;

use super::member::Member;
use crate::endpoint::{Endpoint, Mistrust, Registry};
use crate::health::{AdvisedWeight, AgentWish, ProbeState};
use crate::operator::Overrides;
use crate::standing::{Facts, Guard, Operator, Standing};

/// What the standing comes from: while it is the same, so is the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ground {
    cause: Cause,
    /// What else is to be known of it, each with what it ends by; mostly empty.
    remarks: String,
}

/// What decides the standing.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Cause {
    Operator(String),
    Agent(AgentWish),
    Removed,
    Maintenance(Option<Arc<str>>),
    Critical(Option<Arc<str>>),
    /// Critical before, and no check has run since.
    StillCritical,
    NotRun(Option<Arc<str>>),
    Held(Mistrust, Registry, Option<Arc<str>>),
    Unchecked,
    Probe(ProbeState),
    /// The same, and an operator lets the check rest.
    Paused(ProbeState, String),
    Ejected,
    Damped,
}

impl Ground {
    pub(super) fn of(member: &Member, overrides: &Overrides) -> Self {
        let id = &member.endpoint.id;
        let cause = match (Cause::of(&member.facts, &member.endpoint, || overrides.explained(id)), overrides.pause(id))
        {
            (Cause::Probe(state), Some(order)) => Cause::Paused(state, order.to_string()),
            (cause, _) => cause,
        };
        Self { cause, remarks: remarks(member, overrides) }
    }

    /// Whether the words are what the last probe found, whichever that is.
    pub(super) fn is_probe(&self) -> bool {
        matches!(self.cause, Cause::Probe(_))
    }

    pub(super) fn remarks(&self) -> Option<Arc<str>> {
        (!self.remarks.is_empty()).then(|| self.remarks.as_str().into())
    }

    /// Whether the words stay the same as long as this does.
    pub(super) fn lasts(&self) -> bool {
        self.cause != Cause::Ejected
    }

    /// For people.
    pub(super) fn explained(&self, member: &Member) -> String {
        self.remarks.clone() + &self.cause.explained(member)
    }
}

/// Of one that is up: why it gets less than others, or is there at all. Of one that is kept: that it is.
fn remarks(member: &Member, overrides: &Overrides) -> String {
    let (facts, endpoint) = (&member.facts, &member.endpoint);
    let mut remarks = String::new();
    if let Some(mistrust) = member.held.filter(|_| !member.listed && !facts.is_held()) {
        remarks = format!("missing since {}; ", mistrust.since());
    }
    if facts.standing() != Standing::Up {
        return remarks;
    }
    if member.weight == 0 {
        let by = overrides.weight(&endpoint.id).map_or_else(String::new, |order| format!(" {order}"));
        remarks += &format!("nothing new: weight 0{by}; ");
    } else if let Some(weight) = member.advice.and_then(|advice| advice.weight)
        && matches!(weight, AdvisedWeight::Percent(0) | AdvisedWeight::Absolute(0))
    {
        remarks += &format!("nothing new: its agent says {weight}; ");
    }
    match facts.registry {
        Registry::Warning => remarks += &(with_note("the registry warns", endpoint.note.as_deref()) + "; "),
        Registry::Unknown => remarks += &(not_run(endpoint.note.as_deref()) + "; "),
        _ => {}
    }
    remarks
}

impl Cause {
    fn of(facts: &Facts, endpoint: &Endpoint, order: impl FnOnce() -> String) -> Self {
        let note = || endpoint.note.clone();
        match (facts.standing(), facts.guard) {
            (Standing::Draining | Standing::Maintenance | Standing::Down, _) if by_agent(facts) => {
                Self::Agent(facts.agent)
            }
            (Standing::Disabled | Standing::Draining, _) => Self::Operator(order()),
            (Standing::Removed, _) => Self::Removed,
            (Standing::Maintenance, _) => Self::Maintenance(note()),
            (Standing::Down, _) if facts.registry == Registry::Critical && !facts.is_held() => {
                if endpoint.registry == Registry::Unknown { Self::StillCritical } else { Self::Critical(note()) }
            }
            (Standing::Down, _) if facts.registry == Registry::Unknown && facts.probe.is_none() => Self::NotRun(note()),
            (Standing::Up, Guard::Held(mistrust)) => {
                // What is said of one that is missing was said before.
                Self::Held(mistrust, facts.registry, note().filter(|_| facts.registry == Registry::Critical))
            }
            (Standing::Up | Standing::Unproven | Standing::Down, _) => facts.probe.map_or(Self::Unchecked, Self::Probe),
            (Standing::Ejected, _) => Self::Ejected,
            (Standing::Damped, _) => Self::Damped,
        }
    }

    fn explained(&self, member: &Member) -> String {
        match self {
            Self::Operator(order) => order.clone(),
            Self::Agent(AgentWish::Down) => "its agent says so".to_owned(),
            Self::Agent(_) => "its agent asks for it".to_owned(),
            Self::Removed => "no longer in the registry".to_owned(),
            Self::Maintenance(note) => with_note("the registry has it in maintenance", note.as_deref()),
            Self::Critical(note) => with_note("the registry says critical", note.as_deref()),
            Self::StillCritical => "the registry said critical, and its check has not run since".to_owned(),
            Self::NotRun(note) => not_run(note.as_deref()) + ", and there is no active check",
            Self::Held(mistrust, registry, note) => {
                with_note(&held(*mistrust, *registry, "it", "its"), note.as_deref())
            }
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
    let overruled = match facts.registry {
        Registry::Maintenance => true,
        Registry::Critical => !facts.is_held(),
        Registry::Unknown => facts.probe.is_none(),
        _ => false,
    };
    facts.agent != AgentWish::Ready && facts.operator == Operator::Ready && !overruled
}

/// `it` or `they`, `its` or `their`.
pub(super) fn held(mistrust: Mistrust, registry: Registry, it: &str, its: &str) -> String {
    let how = match (registry, mistrust) {
        (Registry::Critical, mistrust) => format!("critical since {}", mistrust.since()),
        (_, Mistrust::Trouble) => format!("{it} left the registry while that was in trouble"),
        (_, mistrust) => format!("missing since {}", mistrust.since()),
    };
    format!("held: {how}, and {its} own probes pass")
}

fn not_run(note: Option<&str>) -> String {
    with_note("a check of the registry has not run yet", note)
}

fn with_note(text: &str, note: Option<&str>) -> String {
    note.map_or_else(|| text.to_owned(), |note| format!("{text}: {note}"))
}
