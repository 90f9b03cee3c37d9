//! Where a registry is, as it is written.

use super::address;
use super::faults::Complaint;

/// What is said of an address that is none.
pub(super) struct RegistryAddress {
    /// How one is written.
    pub(super) forms: &'static str,
    /// The usual one.
    pub(super) port: u16,
}

impl RegistryAddress {
    /// `http://host:port`, `https://host:port` or `unix:///path`; without a scheme it is https where that is wanted.
    pub(super) fn normal(&self, text: &str, https: bool) -> Result<String, Complaint> {
        if let Some(path) = text.strip_prefix("unix://") {
            if !path.starts_with('/') || path.chars().any(char::is_control) {
                return Err(Complaint::new("not an absolute path", self.forms));
            }
            return Ok(text.to_owned());
        }
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme @ ("http" | "https"), rest)) => (scheme, rest),
            Some((scheme, _)) => {
                return Err(Complaint::new(format!("the scheme `{}` is not known", scheme.escape_debug()), self.forms));
            }
            None => {
                let parsed = address::registry(text, self.port)?;
                return Ok(format!("{}://{parsed}", if https { "https" } else { "http" }));
            }
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#', '@']) {
            return Err(Complaint::new("only a host and a port may follow the scheme", self.forms));
        }
        // Without a port it is the scheme's own, 80 or 443.
        match address::registry(authority, self.port) {
            Ok(parsed) => Ok(format!("{scheme}://{parsed}")),
            Err(_) if !authority.contains(':') => address::host(authority).map(|_| format!("{scheme}://{authority}")),
            Err(complaint) => Err(complaint),
        }
    }
}
