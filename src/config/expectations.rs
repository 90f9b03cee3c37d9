//! What a probe sends and what it wants back, each checked so that no value can break out of its place:
//! a path or a host can't add a header, an expectation is never empty.

use super::faults::Complaint;
use super::value::Value;
use super::{Expectation, Pattern, ScriptStep, StatusSet};

/// A method as RFC 9110 has it: a token.
pub(super) fn method(text: &str) -> Result<String, Complaint> {
    if text.is_empty() || !text.chars().all(is_token) {
        return Err(Complaint::new("no HTTP method", "write it like \"GET\" or \"HEAD\""));
    }
    if text.chars().any(|c| c.is_ascii_lowercase()) {
        let hint = format!("write \"{}\"", text.to_ascii_uppercase());
        return Err(Complaint::new("HTTP methods are upper case", hint));
    }
    Ok(text.to_owned())
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

/// The path and the query of a request line.
pub(super) fn path(text: &str) -> Result<String, Complaint> {
    if !text.starts_with('/') {
        let hint = format!("write \"/{}\"", text.escape_debug());
        return Err(Complaint::new("a path begins with `/`", hint));
    }
    if let Some(bad) = text.chars().find(|c| !c.is_ascii_graphic() || *c == '#') {
        let what = format!("a path can't hold `{}`", bad.escape_debug());
        return Err(Complaint::new(what, "write it percent-encoded, such as `%20` for a space"));
    }
    Ok(text.to_owned())
}

/// The value of a `Host` header.
pub(super) fn host(text: &str) -> Result<String, Complaint> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._~:[]%".contains(c);
    if text.is_empty() || text.len() > 255 || !text.chars().all(allowed) {
        return Err(Complaint::new("no host name", "write it like \"www.example.com\" or \"www.example.com:8080\""));
    }
    Ok(text.to_owned())
}

/// The name of a header, in lower case: a token (RFC 9110).
pub(super) fn header_name(text: &str) -> Result<String, Complaint> {
    if text.is_empty() || !text.chars().all(is_token) {
        return Err(Complaint::new("no name of a header", "write it like \"X-Role\""));
    }
    Ok(text.to_ascii_lowercase())
}

/// The name of a header that a check may send.
pub(super) fn sent_header(text: &str) -> Result<String, Complaint> {
    let name = header_name(text)?;
    let hint = match name.as_str() {
        "host" => "write it as the key `host`",
        "content-length" | "transfer-encoding" | "connection" | "te" | "upgrade" | "trailer" | "expect" => {
            "remove it: it follows from the request itself"
        }
        _ => return Ok(name),
    };
    Err(Complaint::new("this header can't be chosen", hint))
}

/// The value of a header: nothing that could begin another one.
pub(super) fn header_value(text: &str) -> Result<String, Complaint> {
    if text.chars().any(|c| c.is_control() && c != '\t') || text.trim() != text {
        return Err(Complaint::new("no value of a header", "it is one line, without spaces around it"));
    }
    Ok(text.to_owned())
}

/// `200-299,404`
pub(super) fn statuses(text: &str) -> Result<StatusSet, Complaint> {
    let hint = "write statuses from 100 to 599 and ranges of them, such as \"200-299,404\"";
    let status = |text: &str| {
        let number = text.trim().parse::<u16>().ok().filter(|status| (100..=599).contains(status));
        number.ok_or_else(|| Complaint::new(format!("\"{}\" is no status", text.trim().escape_debug()), hint))
    };
    let mut ranges = Vec::new();
    for part in text.split(',') {
        let (low, high) = match part.split_once('-') {
            Some((low, high)) => (status(low)?, status(high)?),
            None => (status(part)?, status(part)?),
        };
        if low > high {
            let what = format!("the range {low}-{high} is empty");
            return Err(Complaint::new(what, format!("write {high}-{low}")));
        }
        ranges.push((low, high));
    }
    Ok(StatusSet { ranges })
}

/// A text that must come.
pub(super) fn wanted_text(text: &str) -> Result<Expectation, Complaint> {
    bytes(text).map(Expectation::Bytes)
}

/// A pattern that must match what comes.
pub(super) fn pattern(text: &str) -> Result<Pattern, Complaint> {
    if text.is_empty() {
        return Err(Complaint::new("it is empty and would match anything", "write a pattern, or leave the key out"));
    }
    let hint = "its syntax is that of Rust's `regex` crate; 'single quotes' keep backslashes as they are";
    Pattern::new(text).map_err(|reason| Complaint::new(format!("not a regular expression: {reason}"), hint))
}

