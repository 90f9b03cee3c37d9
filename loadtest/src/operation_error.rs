//! How an operation can go wrong: it fails, or it gives wrong bytes. The two are never mixed.
//!
//! A failure can be accepted (`--allow-failures`), a mismatch never: no outage excuses bytes of another connection.

use std::io;

use crate::closed_set::closed_set;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OperationError {
    /// It failed visibly.
    #[error("{detail}")]
    Failed { reason: FailureReason, detail: String },
    /// Bytes arrived that are not the right ones.
    #[error("{detail}")]
    Wrong { mismatch: Mismatch, detail: String },
}

closed_set! {
    /// Why an operation failed. The names are labels in the report.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum FailureReason {
        Refused = "refused",
        Reset = "reset",
        Timeout = "timeout",
        UnexpectedEof = "unexpected_eof",
        NoPort = "no_port",
        NoDescriptor = "no_descriptor",
        Unreachable = "unreachable",
        Other = "other",
    }
}

closed_set! {
    /// In which way bytes were wrong. The names are labels in the report.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Mismatch {
        /// A byte of the reply.
        Content = "content",
        /// More bytes than the reply has.
        Surplus = "surplus",
        /// The server says that the request arrived wrong.
        Request = "request",
        /// The server says that the header arrived wrong.
        Header = "header",
    }
}

impl OperationError {
    pub(crate) fn timeout(what: &str) -> Self {
        Self::Failed { reason: FailureReason::Timeout, detail: format!("{what} took longer than the timeout") }
    }

    pub(crate) fn eof(detail: String) -> Self {
        Self::Failed { reason: FailureReason::UnexpectedEof, detail }
    }

    /// Puts `place` (the connection, the exchange) before the detail.
    pub(crate) fn at(mut self, place: impl std::fmt::Display) -> Self {
        let (Self::Failed { detail, .. } | Self::Wrong { detail, .. }) = &mut self;
        *detail = format!("{place}: {detail}");
        self
    }
}

impl From<io::Error> for OperationError {
    fn from(error: io::Error) -> Self {
        Self::Failed { reason: FailureReason::of(&error), detail: error.to_string() }
    }
}

impl FailureReason {
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
