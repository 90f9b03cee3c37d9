//! Chooses how the bytes of the pools are relayed: by what is configured, and by what the kernel allows.

use std::io;

use thiserror::Error;
use tracing::info;

use crate::config::{Pool, Relay};
use crate::proxy::{Forbidden, Rings};

/// `relay = "io_uring"` is configured, but not possible.
#[derive(Debug, Error)]
#[error(
    "pool `{pool}` has relay = \"io_uring\", but this process may not use it; {} or write relay = \"auto\"",
    remedy(&source.source)
)]
pub struct RingError {
    /// The first pool that asks for it.
    pub pool: String,
    /// The kernel's error.
    pub source: Forbidden,
}

/// Chooses, and logs it: `auto` is io_uring if it is allowed. `try_ring` is only called if a pool may use io_uring.
pub(super) fn choose(pools: &[Pool], try_ring: impl FnOnce() -> Result<(), Forbidden>) -> Result<Rings, RingError> {
    let written = pools.iter().find(|pool| pool.relay == Relay::IoUring);
    if written.is_none() && !pools.iter().any(|pool| pool.relay == Relay::Auto) {
        info!(io_uring = "not asked for", "relay chosen");
        return Ok(Rings::No);
    }
    match (try_ring(), written) {
        (Ok(()), written) => {
            info!(auto = "io_uring and splice", io_uring = "the kernel allows it", "relay chosen");
            Ok(if written.is_some() { Rings::Must } else { Rings::IfAllowed })
        }
        (Err(source), Some(pool)) => Err(RingError { pool: pool.name.clone(), source }),
        (Err(forbidden), None) => {
            info!(auto = "copy and splice", io_uring = %format_args!("{forbidden}: {}", forbidden.source), "relay chosen");
            Ok(Rings::No)
        }
    }
}

/// What to do about an error of io_uring_setup(2).
fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "allow it (sysctl kernel.io_uring_disabled = 0; in a container a seccomp profile that allows io_uring_setup, \
             io_uring_enter and io_uring_register)"
        }
        io::ErrorKind::OutOfMemory => {
            "raise the limit of locked memory (LimitMEMLOCK= in systemd, `ulimit -l` in a shell)"
        }
        _ => "run Linux 6.1 or later with io_uring",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn pools(relay: &str) -> Vec<Pool> {
        let text = format!(
            "[listeners.web]\nbind = \"127.0.0.1:0\"\npool = \"web\"\n\n\
             [pools.web]\nbackends = [\"127.0.0.1:1\"]\nrelay = \"{relay}\"\n"
        );
        config::parse(&text, "lb.toml", &|_| None).unwrap().pools
    }

    fn forbidden(code: i32) -> Result<(), Forbidden> {
        Err(Forbidden { call: "io_uring_setup", source: io::Error::from_raw_os_error(code) })
    }

    #[test]
    fn what_is_written_and_forbidden_is_an_error_with_the_pool_the_code_and_the_remedy() {
        for (code, remedy) in
            [(1, "kernel.io_uring_disabled"), (12, "LimitMEMLOCK"), (38, "run Linux 6.1"), (22, "run Linux 6.1")]
        {
            let error = choose(&pools("io_uring"), || forbidden(code)).unwrap_err();
            let text = error.to_string();
            assert!(
                text.starts_with("pool `web` has relay = \"io_uring\", but this process may not use it; "),
                "{text}"
            );
            assert!(text.contains(remedy) && text.ends_with("or write relay = \"auto\""), "{text}");
            assert_eq!(error.source.source.raw_os_error(), Some(code));
        }
    }

    #[test]
    fn who_does_not_ask_for_it_never_hears_of_it() {
        for relay in ["copy", "splice"] {
            assert_eq!(choose(&pools(relay), || panic!("asked")).unwrap(), Rings::No);
        }
    }

    #[test]
    fn auto_takes_it_where_it_is_allowed_and_does_without_where_it_is_not() {
        assert_eq!(choose(&pools("auto"), || Ok(())).unwrap(), Rings::IfAllowed);
        assert_eq!(choose(&pools("auto"), || forbidden(1)).unwrap(), Rings::No);
        assert_eq!(choose(&pools("io_uring"), || Ok(())).unwrap(), Rings::Must);
    }
}
