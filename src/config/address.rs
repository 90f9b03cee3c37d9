//! Addresses as they are written: what a listener binds (never a name) and where a backend listens.
//! No look-up happens here; that is discovery's.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::faults::Complaint;

/// `host:port` where the host may be a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// An address, or a name for the resolver.
    pub host: Host,
    /// Never 0.
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(ip) => SocketAddr::new(*ip, self.port).fmt(f),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

impl HostPort {
    /// `host:port` as lists of backends have it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        backend(text).map_err(|complaint| complaint.what)
    }
}

/// The host part of a [`HostPort`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// No look-up needed.
    Ip(IpAddr),
    /// Looked up by the system's resolver.
    Name(String),
}

/// What `bind` takes: an address that a machine can have, and a port, 0 = any free one. IPv4 that is written as IPv6 is
/// IPv4: it can't be bound otherwise.
pub(super) fn bind(text: &str) -> Result<SocketAddr, Complaint> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return match address.ip().to_canonical() {
            IpAddr::V4(ip) => bindable(SocketAddr::new(ip.into(), address.port())),
            IpAddr::V6(_) => bindable(address),
        };
    }
    if let Some(port) = text.strip_prefix(':').or(Some(text)).filter(|port| port.parse::<u16>().is_ok()) {
        let hint = format!("write \"0.0.0.0:{port}\" for every IPv4 address, \"[::]:{port}\" for IPv6 too");
        return Err(Complaint::new("no address", hint));
    }
    let HostPort { host, port } = host_port(text, 0, 8080)?;
    match host {
        Host::Ip(ip) => bindable(SocketAddr::new(ip.to_canonical(), port)),
        Host::Name(_) => Err(Complaint::new(
            "host names are not allowed here, since what they mean may change",
            format!("write the address itself, such as \"127.0.0.1:{port}\" or \"[::]:{port}\""),
        )),
    }
}

/// Refuses what no listener can be at, on any machine.
fn bindable(address: SocketAddr) -> Result<SocketAddr, Complaint> {
    let port = address.port();
    match address {
        _ if address.ip().is_multicast() => {
            Err(Complaint::new("it is a group of machines", "write an address of this machine"))
        }
        SocketAddr::V4(v4) if v4.ip().is_broadcast() => {
            let hint = format!("write \"0.0.0.0:{port}\" for every IPv4 address");
            Err(Complaint::new("it is every machine", hint))
        }
        SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() && v6.scope_id() == 0 => {
            let hint =
                format!("add the number of the interface (`ip link` shows it), such as \"[{}%2]:{port}\"", v6.ip());
            Err(Complaint::new("which interface is meant is unclear", hint))
        }
        _ => Ok(address),
    }
}

/// `host:port`, where the host may be a name and the port is not 0.
pub(super) fn backend(text: &str) -> Result<HostPort, Complaint> {
    host_port(text, 1, 9090)
}

/// Where a connection to an address goes: that of no interface is this machine, and IPv4 may be written as IPv6.
pub(crate) fn dialled(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

/// An address of this machine to dial from; the kernel chooses the port.
pub(super) fn source(text: &str) -> Result<IpAddr, Complaint> {
    match text.parse::<IpAddr>() {
        Ok(address) if address.is_unspecified() => {
            Err(Complaint::new("it means any address", "leave `source` out to let the kernel choose"))
        }
        Ok(address) => Ok(address.to_canonical()),
        Err(_) => Err(Complaint::new("not an IP address", "write an address of this machine without a port")),
    }
}

/// The same of a registry, which has this port by default; only the examples in its complaints are others.
pub(super) fn registry(text: &str, port: u16) -> Result<HostPort, Complaint> {
    host_port(text, 1, port)
}

/// The host part alone: an address, without brackets, or a name.
pub(super) fn host(text: &str) -> Result<Host, Complaint> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(Host::Ip(ip));
    }
    if text.contains('%') && text.contains(':') {
        return Err(Complaint::new("a zone after `%` is not supported", "write an address without a zone"));
    }
    let digits_last =
        text.trim_end_matches('.').rsplit('.').next().is_some_and(|label| label.bytes().all(|b| b.is_ascii_digit()));
    if digits_last {
        return Err(Complaint::new(
            format!("\"{}\" is neither an IP address nor a host name", text.escape_debug()),
            "an IPv4 address is four numbers from 0 to 255, such as 10.0.0.1",
        ));
    }
    if !is_name(text) {
        return Err(Complaint::new(
            format!("\"{}\" is neither an IP address nor a host name", text.escape_debug()),
            "write \"10.0.0.1:9090\", \"[2001:db8::1]:9090\" or \"name.example:9090\"",
        ));
    }
    Ok(Host::Name(text.to_owned()))
}

