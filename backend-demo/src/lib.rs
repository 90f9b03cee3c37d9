//! What stands behind a balancer in a demo and in tests: a development registry, a server cluster, a client.
//!
//! Nothing here is for production. The binary `backend-demo` is a thin command line over these modules.

pub mod client;
mod duration;
pub mod registry;
pub mod requests;
pub mod serve;

use std::{fmt, io::Write};

use rustix::process::{Resource, getrlimit, setrlimit};

/// Lets this process open as many connections as it may: distributions start programs with a soft limit of 1024.
pub fn raise_fd_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        note(format_args!("can't raise the limit of open files: {error}"));
    }
}

/// One line for whoever runs this. Unlike `eprintln!` it does not panic when nobody is there to read.
fn note(line: fmt::Arguments<'_>) {
    // In one write, or the lines of several processes on one terminal run into each other.
    let _written = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}
