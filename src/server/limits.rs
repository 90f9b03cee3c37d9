//! How many sessions the process can hold: two descriptors for each, and a reserve so that probes, discovery and the admin
//! side still work when sessions use all the rest.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thiserror::Error;

/// Descriptors that sessions never get: for listeners, event loops, logs, discovery, admin.
const RESERVE: u64 = 128;

/// Probes get all descriptors divided by this. At the usual limits that is the size of a large set of backends, so that a
/// set that falls silent as a whole is still probed in time.
const PROBE_PART: u64 = 32;

/// The least that probes get.
const LEAST_PROBES: u64 = 128;

/// The client's and the backend's socket.
const PER_SESSION: u64 = 2;

/// The limit for an unlimited process: the kernel's default of `fs.nr_open`.
const UNLIMITED: u64 = 1 << 20;

/// A limit of the configuration that this machine can't hold.
#[derive(Debug, Error)]
pub enum LimitError {
    /// More than the hard limit of open files allows.
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
        /// What this machine allows.
        budget: FileBudget,
    },
    /// The hard limit leaves nothing for sessions.
    #[error(
        "the hard limit of {} open files leaves none for sessions: {} are kept in reserve; raise it",
        budget.hard, budget.kept
    )]
    TooFew {
        /// What this machine allows.
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
    /// Raises the soft limit to the hard one, which is the budget. `pipes`: descriptors for splicing.
    pub(super) fn raise(pipes: usize) -> Self {
        let hard = raise();
        Self { hard, kept: RESERVE + probes(hard) + pipes as u64 }
    }

    /// Probes at once, beside so many sessions: their part, and what the sessions leave.
    pub(super) fn probes(self, sessions: usize) -> usize {
        let taken = (sessions as u64).saturating_mul(PER_SESSION).saturating_add(self.kept);
        usize::try_from(probes(self.hard) + self.hard.saturating_sub(taken)).unwrap_or(usize::MAX)
    }

    /// The limit of sessions: the `written` one, or as many as fit.
    pub(super) fn take(self, written: Option<usize>) -> Result<usize, LimitError> {
        if self.sessions() == 0 {
            return Err(LimitError::TooFew { budget: self });
        }
        match written {
            None => Ok(usize::try_from(self.sessions()).unwrap_or(usize::MAX)),
            Some(wanted) => self.holds("max_connections", wanted).map(|()| wanted),
        }
    }

    /// Checks a limit of the configuration.
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
    (hard / PROBE_PART).max(LEAST_PROBES)
}

fn raise() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(UNLIMITED);
    if limit.current.is_none_or(|soft| soft < hard) {
        // If it can't be raised, the soft limit counts.
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
