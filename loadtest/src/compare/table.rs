//! The tables of the comparison. Pure.

use super::case::{Case, WorkUnit};
use super::record::CompareRecord;
use super::summary::{Ratio, Spread, SummaryLine};
use crate::harness::document::{Document, Table, head};

pub(super) fn document(comparison: &CompareRecord) -> Document {
    Document {
        heading: "# Evenkeel beside its peers",
        command: "compare",
        reading: READING.join(" "),
        facts: facts(comparison),
        notes: comparison.notes(),
        tables: tables(comparison),
    }
}

pub(super) const READING: [&str; 5] = [
    "CPU is that of the whole machine, load generator and backend included, from /proc/stat;",
    "tax is that minus the same without a balancer (direct) in the same round.",
    "Figures are medians over the rounds, with the lowest and highest in parentheses.",
    "Ratios compare with the peer that has the lowest median, round by round; below 1 is better than every peer.",
    "nginx has no active checks; HAProxy with `option splice-auto` runs only where streams are bulk.",
];

pub(super) fn facts(comparison: &CompareRecord) -> Vec<(&'static str, String)> {
    let CompareRecord { run, settings, rounds_done, .. } = comparison;
    let mut facts = run.facts(comparison.systems.iter().map(|system| (&*system.name, &*system.version)));
    let (seconds, threads, load_threads) = (settings.seconds, settings.threads, settings.load_threads);
    facts.push((
        "how",
        format!(
            "{rounds_done} interleaved rounds of {seconds} s a cell; {threads} threads for each system, {load_threads} for the \
             load generator and {load_threads} for the backend; loopback"
        ),
    ));
    facts
}

pub(super) fn tables(comparison: &CompareRecord) -> Vec<(String, Table)> {
    let mut tables = Vec::new();
    if !comparison.goals.is_empty() {
        tables.push(("goals".into(), goals(comparison)));
    }
    for &case in &comparison.settings.cases {
        for &row in &comparison.settings.rows {
            let lines: Vec<_> = comparison.of(case, row).collect();
            if !lines.is_empty() {
                tables.push((format!("{}; {}", title(comparison, case), row.title()), figures(case, &lines)));
            }
        }
    }
    tables
}

/// The title of a case; the title of `idle` names the number of connections.
pub(super) fn title(comparison: &CompareRecord, case: Case) -> String {
    match case {
        Case::Idle => format!("{} idle connections", comparison.settings.idle),
        case => case.title().to_owned(),
    }
}

/// The goals, what was measured, and whether they are met.
pub(super) fn goals(comparison: &CompareRecord) -> Table {
    let mut table = vec![head(["case", "row", "system", "figure", "goal", "measured", "against", ""])];
    for goal in &comparison.goals {
        table.push(vec![
            goal.case.name().into(),
            goal.row.short_title().into(),
            goal.system.clone(),
            goal.figure.clone(),
            format!("≤ {}", plain(goal.goal)),
            spread(goal.value),
            goal.best.clone().unwrap_or_default(),
            if goal.met { "met" } else { "MISSED" }.into(),
        ]);
    }
    table
}

fn figures(case: Case, lines: &[&SummaryLine]) -> Table {
    if case == Case::Idle {
        let mut table = vec![head(["system", "memory per connection", "÷ best peer"])];
        table.extend(lines.iter().map(|line| {
            vec![line.system.clone(), line.memory.map(memory).unwrap_or_default(), ratio(line.memory_ratio.as_ref())]
        }));
        return table;
    }
    let (unit, factor) = case.unit().cost();
    let (cpu, tax) = (format!("CPU {unit}"), format!("tax {unit}"));
    let names = ["system", "per second", "p50", "p99", "p99.9", &cpu, &tax, "tax ÷ best peer", "p50 ÷", "p99 ÷"];
    let mut table = vec![head(names)];
    for line in lines {
        let cost = |value: Option<Spread>| value.map(|value| value.times(factor));
        let latency = |value: Option<Spread>| value.map(|value| micros(value.median)).unwrap_or_default();
        let short = |ratio: Option<&Ratio>| ratio.map(|ratio| plain(ratio.spread.median)).unwrap_or_default();
        table.push(vec![
            line.system.clone(),
            line.throughput.map(|value| rate(case.unit(), value.median)).unwrap_or_default(),
            latency(line.p50),
            latency(line.p99),
            latency(line.p99_9),
            cost(line.cpu).map(|value| plain(value.median)).unwrap_or_default(),
            cost(line.tax).map(spread).unwrap_or_default(),
            ratio(line.tax_ratio.as_ref()),
            short(line.p50_ratio.as_ref()),
            short(line.p99_ratio.as_ref()),
        ]);
    }
    table
}

/// `1.23 (1.20..1.31)`.
fn spread(value: Spread) -> String {
    format!("{} ({}..{})", plain(value.median), plain(value.min), plain(value.max))
}

fn ratio(value: Option<&Ratio>) -> String {
    value.map(|ratio| format!("{} {}", spread(ratio.spread), ratio.best)).unwrap_or_default()
}

fn memory(value: Spread) -> String {
    let text = spread(value.times(1.0 / 1000.0));
    format!("{text} kB")
}

pub(super) fn rate(unit: WorkUnit, value: f64) -> String {
    match unit {
        WorkUnit::Gigabyte => format!("{value:.2} GB"),
        _ if value >= 1e4 => format!("{:.1}k", value / 1e3),
        _ => format!("{value:.0}"),
    }
}

pub(super) fn micros(value: f64) -> String {
    if value >= 10_000.0 { format!("{:.1} ms", value / 1e3) } else { format!("{value:.0} µs") }
}

/// About three digits.
pub(super) fn plain(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::fixture;

    fn sample() -> CompareRecord {
        fixture::comparison(&[("direct", &[10.0]), ("evenkeel", &[16.0]), ("nginx", &[20.0])])
    }

    #[test]
    fn a_terminal_gets_aligned_columns() {
        let text = document(&sample()).terminal();
        for words in
            ["64 B ping-pong × 64; logs off", "tax µs/msg", "6.00 (6.00..6.00)", "0.60 (0.60..0.60) nginx", "MET"]
        {
            assert!(text.to_uppercase().contains(&words.to_uppercase()), "no {words:?} in {text}");
        }
        assert!(text.contains("note: only 3 of") || text.contains("note: not compared: envoy"), "{text}");
        let lines: Vec<_> = text.lines().filter(|line| line.starts_with("  nginx")).collect();
        assert!(lines.windows(2).all(|pair| pair[0].len() == pair[1].len()));
    }

    #[test]
    fn results_name_machine_versions_and_command() {
        let text = document(&sample()).markdown();
        for words in ["2 × Some CPU", "nginx 1.0", "`loadtest compare` (profile `dist`)", "| evenkeel |", "| ---: |"] {
            assert!(text.contains(words), "no {words:?} in {text}");
        }
        assert!(text.ends_with("|\n"));
    }

    #[test]
    fn numbers_have_about_three_digits() {
        assert_eq!([0.1234, 12.34, 123.4, -0.5].map(plain), ["0.12", "12.3", "123", "-0.50"]);
        assert_eq!((micros(12_345.0), rate(WorkUnit::Message, 123_456.0)), ("12.3 ms".into(), "123.5k".into()));
    }
}
