//! What is wrong with a file, as a person wants to read it: the place, the line, the value underlined, the way out.
//! Rendered once, when the file is refused; nothing refers to the text of the file afterwards.

use std::fmt;
use std::io;
use std::ops::Range;

use toml::de::DeTable;

use super::faults::ConfigFault;
use super::{place, secrets};

/// More than this many at once help nobody.
const MOST_SHOWN: usize = 20;
/// Of a longer line only the part around the value is shown.
const LONGEST_LINE: usize = 160;

/// Why there is no [`super::Config`].
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read {path}")]
    Read {
        /// As it was given.
        path: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The file was read and refused; the text is complete, several lines long and ends without a line end.
    #[error("{0}")]
    Invalid(ConfigErrors),
}

/// Everything that is wrong with a file.
#[derive(Debug)]
pub struct ConfigErrors {
    /// Those that are shown: to find the place of one takes a walk through the file.
    problems: Vec<Problem>,
    count: usize,
}

impl ConfigErrors {
    pub(super) fn new(faults: Vec<ConfigFault>, origin: &str, text: &str, table: &DeTable<'_>) -> Self {
        let count = faults.len();
        let (shown, masked) = (faults.into_iter().take(MOST_SHOWN), secrets::masked(text));
        Self { problems: shown.map(|fault| Problem::new(fault, origin, text, &masked, table)).collect(), count }
    }

    /// How many things are wrong; never 0.
    pub fn count(&self) -> usize {
        self.count
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            let between = if i == 0 { "" } else { "\n\n" };
            write!(f, "{between}{problem}")?;
        }
        match self.count - self.problems.len() {
            0 => Ok(()),
            more => write!(f, "\n\nand {more} more"),
        }
    }
}

#[derive(Debug)]
struct Problem {
    /// `lb.toml:12:9`, or `lb.toml` alone.
    place: String,
    message: String,
    snippet: Option<Snippet>,
    hint: String,
}

impl Problem {
    fn new(fault: ConfigFault, origin: &str, text: &str, masked: &str, table: &DeTable<'_>) -> Self {
        let ConfigFault { span, message, why, hint, is_shape: _ } = fault;
        let Some(span) = span else {
            return Self { place: origin.to_owned(), message, snippet: None, hint };
        };
        let snippet = Snippet::new(text, masked, &span);
        let message = match place::find(table, &span) {
            // The header of a table is its own place.
            Some(place) if place.is_table && text.get(span.clone()).is_some_and(|header| header.starts_with('[')) => {
                message
            }
            Some(place) if !place.table.is_empty() => format!("{message} in [{}]", place.table),
            _ => message,
        };
        let message = if why.is_empty() { message } else { format!("{message}: {why}") };
        let place = format!("{origin}:{}:{}", snippet.line, snippet.column);
        Self { place, message, snippet: Some(snippet), hint }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)?;
        if let Some(snippet) = &self.snippet {
            write!(f, "\n{snippet}")?;
        }
        if !self.hint.is_empty() {
            write!(f, "\nhint: {}", self.hint)?;
        }
        Ok(())
    }
}

/// One line of the file with a part of it underlined.
#[derive(Debug)]
struct Snippet {
    /// Both count from 1, the column in characters.
    line: usize,
    column: usize,
    shown: String,
    underline: String,
}

impl Snippet {
    /// `masked` is the text as it may be shown, character by character.
    fn new(text: &str, masked: &str, span: &Range<usize>) -> Self {
        let start = floor(text, span.start);
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = text[line_start..].find('\n').map_or(text.len(), |newline| line_start + newline);
        let content = masked.lines().nth(text[..line_start].matches('\n').count()).unwrap_or_default();
        let content = content.trim_end_matches('\r');
        let before = text[line_start..start].chars().count();
        let end = floor(text, span.end).clamp(start, line_end);
        let width = text[start..end].trim_end_matches('\r').chars().count().max(1);

        let first = if content.chars().count() > LONGEST_LINE { before.saturating_sub(LONGEST_LINE / 2) } else { 0 };
        let part: String = content.chars().skip(first).take(LONGEST_LINE).collect();
        let width = width.min(LONGEST_LINE - (before - first).min(LONGEST_LINE - 1));
        // Tabs stay tabs in the padding, so that the underline is under the value however wide a tab is.
        let padding = part.chars().take(before - first).map(|c| if c == '\t' { '\t' } else { ' ' });
        let underline = padding.chain("^".repeat(width).chars()).collect();
        let shown = part.chars().map(|c| if c.is_control() && c != '\t' { '?' } else { c }).collect();
        Self { line: text[..line_start].matches('\n').count() + 1, column: before + 1, shown, underline }
    }
}

impl fmt::Display for Snippet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gutter = self.line.to_string();
        let blank = " ".repeat(gutter.len());
        write!(f, "{gutter} | {}\n{blank} | {}", self.shown, self.underline)
    }
}

/// `at`, moved back to the nearest place where a character begins.
fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_that_is_nowhere_is_survived() {
        for (text, span) in [("", 0..0), ("", 5..9), ("ä", 1..1), ("a\n", 2..2), ("a\r\nb", 1..2)] {
            let _ = Snippet::new(text, text, &span).to_string();
        }
        let long = "x".repeat(1000);
        for at in [0, 80, 500, 999, 1000] {
            let _ = Snippet::new(&long, &long, &(at..1000)).to_string();
        }
    }
}
