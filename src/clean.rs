//! PURE. Makes text of others safe to show: it must not steer a terminal, change the direction of a line, begin a new line
//! or imitate other text.
//! Called by logs, tables, errors and quoted lines.
//! It is the one place that knows these characters. The page has the same ranges in `dashboard/page.js`, and a test compares
//! the two.

use std::borrow::Cow;

/// Characters that are not shown, besides control characters: those that change the direction of a line, end a line, or take
/// no room (Unicode 16: Bidi_Control, Zl, Zp, zero-width characters and tags).
pub(crate) const UNSEEN: [(char, char); 8] = [
    ('\u{ad}', '\u{ad}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{180e}', '\u{180e}'),
    ('\u{200b}', '\u{200f}'),
    ('\u{2028}', '\u{202e}'),
    ('\u{2060}', '\u{206f}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{e0000}', '\u{e007f}'),
];

/// One line: each character that is not shown becomes `?`.
pub(crate) fn line(text: &str) -> String {
    text.chars().map(|c| if is_hidden(c) { '?' } else { c }).collect()
}

/// Several lines, or columns: line ends and tabs stay.
pub(crate) fn lines(text: &str) -> Cow<'_, str> {
    // The usual case: nothing to replace. There are many log lines.
    if text.bytes().all(|byte| matches!(byte, b'\n' | b'\t' | b' '..=b'~')) {
        return Cow::Borrowed(text);
    }
    text.chars().map(|c| if is_hidden(c) && !matches!(c, '\n' | '\t') { '?' } else { c }).collect()
}

/// JSON that stays the same JSON: what is not shown becomes an escape.
pub(crate) fn json(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            // Line ends between values stay. Within strings they are escapes already.
            '\n' => clean.push(c),
            c if is_hidden(c) => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| clean += &format!("\\u{unit:04x}")),
            c => clean.push(c),
        }
    }
    clean
}

fn is_hidden(c: char) -> bool {
    c.is_control() || UNSEEN.iter().any(|(first, last)| (*first..=*last).contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_shown_is_replaced_and_all_else_stays() {
        let text = "a\u{202e}b\u{200b}c\u{2028}d\u{85}e\x1b[31m\u{9b}f\u{e0041}g\té💥\n";
        assert_eq!(line(text), "a?b?c?d?e?[31m?f?g?é💥?");
        assert_eq!(lines(text), "a?b?c?d?e?[31m?f?g\té💥\n");
        assert_eq!(lines("plain\n\ttext ~"), "plain\n\ttext ~");
        for (first, last) in UNSEEN {
            assert_eq!(line(&format!("{first}{last}")), "??");
        }
    }

    #[test]
    fn json_stays_what_it_says() {
        let value = serde_json::json!({ "a": "x\u{202e}\u{9b}\u{e0041}\n", "b": ["é"] });
        let text = json(&format!("{value:#}"));
        assert!(text.contains(r"x\u202e\u009b\udb40\udc41\n") && text.lines().count() > 3, "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }

    #[test]
    fn the_page_has_the_same_characters() {
        let page = include_str!("admin/dashboard/page.js");
        let written: Vec<String> = UNSEEN
            .iter()
            .map(|(first, last)| {
                let code = |c: &char| format!("\\u{{{:x}}}", u32::from(*c));
                if first == last { code(first) } else { format!("{}-{}", code(first), code(last)) }
            })
            .collect();
        let class = format!("const UNSEEN = /[\\p{{Cc}}{}]/gu;", written.concat());
        assert!(page.contains(&class), "page.js lacks {class}");
    }
}
