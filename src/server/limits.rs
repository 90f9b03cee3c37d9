//! How many sessions the process can hold: two descriptors each, and a reserve so that probes, discovery and the admin
//! side go on working when the front is full.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thiserror::Error;

/// Descriptors that sessions never get: listeners, event loops, logs, probes in flight, discovery, admin.
const RESERVE: u64 = 256;

/// A session's client and backend socket.
const PER_SESSION: u64 = 2;

/// What an unlimited process is held to: the kernel's own default for `fs.nr_open`.
const UNLIMITED: u64 = 1 << 20;

/// A written limit that can't be held.
#[derive(Debug, Error)]
pub enum LimitError {
    /// More than the hard limit of open files gives.
    #[error(
        "{what} = {wanted} needs {} open files (2 a session and {RESERVE} in reserve), but the hard limit is {hard}; \
         write at most {holds}, or raise the limit (LimitNOFILE= in systemd, `ulimit -Hn` in a shell)",
        wanted.saturating_mul(PER_SESSION) + RESERVE
    )]
    Beyond {
        /// The key.
        what: String,
        /// Its value.
        wanted: u64,
        /// Of open files.
        hard: u64,
        /// Sessions that this gives.
        holds: u64,
    },
    /// The limit leaves nothing.
    #[error("the hard limit of {hard} open files leaves none for sessions: {RESERVE} are kept in reserve; raise it")]
    TooFew {
        /// Of open files.
        hard: u64,
    },
}

/// Raises the soft limit of open files to the hard one, and returns that.
pub(super) fn raise() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(UNLIMITED);
    if limit.current.is_none_or(|soft| soft < hard) {
        // What can't be raised is not there: the soft limit is what counts then.
        if setrlimit(Resource::Nofile, Rlimit { current: Some(hard), maximum: limit.maximum }).is_err() {
            return limit.current.unwrap_or(hard);
        }
    }
    hard
}

/// Sessions that the process takes, given the hard limit and what is written.
pub(super) fn sessions(hard: u64, written: Option<usize>) -> Result<usize, LimitError> {
    let holds = hard.saturating_sub(RESERVE) / PER_SESSION;
    if holds == 0 {
        return Err(LimitError::TooFew { hard });
    }
    match written {
        None => Ok(usize::try_from(holds).unwrap_or(usize::MAX)),
        Some(wanted) => within(hard, "max_connections", wanted).map(|()| wanted),
    }
}

/// Whether a written limit can be held.
pub(super) fn within(hard: u64, what: &str, wanted: usize) -> Result<(), LimitError> {
    let holds = hard.saturating_sub(RESERVE) / PER_SESSION;
    let wanted = wanted as u64;
    if wanted > holds {
        return Err(LimitError::Beyond { what: what.to_owned(), wanted, hard, holds });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unset_is_what_the_limit_holds() {
        assert_eq!(sessions(20_000, None).unwrap(), 9_872);
        assert_eq!(sessions(20_000, Some(9_872)).unwrap(), 9_872);
    }

    #[test]
    fn a_written_number_that_does_not_fit_is_refused_with_the_numbers() {
        let text = sessions(20_000, Some(9_873)).unwrap_err().to_string();
        assert_eq!(
            text,
            "max_connections = 9873 needs 20002 open files (2 a session and 256 in reserve), but the hard limit is \
             20000; write at most 9872, or raise the limit (LimitNOFILE= in systemd, `ulimit -Hn` in a shell)"
        );
        assert!(matches!(sessions(200, None), Err(LimitError::TooFew { hard: 200 })));
    }
}
