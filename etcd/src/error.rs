//! What can go wrong, told apart by what a caller would do about it. No variant ever holds a password or a token.

use std::path::PathBuf;
use std::time::Duration;

use registry_client::{Cause, Failure, shown};

/// Why there is no answer. `Display` is one level; the causes are `source()`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The settings can't work: an endpoint that is no address, a file that can't be used.
    #[error("{what}")]
    Config {
        /// Which setting and what about it; never a password.
        what: String,
        /// What the layer below said.
        #[source]
        source: Option<Cause>,
    },
    /// The password file can't be read now.
    #[error("can't read password file {}", path.display())]
    PasswordFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// No connection to the endpoint.
    #[error("can't connect to etcd")]
    Connect(#[source] Cause),
    /// The connection ended, or stopped being HTTP, before the whole answer was there.
    #[error("the connection to etcd broke")]
    Broken(#[source] Cause),
    /// No whole answer, or no whole message of a watch, in time.
    #[error("no answer within {after:?}")]
    Timeout {
        /// The deadline.
        after: Duration,
    },
    /// The answer is longer than anything sensible, or has more keys.
    #[error("answer larger than {limit}")]
    TooLarge {
        /// What would have been taken, such as `64 MiB`.
        limit: &'static str,
    },
    /// etcd, or what stands before it, refused.
    #[error("{message}")]
    Refused {
        /// The HTTP status; 200 where a stream was ended.
        status: u16,
        /// The status of gRPC, where there is one.
        code: Option<u16>,
        /// Why, in at most 600 bytes, escaped to ASCII.
        message: String,
    },
    /// What a watch was to begin with has been compacted: read the range again.
    #[error("revisions before {revision} are compacted")]
    Compacted {
        /// The first one that there is.
        revision: i64,
    },
    /// An answer that is not what etcd documents.
    #[error("can't decode {what}")]
    Decode {
        /// What it should have been.
        what: &'static str,
        /// Where and how it was not.
        #[source]
        source: serde_json::Error,
    },
}

/// Codes of gRPC: <https://grpc.io/docs/guides/status-codes/>.
const INVALID_ARGUMENT: u16 = 3;
const DEADLINE_EXCEEDED: u16 = 4;
const NOT_FOUND: u16 = 5;
const PERMISSION_DENIED: u16 = 7;
const RESOURCE_EXHAUSTED: u16 = 8;
const FAILED_PRECONDITION: u16 = 9;
const UNAVAILABLE: u16 = 14;
const UNAUTHENTICATED: u16 = 16;

impl Error {
    /// Every class that [`Self::kind`] gives.
    pub const KINDS: [&'static str; 13] = [
        "bad_request",
        "broken",
        "config",
        "connect",
        "decode",
        "forbidden",
        "no_leader",
        "not_found",
        "other",
        "rate_limited",
        "server_error",
        "timeout",
        "too_large",
    ];

    /// The error's class, from a closed set that is fit for a metric label. A compaction is of class `other`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Config { .. } | Self::PasswordFile { .. } => "config",
            Self::Connect(_) => "connect",
            Self::Broken(_) => "broken",
            Self::Timeout { .. } => "timeout",
            Self::TooLarge { .. } => "too_large",
            Self::Decode { .. } => "decode",
            Self::Compacted { .. } => "other",
            Self::Refused { status, code, message } => refusal_kind(*status, *code, message),
        }
    }

    /// Whether a lease is not there (any more).
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { code: Some(NOT_FOUND), .. })
    }

    /// Whether another endpoint may answer: nothing is wrong with what was asked.
    pub(crate) fn is_of_endpoint(&self) -> bool {
        matches!(self.kind(), "broken" | "connect" | "decode" | "no_leader" | "server_error" | "timeout" | "too_large")
            || matches!(self, Self::Refused { code: None, .. })
    }

    /// Whether a new token may help. Simple tokens expire, and so does any after a change of users and roles.
    pub(crate) fn wants_login(&self) -> bool {
        match self {
            Self::Refused { code: Some(UNAUTHENTICATED), .. } => true,
            Self::Refused { code: Some(INVALID_ARGUMENT), message, .. } => {
                message.contains("user name is empty") || message.contains("revision of auth store is old")
            }
            _ => false,
        }
    }

    /// The cluster has no users.
    pub(crate) fn says_no_users(&self) -> bool {
        matches!(self, Self::Refused { code: Some(FAILED_PRECONDITION), message, .. } if message.contains("authentication is not enabled"))
    }

    /// A stream was ended. A watch says the code in its text alone.
    pub(crate) fn ended(code: Option<u16>, reason: &str) -> Self {
        let named = [
            ("code = Unauthenticated", UNAUTHENTICATED),
            ("code = PermissionDenied", PERMISSION_DENIED),
            ("code = InvalidArgument", INVALID_ARGUMENT),
            ("code = Unavailable", UNAVAILABLE),
        ];
        let in_text = || named.iter().find(|(name, _)| reason.contains(name)).map(|(_, code)| *code);
        let message = format!("the stream was ended: {}", shown(reason.as_bytes()));
        Self::Refused { status: 200, code: code.or_else(in_text), message }
    }

    pub(crate) fn of(failure: Failure) -> Self {
        match failure {
            Failure::Setting { what, source } => Self::Config { what, source },
            Failure::Connect(cause) => Self::Connect(cause),
            Failure::Broken(cause) => Self::Broken(cause),
            Failure::Closed => Self::Broken("closed without an answer".into()),
            Failure::TooLarge(_) => Self::TooLarge { limit: "64 MiB" },
        }
    }
}

