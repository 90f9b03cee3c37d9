//! `routes` and `sniff` of a listener: which pool a session goes to, by what is known of its client. In the order of the
//! file; the first that holds decides, and all conditions of a route have to hold.

use std::collections::HashSet;
use std::hash::Hash;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::expectations::hex;
use super::faults::Complaint;
use super::listeners::pool_named;
use super::names::server_name;
use super::table::Table;
use super::value::Value;
use super::{HashBy, Network, ServerName, network, size};

/// The first byte of a TLS record with a handshake in it (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// One entry of `routes`. Each condition that is not empty has to hold; the values in it are alternatives.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Route {
    /// Names of which the client asks for one, in its TLS ClientHello.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sni: Vec<ServerName>,
    /// Protocols of which the client offers one, in its TLS ClientHello.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub alpn: Vec<String>,
    /// Networks of which the client is in one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<Network>,
    /// Texts of which the client's bytes begin with one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub starts_with: Vec<String>,
    /// The same, written as hexadecimal digits.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub starts_with_hex: Vec<HexBytes>,
    /// Whether the client's bytes are a TLS ClientHello.
    pub tls: Option<bool>,
    /// Where its sessions go.
    #[serde(flatten)]
    pub target: Target,
}

/// Where the sessions of a route go.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Target {
    /// All to one pool.
    Pool {
        /// Its name.
        pool: String,
    },
    /// To each its part.
    Split {
        /// At least two pools in the order of their names, and what each gets of the sum. The sum is not 0.
        #[serde(serialize_with = "by_pool")]
        split: Vec<(String, u32)>,
        /// By what a client always gets the same pool; `None` = each session is drawn by itself.
        hash: Option<HashBy>,
    },
}

/// Bytes that are written as hexadecimal digits; at least one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HexBytes(pub Vec<u8>);

/// `sniff = { … }`: how long and how much is read of a client before its session has a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Sniff {
    /// From the moment at which bytes are first needed.
    pub timeout: Duration,
    /// The most that is read, in bytes.
    pub max: usize,
    /// Clients of this protocol ask for TLS in the clear, and are answered, so that they send their ClientHello.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub starttls: Option<Starttls>,
}

words! {
    /// `sniff.starttls`
    pub enum Starttls {
        /// SSLRequest, and GSSENCRequest before it.
        Postgres = "postgres",
    }
}

impl Route {
    /// Without a condition.
    pub(super) const FOR_ALL: Self = Self {
        sni: Vec::new(),
        alpn: Vec::new(),
        from: Vec::new(),
        starts_with: Vec::new(),
        starts_with_hex: Vec::new(),
        tls: None,
        target: Target::Pool { pool: String::new() },
    };

