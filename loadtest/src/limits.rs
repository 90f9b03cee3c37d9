//! Raises the file descriptor limit of this process and compares it with the need of a plan.
//!
//! This is done before the first connection: a run that stops half way at EMFILE has measured nothing.

use rustix::process::{Resource, Rlimit};

/// For standard streams, runtimes, timers, a JSON file, and descriptors that the parent left open.
const RESERVE: u64 = 64;

/// The connections of a plan do not fit into this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{connections} connections need {} file descriptors and the hard limit is {hard}: at most {} connections fit here \
     (raise it with `ulimit -Hn`, or run several load generators)",
    connections + RESERVE,
    hard.saturating_sub(RESERVE)
)]
pub struct NoRoom {
    /// The number of connections in the plan.
    pub connections: u64,
    /// The hard limit of file descriptors.
    pub hard: u64,
}

/// Raises the soft limit of file descriptors to the hard limit and returns the limit that holds now.
pub fn raise_descriptor_limit() -> u64 {
    let Rlimit { current, maximum } = rustix::process::getrlimit(Resource::Nofile);
    let raised = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    // Some systems refuse a soft limit as high as their hard limit; then the old one stays.
    let limit = if raised.is_ok() { maximum } else { current };
    limit.unwrap_or(u64::MAX)
}

pub(crate) fn make_room(connections: u64) -> Result<(), NoRoom> {
    check(connections, raise_descriptor_limit())
}

fn check(connections: u64, hard: u64) -> Result<(), NoRoom> {
    if connections.saturating_add(RESERVE) > hard { Err(NoRoom { connections, hard }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_says_how_many_connections_fit() {
        assert_eq!(check(960, 1024), Ok(()));
        let text = check(961, 1024).unwrap_err().to_string();
        assert!(text.contains("961 connections need 1025"), "{text}");
        assert!(text.contains("hard limit is 1024: at most 960"), "{text}");
    }
}
