//! Whatever a file holds, reading it ends in a configuration or in an error that can be shown.

use proptest::prelude::*;

use super::read_with;

const VALID: &str = include_str!("everything.toml");
const PIECES: [&str; 24] = [
    "[",
    "]",
    "{",
    "}",
    "\"",
    "'",
    "=",
    ",",
    ".",
    "\n",
    "\r\n",
    "\0",
    "é",
    "${",
    "}",
    "${X}",
    "-1",
    "1e400",
    "99999999999999999999",
    "1979-05-27T07:32:00Z",
    "\"\"\"",
    "[pools.web]",
    "true",
    "token = \"x\n",
];

fn survives(text: &str) {
    if let Err(error) = read_with(text, &[("X", "\u{1}\"é")]) {
        assert!(error.to_string().starts_with("lb.toml"), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_file_with_edits_never_panics(
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..12, prop::sample::select(&PIECES[..])), 1..6)
    ) {
        let mut text = VALID.to_owned();
        for (at, removed, piece) in edits {
            let starts: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
            let from = starts.get(at.index(starts.len().max(1))).copied().unwrap_or(0);
            let to = text[from..].char_indices().nth(removed).map_or(text.len(), |(length, _)| from + length);
            text.replace_range(from..to, piece);
        }
        survives(&text);
    }

    /// Values of any kind in the place of others, so that more than the parser is reached.
    #[test]
    fn a_file_with_other_values_never_panics(
        line in any::<prop::sample::Index>(),
        value in prop_oneof![
            prop::sample::select(&["0", "-1", "1.5", "nan", "true", "[]", "{}", "[1]", "{a=1}", "[[\"\"]]", "07:32:00"][..])
                .prop_map(str::to_owned),
            any::<i64>().prop_map(|number| number.to_string()),
            any::<String>().prop_map(|text| format!("{text:?}")),
            "[a-z0-9:\\[\\]./%$ {}-]{0,20}".prop_map(|text| format!("'{text}'")),
            "[0-9]{1,20}(ms|s|m|h|d)".prop_map(|text| format!("'{text}'")),
        ],
    ) {
        let mut lines: Vec<String> = VALID.lines().map(str::to_owned).collect();
        let keys: Vec<usize> = (0..lines.len()).filter(|&i| lines[i].contains(" = ") && !lines[i].starts_with(' ')).collect();
        let chosen = keys[line.index(keys.len())];
        let key = lines[chosen].split(" = ").next().unwrap_or_default().to_owned();
        lines[chosen] = format!("{key} = {value}");
        survives(&lines.join("\n"));
    }

    #[test]
    fn any_text_never_panics(text in any::<String>()) {
        survives(&text);
    }
}
