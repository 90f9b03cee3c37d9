//! What `toml` says about a file that is no TOML, in words of ours: its message knows no way out. It is read as text, since it
//! comes in no other form.

use super::faults::ConfigFault;
use super::secrets;

/// A file that is no TOML.
pub(super) fn fault(error: &toml::de::Error, text: &str) -> ConfigFault {
    let span = error.span();
    let message = error.message();
    if message == "duplicate key" {
        let word = span.clone().and_then(|span| text.get(span)).unwrap_or_default();
        let hint = "each key and each table may be written once: remove one of the two";
        return ConfigFault::new(span, format!("`{}` is written a second time", word.escape_debug()), hint);
    }
    if let Some((start, word)) = span.as_ref().and_then(|span| bare_value(text, span.start)) {
        let key = text[..start].trim_end_matches([' ', '\t']).strip_suffix('=').and_then(secrets::key_at_end);
        if let Some(key) = key.filter(|key| secrets::hides(key)) {
            return ConfigFault::new(
                Some(start..start + word.len()),
                format!("`{key}` without quotes"),
                "write it in quotes",
            );
        }
        let hint = format!("a string needs quotes: \"{word}\"");
        return ConfigFault::new(Some(start..start + word.len()), format!("`{word}` is not a TOML value"), hint);
    }
    match message {
        "string values must be quoted, expected literal string" => {
            ConfigFault::new(span, "a key without a value", "write a value after the `=`")
        }
        "invalid basic string, expected `\"`" | "invalid literal string, expected `'`" => ConfigFault::new(
            span,
            "a string without its closing quote",
            "close it on the same line, with the quote it began with",
        ),
        _ => ConfigFault::new(span, format!("not valid TOML: {message}"), ""),
    }
}

/// The value without quotes that stands around `at`, to the right of an `=`.
fn bare_value(text: &str, at: usize) -> Option<(usize, &str)> {
    let line_start = text.get(..at)?.rfind('\n').map_or(0, |newline| newline + 1);
    let equals = line_start + text.get(line_start..at)?.rfind('=')? + 1;
    let start = equals + text.get(equals..)?.find(|c: char| c != ' ' && c != '\t')?;
    let rest = text.get(start..)?;
    let word = &rest[..rest.find([' ', '\t', '\r', '\n', ',', ']', '}', '#']).unwrap_or(rest.len())];
    let plausible = word.chars().all(|c| !c.is_control() && !"\"'[]{}=`".contains(c));
    (!word.is_empty() && plausible && (start..=start + word.len()).contains(&at)).then_some((start, word))
}
