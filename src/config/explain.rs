//! What `toml` and serde say about a file, in words of ours: they know neither the place nor the way out.
//! Their messages are read as text, since that is the only form in which they give the names.

use std::ops::Range;

use toml::de::DeTable;

use super::faults::ConfigFault;
use super::nearest::suggest;
use super::secrets::is_secret;
use super::{place, secrets};

/// A file that is no TOML.
pub(super) fn syntax(error: &toml::de::Error, text: &str) -> ConfigFault {
    let span = error.span();
    let message = error.message();
    if message == "duplicate key" {
        let word = span.clone().and_then(|span| text.get(span)).unwrap_or_default();
        let hint = "each key and each table may be written once: remove one of the two";
        return fault(span, format!("`{}` is written a second time", word.escape_debug()), hint);
    }
    if let Some((start, word)) = span.as_ref().and_then(|span| bare_value(text, span.start)) {
        let key = text[..start].trim_end_matches([' ', '\t']).strip_suffix('=').and_then(secrets::key_at_end);
        if let Some(key) = key.filter(|key| secrets::hides(key)) {
            return fault(Some(start..start + word.len()), format!("`{key}` without quotes"), "write it in quotes");
        }
        let hint = format!("a string needs quotes: \"{word}\"");
        return fault(Some(start..start + word.len()), format!("`{word}` is not a TOML value"), hint);
    }
    match message {
        "string values must be quoted, expected literal string" => {
            fault(span, "a key without a value", "write a value after the `=`")
        }
        "invalid basic string, expected `\"`" | "invalid literal string, expected `'`" => {
            fault(span, "a string without its closing quote", "close it on the same line, with the quote it began with")
        }
        _ => fault(span, format!("not valid TOML: {message}"), ""),
    }
}

fn fault(span: Option<Range<usize>>, message: impl Into<String>, hint: impl Into<String>) -> ConfigFault {
    ConfigFault { span, message: message.into(), why: String::new(), hint: hint.into() }
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

/// A file whose keys or types are not those of `shape`.
pub(super) fn shape(error: &toml::de::Error, text: &str, table: &DeTable<'_>) -> ConfigFault {
    let span = error.span();
    let place = span.as_ref().and_then(|span| place::find(table, span));
    let key = place.as_ref().map_or("", |place| place.key.as_str());
    let is_secret = is_secret(key) || place.as_ref().is_some_and(|place| place.table.split('.').any(is_secret));
    // Serde is told of a date as of a table.
    let written = span.clone().and_then(|span| text.get(span)).unwrap_or_default();
    let is_date = written.starts_with(|c: char| c.is_ascii_digit());
    let said = if is_date {
        error.message().replace("invalid type: map", "invalid type: a date or time")
    } else {
        error.message().to_owned()
    };
    let (message, hint) = explained(&said, key, is_secret);
    fault(span, message, hint)
}

fn explained(message: &str, key: &str, is_secret: bool) -> (String, String) {
    if let Some(rest) = message.strip_prefix("unknown field `")
        && let Some((word, expected)) = rest.split_once("`, expected ")
    {
        let known: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
        return (format!("unknown key `{}`", word.escape_debug()), suggest(word, "key", known));
    }
    if let Some(rest) = message.strip_prefix("invalid type: ")
        && let Some((found, wanted)) = rest.split_once(", expected ")
    {
        return wrong_type(key, is_secret, found, wanted);
    }
    (format!("`{key}`: {message}"), String::new())
}

fn wrong_type(key: &str, is_secret: bool, found: &str, wanted: &str) -> (String, String) {
    // The value itself is in the line that is shown below, except for a token, which is nowhere shown.
    let (found, value) = match found.split_once([' ', '`']) {
        Some(("integer", value)) => ("an integer", value),
        Some(("string", value)) => ("a string", value),
        Some(("boolean", value)) => ("a boolean", value),
        Some(("floating", value)) => ("a fraction", value.trim_start_matches("point")),
        _ if found == "map" => ("a table", ""),
        _ if found == "sequence" => ("an array", ""),
        _ => (found, ""),
    };
    let value = value.trim_matches([' ', '`', '"']);
    let wanted = match wanted {
        "i64" => "a whole number",
        "f64" => "a number",
        "a sequence" => "an array",
        "a map" => "a table",
        "a boolean" => "true or false",
        other => other,
    };
    if (found, wanted) == ("an integer", "a whole number") {
        return (format!("`{key}` is too large"), "write a smaller number".to_owned());
    }
    let hint = match (found, wanted) {
        ("an integer", "a duration in quotes") => format!("write it with its unit: \"{value}s\" or \"{value}ms\""),
        (_, "a duration in quotes") => "write it like \"500ms\", \"5s\", \"1m30s\" or \"1h\"".to_owned(),
        _ if is_secret => "write it in quotes".to_owned(),
        ("an integer" | "a boolean" | "a fraction", _) if wanted.starts_with("a string") => {
            format!("write it in quotes: \"{value}\"")
        }
        ("a string", "a whole number") if value.parse::<i64>().is_ok() => format!("write it without quotes: {value}"),
        ("a string", "true or false") if matches!(value, "true" | "false") => {
            format!("write it without quotes: {value}")
        }
        ("a string", "an array") => format!("write it in brackets: {key} = [\"{value}\"]"),
        (_, "a table") => format!("write {key} = {{ … }}, with its keys in braces"),
        (_, "a whole number") => "write it like 3".to_owned(),
        (_, "a number") => "write it like 1.4, without quotes".to_owned(),
        (_, "true or false") => "write true or false, without quotes".to_owned(),
        (_, "a string") => "write one value in quotes".to_owned(),
        _ if key == "keepalive" => "write it like { idle = \"60s\" }".to_owned(),
        _ => String::new(),
    };
    (format!("`{key}` must be {wanted}, not {found}"), hint)
}
