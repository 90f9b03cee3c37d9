//! How `top` looks. Only the sixteen colours that a terminal's owner chose, on their own background: it is readable on
//! light and dark alike. A colour is a mark's alone, and says nothing that no word says.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line as Text, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table, TableState, Wrap};

use super::foot::{bold, foot, help};
use super::view::{KeyMode, POINTS, TopRow, TopView};
use crate::clean;
use crate::cli::table::{Colour, colour_of, mark, speaks_utf8};

pub(super) const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Where the locale has no more than ASCII.
pub(super) const PLAIN_BARS: [char; 8] = ['_', '.', '-', ':', '=', '+', '*', '#'];

/// A name gets at least this.
const NAME: u16 = 20;

/// Both tables end with these.
const MEASURED: [&str; 8] = ["SESSIONS", "CONN/S", "FAIL/S", "IN/S", "OUT/S", "P50", "P99", "CONNECTS"];

pub(super) fn draw(frame: &mut Frame<'_>, view: &TopView) {
    let foot = foot(view, frame.area().width.into());
    let pools = u16::try_from(view.pools.len()).unwrap_or(u16::MAX).saturating_add(1);
    // The backends are what it is about: many pools do not push them off a small screen.
    let pools = pools.min(frame.area().height / 3).max(2);
    let parts =
        [Constraint::Length(pools), Constraint::Length(1), Constraint::Min(2), Constraint::Length(foot.len() as u16)];
    let [top, _, middle, bottom] = Layout::vertical(parts).areas(frame.area());
    frame.render_widget(Paragraph::new(foot), bottom);
    if view.mode == KeyMode::Help {
        let all = top.union(middle);
        frame.render_widget(Paragraph::new(help()).wrap(Wrap { trim: true }), all);
        return;
    }

    let several = view.pools.len() > 1;
    let width = frame.area().width;
    let names: Vec<String> = view
        .backends
        .iter()
        .map(|line| {
            let name = if several { format!("{}/{}", line.pool, line.id) } else { line.id.clone() };
            clean::line(&if line.zone.is_empty() { name } else { format!("{name} ({})", line.zone) })
        })
        .collect();
    let longest = names.iter().chain(view.pools.iter().map(|line| &line.pool)).map(|name| name.chars().count()).max();
    let columns = Columns::new(width, longest.unwrap_or_default());
    let rows = view.pools.iter().map(|line| {
        let first = vec![
            clean::line(&line.pool).into(),
            state(view, &line.standing),
            right(format!("{}/{}", line.up, line.of), columns.up.into()),
        ];
        first.into_iter().chain(measured(line)).collect()
    });
    frame.render_widget(columns.of_pools(rows.collect()), top);

    let rows = view.backends.iter().zip(names).map(|(line, name)| {
        let weight = right(line.weight.to_string(), 6);
        let first =
            vec![ending(&name, columns.name).into(), standing(view, &line.standing), line.since.clone().into(), weight];
        first.into_iter().chain(measured(line)).collect()
    });
    let table =
        columns.of_backends(rows.collect()).row_highlight_style(Style::default().add_modifier(Modifier::REVERSED));
    let mut state = TableState::default().with_selected((!view.backends.is_empty()).then_some(view.selected));
    frame.render_stateful_widget(table, middle, &mut state);
}

/// What of the columns fits: on a narrow screen the least telling ones are left out, rather than all of them cut. What both
/// tables have is at the same place in both.
struct Columns {
    kept: Vec<&'static str>,
    /// The first one gets what the others leave.
    name: u16,
    /// As wide as what the other table has there.
    up: u16,
}

const BACKENDS: [&str; 4] = ["BACKEND", "STANDING", "SINCE", "WEIGHT"];
const POOLS: [&str; 3] = ["POOL", "STATE", "UP"];

impl Columns {
    fn new(width: u16, longest: usize) -> Self {
        const LEAST_FIRST: [&str; 10] =
            ["CONNECTS", "P50", "IN/S", "OUT/S", "WEIGHT", "FAIL/S", "P99", "CONN/S", "SESSIONS", "SINCE"];
        let longest = u16::try_from(longest).unwrap_or(u16::MAX);
        let mut kept: Vec<&str> = BACKENDS.iter().chain(&MEASURED).copied().collect();
        let taken = |kept: &[&str]| kept.iter().skip(1).map(|name| width_of(name) + 1).sum::<u16>();
        for left_out in LEAST_FIRST {
            if taken(&kept) + longest.clamp(8, NAME) <= width {
                break;
            }
            kept.retain(|name| *name != left_out);
        }
        let name = longest.max(NAME).min(width.saturating_sub(taken(&kept)));
        let up = BACKENDS[2..].iter().filter(|name| kept.contains(name)).map(|name| width_of(name) + 1).sum::<u16>();
        Self { kept, name, up: up.saturating_sub(1) }
    }

