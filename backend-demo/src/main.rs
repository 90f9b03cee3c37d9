//! The command line of the demo: commands, exit codes and errors.

mod up;

use std::{
    io::{self, Write},
    net::SocketAddr,
    process::ExitCode,
};

use anyhow::Context;
use backend_demo::{client, registry::Registry, requests, serve};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

/// A demo of the Evenkeel load balancer: registry, servers and client.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything here: a development registry, three members, the balancer in front of them
    Up(up::Options),
    /// Run a member of a cluster: it answers requests with a greeting, and registers itself in Consul or etcd
    Serve(Box<serve::Options>),
    /// Send requests, and show which members answered
    Client(client::Options),
    /// Show the requests that a member has stored
    Requests(requests::Options),
    /// Run a registry FOR DEVELOPMENT ONLY: a small part of Consul's HTTP API, in memory, without any security
    #[command(after_help = "\
To make it fail: PUT /fault/NAME, where NAME is error (500), forbidden (403), rate-limit (429), hang, no-leader,
garbage, empty (an empty list) or no-index; DELETE /fault ends it. PUT /fault/index-back sets the index back, once.")]
    Registry {
        /// Where to listen
        #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8500")]
        listen: SocketAddr,
        /// Connections from one address; the next one is answered 429, as by an agent
        #[arg(long, value_name = "N", default_value_t = 200)]
        max_connections: usize,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    backend_demo::raise_fd_limit();
    match run(arguments.command) {
        Ok(code) => code,
        Err(error) => {
            backend_demo::note(format_args!("backend-demo: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Up(options) => up::run(options).await?,
        Command::Serve(options) => serve::run(*options).await?,
        Command::Client(options) => {
            let report = client::run(&options).await;
            print(&report.to_string());
            return Ok(if report.all_answered() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Requests(options) => print(&requests::show(&options)?),
        Command::Registry { listen, max_connections } => registry(listen, max_connections).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn registry(listen: SocketAddr, max_connections: usize) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let registry = Registry::start(listen).await.with_context(|| format!("can't listen on {listen}"))?;
    registry.limit_connections(max_connections);
    print(&format!("development registry on {}, for development only\n", registry.url()));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    registry.stop().await;
    Ok(())
}

/// Unlike `print!` it does not panic if the reader ends, as in `backend-demo requests … | head`.
fn print(text: &str) {
    let _written = io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush());
}