    /// All of a listener, and how its clients are read; `None` where no route or pool needs their bytes.
    /// `hash_sni`: some pool hashes by server name, and may be reached from here.
    pub(super) fn read_all(listener: &Table<'_>, pools: &[&str], hash_sni: bool) -> (Vec<Self>, Option<Sniff>) {
        let hint = "add a route, such as { sni = [\"db.example.com\"], pool = \"db\" }, or remove the key";
        let written = listener.value("routes");
        let items = written.map_or_else(Vec::new, |routes| routes.at_least_one(routes.items(), hint));
        let tables: Vec<_> = items.iter().filter_map(Value::table).collect();
        let needs_bytes = |table: &Table<'_>| {
            table.know(&Self::KEYS);
            HashBy::is_sni(table)
                || ["sni", "alpn", "starts_with", "starts_with_hex", "tls"].into_iter().any(|key| table.has(key))
        };
        let needs_hello =
            |table: &Table<'_>| HashBy::is_sni(table) || ["sni", "alpn", "tls"].into_iter().any(|key| table.has(key));
        let (needs_bytes, needs_hello) = (tables.iter().any(needs_bytes), tables.iter().any(needs_hello));
        let sniff = Sniff::read(listener, hash_sni || needs_bytes, hash_sni || needs_hello);
        let most = sniff.as_ref().map_or(0, |sniff| sniff.max);
        (tables.iter().filter_map(|table| Self::read(table, pools, most)).collect(), sniff)
    }

    const KEYS: [&'static str; 9] =
        ["sni", "alpn", "from", "starts_with", "starts_with_hex", "tls", "pool", "split", "hash"];

    /// `most` bytes of a client are read.
    fn read(table: &Table<'_>, pools: &[&str], most: usize) -> Option<Self> {
        table.exclusive("starts_with", "starts_with_hex");
        let fits = |bytes: &[u8]| prefix(bytes, most);
        let sni = list(table, "sni", "\"db.example.com\"", server_name);
        let alpn = list(table, "alpn", "\"h2\"", protocol);
        let tls = table.switch("tls");
        let is_tls = !sni.is_empty() || !alpn.is_empty() || tls == Some(true);
        let begins = |bytes: Vec<u8>| {
            if is_tls && bytes.first() != Some(&TLS_HANDSHAKE) {
                let what = "what begins so is no TLS ClientHello, which the other conditions of the route want";
                return Err(Complaint::new(what, "make two routes of it"));
            }
            Ok(())
        };
        let text = |text: &str| {
            fits(text.as_bytes())?;
            begins(text.into()).map(|()| text.to_owned())
        };
        let digits = |text: &str| {
            let bytes = hex(text)?;
            fits(&bytes)?;
            begins(bytes.clone()).map(|()| HexBytes(bytes))
        };
        let route = Self {
            sni,
            alpn,
            from: list(table, "from", "\"10.0.0.0/8\"", network::parse),
            starts_with: list(table, "starts_with", "\"SSH-\"", text),
            starts_with_hex: list(table, "starts_with_hex", "\"00 00 00 08\"", digits),
            tls,
            target: Target::read(table, pools)?,
        };
        if let Some(value) = table.value("tls").filter(|_| route.tls == Some(false) && route.needs_hello_content()) {
            let key = if route.sni.is_empty() { "alpn" } else { "sni" };
            value.fault(
                format!("`tls = false` next to `{key}`"),
                format!("only a TLS client has `{key}`: remove one of the two"),
            );
        }
        let has_condition = Self::KEYS[..6].iter().any(|key| table.has(key));
        if let (false, Target::Pool { pool }) = (has_condition, &route.target) {
            let hint = format!(
                "add one of sni, alpn, from, starts_with, starts_with_hex and tls; for all that no route takes, write pool = \
                 \"{pool}\" in the listener"
            );
            table.fault("a route without a condition", hint);
        }
        Some(route)
    }

    /// What the client's bytes may begin with.
    pub fn prefixes(&self) -> impl Iterator<Item = &[u8]> {
        self.starts_with.iter().map(String::as_bytes).chain(self.starts_with_hex.iter().map(|bytes| &*bytes.0))
    }

    /// What it says of TLS, in one way or another.
    pub(super) fn wants_tls(&self) -> Option<bool> {
        let is_other = |bytes: &[u8]| bytes.first() != Some(&TLS_HANDSHAKE);
        if self.needs_hello_content() {
            return Some(true);
        }
        let begins_otherwise = self.prefixes().next().is_some() && self.prefixes().all(is_other);
        self.tls.or_else(|| begins_otherwise.then_some(false))
    }

    fn needs_hello_content(&self) -> bool {
        !self.sni.is_empty() || !self.alpn.is_empty()
    }
}

impl Target {
    /// The pools that get sessions of it, with the part of each.
    pub fn pools(&self) -> impl Iterator<Item = (&str, u32)> {
        let (one, several) = match self {
            Self::Pool { pool } => (Some((pool.as_str(), 1)), &[][..]),
            Self::Split { split, .. } => (None, &split[..]),
        };
        one.into_iter().chain(several.iter().map(|(pool, share)| (pool.as_str(), *share)))
    }

    fn read(table: &Table<'_>, pools: &[&str]) -> Option<Self> {
        if let (Some(_), Some(split)) = (table.value("pool"), table.value("split")) {
            split.fault("`split` next to `pool`", "keep one of the two");
        }
        if let Some(hash) = table.value("hash").filter(|_| !table.has("split")) {
            hash.fault("`hash` has no effect without `split`", "remove it; a pool's own `hash` picks the backend");
        }
        let hash = if table.has("split") { HashBy::read(table) } else { None };
        let pool = table.parsed("pool", |name| pool_named(name, pools));
        if let Some(split) = table.value("split") {
            return read_split(&split, pools).map(|split| Self::Split { split, hash });
        }
        if !table.has("pool") {
            let pool = pools.first().copied().unwrap_or("web");
            let hint = format!("add where its sessions go: pool = \"{pool}\", or split = {{ a = 95, b = 5 }}");
            table.fault("a route without `pool`", hint);
        }
        pool.map(|pool| Self::Pool { pool })
    }
}

