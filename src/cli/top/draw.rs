//! How `top` looks. Only the sixteen colours that a terminal's owner chose, on their own background: it is readable on
//! light and dark alike.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line as Text, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table, TableState};

use super::view::{Line, Mode, POINTS, View};
use crate::cli::table::{Colour, colour_of, safe};

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Both tables end with these.
const MEASURED: [&str; 8] = ["SESSIONS", "CONN/S", "FAIL/S", "IN/S", "OUT/S", "P50", "P99", "CONNECTS"];

pub(super) fn draw(frame: &mut Frame<'_>, view: &View) {
    let pools = u16::try_from(view.pools.len()).unwrap_or(u16::MAX).saturating_add(1);
    // The backends are what it is about: many pools do not push them off a small screen.
    let pools = pools.min(frame.area().height / 3).max(2);
    let parts = [Constraint::Length(pools), Constraint::Length(1), Constraint::Min(2), Constraint::Length(1)];
    let [top, _, middle, bottom] = Layout::vertical(parts).areas(frame.area());

    let several = view.pools.len() > 1;
    let width = frame.area().width;
    let rows = view.pools.iter().map(|line| {
        let state = Cell::from(Span::styled(line.standing.clone(), state_style(view, &line.standing)));
        let first = vec![Cell::from(safe(&line.pool)), state, right(format!("{}/{}", line.up, line.of), 9)];
        first.into_iter().chain(measured(line)).collect()
    });
    let (columns, rows) = fitting(&["POOL", "STATE", "UP"], width, rows.collect());
    frame.render_widget(Table::new(rows, widths(&columns)).header(head(&columns)), top);

    let rows = view.backends.iter().map(|line| {
        let name = if several { format!("{}/{}", line.pool, line.id) } else { line.id.clone() };
        let standing = Cell::from(Span::styled(line.standing.clone(), standing_style(view, &line.standing)));
        let weight = right(line.weight.to_string(), 6);
        let first = vec![Cell::from(safe(&name)), standing, Cell::from(line.since.clone()), weight];
        first.into_iter().chain(measured(line)).collect()
    });
    let (columns, rows) = fitting(&["BACKEND", "STANDING", "SINCE", "WEIGHT"], width, rows.collect());
    let table = Table::new(rows, widths(&columns))
        .header(head(&columns))
        .row_highlight_style(Style::default().add_modifier(Modifier::REVERSED));
    let mut state = TableState::default().with_selected((!view.backends.is_empty()).then_some(view.selected));
    frame.render_stateful_widget(table, middle, &mut state);
    frame.render_widget(Paragraph::new(foot(view)), bottom);
}

/// What of it fits: on a narrow screen the least telling columns are left out, rather than all of them cut.
fn fitting(
    first: &[&'static str],
    width: u16,
    rows: Vec<Vec<Cell<'static>>>,
) -> (Vec<&'static str>, Vec<Row<'static>>) {
    const LEAST_FIRST: [&str; 7] = ["CONNECTS", "FAIL/S", "P50", "IN/S", "OUT/S", "WEIGHT", "SINCE"];
    let all: Vec<&str> = first.iter().chain(&MEASURED).copied().collect();
    let mut kept = all.clone();
    for left_out in LEAST_FIRST {
        if kept.iter().map(|name| width_of(name) + 1).sum::<u16>() <= width + 1 {
            break;
        }
        kept.retain(|name| *name != left_out);
    }
    let of_kept = |cells: Vec<Cell<'static>>| {
        let cells = cells.into_iter().zip(&all).filter(|(_, name)| kept.contains(name));
        Row::new(cells.map(|(cell, _)| cell).collect::<Vec<_>>())
    };
    let rows = rows.into_iter().map(of_kept).collect();
    (kept, rows)
}

fn widths(columns: &[&str]) -> Vec<Constraint> {
    columns.iter().map(|name| Constraint::Length(width_of(name))).collect()
}

fn width_of(column: &str) -> u16 {
    match column {
        "POOL" | "BACKEND" => 20,
        "CONNECTS" => POINTS as u16,
        "STATE" | "STANDING" => 11,
        "FAIL/S" | "P50" | "P99" => 8,
        "WEIGHT" => 6,
        "SINCE" => 5,
        _ => 9,
    }
}

fn head(columns: &[&'static str]) -> Row<'static> {
    // What is a number is at the right, and so is its name.
    let at_right = |name: &str| MEASURED[..7].contains(&name) || ["UP", "WEIGHT"].contains(&name);
    let cell = |name: &&'static str| right((*name).to_owned(), if at_right(name) { width_of(name).into() } else { 0 });
    Row::new(columns.iter().map(cell).collect::<Vec<_>>()).style(Style::default().add_modifier(Modifier::BOLD))
}

fn measured(line: &Line) -> Vec<Cell<'static>> {
    vec![
        right(line.sessions.to_string(), 9),
        right(rate(line.connects), 9),
        right(rate(line.failures), 8),
        right(bytes(line.to_backend), 9),
        right(bytes(line.to_client), 9),
        right(line.p50.map_or_else(|| "-".to_owned(), time), 8),
        right(line.p99.map_or_else(|| "-".to_owned(), time), 8),
        Cell::from(spark(&line.history)),
    ]
}

fn foot(view: &View) -> Text<'static> {
    let bold = Style::default().add_modifier(Modifier::BOLD);
    match &view.mode {
        Mode::Sure(named, word) => {
            let word = if *word == "disabled" { "disable" } else { word };
            Text::styled(format!("{word} {}? y = yes, any other key = no", safe(&named.to_string())), bold)
        }
        Mode::Filter => Text::styled(format!("filter: {}_   Enter = keep, Esc = all", safe(&view.filter)), bold),
        Mode::Look if !view.says.is_empty() => Text::styled(safe(&view.says), bold),
        Mode::Look => {
            let order = if view.reversed { ", reversed" } else { "" };
            let filter = if view.filter.is_empty() { String::new() } else { format!(" [{}]", safe(&view.filter)) };
            let text = format!(
                "q quit  s sort ({}{order})  r reverse  / filter{filter}  d drain  e ready  x disable",
                view.sort.name()
            );
            Text::styled(text, Style::default().add_modifier(Modifier::DIM))
        }
    }
}

fn right(text: String, width: usize) -> Cell<'static> {
    Cell::from(format!("{text:>width$}"))
}

fn standing_style(view: &View, standing: &str) -> Style {
    colour_of(standing).filter(|_| view.ink).map_or_else(Style::default, |colour| Style::default().fg(ansi(colour)))
}

fn state_style(view: &View, state: &str) -> Style {
    let colour = match state {
        "ok" => Color::Green,
        "degraded" => Color::Yellow,
        _ => Color::Red,
    };
    if view.ink { Style::default().fg(colour) } else { Style::default() }
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
pub(super) fn spark(history: &[f64]) -> String {
    let most = history.iter().copied().fold(0.0, f64::max);
    let bar = |value: &f64| {
        let level = if most > 0.0 { (value / most * 7.0).round() as usize } else { 0 };
        BARS[level.min(7)]
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
        s if s < 0.001 => format!("{:.0}us", s * 1e6),
        s if s < 1.0 => format!("{:.1}ms", s * 1e3),
        s => format!("{s:.1}s"),
    }
}
