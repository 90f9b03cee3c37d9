//! What can go wrong, told apart by what a caller would do about it. No variant ever holds a token.

use std::path::PathBuf;
use std::time::Duration;

use registry_client::{Cause, Failure};

/// Why there is no answer. `Display` is one level; the causes are `source()`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The settings can't work: an address that is none, a CA file that can't be read, a token that no header can hold.
    #[error("{what}")]
    Config {
        /// Which setting and what about it; never a token.
        what: String,
        /// What the layer below said.
        #[source]
        source: Option<Cause>,
    },
    /// The token file can't be read now.
    #[error("can't read token file {}", path.display())]
    TokenFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A name that has no place in a URL path: empty, `.` or `..`.
    #[error("{what} {value:?} can't be asked for")]
    Argument {
        /// What kind of name it is.
        what: &'static str,
        /// The name.
        value: String,
    },
    /// No connection to the agent.
    #[error("can't connect to the agent")]
    Connect(#[source] Cause),
    /// The connection ended, or stopped being HTTP, before the whole answer was there.
    #[error("the connection to the agent broke")]
    Broken(#[source] Cause),
    /// No whole answer in time.
    #[error("no answer within {after:?}")]
    Timeout {
        /// The deadline, the asked wait included.
        after: Duration,
    },
    /// The answer is longer than anything sensible.
    #[error("answer longer than {limit} bytes")]
    TooLarge {
        /// What would have been read.
        limit: usize,
    },
    /// The agent answered with another status than 200.
    #[error("status {status}: {body}")]
    Status {
        /// The HTTP status.
        status: u16,
        /// The beginning of the body, where Consul says why: at most 512 bytes, escaped to ASCII.
        body: String,
    },
    /// A 200 whose body is not what Consul documents.
    #[error("can't decode {what}")]
    Decode {
        /// What it should have been.
        what: &'static str,
        /// Where and how it was not.
        #[source]
        source: serde_json::Error,
    },
}

impl Error {
    /// Every class that [`Self::kind`] gives.
    pub const KINDS: [&'static str; 14] = [
        "bad_filter",
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

    /// The error's class, from a closed set that is fit for a metric label.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Config { .. } | Self::TokenFile { .. } => "config",
            Self::Argument { .. } => "bad_request",
            Self::Connect(_) => "connect",
            Self::Broken(_) => "broken",
            Self::Timeout { .. } => "timeout",
            Self::TooLarge { .. } => "too_large",
            Self::Decode { .. } => "decode",
            Self::Status { status, body } => status_kind(*status, body),
        }
    }

    /// The HTTP status, if there was one other than 200.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Setting { what, source } => Self::Config { what, source },
            Failure::Connect(cause) => Self::Connect(cause),
            Failure::Broken(cause) => Self::Broken(cause),
            Failure::TooLarge(limit) => Self::TooLarge { limit },
            // How an agent refuses a connection over TLS; also what a request meets on a connection that has just ended.
            Failure::Closed => {
                let why = "closed without an answer, as an agent does that has too many connections from one address \
                           (its limits.http_max_conns_per_client)";
                Self::Broken(why.into())
            }
        }
    }
}

/// Consul says with a 500 and a text what other systems have statuses for.
fn status_kind(status: u16, body: &str) -> &'static str {
    match status {
        401 | 403 => "forbidden",
        404 => "not_found",
        429 => "rate_limited",
        // Depending on its version, Consul says this with a 500 or a 400.
        400..600 if body.contains("boolean expression evaluator") => "bad_filter",
        400..500 => "bad_request",
        500..600 if body.contains("No cluster leader") => "no_leader",
        // How the limits of `limits.request_limits` are told where a server, not this agent, keeps them.
        500..600 if body.contains("rate limit exceeded") => "rate_limited",
        500..600 => "server_error",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_have_kinds() {
        let kind = |status, body: &str| {
            let kind = Error::Status { status, body: body.to_owned() }.kind();
            assert!(Error::KINDS.contains(&kind), "{kind}");
            kind
        };
        assert_eq!(kind(400, "Invalid index"), "bad_request");
        assert_eq!(kind(400, "Failed to create boolean expression evaluator: 1:1"), "bad_filter");
        assert_eq!(kind(500, "rpc error: failed to create boolean expression evaluator: 1:1"), "bad_filter");
        assert_eq!(kind(403, "Permission denied"), "forbidden");
        assert_eq!(kind(404, "Unknown check ID"), "not_found");
        assert_eq!(kind(429, ""), "rate_limited");
        assert_eq!(kind(500, "No cluster leader"), "no_leader");
        assert_eq!(kind(500, "rpc error: code = Canceled"), "server_error");
        assert_eq!(kind(503, "rate limit exceeded, try again later"), "rate_limited");
        assert_eq!(kind(301, "Moved"), "other");
    }
}
