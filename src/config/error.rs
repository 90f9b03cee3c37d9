//! What is wrong with a file, as a person wants to read it: the place, the line, the value underlined, the way out.
//! Rendered once, when the file is refused; nothing refers to the text of the file afterwards.

use std::fmt;
use std::io;
use std::ops::Range;

use toml::de::DeTable;

use super::faults::ConfigFault;
use super::{place, secrets};

/// The first of them are enough to begin with.
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
    /// Those that are shown, as they are shown: to find the place of one takes a walk through the file.
    shown: Vec<String>,
    count: usize,
}

impl ConfigErrors {
    pub(super) fn new(faults: Vec<ConfigFault>, origin: &str, text: &str, table: &DeTable<'_>) -> Self {
        let (count, masked) = (faults.len(), secrets::masked(text));
        let shown = faults.into_iter().take(MOST_SHOWN).map(|fault| shown(fault, origin, text, &masked, table));
        Self { shown: shown.collect(), count }
    }

    /// How many things are wrong; never 0.
    pub fn count(&self) -> usize {
        self.count
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown.join("\n\n"))?;
        match self.count - self.shown.len() {
            0 => Ok(()),
            more => write!(f, "\n\nand {more} more"),
        }
    }
}

/// `masked` is the text as it may be shown, character by character.
fn shown(fault: ConfigFault, origin: &str, text: &str, masked: &str, table: &DeTable<'_>) -> String {
    let ConfigFault { span, mut message, why, hint, is_shape: _ } = fault;
    let hint = if hint.is_empty() { hint } else { format!("\nhint: {hint}") };
    let Some(span) = span else { return format!("{origin}: {message}{hint}") };
    let is_header = text.get(span.clone()).is_some_and(|written| written.starts_with('['));
    // The header of a table is its own place.
    if let Some(place) = place::find(table, &span).filter(|place| !(place.is_table && is_header))
        && !place.table.is_empty()
    {
        message += &format!(" in [{}]", place.table);
    }
    if !why.is_empty() {
        message += &format!(": {why}");
    }
    let (line, column, snippet) = snippet(text, masked, &span);
    format!("{origin}:{line}:{column}: {message}\n{snippet}{hint}")
}

/// Line and column, which count from 1, the column in characters; and that line with a part of it underlined.
fn snippet(text: &str, masked: &str, span: &Range<usize>) -> (usize, usize, String) {
    let start = floor(text, span.start);
    let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
    let line_end = text[line_start..].find('\n').map_or(text.len(), |newline| line_start + newline);
    let line = text[..line_start].matches('\n').count();
    let content = masked.lines().nth(line).unwrap_or_default().trim_end_matches('\r');
    let before = text[line_start..start].chars().count();
    let end = floor(text, span.end).clamp(start, line_end);
    let width = text[start..end].trim_end_matches('\r').chars().count().max(1);

    let first = if content.chars().count() > LONGEST_LINE { before.saturating_sub(LONGEST_LINE / 2) } else { 0 };
    let part: String = content.chars().skip(first).take(LONGEST_LINE).collect();
    let carets = "^".repeat(width.min(LONGEST_LINE - (before - first).min(LONGEST_LINE - 1)));
    // Tabs stay tabs in the padding, so that the underline is under the value however wide a tab is.
    let padding: String = part.chars().take(before - first).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
    let part: String = part.chars().map(|c| if c.is_control() && c != '\t' { '?' } else { c }).collect();
    let gutter = " ".repeat((line + 1).to_string().len());
    (line + 1, before + 1, format!("{} | {part}\n{gutter} | {padding}{carets}", line + 1))
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
            let _ = snippet(text, text, &span);
        }
        let long = "x".repeat(1000);
        for at in [0, 80, 500, 999, 1000] {
            let _ = snippet(&long, &long, &(at..1000));
        }
    }
}
