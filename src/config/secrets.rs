//! What of a file no message may show, by rule: the values of keys that hold secrets and of keys that there are not (one of
//! them may be a secret whose key is misspelt), all that a check sends, and the user and password of an URL. It looks at the
//! text alone, since a file that is no TOML must not give its secrets away either.

use std::collections::HashSet;
use std::fmt;
use std::sync::LazyLock;

/// A value that no log line and no error may show.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"***\"")
    }
}

/// Keys that the example names without a value.
const BESIDES: [&str; 6] =
    ["admin_token_file", "expect_hex", "expect_not_hex", "expect_not_regex", "expect_regex", "timeouts"];

/// Every key and table that there is, as the example has them; a test compares them with the shapes.
static KNOWN: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    let example = include_str!("../../lb.toml");
    let heads = example.lines().filter_map(|line| line.trim_start_matches('#').strip_prefix('[')?.split(']').next());
    let tables = heads.flat_map(|head| head.split('.'));
    example.split('=').filter_map(key_at_end).chain(tables).chain(BESIDES).collect()
});

/// Whether no message may show the values of a key.
pub(super) fn is_secret(key: &str) -> bool {
    matches!(key, "token" | "password" | "headers" | "request_body" | "send" | "send_hex") || key.ends_with("_token")
}

/// The key at the end of the text before an `=`.
pub(super) fn key_at_end(before: &str) -> Option<&str> {
    let before = before.trim_end_matches([' ', '\t']);
    if let Some(quote) = before.chars().next_back().filter(|c| matches!(c, '"' | '\'')) {
        return before[..before.len() - 1].rsplit(quote).next();
    }
    let key = before.rsplit(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-')).next()?;
    (!key.is_empty()).then_some(key)
}

/// Whether a string at that key is not shown.
pub(super) fn hides(key: &str) -> bool {
    is_secret(key) || !KNOWN.contains(key)
}

/// A text with user and password of its URL starred out, each character by one.
pub(super) fn without_userinfo(text: &str) -> String {
    let start = text.find("://").map_or(0, |at| at + 3);
    let authority = text[start..].split(|c: char| c.is_whitespace()).next().unwrap_or_default();
    match authority.rfind('@') {
        Some(at) if start > 0 || authority[..at].contains(':') => {
            text[..start].to_owned() + &stars(&text[start..start + at]) + &text[start + at..]
        }
        _ => text.to_owned(),
    }
}

/// The text of a file with what is not to be shown starred out, each character by one, so that lines and columns stay.
pub(super) fn masked(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let (mut at, mut in_comment, mut in_secret) = (0, false, false);
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        let mut end = at + c.len_utf8();
        match c {
            '\n' => in_comment = false,
            '#' => in_comment = true,
            '[' if at == 0 || text[..at].ends_with('\n') => in_secret = is_secret_table(rest),
            '"' | '\'' if !in_comment => {
                end = at + string_end(rest);
                let before = text[..at].trim_end_matches([' ', '\t']).chars().next_back();
                let may_begin = before.is_none_or(|c| matches!(c, '=' | '[' | ',' | '{' | '.' | '\n' | '\r'));
                let is_whole = is_closed(&text[at..end]) && is_over(&text[end..], &['=', '.']);
                // A value without its closing quote, and with nothing behind it that could be another one.
                let is_open = before == Some('=') && !is_closed(&text[at..end]) && !text[at..end].contains(['=', '\n']);
                if may_begin && (is_whole || is_open) {
                    // The quote, and what is in it.
                    masked.push_str(&rest[..1]);
                    masked.push_str(&without_userinfo(&text[at + 1..end]));
                } else {
                    // It can't be told what is a string from here on.
                    end = at + doubtful_end(rest, end - at);
                    masked.push_str(&stars(&text[at..end]));
                }
                at = end;
                continue;
            }
            '=' => {
                let value = rest[1..].trim_start_matches([' ', '\t']);
                let start = text.len() - value.len();
                let is_sent = in_secret || is_in_secret(&text[..at]);
                let key = key_at_end(&text[..at]).filter(|_| is_alone(&text[..at]));
                if is_sent || key.is_none_or(hides) {
                    masked.push_str(&text[at..start]);
                    end = start + hidden_end(value, is_sent || key.is_none_or(is_secret));
                    masked.push_str(&stars(&text[start..end]));
                    at = end;
                    continue;
                }
            }
            _ => {}
        }
        masked.push_str(&text[at..end]);
        at = end;
    }
    masked
}

/// Whether the table whose header the text begins with holds nothing but secrets, such as `[pools.web.check.headers]`.
fn is_secret_table(text: &str) -> bool {
    let head = text.trim_start_matches('[').split([']', '\n']).next().unwrap_or_default();
    head.rsplit('.').next().is_some_and(|last| is_secret(last.trim_matches([' ', '\t', '"', '\''])))
}

