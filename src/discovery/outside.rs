//! PURE. What comes from outside, made fit for logs, labels and the resolver: identities, hosts and texts.

use std::net::IpAddr;
use std::sync::Arc;

use crate::config::Host;

/// Of a text that is quoted, in characters before escapes: a health page may be long.
const QUOTED: usize = 200;

/// Of an identity, in bytes: it is in every log line and on every metric.
pub(super) const LONGEST_ID: usize = 512;

/// An identity, fit for log lines, labels and commands. A name must not be able to forge a log line.
pub(super) fn identity(id: &str) -> Result<Arc<str>, String> {
    if id.trim().is_empty() {
        return Err("its id is empty".to_owned());
    }
    if id.chars().any(char::is_control) {
        return Err("a control character in its id".to_owned());
    }
    if id.len() > LONGEST_ID {
        return Err(format!("its id is longer than {LONGEST_ID} bytes"));
    }
    Ok(id.into())
}

/// Of the name of a zone, in bytes: it is a label of metrics.
const LONGEST_ZONE: usize = 64;

/// The name of a zone, fit for log lines and labels.
pub(super) fn zone(name: &str) -> Result<Arc<str>, String> {
    match name.trim() {
        "" => Err("the name of a zone is empty".to_owned()),
        name if name.chars().any(char::is_control) => Err("a control character in the name of a zone".to_owned()),
        name if name.len() > LONGEST_ZONE => Err(format!("the name of a zone is longer than {LONGEST_ZONE} bytes")),
        name => Ok(name.into()),
    }
}

/// An address or a name that a resolver can be asked for.
pub(super) fn host(address: &str) -> Result<Host, String> {
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return usable(ip).map(Host::Ip);
    }
    // Brackets are for addresses alone.
    let name = Host::parse(address).filter(|_| bare == address);
    name.ok_or_else(|| format!("address \"{}\" is neither an IP address nor a host name", bounded(address)))
}

/// An address that an instance can have.
pub(super) fn usable(ip: IpAddr) -> Result<IpAddr, String> {
    // Linux accepts a connect to these; it reaches this machine, or nothing.
    if ip.is_unspecified() || ip.is_multicast() { Err(format!("address {ip} is no instance's")) } else { Ok(ip) }
}

/// What came from outside, fit for a log line.
pub(super) fn bounded(text: &str) -> String {
    let more = if text.chars().nth(QUOTED).is_some() { "…" } else { "" };
    let kept = text.chars().take(QUOTED).flat_map(|c| {
        let escape = c.is_control().then(|| c.escape_default());
        let plain = escape.is_none().then_some(c);
        escape.into_iter().flatten().chain(plain)
    });
    kept.chain(more.chars()).collect()
}
