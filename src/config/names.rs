//! Names of servers as a route has them: exact, or with `*` for one label. Compared as A-labels in lower case, as a TLS
//! client sends them. The door to `idna`.

use std::fmt;

use super::address::is_name;
use super::faults::Complaint;

/// An entry of a route's `sni`: lower-case A-labels without a final dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ServerName {
    /// This name.
    Exact(String),
    /// Every name with exactly one label before this one, which is written `*.NAME`.
    Wildcard(String),
}

impl ServerName {
    /// Whether a client that asks for this name, in lower case, is meant.
    pub fn holds(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == name,
            Self::Wildcard(parent) => name.split_once('.').is_some_and(|(_, rest)| rest == parent),
        }
    }

    /// The wildcard that covers a name, besides itself.
    pub(super) fn wildcard_above(&self) -> Option<Self> {
        let Self::Exact(name) = self else { return None };
        name.split_once('.').map(|(_, parent)| Self::Wildcard(parent.to_owned()))
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard(parent) => write!(f, "*.{parent}"),
        }
    }
}

/// `db.example.com`, `*.shop.example.com`, `münchen.example`.
pub(super) fn server_name(text: &str) -> Result<ServerName, Complaint> {
    const ALL: &str = "write tls = true for every TLS client, or name the domain: \"*.example.com\"";
    let (parent, is_wildcard) = text.strip_prefix("*.").map_or((text, false), |parent| (parent, true));
    if text == "*" || text == "*." {
        return Err(Complaint::new("`*` stands for one label of a name, and there is no name", ALL));
    }
    if parent.contains('*') {
        let hint =
            "write \"*.shop.example.com\", or each name; `*` stands for exactly one label, and only for the first";
        return Err(Complaint::new("`*` is not the whole first label", hint));
    }
    let bare = parent.trim_start_matches('[').split(']').next().unwrap_or(parent);
    if bare.parse::<std::net::IpAddr>().is_ok() {
        let hint =
            "a client that connects to an address names no server; to route by the client's own address write `from`";
        return Err(Complaint::new("an address is no server name", hint));
    }
    if parent.contains(['/', ':', '@']) {
        let hint = "write the name alone, without a scheme, a port or a path: \"db.example.com\"";
        return Err(Complaint::new("no server name", hint));
    }
    let name = parent.strip_suffix('.').unwrap_or(parent);
    let ascii = if name.is_ascii() && !name.to_ascii_lowercase().contains("xn--") {
        name.to_ascii_lowercase()
    } else {
        idna::domain_to_ascii(name).map_err(|_| {
            let hint =
                "write it as people do (\"münchen.example\") or in its encoded form (\"xn--mnchen-3ya.example\")";
            Complaint::new("no name that the DNS can have", hint)
        })?
    };
    if !is_name(&ascii) {
        let hint = "a name is labels of letters, digits, `-` and `_` with dots between them: \"db.example.com\"";
        return Err(Complaint::new("no server name", hint));
    }
    Ok(if is_wildcard { ServerName::Wildcard(ascii) } else { ServerName::Exact(ascii) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_as_lower_case_a_labels() {
        for (text, meant) in [
            ("db.example.com", "db.example.com"),
            ("DB.Example.COM", "db.example.com"),
            ("db.example.com.", "db.example.com"),
            ("*.Shop.example.com", "*.shop.example.com"),
            ("*.internal", "*.internal"),
            ("münchen.example", "xn--mnchen-3ya.example"),
            ("MÜNCHEN.example", "xn--mnchen-3ya.example"),
            ("*.münchen.example", "*.xn--mnchen-3ya.example"),
            ("xn--mnchen-3ya.example", "xn--mnchen-3ya.example"),
            ("XN--MNCHEN-3YA.example", "xn--mnchen-3ya.example"),
            ("faß.example", "xn--fa-hia.example"),
            ("例え.テスト", "xn--r8jz45g.xn--zckzah"),
            ("my_db.example", "my_db.example"),
            ("localhost", "localhost"),
        ] {
            let name = server_name(text).unwrap_or_else(|complaint| panic!("{text}: {}", complaint.what));
            assert_eq!(name.to_string(), meant, "{text}");
        }
        for text in [
            "",
            ".",
            "*",
            "*.",
            "**.a",
            "*.*.a",
            "a.*.b",
            "www.*",
            "*a.example",
            "a*.example",
            "*.a.*",
            "10.0.0.1",
            "::1",
            "[::1]",
            "a.example:443",
            "https://a.example",
            "a.example/x",
            "a b.example",
            "a..b",
            ".a",
            "-a.example",
            "xn--\u{fc}.example",
            "xn--a.example",
            "a\n.example",
            &"a.".repeat(200),
        ] {
            assert!(server_name(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_wildcard_covers_one_label() {
        let above = |text| server_name(text).ok().and_then(|name| name.wildcard_above()).map(|name| name.to_string());
        assert_eq!(above("a.b.c").as_deref(), Some("*.b.c"));
        assert_eq!((above("c"), above("*.b.c")), (None, None));
    }
}
