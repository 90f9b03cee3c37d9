//! The tables of a run of `chaos`. Pure.

use std::fmt::Write;

use super::count::FaultCounts;
use super::fault::{CheckKind, Fault};
use super::record::{ChaosRecord, ChaosSettings};
use crate::harness::document::{Document, Table, head};

pub(super) fn document(record: &ChaosRecord) -> Document {
    Document {
        heading: "## When things fail (chaos)",
        command: "chaos",
        reading: READING.join(" "),
        facts: facts(record),
        notes: record.notes(),
        tables: tables(record),
    }
}

const READING: [&str; 6] = [
    "Failed: no right answer in time, of connections that started after the fault or were in flight when it fell;",
    "in parentheses the number of these in flight, and the longest wait, if it was half a second or more.",
    "Slow: answered, but after more than half a second, and the longest wait.",
    "Ranges are over the repetitions.",
    "evenkeel-first-byte is Evenkeel with `timeouts.first_byte = \"1s\"`, evenkeel-replay has `replay = \"until_response\"` \
     besides; all else is as it comes.",
    "nginx has no active checks; Envoy has no faster interval for a backend that is about to go down, so it checks every 0.5 s \
     while all is well, and its panic threshold is off.",
];

fn facts(record: &ChaosRecord) -> Vec<(&'static str, String)> {
    let ChaosSettings { seconds, fault_seconds, rate, long_lived, patience, repeat, blackhole, .. } = &record.settings;
    let mut facts = record.run.facts(record.systems.iter().map(|system| (&*system.name, &*system.version)));
    let times = if *repeat == 1 { "once".into() } else { format!("{repeat} times") };
    facts.push((
        "how",
        format!(
            "{times} a cell: {rate} new connections/s for {seconds} s, each wants an answer within {patience} s, and \
             {long_lived} that stay; {fault_seconds} s of fault; three backends in network namespaces of their own (four for \
             half the pool), one system at a time, in turn within each row; packets dropped by {blackhole}"
        ),
    ));
    facts.push((
        "checks",
        "every second, every 300 ms while results contradict the state and while down; timeout 0.5 s, rise 2, fall 3; a second \
         to connect, three attempts; nginx: max_fails=1 fail_timeout=1s"
            .into(),
    ));
    facts
}

pub(super) fn tables(chaos: &ChaosRecord) -> Vec<(String, Table)> {
    let offered = chaos.cells.iter().map(|cell| cell.counts.offered).max().unwrap_or_default();
    let mut tables = vec![
        (format!("new connections that failed, of {offered}"), matrix(chaos, failed)),
        ("back after recovery, s".into(), matrix(chaos, |all| seconds(all.iter().map(|counts| counts.back), "never"))),
        (
            "from the fault to the start of the last connection that failed, s".into(),
            matrix(chaos, |all| seconds(all.iter().map(|counts| counts.last_failure), "–")),
        ),
        (
            format!("long-lived connections that broke, of {}", chaos.settings.long_lived),
            matrix(chaos, |all| counted(all.iter().map(|counts| counts.broken))),
        ),
    ];
    if !chaos.goals.is_empty() {
        tables.push(("goals".into(), goals(chaos)));
    }
    tables
}

fn matrix(chaos: &ChaosRecord, cell: impl Fn(&[&FaultCounts]) -> String) -> Table {
    let mut table = vec![head(["fault"])];
    table[0].extend(chaos.systems.iter().map(|system| system.name.clone()));
    for &row in &chaos.settings.rows {
        let mut line = vec![title(chaos, row)];
        for system in &chaos.systems {
            let all: Vec<_> = chaos.of(row, &system.name).collect();
            line.push(if all.is_empty() { "–".into() } else { cell(&all) });
        }
        if line[1..].iter().any(|cell| cell != "–") || chaos.cells.iter().any(|cell| (cell.fault, cell.check) == row)
        {
            table.push(line);
        }
    }
    table
}

/// Names the check if the fault has more than one row.
fn title(chaos: &ChaosRecord, (fault, check): (Fault, CheckKind)) -> String {
    let rows = chaos.settings.rows.iter().filter(|(other, _)| *other == fault).count();
    if rows == 1 && check == CheckKind::Tcp {
        fault.title().into()
    } else {
        format!("{}, {}", fault.title(), check.title())
    }
}