fn refusal_kind(status: u16, code: Option<u16>, message: &str) -> &'static str {
    match (code, status) {
        // What a member says that is cut off from its leader, while there is none, and while one is elected.
        (Some(UNAVAILABLE | DEADLINE_EXCEEDED), _) if message.contains("leader") || message.contains("timed out") => {
            "no_leader"
        }
        (Some(UNAVAILABLE | DEADLINE_EXCEEDED), _) => "server_error",
        (Some(UNAUTHENTICATED | PERMISSION_DENIED), _) => "forbidden",
        (Some(INVALID_ARGUMENT), _) if message.contains("authentication failed") || message.contains("user name") => {
            "forbidden"
        }
        (Some(RESOURCE_EXHAUSTED), _) | (None, 429) => "rate_limited",
        (Some(NOT_FOUND), _) | (None, 404) => "not_found",
        (Some(INVALID_ARGUMENT | FAILED_PRECONDITION), _) => "bad_request",
        (None, 401 | 403) => "forbidden",
        (None, 400..500) => "bad_request",
        (_, 500..600) => "server_error",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_kinds() {
        let refused = |status, code, message: &str| Error::Refused { status, code, message: message.to_owned() };
        for (error, kind, is_of_endpoint) in [
            (refused(503, Some(14), "etcdserver: no leader"), "no_leader", true),
            (refused(503, Some(14), "etcdserver: request timed out"), "no_leader", true),
            (refused(503, Some(14), "etcdserver: server stopped"), "server_error", true),
            (refused(401, Some(16), "etcdserver: invalid auth token"), "forbidden", false),
            (
                refused(400, Some(3), "etcdserver: authentication failed, invalid user ID or password"),
                "forbidden",
                false,
            ),
            (refused(400, Some(3), "etcdserver: key is not provided"), "bad_request", false),
            (refused(403, Some(7), "etcdserver: permission denied"), "forbidden", false),
            (refused(429, Some(8), "etcdserver: too many requests"), "rate_limited", false),
            (refused(404, Some(5), "etcdserver: requested lease not found"), "not_found", false),
            (refused(404, None, "Not Found"), "not_found", true),
            (refused(502, None, "<html>"), "server_error", true),
            (refused(301, None, ""), "other", true),
            (Error::Timeout { after: Duration::ZERO }, "timeout", true),
        ] {
            assert_eq!((error.kind(), error.is_of_endpoint()), (kind, is_of_endpoint), "{error}");
            assert!(Error::KINDS.contains(&kind));
        }
    }
}