/// Whether the key before an `=` is one below a secret, such as `headers.X-Key`.
fn is_in_secret(before: &str) -> bool {
    let key = before.rsplit(['\n', ',', '{']).next().unwrap_or_default();
    key.split('.').rev().skip(1).any(|part| is_secret(part.trim_matches([' ', '\t', '"', '\''])))
}

fn stars(text: &str) -> String {
    text.chars().map(|c| if matches!(c, '\n' | '\r') { c } else { '*' }).collect()
}

/// How much of the text is a value that is not shown. Of a key that there is not, tables are looked into, and numbers stay.
fn hidden_end(value: &str, is_secret: bool) -> usize {
    let end = match value.chars().next() {
        Some('"' | '\'') => string_end(value),
        Some('[') => bracket_end(value),
        Some('{') if is_secret => bracket_end(value),
        Some('{') => return 0,
        _ => {
            let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '+' | '-' | ':');
            let end = value.find(|c| !is_part(c)).unwrap_or(value.len());
            let is_plain = matches!(&value[..end], "true" | "false") || value[..end].parse::<f64>().is_ok();
            if is_plain && !is_secret {
                return 0;
            }
            end
        }
    };
    let is_whole = !value.starts_with(['"', '\'']) || is_closed(&value[..end]);
    if end > 0 && is_whole && is_over(&value[end..], &[]) { end } else { doubtful_end(value, end) }
}

/// Whether what is before an `=` is nothing but a key.
fn is_alone(before: &str) -> bool {
    let piece = before.rsplit(['\n', ',', '{', '[', '#']).next().unwrap_or_default();
    !piece.trim_matches([' ', '\t']).contains([' ', '\t'])
}

/// Whether a value can end before that: a line with something else behind it is none that is understood.
fn is_over(rest: &str, besides: &[char]) -> bool {
    let next = rest.trim_start_matches([' ', '\t']).chars().next();
    next.is_none_or(|c| matches!(c, ',' | ']' | '}' | '#' | '\r' | '\n') || besides.contains(&c))
}

/// Whether a string has its quote at the end.
fn is_closed(string: &str) -> bool {
    let quote = &string[..1];
    let three = quote.repeat(3);
    if string.starts_with(&three) {
        string.len() >= 6 && string.ends_with(&three)
    } else {
        string.len() >= 2 && string.ends_with(quote)
    }
}

/// The end of the line in which something ends that is not understood; where that is the line's end, of the next one.
fn doubtful_end(text: &str, end: usize) -> usize {
    let end = if text[end..].starts_with(['\r', '\n']) { end + 1 } else { end };
    text[end..].find('\n').map_or(text.len(), |at| end + at)
}

/// Where the string ends that the text begins with; one that is not closed ends with its line, or with the text.
fn string_end(text: &str) -> usize {
    let quote = text.chars().next().unwrap_or('"');
    let three = quote.to_string().repeat(3);
    let is_long = text.starts_with(&three);
    let (mut at, mut escaped) = (if is_long { 3 } else { 1 }, false);
    while let Some(c) = text[at..].chars().next() {
        if !escaped && is_long && text[at..].starts_with(&three) {
            return at + 3;
        }
        if !is_long && !escaped && c == quote {
            return at + 1;
        }
        if !is_long && c == '\n' {
            return at;
        }
        escaped = c == '\\' && quote == '"' && !escaped;
        at += c.len_utf8();
    }
    text.len()
}

