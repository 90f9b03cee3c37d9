//! The command line: one file a command. Errors go to stderr once, as `evenkeel: what: why`; stdout is for what a
//! command has to say.

mod addresses;
mod api;
mod backends;
mod check;
mod client;
mod clients;
mod config;
mod events;
mod explain;
mod level;
mod logging;
mod operate;
mod pages;
mod plan;
mod reader;
mod rebalance;
mod rerouted;
mod run;
mod sessions;
mod status;
mod sticky;
mod systemd;
mod table;
mod top;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};

use client::AdminClient;

use crate::balancer::{StartError, explained};
use crate::clean;
use crate::config::ConfigError;
use crate::server::LimitError;
use crate::standing::Operator;
pub use crate::watch::FileWatch;
pub use logging::{Logging, start as start_logging};

/// How long the end waits for stderr's reader.
const PATIENCE: Duration = Duration::from_secs(1);

/// A TCP load balancer.
///
/// Accepts connections, chooses a backend for each from a pool that comes from Consul or a list, moves the bytes, and stops
/// using backends that fail their health checks. Without a command it runs.
#[derive(Debug, Parser)]
#[command(
    name = "evenkeel",
    version,
    after_help = "Exit status: 0 done, 1 it could not be done, 2 bad usage or bad config, 3 there is no such pool, \
                  backend or session, or more than one, 4 the time to wait is over, 5 `plan --exit-code`: something would change."
)]
struct Arguments {
    /// The configuration file
    #[arg(long, global = true, value_name = "PATH", env = "EVENKEEL_CONFIG", default_value = "lb.toml")]
    config: PathBuf,

    /// Allow checks of kind "exec" to run programs, as the user of this process
    #[arg(long, global = true)]
    allow_exec: bool,

    /// Where the running balancer is: http://HOST:PORT, or the path of its socket. Default: as the configuration file says
    #[arg(long, global = true, value_name = "URL", env = "EVENKEEL_ADMIN")]
    admin: Option<String>,

    /// Answer in JSON
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the balancer until SIGTERM or SIGINT. A second signal does not wait for sessions. SIGHUP reads the file again
    Run,
    /// Check the configuration: is it valid, what would run, what is risky
    Check,
    /// Show what the configuration would change in the running balancer, and what happens to live sessions. Changes nothing
    Plan(plan::PlanOptions),
    /// Show listeners, pools and sessions in short
    Status,
    /// Show every backend: its standing, since when, why
    Backends(backends::BackendsOptions),
    /// Show live sessions, each with its client and its backend
    Sessions(sessions::ListOptions),
    /// Show the clients that were over a limit of their listener (per_client) most often
    Clients(clients::ClientsOptions),
    /// Close sessions, at the close_rate of their pools
    Close(sessions::CloseOptions),
    /// Explain why a backend gets sessions or none, and what happened to it. Or show a session, with what the kernel knows
    Explain(explain::ExplainOptions),
    /// Show pools and backends live: rates, connect times, standings. Keys sort, filter and drain
    Top(top::TopOptions),
    /// Show what happens, while it happens
    Events(events::EventsOptions),
    /// Let a backend or a whole pool run empty: it gets no new sessions, running ones go on
    Drain(operate::TakeOut),
    /// Take a backend or a whole pool out; running sessions go on
    Disable(operate::TakeOut),
    /// Take `drain` or `disable` back
    Ready(operate::PutBack),
    /// Give a backend another share of the new sessions
    Weight(operate::Weight),
    /// Pause the active check of a backend, or resume it
    Probe(operate::ProbeOptions),
    /// Obey the registry at once: end what a pool holds against it after trouble
    Release(operate::ReleaseOptions),
    /// Close sessions of backends that have more than their part, a few at a time, so that they move to the others. Once
    Rebalance(rebalance::RebalanceOptions),
    /// Show which client comes back to which backend of a sticky pool; or forget them
    Sticky(sticky::StickyOptions),
    /// Show or change the level of the log
    LogLevel(level::LevelOptions),
    /// Show the configuration in effect, with every default; secrets are masked
    Config,
    /// Make the balancer read its file again at once. If the file is refused, nothing changes
    Reload,
    /// Write completions for a shell to stdout
    Completions(pages::Completions),
    /// Write the manual
    Man(pages::Man),
}

impl Command {
    /// The name of one that has nothing to say in JSON.
    fn without_json(&self) -> Option<&'static str> {
        match self {
            Self::Run => Some("run"),
            Self::Check => Some("check"),
            Self::Top(_) => Some("top"),
            Self::Completions(_) => Some("completions"),
            Self::Man(_) => Some("man"),
            _ => None,
        }
    }
}

