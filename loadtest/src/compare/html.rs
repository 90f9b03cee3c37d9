//! The comparison as one HTML page without scripts, fonts or images from elsewhere; light or dark like the reader's system. Pure.

use std::fmt::Write;

use super::case::{Case, WorkUnit};
use super::chart::{Chart, ChartBar, ChartGroup};
use super::record::CompareRecord;
use super::summary::{Spread, SummaryLine};
use super::system::{LogMode, SystemKind};
use super::table::{self, READING};
use crate::harness::document::Table;

pub(super) fn page(comparison: &CompareRecord) -> String {
    let mut body = String::from("<h1>Evenkeel beside its peers</h1>\n<dl>");
    // Writing to a string can't fail.
    for (name, value) in table::facts(comparison) {
        let _ = write!(body, "<dt>{name}</dt><dd>{}</dd>", escape(&value).replace('`', ""));
    }
    body.push_str("</dl>\n");
    let notes = comparison.notes();
    if !notes.is_empty() {
        let items: String = notes.iter().map(|note| format!("<li>{}</li>", escape(note))).collect();
        let _ = writeln!(body, r#"<ul class="notes">{items}</ul>"#);
    }
    body.push_str(&tiles(comparison));
    let _ = writeln!(body, "<p>{}</p>\n{LEGEND}", escape(&READING.join(" ")).replace('`', ""));
    for &case in &comparison.settings.cases {
        body.push_str(&section(comparison, case));
    }
    if !comparison.goals.is_empty() {
        let _ = writeln!(body, "<section><h2>Goals</h2>{}</section>", html_table(&table::goals(comparison)));
    }
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>Evenkeel beside its peers</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )
}

/// Text between tags or in an attribute.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The ratios of Evenkeel in large letters.
fn tiles(comparison: &CompareRecord) -> String {
    let is_plain = |line: &&SummaryLine| {
        let system = comparison.systems.iter().find(|system| system.name == line.system);
        system.is_some_and(|system| system.kind == SystemKind::Evenkeel { relay: None })
    };
    let mut out = String::new();
    for &case in &comparison.settings.cases {
        for &row in comparison.settings.rows.iter().take(1) {
            let Some(line) = comparison.of(case, row).find(is_plain) else { continue };
            let ratio = line.tax_ratio.as_ref().map(|ratio| (ratio, "CPU tax"));
            let Some((ratio, what)) = ratio.or_else(|| line.memory_ratio.as_ref().map(|ratio| (ratio, "memory")))
            else {
                continue;
            };
            let Spread { median, min, max } = ratio.spread;
            let class = if median <= 1.0 { "better" } else { "worse" };
            let _ = write!(
                out,
                r#"<div class="tile"><span>{}</span><b class="{class}">{}×</b><span>the {what} of {} ({}..{})</span></div>"#,
                escape(&table::title(comparison, case)),
                table::plain(median),
                escape(&ratio.best),
                table::plain(min),
                table::plain(max)
            );
        }
    }
    if out.is_empty() { out } else { format!("<div class=\"tiles\">{out}</div>\n") }
}

fn section(comparison: &CompareRecord, case: Case) -> String {
    let unit = case.unit();
    let (cost, factor) = unit.cost();
    let title = table::title(comparison, case);
    let per_second = match unit {
        WorkUnit::Gigabyte => "GB per second, more is better".to_owned(),
        unit => format!("{}s per second, more is better", unit.word()),
    };
    let charts = if case == Case::Idle {
        let memory = |line: &SummaryLine| line.memory.map(|value| (value, format!("{:.2} kB", value.median / 1e3)));
        vec![chart(comparison, case, "user memory per connection, less is better".into(), &memory)]
    } else {
        let tax = |line: &SummaryLine| line.tax.map(|value| (value, table::plain(value.median * factor)));
        let throughput = |line: &SummaryLine| line.throughput.map(|value| (value, table::rate(unit, value.median)));
        let p99 = |line: &SummaryLine| line.p99.map(|value| (value, table::micros(value.median)));
        vec![
            chart(comparison, case, format!("CPU tax, {cost}, less is better"), &tax),
            chart(comparison, case, per_second, &throughput),
            chart(comparison, case, "99th percentile of latency, less is better".into(), &p99),
        ]
    };
    let figures: String = charts.iter().map(Chart::render).collect();
    let mut details = String::new();
    for (name, rows) in table::tables(comparison).iter().filter(|(name, _)| name.starts_with(&title)) {
        let row = name.split_once("; ").map_or("", |(_, row)| row);
        let _ = write!(details, "<h3>{}</h3>{}", escape(row), html_table(rows));
    }
    format!(
        "<section><h2>{}</h2><div class=\"charts\">{figures}</div><details><summary>All figures</summary>{details}</details></section>\n",
        escape(&title)
    )
}

