//! `${VAR}` and `${VAR:-default}` in string values. It happens after TOML was read, so that no value of a
//! variable can inject keys and every error still has its place in the file.

use super::faults::Complaint;

/// Where variables come from: `None` = unset.
pub(super) type Env<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// The text with its variables filled in; `$${` is a literal `${`. As in a shell, `:-` also replaces an empty value.
pub(super) fn expand(text: &str, env: &Env<'_>) -> Result<String, Complaint> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find("${") {
        if rest[..dollar].ends_with('$') {
            expanded.push_str(&rest[..dollar - 1]);
            expanded.push_str("${");
            rest = &rest[dollar + 2..];
            continue;
        }
        expanded.push_str(&rest[..dollar]);
        let inner = &rest[dollar + 2..];
        let Some(end) = inner.find('}') else {
            return Err(Complaint::new("a `${` without `}`", "close it, or write `$${` for a literal `${`"));
        };
        expanded.push_str(&variable(&inner[..end], env)?);
        rest = &inner[end + 1..];
    }
    expanded.push_str(rest);
    Ok(expanded)
}

fn variable(inner: &str, env: &Env<'_>) -> Result<String, Complaint> {
    let (name, default) = match inner.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inner, None),
    };
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !starts_well || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err(Complaint::new(
            format!("`${{{}}}` names no variable", name.escape_debug()),
            "write `${NAME}` or `${NAME:-default}`, or `$${` for a literal `${`",
        ));
    }
    match (env(name), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(Complaint::new(
            format!("the environment variable `{name}` is not set"),
            format!("set it, or give a default: `${{{name}:-default}}`"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "HOST" => Some("10.0.0.1".to_owned()),
            "EMPTY" => Some(String::new()),
            "NASTY" => Some("${HOST}\"\npool = 1".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn variables_are_filled_in_once() {
        for (text, wanted) in [
            ("plain", "plain"),
            ("${HOST}:80", "10.0.0.1:80"),
            ("${HOST}${HOST}", "10.0.0.110.0.0.1"),
            ("${PORT:-80}", "80"),
            ("${PORT:-}", ""),
            ("${EMPTY}", ""),
            ("${EMPTY:-x}", "x"),
            ("$${HOST}", "${HOST}"),
            ("$$${HOST}", "$${HOST}"),
            ("$ $HOST }", "$ $HOST }"),
            ("${NASTY}", "${HOST}\"\npool = 1"),
        ] {
            let expanded = expand(text, &env).unwrap_or_else(|_| panic!("{text} expands"));
            assert_eq!(expanded, wanted, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_filled_in_is_refused() {
        for text in ["${PORT}", "${", "${HOST", "${}", "${A B}", "${1A}", "${:-x}"] {
            assert!(expand(text, &env).is_err(), "{text}");
        }
    }
}
