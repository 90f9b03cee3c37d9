//! What the errors of connect(2) and accept(2) mean.

use std::io;

use crate::metrics::{AcceptFailure, ConnectFailure};

/// Why a connect failed.
pub(in crate::proxy) fn connect_failure(error: &io::Error) -> ConnectFailure {
    use rustix::io::Errno;
    let Some(code) = error.raw_os_error() else {
        return match error.kind() {
            io::ErrorKind::ConnectionRefused => ConnectFailure::Refused,
            io::ErrorKind::TimedOut => ConnectFailure::Timeout,
            _ => ConnectFailure::Other,
        };
    };
    match Errno::from_raw_os_error(code) {
        Errno::CONNREFUSED => ConnectFailure::Refused,
        Errno::TIMEDOUT => ConnectFailure::Timeout,
        Errno::CONNRESET | Errno::PIPE => ConnectFailure::Reset,
        Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::ACCESS | Errno::PERM | Errno::HOSTDOWN | Errno::NETDOWN => {
            ConnectFailure::Unreachable
        }
        Errno::ADDRNOTAVAIL | Errno::AGAIN | Errno::ADDRINUSE => ConnectFailure::AddressNotAvailable,
        Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM => ConnectFailure::NoResources,
        _ => ConnectFailure::Other,
    }
}

/// What broke a connection, in words. The kernel speaks of a reset once; a FIN after that fails for
/// want of a connection (shutdown(2), ENOTCONN), which would not read as a reset.
pub(in crate::proxy) fn broken(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotConnected => io::Error::from(rustix::io::Errno::CONNRESET).to_string(),
        _ => error.to_string(),
    }
}

/// Why accept(2) failed.
pub(in crate::proxy) fn accept_failure(error: &io::Error) -> AcceptFailure {
    use rustix::io::Errno;
    let Some(code) = error.raw_os_error() else { return AcceptFailure::Other };
    match Errno::from_raw_os_error(code) {
        Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM => AcceptFailure::NoResources,
        // accept(2): "already-pending network errors on the new socket" are passed as errors of accept.
        Errno::CONNABORTED
        | Errno::NETDOWN
        | Errno::PROTO
        | Errno::NOPROTOOPT
        | Errno::HOSTDOWN
        | Errno::HOSTUNREACH
        | Errno::OPNOTSUPP
        | Errno::NETUNREACH => AcceptFailure::Aborted,
        _ => AcceptFailure::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_is_called_one_whoever_finds_it() {
        let reset = "Connection reset by peer (os error 104)";
        for errno in [rustix::io::Errno::CONNRESET, rustix::io::Errno::NOTCONN] {
            assert_eq!(broken(&errno.into()), reset);
        }
    }
}