fn failed(all: &[&FaultCounts]) -> String {
    let mut text = counted(all.iter().map(|counts| counts.failed));
    let mut more = Vec::new();
    if all.iter().any(|counts| counts.in_flight > 0) {
        more.push(format!("{} in flight", counted(all.iter().map(|counts| counts.in_flight))));
    }
    let longest = all.iter().filter_map(|counts| counts.worst_failure).fold(0.0, f64::max);
    if longest >= 0.5 {
        more.push(format!("{longest:.1} s"));
    }
    if !more.is_empty() {
        let _ = write!(text, " ({})", more.join(", "));
    }
    if all.iter().any(|counts| counts.slow > 0) {
        let longest = all.iter().map(|counts| counts.worst_answer).fold(0.0, f64::max);
        let _ = write!(text, "; {} slow, {longest:.1} s", counted(all.iter().map(|counts| counts.slow)));
    }
    text
}

fn goals(chaos: &ChaosRecord) -> Table {
    let mut table = vec![head(["fault", "system", "figure", "goal", "measured", "against", ""])];
    for goal in &chaos.goals {
        table.push(vec![
            title(chaos, (goal.fault, goal.check)),
            goal.system.clone(),
            goal.figure.clone(),
            format!("≤ {}", number(goal.goal)),
            goal.measured.map_or_else(|| "never".into(), number),
            goal.against.clone().unwrap_or_default(),
            if goal.met { "met" } else { "MISSED" }.into(),
        ]);
    }
    table
}

fn counted(values: impl Iterator<Item = u64> + Clone) -> String {
    let (least, most) = (values.clone().min().unwrap_or_default(), values.max().unwrap_or_default());
    if least == most { grouped(most) } else { format!("{} to {}", grouped(least), grouped(most)) }
}

/// Shows `none` for a repetition without a value.
fn seconds(values: impl Iterator<Item = Option<f64>> + Clone, none: &str) -> String {
    let mut known: Vec<f64> = values.clone().flatten().collect();
    known.sort_by(f64::total_cmp);
    let text = match known.as_slice() {
        [] => return none.into(),
        [one] => format!("{one:.1}"),
        [least, .., most] if format!("{least:.1}") == format!("{most:.1}") => format!("{most:.1}"),
        [least, .., most] => format!("{least:.1} to {most:.1}"),
    };
    if known.len() < values.count() && none != "–" { format!("{text}, {none}") } else { text }
}

/// `12,345`.
fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn number(value: f64) -> String {
    if value.fract() == 0.0 { grouped(value as u64) } else { format!("{value:.2}") }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::chaos;
    use super::*;

    fn sample() -> ChaosRecord {
        let peer = [
            FaultCounts { offered: 8_000, failed: 1_334, last_failure: Some(10.0), ..FaultCounts::default() },
            FaultCounts {
                offered: 8_000,
                failed: 9,
                slow: 137,
                worst_answer: 1.02,
                back: Some(1.25),
                ..FaultCounts::default()
            },
        ];
        let ours = [FaultCounts {
            offered: 8_000,
            failed: 1,
            in_flight: 1,
            back: Some(0.4),
            broken: 7,
            ..FaultCounts::default()
        }];
        chaos((Fault::Kill, CheckKind::Tcp), &[("haproxy", &peer), ("evenkeel", &ours)])
    }

    #[test]
    fn a_terminal_gets_aligned_columns_with_ranges_and_goals() {
        let text = document(&sample()).terminal();
        for words in ["of 8000", "9 to 1,334; 0 to 137 slow, 1.0 s", "1 (1 in flight)", "1.2, never", "haproxy", "met"]
        {
            assert!(text.contains(words), "no {words:?} in {text}");
        }
        assert!(text.contains("note: not tested: envoy: not found"), "{text}");
    }

    #[test]
    fn results_name_machine_versions_and_command() {
        let text = document(&sample()).markdown();
        for words in [
            "## When things fail (chaos)",
            "2 × Some CPU",
            "haproxy 1.0",
            "`loadtest chaos` (profile `release`)",
            "| kill -9 |",
        ] {
            assert!(text.contains(words), "no {words:?} in {text}");
        }
    }

    #[test]
    fn wrong_bytes_are_never_left_out() {
        let mut chaos = sample();
        chaos.cells[0].counts.wrong = 2;
        chaos.cells[0].counts.examples = vec!["byte 3 of the reply is wrong".into()];
        assert!(document(&chaos).terminal().contains("WRONG BYTES 2 times: byte 3"));
        assert_eq!(chaos.wrong(), 2);
    }

    #[test]
    fn numbers_are_grouped_and_rounded() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([1.0, 0.8].map(number), ["1", "0.80"]);
        assert_eq!(seconds([Some(1.0), Some(1.04)].into_iter(), "never"), "1.0");
        assert_eq!(seconds([None, None].into_iter(), "never"), "never");
    }
}
