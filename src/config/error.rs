//! What is wrong with a file, as a person wants to read it: the place, the line, the value underlined, the way out.
//! Rendered once, when the file is refused; nothing refers to the text of the file afterwards.

use std::fmt;
use std::io;
use std::ops::Range;

use toml::de::DeTable;

use super::faults::Fault;
use super::place;

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
    Invalid(Report),
}

/// Everything that is wrong with a file.
#[derive(Debug)]
pub struct Report {
    /// Those that are shown: to find the place of one takes a walk through the file.
    problems: Vec<Problem>,
    count: usize,
}

impl Report {
    pub(super) fn new(faults: Vec<Fault>, origin: &str, text: &str, table: &DeTable<'_>) -> Self {
        let count = faults.len();
        let shown = faults.into_iter().take(MOST_SHOWN);
        Self { problems: shown.map(|fault| Problem::new(fault, origin, text, table)).collect(), count }
    }

    /// How many things are wrong; never 0.
    pub fn count(&self) -> usize {
        self.count
    }
}

impl fmt::Display for Report {
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
    fn new(fault: Fault, origin: &str, text: &str, table: &DeTable<'_>) -> Self {
        let Fault { span, message, why, hint } = fault;
        let Some(span) = span else {
            return Self { place: origin.to_owned(), message, snippet: None, hint };
        };
        let snippet = Snippet::new(text, &span);
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
    fn new(text: &str, span: &Range<usize>) -> Self {
        let start = floor(text, span.start);
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = text[line_start..].find('\n').map_or(text.len(), |newline| line_start + newline);
        let content = text[line_start..line_end].trim_end_matches('\r');
        let before = text[line_start..start].chars().count();
        let end = floor(text, span.end).clamp(start, line_end);
        let width = text[start..end].trim_end_matches('\r').chars().count().max(1);

        let first = if content.chars().count() > LONGEST_LINE { before.saturating_sub(LONGEST_LINE / 2) } else { 0 };
        let part: String = without_tokens(content).chars().skip(first).take(LONGEST_LINE).collect();
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

/// The line with the value of every `token` and `password` starred out, each character by one, so that columns stay.
/// It looks at the text alone, since a file that is no TOML must not give its token away either.
fn without_tokens(line: &str) -> String {
    without(&without(line, "token"), "password")
}

fn without(line: &str, key: &str) -> String {
    let mut masked = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find(key) {
        let (before, found) = rest.split_at(at + key.len());
        masked.push_str(before);
        rest = found;
        let value = found.trim_start_matches(['"', '\'', ' ', '\t']);
        let Some(value) = value.strip_prefix('=') else { continue };
        let value = value.trim_start_matches([' ', '\t']);
        masked.push_str(&found[..found.len() - value.len()]);
        let end = value_end(value);
        masked.extend(value[..end].chars().map(|_| '*'));
        rest = &value[end..];
    }
    masked.push_str(rest);
    masked
}

/// Where the value ends that the text begins with, to its last quote.
fn value_end(value: &str) -> usize {
    if value.starts_with(['[', '{']) {
        return value.len();
    }
    let Some(quote) = value.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
        return value.find([',', '}', '#', ' ']).unwrap_or(value.len());
    };
    let many_lines = value.starts_with(&quote.to_string().repeat(3));
    let mut escaped = false;
    let closing = value.char_indices().skip(1).find(|(_, c)| {
        let closes = *c == quote && !escaped;
        escaped = *c == '\\' && quote == '"' && !escaped;
        closes
    });
    closing.filter(|_| !many_lines).map_or(value.len(), |(at, _)| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_starred_out() {
        for (line, wanted) in [
            ("token = \"abc\"", "token = *****"),
            ("consul = { token='a', service = 1 }", "consul = { token=***, service = 1 }"),
            ("\"token\" = \"abc", "\"token\" = ****"),
            (r#"token = "a\"b" # c"#, "token = ****** # c"),
            ("token = \"\"\"ab", "token = *****"),
            ("token = [ 'a' ]", "token = *******"),
            ("token = 12 # x", "token = ** # x"),
            ("token_file = \"/run/t\"", "token_file = \"/run/t\""),
            ("# the token", "# the token"),
            ("check = { password = \"a b\", role = 1 }", "check = { password = *****, role = 1 }"),
            ("password_file = \"/run/t\"", "password_file = \"/run/t\""),
        ] {
            assert_eq!(without_tokens(line), wanted);
        }
    }

    #[test]
    fn a_range_that_is_nowhere_is_survived() {
        for (text, span) in [("", 0..0), ("", 5..9), ("ä", 1..1), ("a\n", 2..2), ("a\r\nb", 1..2)] {
            let _ = Snippet::new(text, &span).to_string();
        }
        let long = "x".repeat(1000);
        for at in [0, 80, 500, 999, 1000] {
            let _ = Snippet::new(&long, &(at..1000)).to_string();
        }
    }
}