impl Host {
    /// An address, without brackets, or a name, as files have them; `None` for what is neither.
    pub fn parse(text: &str) -> Option<Self> {
        host(text).ok()
    }
}

fn host_port(text: &str, lowest_port: u16, example: u16) -> Result<HostPort, Complaint> {
    if text.parse::<Ipv6Addr>().is_ok() {
        let hint = format!("an IPv6 address stands in brackets: \"[{text}]:{example}\"");
        return Err(Complaint::new("no port", hint));
    }
    let Some((name, port)) = text.rsplit_once(':') else {
        return Err(Complaint::new("no port", format!("add it, such as \"{}:{example}\"", text.escape_debug())));
    };
    let Some(port) = port.parse::<u16>().ok().filter(|port| *port >= lowest_port) else {
        let message = format!("\"{}\" is not a port", port.escape_debug());
        return Err(Complaint::new(message, format!("a port is a number from {lowest_port} to 65535")));
    };
    let bracketed = name.strip_prefix('[').and_then(|inner| inner.strip_suffix(']'));
    let Some(inner) = bracketed else {
        if name.parse::<Ipv6Addr>().is_ok() {
            let hint = format!("an IPv6 address stands in brackets: \"[{name}]:{port}\"");
            return Err(Complaint::new("where the address ends is unclear", hint));
        }
        return Ok(HostPort { host: host(name)?, port });
    };
    match host(inner)? {
        ip @ Host::Ip(IpAddr::V6(_)) => Ok(HostPort { host: ip, port }),
        _ => Err(Complaint::new("only an IPv6 address stands in brackets", format!("write \"{inner}:{port}\""))),
    }
}

/// Names as DNS has them (RFC 1123), with the underscores that container networks use.
pub(super) fn is_name(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_have_an_address_or_a_name_and_a_port() {
        for text in ["10.0.0.1:80", "[::1]:80", "localhost:1", "db_1.internal:65535", "a.b.:80", "3com.example:80"] {
            let parsed = backend(text).unwrap_or_else(|complaint| panic!("{text}: {}", complaint.what));
            assert_eq!(parsed.to_string(), text);
        }
        for text in [
            "",
            ":",
            "a",
            ":80",
            "a:",
            "a:0",
            "a:65536",
            "a:-1",
            "a:+1x",
            "::1",
            "::1:80",
            "[::1]",
            "[a]:80",
            "[10.0.0.1]:80",
            "10.0.0.256:80",
            "1.2.3:80",
            "a b:80",
            "a..b:80",
            "-a:80",
            "[fe80::1%eth0]:80",
            "http://a:80",
            "a:80\n",
            "é:80",
        ] {
            assert!(backend(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn listeners_bind_addresses_only() {
        for text in ["0.0.0.0:8080", "[::]:8080", "127.0.0.1:0", "[::1]:0"] {
            assert_eq!(bind(text).ok().map(|address| address.to_string()).as_deref(), Some(text));
        }
        for (text, meant) in [("[::ffff:127.0.0.1]:80", "127.0.0.1:80"), ("[::ffff:0.0.0.0]:0", "0.0.0.0:0")] {
            assert_eq!(bind(text).ok().map(|address| address.to_string()).as_deref(), Some(meant));
        }
        for text in ["[fe80::1]:80", "[ff02::1]:80", "224.0.0.1:80", "255.255.255.255:80", "[::ffff:224.0.0.1]:80"] {
            assert!(bind(text).is_err(), "{text:?}");
        }
        assert!(bind("[fe80::1%2]:80").is_ok());
        for text in ["", "8080", ":8080", "localhost:8080", "0.0.0.0", "::", "*:8080", "0.0.0.0:99999"] {
            assert!(bind(text).is_err(), "{text:?}");
        }
    }
}
