//! What can go wrong with an operation, in two kinds that are never mixed: it failed, or it gave wrong bytes.
//!
//! Closed sets, because they are counted by name in the report. A failure may be accepted (`--allow-failures`), a mismatch
//! never: no outage excuses bytes that belong to somebody else.

use std::io;

/// Why an operation did not come to its good end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// It failed, and everybody could see that.
    #[error("{detail}")]
    Failed { reason: Reason, detail: String },
    /// Bytes arrived that are not the right ones.
    #[error("{detail}")]
    Wrong { mismatch: Mismatch, detail: String },
}

/// Why an operation failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    Refused,
    Reset,
    Timeout,
    UnexpectedEof,
    NoPort,
    NoDescriptor,
    Unreachable,
    Other,
}

/// In which way bytes were wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mismatch {
    /// A byte of the reply.
    Content,
    /// More bytes than the reply has.
    Surplus,
    /// The server says that the request arrived wrong.
    Request,
    /// The server says that the header arrived wrong.
    Header,
}

impl Fault {
    pub(crate) fn timeout(what: &str) -> Self {
        Self::Failed { reason: Reason::Timeout, detail: format!("{what} took longer than the timeout") }
    }

    pub(crate) fn eof(detail: String) -> Self {
        Self::Failed { reason: Reason::UnexpectedEof, detail }
    }

    /// Puts `place` (which connection, which exchange) before the detail.
    pub(crate) fn at(mut self, place: impl std::fmt::Display) -> Self {
        let (Self::Failed { detail, .. } | Self::Wrong { detail, .. }) = &mut self;
        *detail = format!("{place}: {detail}");
        self
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Failed { reason: Reason::of(&error), detail: error.to_string() }
    }
}

impl Reason {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::UnexpectedEof => "unexpected_eof",
            Self::NoPort => "no_port",
            Self::NoDescriptor => "no_descriptor",
            Self::Unreachable => "unreachable",
            Self::Other => "other",
        }
    }

    fn of(error: &io::Error) -> Self {
        use rustix::io::Errno;
        if let Some(Errno::MFILE | Errno::NFILE) = Errno::from_io_error(error) {
            return Self::NoDescriptor;
        }
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted => {
                Self::Reset
            }
            io::ErrorKind::TimedOut => Self::Timeout,
            io::ErrorKind::AddrNotAvailable => Self::NoPort,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Self::Unreachable,
            _ => Self::Other,
        }
    }
}

impl Mismatch {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Content => "content",
            Self::Surplus => "surplus",
            Self::Request => "request",
            Self::Header => "header",
        }
    }
}
