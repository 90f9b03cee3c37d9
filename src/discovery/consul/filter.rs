//! PURE. The filter expression of a source: its tags and its own filter.

use std::fmt::Write as _;

/// All of the tags, and the filter; `None` if there is neither.
pub(super) fn expression(tags: &[String], filter: Option<&str>) -> Option<String> {
    let mut terms: Vec<_> = tags.iter().map(|tag| format!("{} in Service.Tags", quoted(tag))).collect();
    match filter.map(str::trim).filter(|filter| !filter.is_empty()) {
        // As it is written where it is alone, so that Consul's complaints fit it.
        Some(filter) if terms.is_empty() => terms.push(filter.to_owned()),
        Some(filter) => terms.push(format!("({filter})")),
        None => {}
    }
    (!terms.is_empty()).then(|| terms.join(" and "))
}

/// A string of the expression language (`hashicorp/go-bexpr`, `grammar.peg`): a string ends at the next quote, escaped
/// or not, and is then read as Go reads one. So a quote is written by its number. A slash at the beginning is, too:
/// newer versions would read a path into the data.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for (at, c) in text.char_indices() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\x22"),
            '/' if at == 0 => out.push_str("\\x2f"),
            // Writing to a string can't fail.
            c if c.is_control() => drop(write!(out, "\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(tags: &[&str]) -> Vec<String> {
        tags.iter().map(|&tag| tag.to_owned()).collect()
    }

    #[test]
    fn tags_and_filter_are_all_required() {
        assert_eq!(expression(&[], None), None);
        assert_eq!(expression(&[], Some(" ")), None);
        assert_eq!(expression(&[], Some("a or b")).unwrap(), "a or b");
        assert_eq!(expression(&tags(&["v1"]), None).unwrap(), r#""v1" in Service.Tags"#);
        assert_eq!(
            expression(&tags(&["v1", "eu"]), Some("a or b")).unwrap(),
            r#""v1" in Service.Tags and "eu" in Service.Tags and (a or b)"#
        );
    }

    #[test]
    fn no_tag_ends_its_string() {
        let all = expression(&tags(&["a\" in X or \"b", "c\\", "/d/e", "f\ng"]), None).unwrap();
        assert_eq!(
            all,
            r#""a\x22 in X or \x22b" in Service.Tags and "c\\" in Service.Tags and "\x2fd/e" in Service.Tags and "f\u000ag" in Service.Tags"#
        );
    }
}