/// How a command failed.
enum CommandError {
    /// Exit status 2; the text is complete.
    Config(String),
    /// Exit status 1.
    Runtime(anyhow::Error),
    /// Exit status 3: there is no such thing, or more than one.
    Unknown(String),
    /// Exit status 4.
    TimedOut(String),
    /// Exit status 5: asked for where something would change. All is said.
    Differs,
}

impl CommandError {
    fn exit_status(&self) -> u8 {
        match self {
            Self::Runtime(_) => 1,
            Self::Config(_) => 2,
            Self::Unknown(_) => 3,
            Self::TimedOut(_) => 4,
            Self::Differs => 5,
        }
    }

    /// For people, on a line.
    fn text(self) -> String {
        match self {
            Self::Config(text) | Self::Unknown(text) | Self::TimedOut(text) => text,
            Self::Runtime(error) => format!("{error:#}"),
            Self::Differs => "something would change".to_owned(),
        }
    }
}

impl From<anyhow::Error> for CommandError {
    fn from(error: anyhow::Error) -> Self {
        Self::Runtime(error)
    }
}

impl From<ConfigError> for CommandError {
    fn from(error: ConfigError) -> Self {
        Self::Config(explained(&error))
    }
}

impl From<StartError> for CommandError {
    fn from(error: StartError) -> Self {
        Self::Config(format!("{:#}", anyhow::Error::from(error)))
    }
}

impl From<LimitError> for CommandError {
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
    let Err(error) = obey(&arguments) else { return ExitCode::SUCCESS };
    let status = error.exit_status();
    if !matches!(error, CommandError::Differs) {
        complain(error.text());
    }
    ExitCode::from(status)
}

fn obey(arguments: &Arguments) -> Result<(), CommandError> {
    let Arguments { config, admin, json, allow_exec, command } = arguments;
    if let Some(name) = command.as_ref().map_or(Some("run"), Command::without_json).filter(|_| *json) {
        return Err(CommandError::Config(format!("--json does not apply to `{name}`")));
    }
    let client = || AdminClient::new(admin.as_deref(), config);
    let json = *json;
    match command.as_ref().unwrap_or(&Command::Run) {
        Command::Run => run::run(config, *allow_exec),
        Command::Check => check::check(config, *allow_exec),
        Command::Completions(options) => pages::completions(options, Arguments::command()),
        Command::Man(options) => pages::man(options, Arguments::command()),
        Command::Plan(options) => wait(plan::plan(&client()?, config, *allow_exec, options, json)),
        Command::Status => wait(status::status(&client()?, json)),
        Command::Backends(options) => wait(backends::backends(&client()?, options, json)),
        Command::Sessions(options) => wait(sessions::list(&client()?, options, json)),
        Command::Clients(options) => wait(clients::clients(&client()?, options, json)),
        Command::Close(options) => wait(sessions::close(&client()?, options, json)),
        Command::Explain(options) => wait(explain::explain(&client()?, options, json)),
        Command::Top(options) => wait(top::top(&client()?, options, table::coloured())),
        Command::Events(options) => wait(events::events(&client()?, options, json)),
        Command::Drain(options) => wait(operate::take_out(&client()?, Operator::Drain, options, json)),
        Command::Disable(options) => wait(operate::take_out(&client()?, Operator::Disabled, options, json)),
        Command::Ready(options) => wait(operate::put_back(&client()?, options, json)),
        Command::Weight(options) => wait(operate::weight(&client()?, options, json)),
        Command::Probe(options) => wait(operate::probe(&client()?, options, json)),
        Command::Release(options) => wait(operate::release(&client()?, options, json)),
        Command::Rebalance(options) => wait(rebalance::rebalance(&client()?, options, json)),
        Command::Sticky(options) => wait(sticky::sticky(&client()?, options, json)),
        Command::Config => wait(config::config(&client()?, json)),
        Command::Reload => wait(config::reload(&client()?, json)),
        Command::LogLevel(options) => wait(level::level(&client()?, options, json)),
    }
}

/// What asks a balancer that runs.
fn wait(asked: impl Future<Output = Result<(), CommandError>>) -> Result<(), CommandError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("the event loop")?.block_on(asked)
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

/// Writes an answer of the API to stdout.
fn say_json(value: &serde_json::Value) -> Result<(), CommandError> {
    Ok(say(&clean::json(&format!("{value:#}\n")))?)
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
        // There is no other place to say that stderr can't be written.
        let _ = writeln!(io::stderr(), "evenkeel: {}", clean::lines(&text));
        drop(written);
    });
    let _ = wait.recv_timeout(PATIENCE);
}
