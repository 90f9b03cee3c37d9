//! `[checks.NAME]`, `[pools.NAME.check]` and `[pools.NAME.agent]`: what all kinds have; what each has besides is in `kinds`.
//! A named check is read once, and is the same check in every pool that names it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::access::path;
use super::expectations::bytes;
use super::faults::Complaint;
use super::kinds::KindRow;
use super::nearest::suggest;
use super::table::Table;
use super::value::Form;
use super::{AgentCheck, Check, CheckKind, ProxyVersion, TlsCheck, expectations};

const DEFAULT_INTERVAL: Duration = Duration::from_secs(2);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);
/// Time enough to renew it.
const DEFAULT_EXPIRES_WITHIN: Duration = Duration::from_secs(14 * 24 * 3600);

/// The checks that pools may name.
pub(super) struct Checks {
    named: BTreeMap<String, Read>,
}

/// A check as its table says, before a pool uses it.
#[derive(Clone)]
struct Read {
    check: Check,
    /// Its probes begin as the pool's sessions do.
    follows_pool: bool,
    /// They come from where the pool's sessions come from.
    connects: bool,
}

impl Checks {
    /// Also those that no pool names, so that a fault in them is seen now.
    pub(super) fn read(tables: Vec<(&str, Table<'_>)>) -> Self {
        Self { named: tables.into_iter().map(|(name, table)| (name.to_owned(), Read::of(&table))).collect() }
    }

    /// `sent` is what the pool's sessions begin with: probes do so too unless told otherwise. They come from `sources`, as
    /// sessions do.
    pub(super) fn of_pool(&self, pool: &Table<'_>, sent: Option<ProxyVersion>, sources: &[IpAddr]) -> Arc<Check> {
        let written = pool.value("check").and_then(|value| match value.form() {
            Form::Text => value.parsed(|name| self.find(name)),
            Form::Table => value.table().map(|table| Read::of(&table)),
            _ => value.wrong("a string (the name of a check) or a table { kind = \"tcp\" }"),
        });
        let read = written.unwrap_or_else(|| Read::of(&pool.unwritten()));
        let mut check = read.check;
        if read.follows_pool {
            check.send_proxy = sent;
        }
        if read.connects {
            check.sources = sources.to_vec();
        }
        Arc::new(check)
    }

    fn find(&self, name: &str) -> Result<Read, Complaint> {
        self.named.get(name).cloned().ok_or_else(|| {
            let add = format!(
                "add a section [checks.{}], or write a table: check = {{ kind = \"tcp\" }}",
                name.escape_debug()
            );
            let hint =
                if self.named.is_empty() { add } else { suggest(name, "check", self.named.keys().map(String::as_str)) };
            Complaint::new("there is no such check", hint)
        })
    }
}

impl Read {
    fn of(table: &Table<'_>) -> Self {
        let (kind, what) = KindRow::read(table);
        let interval = table.time("interval").unwrap_or(DEFAULT_INTERVAL);
        let check = Check {
            kind: what,
            interval,
            fast_interval: table.time("fast_interval").unwrap_or_else(|| Duration::from_millis(500).min(interval)),
            down_interval: table.time("down_interval").unwrap_or(interval),
            timeout: table.time("timeout").unwrap_or(DEFAULT_TIMEOUT),
            rise: table.number("rise", 1..=1000).unwrap_or(2),
            fall: table.number("fall", 1..=1000).unwrap_or(3),
            port: table.number("port", 1..=65_535),
            send_proxy: table.value("send_proxy").and_then(ProxyVersion::of_check),
            tls: TlsCheck::read(kind, table),
            linger: table.switch("linger").unwrap_or(false),
            sources: Vec::new(),
        };
        let connects = kind.takes("send_proxy");
        Self { check, follows_pool: connects && !table.has("send_proxy"), connects }
    }
}

impl Check {
    /// `agent = { … }`: asked at its own pace, with no results to count.
    pub(super) fn of_agent(table: &Table<'_>, sources: &[IpAddr]) -> Self {
        if !table.has("port") {
            let hint = "add the port that the agents of its backends listen on: agent = { port = 9100 }";
            table.fault("`agent` without `port`", hint);
        }
        let interval = table.time("interval").unwrap_or(DEFAULT_INTERVAL);
        Self {
            port: table.number("port", 1..=65_535),
            interval,
            fast_interval: interval,
            down_interval: interval,
            timeout: table.time("timeout").unwrap_or(DEFAULT_TIMEOUT),
            kind: CheckKind::Agent(AgentCheck { send: table.parsed("send", bytes).unwrap_or_default() }),
            rise: 1,
            fall: 1,
            send_proxy: None,
            tls: None,
            linger: false,
            sources: sources.to_vec(),
        }
    }
}

impl TlsCheck {
    /// How the exchange is wrapped; `None` = it is not.
    fn read(kind: &KindRow, table: &Table<'_>) -> Option<Self> {
        // A kind that has the other keys and can't do without.
        let is_always = kind.takes("verify") && !kind.takes("tls");
        let is_on = table.switch("tls") == Some(true) || is_always;
        if !is_on && kind.takes("tls") {
            for key in ["server_name", "verify", "ca_file", "expires_within", "alpn"] {
                if let Some(value) = table.value(key).filter(|_| kind.takes(key)) {
                    value.fault(format!("`{key}` without TLS"), "add tls = true, or remove it");
                }
            }
        }
        let server_name = match table.has("host") && !table.has("server_name") {
            // What the server is called in the request is what its certificate is for.
            true => table.parsed("host", expectations::host).map(|host| without_port(&host)),
            false => table.parsed("server_name", server_name),
        };
        let this = Self {
            server_name,
            verify: table.switch("verify").unwrap_or(true),
            ca_file: table.parsed("ca_file", path),
            alpn: table.all_parsed("alpn", protocol).unwrap_or_default(),
            expires_within: table.limit("expires_within", Some(DEFAULT_EXPIRES_WITHIN)),
        };
        is_on.then_some(this)
    }
}

/// A name of ALPN: 1 to 255 bytes (RFC 7301).
fn protocol(text: &str) -> Result<String, Complaint> {
    if text.is_empty() || text.len() > 255 {
        return Err(Complaint::new("no name of a protocol", "write it like \"h2\" or \"postgresql\""));
    }
    Ok(text.to_owned())
}

fn without_port(host: &str) -> String {
    let bare = match host.rsplit_once(':') {
        Some((bare, port)) if !port.contains(']') && (!bare.contains(':') || bare.ends_with(']')) => bare,
        _ => host,
    };
    bare.trim_matches(['[', ']']).to_owned()
}

/// What a certificate can be for: a DNS name or an address.
fn server_name(text: &str) -> Result<String, Complaint> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
    if text.is_empty() || text.len() > 253 || !text.chars().all(allowed) {
        return Err(Complaint::new("no name of a server", "write it like \"db.example\""));
    }
    Ok(text.to_owned())
}