/// Where the array or table ends that the text begins with.
fn bracket_end(text: &str) -> usize {
    let (mut at, mut depth) = (0, 0_usize);
    while let Some(c) = text[at..].chars().next() {
        match c {
            '"' | '\'' => {
                at += string_end(&text[at..]);
                continue;
            }
            '[' | '{' => depth += 1,
            ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += c.len_utf8();
        if depth == 0 {
            break;
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_starred_out() {
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
            ("x = 1 # it's token = \"a\"", "x = 1 # it's token = ***"),
            ("check = { password = \"a b\", role = 1 }", "check = { password = *****, role = 1 }"),
            ("password_file = \"/run/t\"", "password_file = \"/run/t\""),
            ("admin_token = \"a\"", "admin_token = ***"),
            ("admin.read_token = 'a'", "admin.read_token = ***"),
            // A key that there is not.
            ("admin_tokn = \"a\"", "admin_tokn = ***"),
            ("tokn = abc", "tokn = ***"),
            ("tokn = ['a', 'b']", "tokn = **********"),
            ("tokn = { secrt = 'a', kind = \"tcp\" }", "tokn = { secrt = ***, kind = \"tcp\" }"),
            ("intervall = 3", "intervall = 3"),
            ("balance = \"round\"", "balance = \"round\""),
            // What is sent.
            ("steps = [{ send = \"a\" }, { expect = \"b\" }]", "steps = [{ send = *** }, { expect = \"b\" }]"),
            ("send_hex = \"00\"", "send_hex = ****"),
            ("headers = { a = \"b\" }, path = \"/\"", "headers = ***********, path = \"/\""),
            ("headers.role = 12", "headers.role = **"),
            ("[a.headers]\nrole = 12\n[a]\nrole = 'x'", "[a.headers]\nrole = **\n[a]\nrole = 'x'"),
            // URLs.
            ("address = \"http://u:p@h:1\" # \"", "address = \"http://***@h:1\" # \""),
            ("address = 'u:p@h:1'", "address = '***@h:1'"),
            ("bind = \"[::1]:80\"", "bind = \"[::1]:80\""),
            // What is no TOML: from there on nothing is shown.
            ("admin\"_token = \"a\"", "admin*************"),
            ("\"admin_token = \"a\"\nx = 1", "******************\nx = 1"),
            ("'admin_token = \"a\"", "******************"),
            ("admin_token \"a\"", "admin_token ***"),
            ("password = = \"a\"", "password = *****"),
            ("admin_token 0= \"a\"", "admin_token 0= ***"),
            ("admin_token{ = \"a\"", "admin_token{ = ***"),
            ("admin_token =\n \"a\"\nx = 1", "admin_token =\n****\nx = 1"),
            ("admin_token = # \"a\"", "admin_token = *****"),
            ("admin_token = \"\na\"\nx = 1", "admin_token = *\n**\nx = 1"),
            ("bind = \"a\"b\"", "bind = *****"),
            // Strings of several lines.
            ("token = \"\"\"a\nb\"\"\"\nbind = 'x=y'", "token = ****\n****\nbind = 'x=y'"),
        ] {
            assert_eq!(masked(line), wanted, "{line}");
        }
    }

    /// An unknown key in each table makes the reader say which ones there are.
    #[test]
    fn every_key_is_known() {
        const FILE: &str = "zzzzzzzz = 1
            [log]\nsessions = { zzzzzzzz = 1 }
            [listeners.a]\naccept_proxy = { zzzzzzzz = 1 }\ntcp = { zzzzzzzz = 1, keepalive = { zzzzzzzz = 1 } }
            [pools.a]\nbackends = [{ zzzzzzzz = 1 }]\non_down = { zzzzzzzz = 1 }\nsend_proxy = { zzzzzzzz = 1 }
            check = { kind = \"script\", steps = [{ zzzzzzzz = 1 }] }
            [pools.b.check]\nkind = \"http\"\nexpect_headers = { a = { zzzzzzzz = 1 } }\n";
        let of_process =
            ["admin", "log", "consul", "etcd", "shutdown", "reload", "listeners.a", "pools.a", "pools.b.check"];
        let of_pool = [
            "consul", "dns", "http", "etcd", "resolve", "agent", "connect", "queue", "timeouts", "tcp", "outliers",
            "damping", "guard",
        ];
        let tables = of_process.map(str::to_owned).into_iter().chain(of_pool.map(|table| format!("pools.c.{table}")));
        let mut known = HashSet::new();
        for text in [FILE.to_owned()].into_iter().chain(tables.map(|table| format!("[{table}]\nzzzzzzzz = 1\n"))) {
            let report = super::super::parse(&text, "", &|_| None).unwrap_err().to_string();
            let hints = report.lines().filter_map(|line| line.strip_prefix("hint: the "));
            known.extend(hints.flat_map(|hint| hint.split('`').skip(1).step_by(2)).map(str::to_owned));
        }
        assert!(known.len() > 150, "{} keys were named", known.len());
        let unknown: Vec<_> = known.iter().filter(|key| !KNOWN.contains(&***key) && !is_secret(key)).collect();
        assert!(unknown.is_empty(), "the example lacks {unknown:?}");
        assert!(KNOWN.contains("bind") && !KNOWN.contains("admin_tokn"));
    }

    #[test]
    fn whatever_the_text_it_ends_and_keeps_its_lines() {
        let mut random = fastrand::Rng::with_seed(7);
        let pieces = ["token", "=", "\"", "'", "\n", "#", "[", "]", "{", "}", "ä", "\\", " ", "a", "://", "@", ":"];
        for _ in 0..20_000 {
            let text: String = (0..random.usize(..30)).map(|_| pieces[random.usize(..pieces.len())]).collect();
            let masked = masked(&text);
            assert_eq!(masked.chars().count(), text.chars().count(), "{text:?}");
            assert_eq!(masked.matches('\n').count(), text.matches('\n').count(), "{text:?}");
        }
    }
}