fn read_split(value: &Value<'_>, pools: &[&str]) -> Option<Vec<(String, u32)>> {
    let parts = value.table()?.values();
    let mut split = Vec::new();
    for (name, part) in &parts {
        let pool = value.reading.name(name, |name| pool_named(name, pools));
        let share = part.whole_number().and_then(|number| {
            let share = u32::try_from(number).ok().filter(|share| *share <= 1_000_000);
            let hint = "write a whole number from 0 to 1000000; it counts as its part of the sum";
            share.or_else(|| part.refuse(Complaint::new("no share", hint)))
        });
        split.push((pool?, share?));
    }
    let sum: u32 = split.iter().map(|(_, share)| share).sum();
    match &split[..] {
        [] => value.fault("`split` is empty", "write the pools and what each gets: { a = 95, b = 5 }"),
        [(pool, share)] => {
            let hint = format!(
                "name the pool of the rest, too: split = {{ {pool} = {share}, OTHER = {} }}; or write pool = \"{pool}\"",
                100_u32.saturating_sub(*share)
            );
            value.fault("`split` with one pool, which would get every session", hint);
        }
        _ if sum == 0 => value.fault("every share of `split` is 0", "give one of the pools a share: { a = 95, b = 5 }"),
        _ => {}
    }
    Some(split)
}

/// The alternatives of a condition: at least one, each once.
fn list<T: Clone + Eq + Hash>(
    table: &Table<'_>,
    key: &'static str,
    example: &str,
    parse: impl Fn(&str) -> Result<T, Complaint>,
) -> Vec<T> {
    let Some(value) = table.value(key) else { return Vec::new() };
    let hint = format!("add a value, such as {key} = [{example}], or remove the key");
    let (mut all, mut seen) = (Vec::new(), HashSet::new());
    for text in value.at_least_one(value.texts(), &hint) {
        let Some(parsed) = text.parsed(&parse) else { continue };
        if !seen.insert(parsed.clone()) {
            text.refuse::<()>(Complaint::new("it is written twice", "remove one of them"));
        }
        all.push(parsed);
    }
    all
}

fn prefix(bytes: &[u8], most: usize) -> Result<(), Complaint> {
    if bytes.is_empty() {
        let hint = "write the first bytes, such as \"SSH-\"; for clients that are not TLS there is tls = false";
        return Err(Complaint::new("it is empty: every client begins so", hint));
    }
    if most > 0 && bytes.len() > most {
        let what = format!("it has {} bytes, and {most} of a client are read (sniff.max)", bytes.len());
        return Err(Complaint::new(what, "shorten it, or set a larger sniff.max"));
    }
    Ok(())
}

/// The name of a protocol (RFC 7301, 3.1).
fn protocol(text: &str) -> Result<String, Complaint> {
    match text.len() {
        1..=255 => Ok(text.to_owned()),
        0 => Err(Complaint::new("it is empty", "write the name of a protocol, such as \"h2\" or \"postgresql\"")),
        _ => Err(Complaint::new("longer than 255 bytes, which no protocol's name is", "shorten it")),
    }
}

impl Sniff {
    /// What a listener reads of its clients whose routes need none of their bytes.
    pub const NOTHING: Self = Self { timeout: Duration::ZERO, max: 0, starttls: None };

    /// What is read where the file says nothing.
    pub const USUAL: Self = Self { timeout: Duration::from_secs(3), max: 16 * 1_024, starttls: None };

    /// `is_needed`: some route or pool needs bytes; `needs_hello`: a ClientHello of them.
    fn read(listener: &Table<'_>, is_needed: bool, needs_hello: bool) -> Option<Self> {
        if let Some(value) = listener.value("sniff").filter(|_| !is_needed) {
            let hint = "remove it, or add a route with sni, alpn, starts_with, starts_with_hex or tls, or hash = \"sni\" in a pool";
            value.fault("`sniff` has no effect: no route and no pool needs the client's first bytes", hint);
        }
        let table = listener.table("sniff");
        let max = table.parsed("max", |text| size::between(text, 512, 1 << 20));
        let timeout = table.time("timeout").unwrap_or(Self::USUAL.timeout);
        let starttls = table.word("starttls");
        if let Some(value) = table.value("starttls").filter(|_| is_needed && !needs_hello) {
            let hint = "remove it, or add a route with sni, alpn or tls";
            value.fault("`starttls` has no effect: no route needs the client's ClientHello", hint);
        }
        is_needed.then(|| Self { timeout, max: max.unwrap_or(Self::USUAL.max), starttls })
    }
}

impl Serialize for HexBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let digits: Vec<_> = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        serializer.serialize_str(&digits.join(" "))
    }
}

fn by_pool<S: Serializer>(split: &[(String, u32)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(split.iter().map(|(pool, share)| (pool, share)))
}
