//! The text of a run: facts, notes and tables, for a terminal and for `RESULTS.md`. Pure.

use std::fmt::Write;

/// Rows of cells; the first row is the head.
pub(crate) type Table = Vec<Vec<String>>;

pub(crate) struct Document {
    /// The heading with its `#` signs. Tables get one `#` more.
    pub(crate) heading: &'static str,
    /// The command that writes it.
    pub(crate) command: &'static str,
    /// How to read the figures.
    pub(crate) reading: String,
    pub(crate) facts: Vec<(&'static str, String)>,
    pub(crate) notes: Vec<String>,
    pub(crate) tables: Vec<(String, Table)>,
}

impl Document {
    pub(crate) fn terminal(&self) -> String {
        let mut out = String::new();
        // Writing to a string can't fail.
        for (title, table) in &self.tables {
            let _ = writeln!(out, "{title}\n{}", aligned(table));
        }
        for note in &self.notes {
            let _ = writeln!(out, "note: {note}");
        }
        out
    }

    pub(crate) fn markdown(&self) -> String {
        let Self { heading, command, reading, .. } = self;
        let level = heading.split(' ').next().unwrap_or_default();
        let mut out = format!("{heading}\n\nWritten by `loadtest {command} --write-results`; never by hand.\n\n");
        for (name, value) in &self.facts {
            let _ = writeln!(out, "- {name}: {value}");
        }
        for note in &self.notes {
            let _ = writeln!(out, "- **note**: {note}");
        }
        let _ = writeln!(out, "\n{reading}");
        for (title, table) in &self.tables {
            let _ = writeln!(out, "\n{level}# {title}\n\n{}", piped(table));
        }
        out
    }
}

pub(crate) fn head<const N: usize>(names: [&str; N]) -> Vec<String> {
    names.map(String::from).to_vec()
}

fn aligned(table: &Table) -> String {
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

fn piped(table: &Table) -> String {
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