    fn of_backends(&self, rows: Vec<Vec<Cell<'static>>>) -> Table<'static> {
        self.table(&BACKENDS, rows, |name| self.kept.contains(&name))
    }

    fn of_pools(&self, rows: Vec<Vec<Cell<'static>>>) -> Table<'static> {
        self.table(&POOLS, rows, |name| match name {
            "UP" => self.up > 0,
            name => POOLS.contains(&name) || self.kept.contains(&name),
        })
    }

    fn table(
        &self,
        first: &[&'static str],
        rows: Vec<Vec<Cell<'static>>>,
        has: impl Fn(&'static str) -> bool,
    ) -> Table<'static> {
        let all: Vec<&'static str> = first.iter().chain(&MEASURED).copied().collect();
        let of_kept = |cells: Vec<Cell<'static>>| {
            let cells = cells.into_iter().zip(&all).filter(|(_, name)| has(name));
            Row::new(cells.map(|(cell, _)| cell).collect::<Vec<_>>())
        };
        let kept: Vec<&'static str> = all.iter().copied().filter(|name| has(name)).collect();
        let width = |name: &&str| match *name {
            "POOL" | "BACKEND" => self.name,
            "UP" => self.up,
            name => width_of(name),
        };
        let head = Row::new(kept.iter().map(|name| head(name, width(name)))).style(bold());
        Table::new(rows.into_iter().map(of_kept), kept.iter().map(|name| Constraint::Length(width(name)))).header(head)
    }
}

fn width_of(column: &str) -> u16 {
    match column {
        "CONNECTS" => POINTS as u16,
        // The longest is `maintenance`, after its mark.
        "STATE" | "STANDING" => 13,
        "FAIL/S" | "P50" | "P99" => 8,
        "WEIGHT" => 6,
        "SINCE" => 7,
        _ => 9,
    }
}

/// What is a number is at the right, and so is its name.
fn head(name: &'static str, width: u16) -> Cell<'static> {
    let at_right = MEASURED[..7].contains(&name) || ["UP", "WEIGHT"].contains(&name);
    right(name.to_owned(), if at_right { width.into() } else { 0 })
}

fn measured(line: &TopRow) -> Vec<Cell<'static>> {
    vec![
        right(line.sessions.to_string(), 9),
        right(rate(line.connects), 9),
        right(rate(line.failures), 8),
        right(bytes(line.to_backend), 9),
        right(bytes(line.to_client), 9),
        right(line.p50.map_or_else(|| "-".to_owned(), time), 8),
        right(line.p99.map_or_else(|| "-".to_owned(), time), 8),
        Cell::from(spark(&line.history, if speaks_utf8() { BARS } else { PLAIN_BARS })),
    ]
}

/// Its end, where it does not fit: that is where names differ.
fn ending(name: &str, width: u16) -> String {
    let (letters, width) = (name.chars().count(), usize::from(width));
    if letters <= width {
        return name.to_owned();
    }
    let cut = if speaks_utf8() { '…' } else { '~' };
    [cut].into_iter().chain(name.chars().skip(letters + 1 - width.max(1))).collect()
}

fn right(text: String, width: usize) -> Cell<'static> {
    Cell::from(format!("{text:>width$}"))
}

fn standing(view: &TopView, standing: &str) -> Cell<'static> {
    marked(view, &clean::line(standing), colour_of(standing).map(ansi))
}

fn state(view: &TopView, state: &str) -> Cell<'static> {
    let colour = match state {
        "ok" => Color::Green,
        "degraded" => Color::Yellow,
        _ if state.ends_with(" queued") => Color::Yellow,
        _ => Color::Red,
    };
    marked(view, state, Some(colour))
}

/// The word in the terminal's own colour, which is readable, after a mark in another.
fn marked(view: &TopView, word: &str, colour: Option<Color>) -> Cell<'static> {
    match colour.filter(|_| view.ink) {
        Some(colour) => Text::from(vec![
            Span::styled(mark().to_string(), Style::default().fg(colour)),
            Span::raw(format!(" {word}")),
        ])
        .into(),
        // Its word is below the others.
        None if view.ink => format!("  {word}").into(),
        None => word.to_owned().into(),
    }
}

fn ansi(colour: Colour) -> Color {
    match colour {
        Colour::Green => Color::Green,
        Colour::Red => Color::Red,
        Colour::Yellow => Color::Yellow,
        Colour::Blue => Color::Blue,
    }
}

/// The highest point is a full bar.
pub(super) fn spark(history: &[f64], bars: [char; 8]) -> String {
    let most = history.iter().copied().fold(0.0, f64::max);
    let bar = |value: &f64| {
        let level = if most > 0.0 { (value / most * 7.0).round() as usize } else { 0 };
        bars[level.min(7)]
    };
    history.iter().map(bar).collect()
}

pub(super) fn rate(value: f64) -> String {
    match value {
        v if v >= 10_000.0 => format!("{:.0}k", v / 1_000.0),
        v if v >= 100.0 => format!("{v:.0}"),
        v if v > 0.0 => format!("{v:.1}"),
        _ => "0".to_owned(),
    }
}

pub(super) fn bytes(value: f64) -> String {
    let (mut value, mut unit) = (value, 0);
    while value >= 1_000.0 && unit < 4 {
        value /= 1_024.0;
        unit += 1;
    }
    let unit = ["B", "KiB", "MiB", "GiB", "TiB"][unit];
    if value >= 100.0 || value == 0.0 || unit == "B" {
        format!("{value:.0}{unit}")
    } else {
        format!("{value:.1}{unit}")
    }
}

pub(super) fn time(seconds: f64) -> String {
    match seconds {
        s if s.is_infinite() => "long".to_owned(),
        s if s < 0.000_999_5 => format!("{:.0}us", s * 1e6),
        s if s < 0.999_95 => format!("{:.1}ms", s * 1e3),
        s => format!("{s:.1}s"),
    }
}
