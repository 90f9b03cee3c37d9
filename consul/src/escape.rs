//! PURE. Names into paths and queries: everything but RFC 3986's unreserved characters is percent-encoded, so that no
//! name can end its segment or begin a query.

use std::fmt::Write as _;

use crate::Error;

/// `name` as one segment of a path.
///
/// # Errors
/// [`Error::Argument`] for a name that URL normalisation would drop, escaped or not.
pub(crate) fn segment(what: &'static str, name: &str) -> Result<String, Error> {
    if matches!(name, "" | "." | "..") {
        return Err(Error::Argument { what, value: name.to_owned() });
    }
    Ok(escaped(name))
}

/// A KV key as the rest of a path: its slashes stay.
///
/// # Errors
/// [`Error::Argument`] for a key that begins with a slash (Consul takes none) or has a segment that URL
/// normalisation would drop.
pub(crate) fn key(key: &str) -> Result<String, Error> {
    if key.is_empty() || key.starts_with('/') || key.split('/').any(|part| matches!(part, "." | "..")) {
        return Err(Error::Argument { what: "key", value: key.to_owned() });
    }
    Ok(key.split('/').map(escaped).collect::<Vec<_>>().join("/"))
}

/// Any text with only unreserved characters left as they are.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            // Writing to a string can't fail.
            _ => drop(write!(out, "%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_stays_one() {
        assert_eq!(segment("service", "web-1.a_b~c").unwrap(), "web-1.a_b~c");
        assert_eq!(segment("service", "a/b?c#d e%f\u{e4}").unwrap(), "a%2Fb%3Fc%23d%20e%25f%C3%A4");
        for name in ["", ".", ".."] {
            assert!(matches!(segment("service", name), Err(Error::Argument { .. })), "{name:?}");
        }
    }

    #[test]
    fn a_key_keeps_its_slashes() {
        assert_eq!(key("a/b c/").unwrap(), "a/b%20c/");
        for name in ["", "/a", "a/../b", "./a"] {
            assert!(matches!(key(name), Err(Error::Argument { .. })), "{name:?}");
        }
    }
}
