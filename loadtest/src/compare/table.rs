//! The comparison as text: tables for a terminal and for `RESULTS.md`, made from the same rows.
//!
//! Pure.

use std::fmt::Write;

use super::case::{Case, Unit};
use super::record::Comparison;
use super::summary::{Line, Ratio, Spread};

/// Rows of cells, the first one being the head.
pub(crate) type Table = Vec<Vec<String>>;

/// For a terminal.
pub(super) fn terminal(comparison: &Comparison) -> String {
    let mut out = String::new();
    // Writing to a string can't fail.
    for (title, table) in tables(comparison) {
        let _ = writeln!(out, "{title}\n{}", aligned(&table));
    }
    for note in comparison.notes() {
        let _ = writeln!(out, "note: {note}");
    }
    out
}

/// For `RESULTS.md`.
pub(super) fn markdown(comparison: &Comparison) -> String {
    let mut out = String::from("# Evenkeel beside its peers\n\n");
    let _ = writeln!(out, "Written by `loadtest compare --write-results`; never by hand.\n");
    for (name, value) in facts(comparison) {
        let _ = writeln!(out, "- {name}: {value}");
    }
    for note in comparison.notes() {
        let _ = writeln!(out, "- **note**: {note}");
    }
    let _ = writeln!(out, "\n{}", READING.join(" "));
    for (title, table) in tables(comparison) {
        let _ = writeln!(out, "\n## {title}\n\n{}", piped(&table));
    }
    out.truncate(out.trim_end().len());
    out + "\n"
}

/// How to read the figures.
pub(super) const READING: [&str; 5] = [
    "CPU is that of the whole machine, load generator and backend included, from /proc/stat;",
    "tax is that minus the same without a balancer (direct) in the same round.",
    "Figures are medians over the rounds, with the lowest and highest in parentheses.",
    "Ratios compare with the peer that has the lowest median, round by round; below 1 is better than every peer.",
    "nginx has no active checks; HAProxy with `option splice-auto` runs only where streams are bulk.",
];

/// What was run on what.
pub(super) fn facts(comparison: &Comparison) -> Vec<(&'static str, String)> {
    let Comparison { machine, settings, .. } = comparison;
    let mut versions: Vec<_> = Vec::new();
    for system in comparison.systems.iter().filter(|system| !system.version.is_empty()) {
        versions.push(format!("{} {}", system.name, system.version));
    }
    vec![
        ("date", comparison.date.clone()),
        ("command", format!("`{}` (profile `{}`)", comparison.command, comparison.profile)),
        ("machine", format!("{} × {}, {:.0} GiB, Linux {}", machine.cpus, machine.cpu, machine.memory, machine.kernel)),
        ("before the start", format!("load {}, {:.1} % of the CPUs in use", machine.load, machine.background * 100.0)),
        ("versions", versions.join(", ")),
        (
            "how",
            format!(
                "{} interleaved rounds of {} s a cell; {} threads for each system, {} for the load generator and {} for the \
                 backend; loopback",
                comparison.rounds_done,
                settings.seconds,
                settings.threads,
                settings.load_threads,
                settings.load_threads
            ),
        ),
    ]
}