fn chart(
    comparison: &CompareRecord,
    case: Case,
    title: String,
    figure: &dyn Fn(&SummaryLine) -> Option<(Spread, String)>,
) -> Chart {
    let mut groups = Vec::new();
    for system in &comparison.systems {
        let mut rows = comparison.settings.rows.clone();
        let is_direct = system.kind == SystemKind::Direct;
        if is_direct {
            rows.truncate(1);
        }
        let bars = rows.into_iter().filter_map(|row| {
            let line = comparison.of(case, row).find(|line| line.system == system.name)?;
            let (value, text) = figure(line)?;
            let (class, name) = match row {
                _ if is_direct => ("plain", "no balancer"),
                LogMode::Defaults => ("defaults", row.short_title()),
                LogMode::LogsOff => ("quiet", row.short_title()),
            };
            Some(ChartBar { class, name, value, text })
        });
        let bars: Vec<_> = bars.collect();
        if !bars.is_empty() {
            groups.push(ChartGroup { label: system.name.clone(), ours: system.kind.is_ours(), bars });
        }
    }
    Chart { title, groups }
}

fn html_table(table: &Table) -> String {
    let mut out = String::from(r#"<div class="wide"><table>"#);
    for (index, row) in table.iter().enumerate() {
        let tag = if index == 0 { "th" } else { "td" };
        let cell = |text: &String| match text.as_str() {
            "met" => format!(r#"<{tag} class="better">met</{tag}>"#),
            "MISSED" => format!(r#"<{tag} class="worse">missed</{tag}>"#),
            text => format!("<{tag}>{}</{tag}>", escape(text)),
        };
        let _ = write!(out, "<tr>{}</tr>", row.iter().map(cell).collect::<String>());
    }
    out + "</table></div>"
}

const LEGEND: &str = r#"<p class="legend"><i class="defaults"></i> shipped defaults: session log on, checks on <i class="quiet"></i> logs off, checks on <i class="plain"></i> no balancer <i class="line"></i> lowest to highest round</p>"#;

const STYLE: &str = include_str!("report.css");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::fixture;

    fn sample() -> String {
        page(&fixture::comparison(&[("direct", &[10.0]), ("evenkeel", &[16.0]), ("nginx", &[20.0])]))
    }

    #[test]
    fn needs_nothing_from_anywhere() {
        let page = sample();
        for word in ["http:", "https:", "<script", "src=", "url(", "@import", "<link"] {
            assert!(!page.contains(word), "{word} in {page}");
        }
    }

    #[test]
    fn every_tag_that_is_opened_is_closed() {
        let page = sample();
        for tag in
            ["main", "section", "figure", "svg", "g", "table", "tr", "td", "th", "details", "ul", "dl", "p", "div"]
        {
            let count = |text: &str| page.matches(text).count();
            let opened = count(&format!("<{tag}>")) + count(&format!("<{tag} "));
            assert_eq!(opened, count(&format!("</{tag}>")), "{tag}");
        }
    }

    #[test]
    fn shows_the_ratio_and_escapes_what_comes_from_outside() {
        let page = sample();
        assert!(page.contains(r#"<b class="better">0.60×</b><span>the CPU tax of nginx"#), "{page}");
        assert!(page.contains("envoy: &lt;not found&gt;"), "{page}");
    }
}
