//! The last lines of `top`: what it asks, what it was told, and the keys; and the page of all keys.

use ratatui::style::{Modifier, Style};
use ratatui::text::{Line as Text, Span};

use super::view::{KeyMode, TopView};
use crate::clean;

/// What is asked or told, or else the keys; as many lines as it takes, but few.
pub(super) fn foot(view: &TopView, width: usize) -> Vec<Text<'static>> {
    let told = |text: String| {
        wrapped(&clean::line(&text), width).into_iter().map(|line| Text::styled(line, bold())).collect::<Vec<_>>()
    };
    match &view.mode {
        KeyMode::Sure(named, word) => {
            let word = if *word == "disabled" { "disable" } else { word };
            told(format!("{word} {named}? y = yes, any other key = no"))
        }
        KeyMode::Filter => told(format!("filter: {}_   Enter = keep, Esc = all", view.filter)),
        KeyMode::Help => told("any key = back".to_owned()),
        KeyMode::Look => {
            let said = view.troubles.iter().chain([&view.trouble, &view.says]).filter(|text| !text.is_empty());
            said.flat_map(|text| told(text.clone())).chain([keys(view, width)]).collect()
        }
    }
}

/// Those that fit; `?` has all.
fn keys(view: &TopView, width: usize) -> Text<'static> {
    let order = if view.reversed { ", reversed" } else { "" };
    let filter = if view.filter.is_empty() { String::new() } else { format!(" [{}]", clean::line(&view.filter)) };
    let all = [
        ("q", "quit".to_owned()),
        ("?", "keys".to_owned()),
        ("s", format!("sort ({}{order})", view.sort.name())),
        ("/", format!("filter{filter}")),
        ("d", "drain".to_owned()),
        ("e", "ready".to_owned()),
        ("x", "disable".to_owned()),
        ("r", "reverse".to_owned()),
    ];
    let (mut spans, mut taken) = (Vec::new(), 0);
    for (key, what) in all {
        taken += what.chars().count() + 4;
        if taken > width + 2 {
            break;
        }
        spans.push(Span::styled(key, bold()));
        spans.push(Span::raw(format!(" {what}  ")));
    }
    Text::from(spans)
}

pub(super) fn help() -> Vec<Text<'static>> {
    const LINES: [(&str, &str); 17] = [
        ("up, down, k, j", "choose a backend; also Page Up, Page Down, Home, End"),
        ("s", "sort by name, sessions, connects, p99 or standing"),
        ("r", "reverse the order"),
        ("/", "show only what has a text in name, pool, standing or address; Esc: all"),
        ("d", "drain: nothing new comes to it, what runs goes on (asks first)"),
        ("x", "disable: take it out, what runs goes on (asks first)"),
        ("e", "ready: take drain or disable back (asks first)"),
        ("q, Ctrl-C", "quit"),
        ("", ""),
        ("UP", "backends that are up, of all"),
        ("SINCE", "how long it has had its standing"),
        ("CONN/S", "connects a second since the last look"),
        ("FAIL/S", "of these, how many failed"),
        ("IN/S", "bytes a second from clients to backends"),
        ("OUT/S", "bytes a second from backends to clients"),
        ("P50, P99", "half, and 99 of 100, of the last connects took no longer"),
        ("CONNECTS", "connects a second over the last looks"),
    ];
    let line = |(name, what): (&'static str, &'static str)| {
        Text::from(vec![Span::styled(format!("{name:<15} "), bold()), Span::raw(what)])
    };
    LINES.into_iter().map(line).collect()
}

/// Cut into lines, at most three.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let letters: Vec<char> = text.chars().collect();
    letters.chunks(width.max(1)).take(3).map(|line| line.iter().collect()).collect()
}

pub(super) fn bold() -> Style {
    Style::default().add_modifier(Modifier::BOLD)
}
