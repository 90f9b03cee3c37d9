//! Which key of which table a byte range of the file belongs to, so that every error can say it.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Where in the file's tables something stands.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FilePlace {
    /// The path of the table, such as `listeners.web`; empty at the top level.
    pub(super) table: String,
    /// The key in it.
    pub(super) key: String,
    /// The range is the header or the braces of a table of that key.
    pub(super) is_table: bool,
}

/// The innermost place that holds all of `span`.
pub(super) fn find(table: &DeTable<'_>, span: &Range<usize>) -> Option<FilePlace> {
    in_table(table, "", span)
}

fn in_table(table: &DeTable<'_>, path: &str, span: &Range<usize>) -> Option<FilePlace> {
    table.iter().find_map(|(key, value)| {
        let name = key.get_ref();
        let inner = if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
        let here = || FilePlace {
            table: path.to_owned(),
            key: name.to_string(),
            is_table: value.get_ref().is_table() && value.span() == *span,
        };
        // The key first, since it stands in the headers of the tables below it; then what is in the table, and
        // in any case, since a table's own span is only its header.
        if holds(key.span(), span) {
            return Some(here());
        }
        in_value(value, &inner, span).or_else(|| holds(value.span(), span).then(here))
    })
}

fn in_value(value: &Spanned<DeValue<'_>>, path: &str, span: &Range<usize>) -> Option<FilePlace> {
    match value.get_ref() {
        DeValue::Table(table) => in_table(table, path, span),
        DeValue::Array(array) => array
            .iter()
            .enumerate()
            .filter(|(_, item)| holds(item.span(), span))
            .find_map(|(i, item)| in_value(item, &format!("{path}[{i}]"), span)),
        _ => None,
    }
}

fn holds(outer: Range<usize>, inner: &Range<usize>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_found() {
        let text = "a = 1\n[pools.web]\ncheck = { steps = [{ send = 'x' }, { expect = 'y' }] }\ntcp.nodelay = true\n";
        let table = DeTable::parse(text).expect("valid TOML");
        for (what, path, key) in [
            ("1", "", "a"),
            ("[pools.web]", "pools", "web"),
            ("{ send = 'x' }", "pools.web.check", "steps"),
            ("'y'", "pools.web.check.steps[1]", "expect"),
            ("true", "pools.web.tcp", "nodelay"),
        ] {
            let start = text.find(what).expect("it is there");
            let place = find(table.get_ref(), &(start..start + what.len())).expect("a place");
            assert_eq!((place.table.as_str(), place.key.as_str()), (path, key), "{what}");
        }
    }
}
