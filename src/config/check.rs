//! What a probe does and how it is judged, after validation: [`Check`], and what belongs to each kind. Equal checks of one
//! address are one probe.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::{CheckKind, ProxyVersion, Secret};

/// `[pools.NAME.check]` or `[checks.NAME]`. Two pools with an equal check on one address share one probe, hence `Eq` and `Hash`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Check {
    /// What a probe does.
    #[serde(flatten)]
    pub kind: CheckKind,
    /// Between probes of a backend whose state is settled and up.
    pub interval: Duration,
    /// Between probes while results contradict the state, or before the first result.
    pub fast_interval: Duration,
    /// Between probes of a backend that is settled and down.
    pub down_interval: Duration,
    /// For the whole probe, connect included.
    pub timeout: Duration,
    /// Passes in a row that make it up.
    pub rise: u32,
    /// Failures in a row that make it down (also of connects by sessions: passive ejection).
    pub fall: u32,
    /// Probed instead of the backend's own port.
    pub port: Option<u16>,
    /// Which PROXY header a probe begins with.
    pub send_proxy: Option<ProxyVersion>,
    /// The exchange happens within TLS; always there for [`CheckKind::Tls`].
    pub tls: Option<TlsCheck>,
    /// A connection on which nothing was said ends by FIN instead of a reset ([`CheckKind::Tcp`]; the others always do).
    pub linger: bool,
    /// Local addresses to connect from, the pool's: the first of the backend's family that can be used; empty = the kernel
    /// chooses.
    #[serde(skip)]
    pub sources: Vec<IpAddr>,
}

/// How a probe's TLS is made and judged.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct TlsCheck {
    /// Sent as SNI and wanted in the certificate; the probed address (and no SNI) if unset.
    pub server_name: Option<String>,
    /// Whether the certificate must be valid for that name now, by an authority that is trusted.
    pub verify: bool,
    /// PEM; trusted besides the system's roots.
    pub ca_file: Option<PathBuf>,
    /// Offered by ALPN, and one of them must be chosen; empty = not asked. Never for kinds that have a protocol of their own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub alpn: Vec<String>,
    /// A certificate with less time left is warned of; `None` = never.
    pub expires_within: Option<Duration>,
}

/// What belongs to `kind = "redis"`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct RedisCheck {
    /// Wanted; `None` = either.
    pub role: Option<RedisRole>,
    /// Of the ACL; `None` = the default user.
    pub username: Option<String>,
    /// For `AUTH`.
    pub password: Option<Secret>,
    /// The file that holds it, read before each probe.
    pub password_file: Option<PathBuf>,
}

words! {
    /// `role`
    #[derive(Hash)]
    pub enum RedisRole {
        /// Takes writes.
        Master = "master",
        /// Follows a master.
        Replica = "replica",
    }
}

/// What belongs to `kind = "postgres"`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct PostgresCheck {
    /// Named in the startup message; it need not exist.
    pub user: String,
    /// The same.
    pub database: String,
}

/// What belongs to `kind = "grpc"`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct GrpcCheck {
    /// Asked for; empty = the server as a whole.
    pub service: String,
    /// The `:authority`; the probed address if unset.
    pub host: Option<String>,
}

/// What belongs to `kind = "agent"`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct AgentCheck {
    /// Sent once connected; empty = nothing.
    #[serde(serialize_with = "super::effective::sent")]
    pub send: Vec<u8>,
}

/// What belongs to `kind = "exec"`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct ExecCheck {
    /// An absolute path.
    pub program: PathBuf,
    /// Handed to it as they are; no shell sees them.
    pub arguments: Vec<String>,
    /// Whose rights it has; `None` = ours.
    pub run_as: Option<RunAs>,
    /// Whether nothing that it starts can gain rights (`PR_SET_NO_NEW_PRIVS`), as by sudo.
    pub no_new_privs: bool,
}

/// `run_as`: by name or number.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RunAs {
    /// The user.
    pub user: String,
    /// `None` = the user's own.
    pub group: Option<String>,
}

impl fmt::Display for RunAs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.user)?;
        self.group.as_ref().map_or(Ok(()), |group| write!(f, ":{group}"))
    }
}

/// What belongs to `kind = "http"`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct HttpCheck {
    /// An HTTP token, upper case as written.
    pub method: String,
    /// Begins with `/`; may hold a query.
    pub path: String,
    /// The `Host` header; the probed address if unset.
    pub host: Option<String>,
    /// The statuses that pass.
    pub status: StatusSet,
    /// Sent besides; the values may be secrets.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Secret>,
    /// Sent; it may be a secret.
    pub request_body: Option<Secret>,
    /// What the headers of the answer must be.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub expect_headers: BTreeMap<String, HeaderWish>,
    /// What the body must hold.
    pub body: Option<Expectation>,
    /// What the body must not hold.
    pub expect_not: Option<Expectation>,
}