/// A pattern that something must come for: a script goes on as soon as it matches, which could be at once.
fn answer(text: &str) -> Result<Expectation, Complaint> {
    let wanted = Expectation::Regex(pattern(text)?);
    if wanted.find(b"").is_some() {
        let hint = "write what must come, such as '^220 ' or '.+'";
        return Err(Complaint::new("it matches before anything has come, so nothing is waited for", hint));
    }
    Ok(wanted)
}

/// The steps of a script check, in order.
pub(super) fn steps(written: &[Value<'_>]) -> Vec<ScriptStep> {
    let steps: Vec<ScriptStep> = written.iter().filter_map(step).collect();
    let after_last = steps.iter().rposition(|step| matches!(step, ScriptStep::Expect(_))).map_or(0, |last| last + 1);
    let waits_for_nothing = |step: &ScriptStep| matches!(step, ScriptStep::ExpectNot(_));
    // With a faulty step among them nothing is known of their order.
    if steps.len() == written.len()
        && let Some(at) = steps.iter().skip(after_last).position(waits_for_nothing)
    {
        let hint = "add what ends the wait: what comes until then is looked at";
        written[after_last + at].fault("`expect_not` without an `expect` after it", hint);
    }
    steps
}

fn step(value: &Value<'_>) -> Option<ScriptStep> {
    const KEYS: [&str; 8] = [
        "send",
        "send_hex",
        "expect",
        "expect_hex",
        "expect_regex",
        "expect_not",
        "expect_not_hex",
        "expect_not_regex",
    ];
    let table = value.table()?;
    match KEYS.iter().filter(|key| table.has(key)).count() {
        1 => {}
        0 => {
            let all = KEYS.map(|key| format!("{{ {key} = … }}")).join(", ");
            table.fault("an empty step", format!("write one of {all}"));
        }
        _ => table.fault("a step with several keys", "make a step of each, in their order"),
    }
    let hex_wanted = |text: &str| hex(text).map(Expectation::Bytes);
    // At most one of these is written, or the fault above was noted.
    let sent = table.parsed("send", bytes).or_else(|| table.parsed("send_hex", hex)).map(ScriptStep::Send);
    let wanted = |text, hex, regex| {
        let plain = table.parsed(text, wanted_text).or_else(|| table.parsed(hex, hex_wanted));
        plain.or_else(|| table.parsed(regex, answer))
    };
    sent.or_else(|| wanted("expect", "expect_hex", "expect_regex").map(ScriptStep::Expect))
        .or_else(|| wanted("expect_not", "expect_not_hex", "expect_not_regex").map(ScriptStep::ExpectNot))
}

/// What is sent.
pub(super) fn bytes(text: &str) -> Result<Vec<u8>, Complaint> {
    if text.is_empty() {
        return Err(Complaint::new("it is empty", "write at least one character"));
    }
    Ok(text.as_bytes().to_vec())
}

/// Two hexadecimal digits a byte; spaces may stand between bytes.
pub(super) fn hex(text: &str) -> Result<Vec<u8>, Complaint> {
    let hint = "write two digits a byte, such as \"0a0b\" or \"0a 0b\"";
    let mut bytes = Vec::new();
    for group in text.split_ascii_whitespace() {
        for pair in group.as_bytes().chunks(2) {
            let [high, low] = pair else {
                return Err(Complaint::new("an odd number of hexadecimal digits", hint));
            };
            let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
            let (Some(high), Some(low)) = (digit(*high), digit(*low)) else {
                return Err(Complaint::new("not only hexadecimal digits", hint));
            };
            bytes.push(high * 16 + low);
        }
    }
    if bytes.is_empty() {
        return Err(Complaint::new("it is empty", hint));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_lists_of_ranges() {
        let set = statuses("200-299, 404").unwrap_or_else(|_| panic!("valid"));
        assert_eq!(set.to_string(), "200-299,404");
        assert!(set.contains(404) && set.contains(250) && !set.contains(300));
        for text in ["", ",", "200,", "99", "600", "300-200", "2xx", "200-", "-1", "200-299-300"] {
            assert!(statuses(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn nothing_breaks_out_of_a_request() {
        for text in ["/a b", "/a\r\nX: y", "a", "", "/é", "/#x", "/\0"] {
            assert!(path(text).is_err(), "{text:?}");
        }
        assert!(path("/health?full=1&x=%20").is_ok());
        for text in ["", "a b", "a\r\nX: y", "a/b", "a@b", "é"] {
            assert!(host(text).is_err(), "{text:?}");
        }
        assert!(host("[::1]:80").is_ok());
        for text in ["", "GE T", "GET\r\n", "get"] {
            assert!(method(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn bytes_are_written_in_hexadecimal() {
        assert_eq!(hex("0a0B ff").ok(), Some(vec![10, 11, 255]));
        for text in ["", " ", "0", "0g", "0a 0", "é", "+1"] {
            assert!(hex(text).is_err(), "{text:?}");
        }
    }
}