/// All tables with their titles.
pub(super) fn tables(comparison: &Comparison) -> Vec<(String, Table)> {
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

/// The title of a case; that of `idle` needs its number.
pub(super) fn title(comparison: &Comparison, case: Case) -> String {
    match case {
        Case::Idle => format!("{} idle connections", comparison.settings.idle),
        case => case.title().to_owned(),
    }
}

/// The goals and what became of them.
pub(super) fn goals(comparison: &Comparison) -> Table {
    let mut table =
        vec![["case", "row", "system", "figure", "goal", "measured", "against", ""].map(String::from).to_vec()];
    for goal in &comparison.goals {
        table.push(vec![
            goal.case.name().into(),
            goal.row.short().into(),
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

fn figures(case: Case, lines: &[&Line]) -> Table {
    if case == Case::Idle {
        let mut table = vec![["system", "memory per connection", "÷ best peer"].map(String::from).to_vec()];
        table.extend(lines.iter().map(|line| {
            vec![line.system.clone(), line.memory.map(memory).unwrap_or_default(), ratio(line.memory_ratio.as_ref())]
        }));
        return table;
    }
    let (unit, factor) = case.unit().cost();
    let head = ["system", "per second", "p50", "p99", "p99.9", "CPU", "tax", "tax ÷ best peer", "p50 ÷", "p99 ÷"];
    let mut table = vec![head.map(String::from).to_vec()];
    table[0][5] = format!("CPU {unit}");
    table[0][6] = format!("tax {unit}");
    for line in lines {
        let cost = |value: Option<Spread>| value.map(|value| value.times(factor));
        let short = |ratio: Option<&Ratio>| ratio.map(|ratio| plain(ratio.spread.median)).unwrap_or_default();
        table.push(vec![
            line.system.clone(),
            line.throughput.map(|value| rate(case.unit(), value.median)).unwrap_or_default(),
            line.p50.map(|value| micros(value.median)).unwrap_or_default(),
            line.p99.map(|value| micros(value.median)).unwrap_or_default(),
            line.p99_9.map(|value| micros(value.median)).unwrap_or_default(),
            cost(line.cpu).map(|value| plain(value.median)).unwrap_or_default(),
            cost(line.tax).map(spread).unwrap_or_default(),
            ratio(line.tax_ratio.as_ref()),
            short(line.p50_ratio.as_ref()),
            short(line.p99_ratio.as_ref()),
        ]);
    }
    table
}

pub(crate) fn aligned(table: &Table) -> String {
    let columns = table.first().map_or(0, Vec::len);
    let width = |column: usize| table.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in table {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (text, &width))| match column {
            0 => format!("{text:<width$}"),
            _ => format!("{text:>width$}"),
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        let _ = writeln!(out, "  {}", line.trim_end());
    }
    out
}

pub(crate) fn piped(table: &Table) -> String {
    let mut out = String::new();
    for (index, row) in table.iter().enumerate() {
        let _ = writeln!(out, "| {} |", row.join(" | "));
        if index == 0 {
            let rules: Vec<_> = (0..row.len()).map(|column| if column == 0 { "---" } else { "---:" }).collect();
            let _ = writeln!(out, "| {} |", rules.join(" | "));
        }
    }
    out.trim_end().to_owned()
}

/// `1.23 (1.20..1.31)`.
pub(super) fn spread(value: Spread) -> String {
    format!("{} ({}..{})", plain(value.median), plain(value.min), plain(value.max))
}

pub(super) fn ratio(value: Option<&Ratio>) -> String {
    value.map(|ratio| format!("{} {}", spread(ratio.spread), ratio.best)).unwrap_or_default()
}

pub(super) fn memory(value: Spread) -> String {
    let text = spread(value.times(1.0 / 1000.0));
    format!("{text} kB")
}

/// Work per second.
pub(super) fn rate(unit: Unit, value: f64) -> String {
    match unit {
        Unit::Gigabyte => format!("{value:.2} GB"),
        _ if value >= 1e4 => format!("{:.1}k", value / 1e3),
        _ => format!("{value:.0}"),
    }
}

/// A latency in microseconds.
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

    fn sample() -> Comparison {
        fixture::comparison(&[("direct", &[10.0]), ("evenkeel", &[16.0]), ("nginx", &[20.0])])
    }

    #[test]
    fn a_terminal_gets_aligned_columns() {
        let text = terminal(&sample());
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
        let text = markdown(&sample());
        for words in ["2 × Some CPU", "nginx 1.0", "`loadtest compare` (profile `dist`)", "| evenkeel |", "| ---: |"] {
            assert!(text.contains(words), "no {words:?} in {text}");
        }
        assert!(text.ends_with("|\n"));
    }

    #[test]
    fn numbers_have_about_three_digits() {
        assert_eq!([0.1234, 12.34, 123.4, -0.5].map(plain), ["0.12", "12.3", "123", "-0.50"]);
        assert_eq!((micros(12_345.0), rate(Unit::Message, 123_456.0)), ("12.3 ms".into(), "123.5k".into()));
    }
}
