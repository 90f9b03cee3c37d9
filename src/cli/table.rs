//! Tables for people: columns as wide as needed, colours on a terminal only.

use std::io::{self, IsTerminal};
use std::time::{Duration, SystemTime};

use crate::clean;

/// A cell: its text, whether it is a number, and the colour of the mark before it.
#[derive(Debug)]
pub(super) struct TableCell {
    text: String,
    right: bool,
    colour: Option<Colour>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    Green,
    Red,
    Yellow,
    Blue,
}

/// A mark, and the space after it.
const MARK_WIDTH: usize = 2;

#[derive(Debug)]
pub(super) struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<TableCell>>,
}

impl Table {
    pub(super) fn new(head: &[&'static str]) -> Self {
        Self { head: head.to_vec(), rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: Vec<TableCell>) {
        self.rows.push(cells);
    }

    /// The whole, each line ended.
    pub(super) fn text(&self, coloured: bool) -> String {
        let cells = |column: usize| self.rows.iter().filter_map(move |row| row.get(column));
        // Where a column has marks, words without one are below those with one.
        let place: Vec<usize> = (0..self.head.len())
            .map(|column| if coloured && cells(column).any(|cell| cell.colour.is_some()) { MARK_WIDTH } else { 0 })
            .collect();
        let widths: Vec<usize> = (0..self.head.len())
            .map(|column| {
                let longest = cells(column).map(|cell| place[column] + cell.text.chars().count()).max();
                longest.unwrap_or_default().max(self.head[column].len())
            })
            .collect();
        let right: Vec<bool> =
            (0..self.head.len()).map(|column| cells(column).next().is_some_and(|cell| cell.right)).collect();
        let mut text = String::new();
        let head = self.head.iter().zip(&right).zip(&widths);
        let head = head.map(|((name, &right), &width)| padded(name, name.len(), width, right));
        text += head.collect::<String>().trim_end();
        text.push('\n');
        for row in &self.rows {
            let columns = row.iter().zip(&widths).zip(&place);
            let line = columns.map(|((cell, &width), &place)| {
                let inked = match cell.colour {
                    Some(colour) if coloured => colour.mark(&cell.text),
                    _ => format!("{}{}", " ".repeat(place), cell.text),
                };
                padded(&inked, place + cell.text.chars().count(), width, cell.right)
            });
            text += line.collect::<String>().trim_end();
            text.push('\n');
        }
        text
    }
}

/// A cell of so many letters, and the space after it.
fn padded(text: &str, letters: usize, width: usize, right: bool) -> String {
    let padding = " ".repeat(width.saturating_sub(letters));
    if right { format!("{padding}{text}  ") } else { format!("{text}{padding}  ") }
}

/// Text, as it may be shown: a backend's name or answer must not steer the terminal.
pub(super) fn cell(text: impl AsRef<str>) -> TableCell {
    TableCell { text: clean::line(text.as_ref()), right: false, colour: None }
}

pub(super) fn number(value: impl ToString) -> TableCell {
    TableCell { text: value.to_string(), right: true, colour: None }
}

/// A standing, in its colour.
pub(super) fn standing(word: &str) -> TableCell {
    TableCell { colour: colour_of(word), ..cell(word) }
}

/// The word of a standing within a line of text, with its mark if there is to be colour.
pub(super) fn standing_word(word: &str, coloured: bool) -> String {
    colour_of(word).filter(|_| coloured).map_or_else(|| word.to_owned(), |colour| colour.mark(word))
}

/// Good is green, broken is red, what a person did is yellow.
pub(super) fn colour_of(standing: &str) -> Option<Colour> {
    match standing {
        "up" => Some(Colour::Green),
        "down" | "ejected" => Some(Colour::Red),
        "draining" | "disabled" | "maintenance" => Some(Colour::Yellow),
        "unproven" | "damped" => Some(Colour::Blue),
        _ => None,
    }
}

impl TableCell {
    pub(super) fn in_colour(self, colour: Colour) -> Self {
        Self { colour: Some(colour), ..self }
    }
}

impl Colour {
    /// The text with a mark of this colour before it. The text itself keeps the terminal's own colour: yellow on white and
    /// blue on black are not readable.
    pub(super) fn mark(self, text: &str) -> String {
        let code = match self {
            Self::Red => 31,
            Self::Green => 32,
            Self::Yellow => 33,
            Self::Blue => 34,
        };
        format!("\x1b[{code}m{}\x1b[0m {text}", mark())
    }
}

/// What carries a colour.
pub(super) fn mark() -> char {
    if speaks_utf8() { '●' } else { '*' }
}

/// Whether the terminal's locale has more than ASCII, by the precedence that POSIX gives its variables.
pub(super) fn speaks_utf8() -> bool {
    let set = |name: &&str| std::env::var(name).ok().filter(|value| !value.is_empty());
    says_utf8(["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(set).as_deref())
}

fn says_utf8(locale: Option<&str>) -> bool {
    let locale = locale.unwrap_or_default().to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

/// Whether stdout is for eyes that see colours (no-color.org).
pub(super) fn coloured() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    io::stdout().is_terminal() && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// How long ago a moment of the API is: "5s", "3m", "2h", "4d".
pub(super) fn ago(at: &str) -> String {
    let Ok(at) = humantime::parse_rfc3339_weak(at) else { return "?".to_owned() };
    short(SystemTime::now().duration_since(at).unwrap_or_default())
}

/// The largest unit alone.
pub(super) fn short(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_nothing_steers_the_terminal() {
        let mut table = Table::new(&["NAME", "N", "WHY"]);
        table.row(vec![standing("up"), number(5), cell("\x1b[31mred\n")]);
        table.row(vec![cell("longer-name"), number(1_000), cell("")]);
        assert_eq!(table.text(false), "NAME            N  WHY\nup              5  ?[31mred?\nlonger-name  1000\n");
        let inked = table.text(true);
        let up = format!("\x1b[32m{}\x1b[0m up              5  ?", mark());
        assert!(inked.lines().any(|line| line.starts_with(&up)), "{inked}");
        assert!(inked.contains("\n  longer-name  1000\n"), "below the other word: {inked}");
    }

    #[test]
    fn marks_are_what_the_locale_has() {
        for (locale, wanted) in [
            (Some("en_US.UTF-8"), true),
            (Some("C.utf8"), true),
            (Some("de_DE@euro"), false),
            (Some("POSIX"), false),
            (None, false),
        ] {
            assert_eq!(says_utf8(locale), wanted, "{locale:?}");
        }
    }

    #[test]
    fn times_are_short() {
        let all = [0, 59, 60, 3_599, 3_600, 86_399, 200_000].map(|seconds| short(Duration::from_secs(seconds)));
        assert_eq!(all.join(" "), "0s 59s 1m 59m 1h 23h 2d");
    }
}
