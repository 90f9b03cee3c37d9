//! A development registry, a server cluster and a client, for demos and tests of a balancer. Nothing here is for production.

pub mod client;
mod duration;
pub mod gateway;
pub mod registry;
pub mod requests;
pub mod serve;

use std::{fmt, io::Write};

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the soft limit of open files, usually 1024, to the hard limit.
pub fn raise_fd_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        note(format_args!("can't raise the limit of open files: {error}"));
    }
}

/// Writes one line to stderr. Unlike `eprintln!` it does not panic if stderr is closed.
pub fn note(line: fmt::Arguments<'_>) {
    // One write, so that the lines of several processes on one terminal do not mix.
    let _written = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}
