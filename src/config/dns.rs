//! `dns = { … }` of a pool: a name whose answers are the backends, and which servers are asked for it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::address;
use super::faults::Complaint;
use super::table::{Table, longer_than_zero};

/// Where a server of names is, unless its address says otherwise.
const DNS_PORT: u16 = 53;

/// `dns = { … }` of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct DnsSource {
    /// Lower-case, without the dot at its end; no domain is appended to it.
    pub name: String,
    /// What is asked for.
    #[serde(flatten)]
    pub records: DnsRecords,
    /// Asked in turn; empty = those of `/etc/resolv.conf`.
    pub resolvers: Vec<SocketAddr>,
    /// An answer is used for at least so long, whatever it says.
    pub min_ttl: Duration,
    /// And at most so long.
    pub max_ttl: Duration,
    /// For how long the answer that there is nothing is not believed; may be zero.
    pub hold: Duration,
    /// For one question to one of the resolvers.
    pub timeout: Duration,
    /// Ask over TCP alone, and not only after an answer that was cut.
    pub tcp: bool,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DnsRecords {
    /// SRV: each answer has a target with a port, a priority and a weight.
    Srv,
    /// A and AAAA: each answer is an address, with this port.
    Addresses {
        /// Of all of them.
        port: u16,
    },
}

words! {
    enum DnsType {
        Srv = "srv",
        A = "a",
    }
}

impl Default for DnsSource {
    fn default() -> Self {
        Self {
            name: String::new(),
            records: DnsRecords::Srv,
            resolvers: Vec::new(),
            min_ttl: Duration::from_secs(1),
            max_ttl: Duration::from_secs(300),
            hold: Duration::from_secs(300),
            timeout: Duration::from_secs(2),
            tcp: false,
        }
    }
}

impl DnsSource {
    pub(super) fn read(table: &Table<'_>) -> Self {
        if !table.has("name") {
            table.fault("`dns` has no `name`", "add it: name = \"_pg._tcp.service.consul\"");
        }
        let default = Self::default();
        let min_ttl = table.time("min_ttl").unwrap_or(default.min_ttl);
        let at_least = |time| {
            longer_than_zero(time)?;
            match time < min_ttl {
                true => {
                    Err(Complaint::new("it is shorter than `min_ttl`", "write a longer time, or a shorter min_ttl"))
                }
                false => Ok(()),
            }
        };
        Self {
            name: table.parsed("name", name).unwrap_or_default(),
            records: DnsRecords::read(table),
            resolvers: resolvers(table),
            min_ttl,
            max_ttl: table.time_with("max_ttl", at_least).unwrap_or_else(|| default.max_ttl.max(min_ttl)),
            hold: table.time_or_zero("hold").unwrap_or(default.hold),
            timeout: table.time("timeout").unwrap_or(default.timeout),
            tcp: table.switch("tcp").unwrap_or(default.tcp),
        }
    }
}

impl DnsRecords {
    fn read(table: &Table<'_>) -> Self {
        let port = table.number("port", 1..=65_535);
        match table.word("type").unwrap_or(DnsType::Srv) {
            DnsType::A if !table.has("port") => {
                let value = table.value("type");
                value.iter().for_each(|value| {
                    value.fault("type \"a\" without `port`: an address has none", "add it: port = 9090");
                });
                Self::Srv
            }
            DnsType::A => port.map_or(Self::Srv, |port| Self::Addresses { port }),
            DnsType::Srv => {
                if let Some(port) = table.value("port") {
                    let hint = "remove it, or write type = \"a\" to ask for the addresses of the name";
                    port.fault("`port` has no effect with type \"srv\": each answer has its own", hint);
                }
                Self::Srv
            }
        }
    }
}

fn name(text: &str) -> Result<String, Complaint> {
    match address::host(text)? {
        address::Host::Name(name) => Ok(name.trim_end_matches('.').to_ascii_lowercase()),
        address::Host::Ip(_) => {
            Err(Complaint::new("it is an address", "write a name, or list addresses in `backends`"))
        }
    }
}

fn resolvers(table: &Table<'_>) -> Vec<SocketAddr> {
    let all = table.all_different("resolvers", |text| {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(SocketAddr::new(ip, DNS_PORT));
        }
        text.parse::<SocketAddr>().ok().filter(|address| address.port() != 0).ok_or_else(|| {
            let hint = "write an address, such as \"127.0.0.1:8600\" or \"[::1]:53\"; without a port it is 53";
            Complaint::new("it is no address of a server", hint)
        })
    });
    if let (Some([]), Some(value)) = (all.as_deref(), table.value("resolvers"))
        && value.items().is_some_and(|items| items.is_empty())
    {
        value.fault("`resolvers` is empty", "leave it out for those of /etc/resolv.conf");
    }
    all.unwrap_or_default()
}

impl Serialize for DnsRecords {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Written {
            r#type: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            port: Option<u16>,
        }
        match *self {
            Self::Srv => Written { r#type: DnsType::Srv.name(), port: None },
            Self::Addresses { port } => Written { r#type: DnsType::A.name(), port: Some(port) },
        }
        .serialize(serializer)
    }
}
