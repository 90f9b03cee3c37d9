//! How many sessions the process can hold: two descriptors each, and a reserve so that probes, discovery and the admin
//! side go on working when the front is full.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thiserror::Error;

/// Descriptors that sessions never get: listeners, event loops, logs, discovery, admin.
const RESERVE: u64 = 128;

/// The part of all descriptors that is kept for probes in flight: at the usual limits as many as a large set of backends has,
/// so that one that falls silent as a whole is still probed in time.
const PROBES: u64 = 32;

/// At the least.
const FEWEST_PROBES: u64 = 128;

/// A session's client and backend socket.
const PER_SESSION: u64 = 2;

/// What an unlimited process is held to: the kernel's own default for `fs.nr_open`.
const UNLIMITED: u64 = 1 << 20;

/// A written limit that can't be held.
#[derive(Debug, Error)]
pub enum LimitError {
    /// More than the hard limit of open files gives.
    #[error(
        "{what} = {wanted} needs {} open files (2 a session and {} in reserve), but the hard limit is {}; \
         write at most {}, or raise the limit (LimitNOFILE= in systemd, `ulimit -Hn` in a shell)",
        wanted.saturating_mul(PER_SESSION) + budget.kept, budget.kept, budget.hard, budget.sessions()
    )]
    Beyond {
        /// The key.
        what: String,
        /// Its value.
        wanted: u64,
        /// What there is.
        budget: FileBudget,
    },
    /// The limit leaves nothing.
    #[error(
        "the hard limit of {} open files leaves none for sessions: {} are kept in reserve; raise it",
        budget.hard, budget.kept
    )]
    TooFew {
        /// What there is.
        budget: FileBudget,
    },
}

/// The process's open files.
#[derive(Clone, Copy, Debug)]
pub struct FileBudget {
    hard: u64,
    kept: u64,
}

impl FileBudget {
    /// Raises the soft limit to the hard one, which is the budget; `pipes` are descriptors for splicing.
    pub(super) fn raise(pipes: usize) -> Self {
        let hard = raise();
        Self { hard, kept: RESERVE + probes(hard) + pipes as u64 }
    }

    /// Probes that may be in flight beside so many sessions: their part, and what sessions leave.
    pub(super) fn probes(self, sessions: usize) -> usize {
        let taken = (sessions as u64).saturating_mul(PER_SESSION).saturating_add(self.kept);
        usize::try_from(probes(self.hard) + self.hard.saturating_sub(taken)).unwrap_or(usize::MAX)
    }

    /// Sessions that the process takes if it takes as many as are `written`, or as it can.
    pub(super) fn take(self, written: Option<usize>) -> Result<usize, LimitError> {
        if self.sessions() == 0 {
            return Err(LimitError::TooFew { budget: self });
        }
        match written {
            None => Ok(usize::try_from(self.sessions()).unwrap_or(usize::MAX)),
            Some(wanted) => self.holds("max_connections", wanted).map(|()| wanted),
        }
    }

    /// Whether a written limit can be held.
    pub(super) fn holds(self, what: &str, wanted: usize) -> Result<(), LimitError> {
        let wanted = wanted as u64;
        if wanted > self.sessions() {
            return Err(LimitError::Beyond { what: what.to_owned(), wanted, budget: self });
        }
        Ok(())
    }

    fn sessions(self) -> u64 {
        self.hard.saturating_sub(self.kept) / PER_SESSION
    }
}

fn probes(hard: u64) -> u64 {
    (hard / PROBES).max(FEWEST_PROBES)
}

fn raise() -> u64 {
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

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: FileBudget = FileBudget { hard: 20_000, kept: 256 + 128 };

    #[test]
    fn unset_is_what_the_limit_holds() {
        assert_eq!(BUDGET.take(None).unwrap(), 9_808);
        assert_eq!(BUDGET.take(Some(9_808)).unwrap(), 9_808);
    }

    #[test]
    fn probes_have_a_part_and_what_sessions_leave() {
        assert_eq!(BUDGET.probes(9_808), 625);
        assert_eq!(BUDGET.probes(1_000), 625 + 20_000 - 384 - 2_000);
        assert_eq!(FileBudget { hard: 1024, kept: 384 }.probes(320), 128);
        assert_eq!(BUDGET.probes(usize::MAX), 625);
    }

    #[test]
    fn a_written_number_that_does_not_fit_is_refused_with_the_numbers() {
        let text = BUDGET.take(Some(9_809)).unwrap_err().to_string();
        assert_eq!(
            text,
            "max_connections = 9809 needs 20002 open files (2 a session and 384 in reserve), but the hard limit is \
             20000; write at most 9808, or raise the limit (LimitNOFILE= in systemd, `ulimit -Hn` in a shell)"
        );
        assert!(matches!(FileBudget { hard: 200, kept: 384 }.take(None), Err(LimitError::TooFew { .. })));
    }
}
