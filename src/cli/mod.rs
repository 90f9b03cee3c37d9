//! The command line: one file a command. Errors go to stderr once, as `evenkeel: what: why`; stdout is for what a
//! command has to say.

mod ask;
mod check;
mod logging;
mod plan;
mod run;
mod systemd;
mod watch;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::balancer::explained;
use crate::config::ConfigError;
use crate::server::LimitError;
pub use logging::{Logging, start as start_logging};

/// For who reads stderr.
const PATIENCE: Duration = Duration::from_secs(1);

/// A TCP load balancer.
///
/// Accepts connections on front addresses, picks a backend from a pool that Consul or a list feeds, moves the bytes, and
/// takes backends that fail their health checks out of the pool. Without a command it runs.
#[derive(Debug, Parser)]
#[command(
    name = "evenkeel",
    version,
    after_help = "Exit status: 0 clean, 1 runtime failure, 2 bad usage or bad config, 3 `plan --exit-code`: something would change."
)]
struct Arguments {
    /// The configuration file
    #[arg(long, global = true, value_name = "PATH", env = "EVENKEEL_CONFIG", default_value = "lb.toml")]
    config: PathBuf,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum Command {
    /// Run the balancer until SIGTERM or SIGINT; a second signal does not wait for sessions
    Run,
    /// Say whether the configuration is valid, what it would run, and what is risky in it
    Check,
    /// Say what the configuration would change in the running process, and what becomes of live sessions; changes nothing
    Plan {
        /// Where the admin listener of the process is; default: where the configuration says
        #[arg(long, value_name = "HOST:PORT")]
        admin: Option<SocketAddr>,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Exit with status 3 if something would change
        #[arg(long)]
        exit_code: bool,
    },
}

/// How a command failed.
enum Failure {
    /// Exit status 2; the text is complete.
    Config(String),
    /// Exit status 1.
    Runtime(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Runtime(error)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Config(explained(&error))
    }
}

impl From<LimitError> for Failure {
    fn from(error: LimitError) -> Self {
        Self::Config(error.to_string())
    }
}

/// Does what the command line of this process says.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(answer) => return answer_usage(&answer),
    };
    let result = match arguments.command.unwrap_or(Command::Run) {
        Command::Run => run::run(&arguments.config),
        Command::Check => check::check(&arguments.config),
        Command::Plan { admin, json, exit_code } => match plan::plan(&arguments.config, admin, json, exit_code) {
            Ok(true) => return ExitCode::from(3),
            Ok(false) => Ok(()),
            Err(failure) => Err(failure),
        },
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Config(text)) => {
            complain(text);
            ExitCode::from(2)
        }
        Err(Failure::Runtime(error)) => {
            complain(format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// `--help` and `--version`, or what is wrong with the arguments.
fn answer_usage(answer: &clap::Error) -> ExitCode {
    let text = answer.to_string();
    if answer.use_stderr() {
        complain(text.strip_prefix("error: ").unwrap_or(&text).trim_end().to_owned());
        return ExitCode::from(2);
    }
    match say(&text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Writes to stdout.
fn say(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        // `evenkeel check | head` has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("stdout can't be written"),
    }
}

/// Writes to stderr, but does not wait for long for its reader: it may be why the process ends.
fn complain(text: String) {
    let (written, wait) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        // Nobody is left to be told that nobody can be told.
        let _ = writeln!(io::stderr(), "evenkeel: {text}");
        drop(written);
    });
    let _ = wait.recv_timeout(PATIENCE);
}
