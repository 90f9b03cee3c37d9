//! Why a backend has its standing, in words for the log line and the API.

use super::members::Member;
use crate::endpoint::Registry;
use crate::health::{ProbeState, Report};
use crate::standing::{Guard, Standing};

pub(super) fn of(member: &Member) -> String {
    let note = member.endpoint.note.as_deref();
    match member.facts.standing() {
        Standing::Disabled | Standing::Draining => "by the operator".to_owned(),
        Standing::Removed => "no longer in the registry".to_owned(),
        Standing::Maintenance => with_note("the registry has it in maintenance", note),
        Standing::Down if member.facts.registry == Registry::Critical => with_note("the registry says critical", note),
        Standing::Down | Standing::Up if member.facts.guard == Guard::Held => {
            "held: it left the registry while that was in trouble, and its own probes pass".to_owned()
        }
        Standing::Down | Standing::Up => match (&member.facts.probe, member.backend.last_report()) {
            (None, _) => "no active check".to_owned(),
            (Some(state), Some(report)) => judged(*state, &report),
            (Some(_), None) => "not probed yet".to_owned(),
        },
        Standing::Unproven => "no probe has finished yet".to_owned(),
        Standing::Ejected => member.ejected_because.clone(),
        Standing::Damped => "it flapped".to_owned(),
    }
}

fn judged(state: ProbeState, report: &Report) -> String {
    let word = match (state, report.result.passed) {
        (_, true) => "pass",
        (_, false) => "failure",
    };
    format!("{} ({} {word})", report.result, ordinal(report.streak))
}

fn with_note(text: &str, note: Option<&str>) -> String {
    note.map_or_else(|| text.to_owned(), |note| format!("{text}: {note}"))
}

fn ordinal(n: u32) -> String {
    let suffix = match (n % 10, n % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{n}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::ordinal;

    #[test]
    fn ordinals() {
        let all: Vec<_> = [1, 2, 3, 4, 11, 12, 13, 21, 22, 101, 111].map(ordinal).into();
        assert_eq!(all.join(" "), "1st 2nd 3rd 4th 11th 12th 13th 21st 22nd 101st 111th");
    }
}