/// What is wanted of a header, by its name in lower case. Where there are several, one of them will do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HeaderWish {
    /// Whatever it says.
    Present,
    /// It must not be there.
    Absent,
    /// This very value.
    Is(String),
    /// A match somewhere in its value.
    Matches(Pattern),
}

impl HeaderWish {
    /// Whether the values of that name, in their order, are as wished.
    pub fn is_met<'a>(&self, mut values: impl Iterator<Item = &'a [u8]>) -> bool {
        match self {
            Self::Present => values.next().is_some(),
            Self::Absent => values.next().is_none(),
            Self::Is(wanted) => values.any(|value| value == wanted.as_bytes()),
            Self::Matches(pattern) => values.any(|value| pattern.regex.is_match(value)),
        }
    }
}

impl fmt::Display for HeaderWish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Present => f.write_str("something"),
            Self::Absent => f.write_str("nothing"),
            Self::Is(value) => write!(f, "\"{}\"", value.escape_debug()),
            Self::Matches(pattern) => write!(f, "/{}/", pattern.source),
        }
    }
}

/// As it is written.
impl Serialize for HeaderWish {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Present => serializer.serialize_bool(true),
            Self::Absent => serializer.serialize_bool(false),
            Self::Is(value) => serializer.serialize_str(value),
            Self::Matches(pattern) => serializer.collect_map([("regex", pattern)]),
        }
    }
}

/// A set of HTTP statuses, such as `"200-299,404"`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StatusSet {
    /// Inclusive ranges, at least one.
    pub ranges: Vec<(u16, u16)>,
}

impl StatusSet {
    /// Whether a status passes.
    pub fn contains(&self, status: u16) -> bool {
        self.ranges.iter().any(|&(low, high)| (low..=high).contains(&status))
    }
}

impl fmt::Display for StatusSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (low, high)) in self.ranges.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            if low == high {
                write!(f, "{comma}{low}")?;
            } else {
                write!(f, "{comma}{low}-{high}")?;
            }
        }
        Ok(())
    }
}

/// What belongs to `kind = "script"`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct ScriptCheck {
    /// In their order.
    pub steps: Vec<ScriptStep>,
}

/// One step of a script check.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ScriptStep {
    /// Bytes to write; never empty.
    #[serde(serialize_with = "super::effective::sent")]
    Send(Vec<u8>),
    /// What the bytes read since the last matched step must hold.
    Expect(Expectation),
    /// What the bytes up to the end of the next match must not hold; an `Expect` always follows.
    ExpectNot(Expectation),
    /// The same, with what settles the opposite at once.
    Judge {
        /// A pass, and on to the next step.
        pass: Expectation,
        /// A failure.
        fail: Expectation,
    },
}

/// What received bytes must hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Expectation {
    /// These bytes somewhere; never empty.
    #[serde(serialize_with = "super::effective::escaped")]
    Bytes(Vec<u8>),
    /// A match of this pattern somewhere.
    Regex(Pattern),
}

impl Expectation {
    /// Whether there is a match in `bytes`.
    pub fn is_in(&self, bytes: &[u8]) -> bool {
        self.find(bytes).is_some()
    }

    /// The end of the first match in `bytes`, if there is one.
    pub fn find(&self, bytes: &[u8]) -> Option<usize> {
        match self {
            Self::Bytes(wanted) => bytes.windows(wanted.len()).position(|w| w == wanted).map(|at| at + wanted.len()),
            Self::Regex(pattern) => pattern.regex.find(bytes).map(|found| found.end()),
        }
    }
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "\"{}\"", bytes.escape_ascii()),
            Self::Regex(pattern) => write!(f, "/{}/", pattern.source),
        }
    }
}

/// A regular expression over bytes; equal if written alike.
#[derive(Clone, Debug, Serialize)]
#[serde(into = "String")]
pub struct Pattern {
    source: String,
    regex: regex::bytes::Regex,
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.source
    }
}

impl Pattern {
    /// # Errors
    /// What the `regex` crate says of a pattern that it can't take, in one line.
    pub fn new(source: &str) -> Result<Self, String> {
        match regex::bytes::Regex::new(source) {
            Ok(regex) => Ok(Self { source: source.to_owned(), regex }),
            Err(regex::Error::Syntax(text)) => {
                Err(text.lines().last().unwrap_or("not a regular expression").trim_start_matches("error: ").to_owned())
            }
            Err(error) => Err(error.to_string()),
        }
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

impl Hash for Pattern {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.source.hash(state);
    }
}
