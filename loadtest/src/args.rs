//! The command line, and the plan that it makes. [`run`](crate::run()) checks the numbers.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand};

use crate::chaos::{BackendArgs, ChaosArgs};
use crate::compare::CompareArgs;
use crate::plan::{CloseSide, LoadPlan, default_threads};
use crate::scenario::Scenario;
use crate::shares::SharesArgs;
use crate::units;

/// How long a run lasts if neither messages nor a duration are given.
const DURATION: Duration = Duration::from_secs(10);

/// Load generator for Evenkeel: every byte that comes back is verified.
#[derive(Debug, Parser)]
#[command(version, subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Put load on an address and report throughput, latency, and every wrong byte
    Run(Box<RunArgs>),
    /// Run the matching backend for all scenarios; prints `listening on ADDR`
    Serve(ServeArgs),
    /// Run Evenkeel and its peers in turn and report what each costs
    Compare(Box<CompareArgs>),
    /// Break backends behind Evenkeel and its peers, and report what clients notice (root only)
    Chaos(Box<ChaosArgs>),
    /// Count which backend gets how many connects, for every policy, and which clients move
    Shares(SharesArgs),
    /// A backend of `chaos`
    #[command(hide = true)]
    ChaosBackend(BackendArgs),
}

/// Exit codes: 0 = every operation ended well, 1 = mismatches or failures, 2 = bad usage.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// host:port of the load balancer, or of `loadtest serve` itself
    #[arg(long)]
    pub target: String,
    /// What each connection does
    #[arg(long, value_enum)]
    pub scenario: Scenario,
    /// Connections at the same time [default: 64; large-messages 32, bulk 8, idle 1000]
    #[arg(long, short, value_parser = units::count)]
    pub connections: Option<u64>,
    /// Number of operations of all connections together, for example 5M
    #[arg(long, short, value_parser = units::count)]
    pub messages: Option<u64>,
    /// Start no operation after this time; idle: keep the connections for this time [default: 10s, unless --messages is given]
    #[arg(long, short, value_parser = units::duration)]
    pub duration: Option<Duration>,
    /// Open loop: operations per second of all connections together (20k/s); latency counts from the intended start
    #[arg(long, value_parser = units::rate)]
    pub rate: Option<f64>,
    /// Payload bytes of a message or bulk transfer [default: 64; large-messages 16KiB, bulk 16MiB]
    #[arg(long, value_parser = units::size)]
    pub size: Option<u64>,
    /// Load threads [default: half of the CPUs, 1 or 2]
    #[arg(long)]
    pub threads: Option<usize>,
    /// Longest time for a connect, and for an operation
    #[arg(long, default_value = "10s", value_parser = units::duration)]
    pub timeout: Duration,
    /// Give a connection up after this number of failures in a row (100 ms apart)
    #[arg(long, default_value_t = 20)]
    pub attempts: u32,
    /// connect-request-close: the side that closes first, and so keeps the TIME_WAIT. With `client`, high rates use up the about
    /// 28,000 source ports, and `no_port` failures follow
    #[arg(long, value_enum, default_value = "server")]
    pub close: CloseSide,
    /// The other side is a plain echo server, not `loadtest serve` (small-messages, large-messages, idle)
    #[arg(long)]
    pub plain_echo: bool,
    /// Seed of the payload
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Also write the report as JSON; with `-` to stdout, and the table to stderr
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Exit with 0 even if operations failed (never if bytes were wrong)
    #[arg(long)]
    pub allow_failures: bool,
    /// Allow an address of another machine. It gets all the load that this machine can make, so ask its owner first
    #[arg(long)]
    pub allow_remote: bool,
}

/// Options of `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Address to listen on; port 0 = any free one
    #[arg(long, default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// Threads [default: half of the CPUs, 1 or 2]
    #[arg(long)]
    pub threads: Option<usize>,
    /// Allow an address that other machines can reach; each of them can make this server send without limit
    #[arg(long)]
    pub allow_remote: bool,
}

impl RunArgs {
    /// The plan: the given options, and the defaults of the scenario.
    ///
    /// # Errors
    /// When the target can't be resolved, or is on another machine and that is not allowed.
    pub fn plan(&self) -> anyhow::Result<LoadPlan> {
        let address = self.address()?;
        let defaults = LoadPlan::new(address, self.scenario);
        let connections = self.connections.unwrap_or(defaults.connections);
        // By default no more threads than connections.
        let threads = usize::try_from(connections).unwrap_or(usize::MAX).min(defaults.threads);
        Ok(LoadPlan {
            connections,
            messages: self.messages,
            duration: self.duration.or_else(|| self.messages.is_none().then_some(DURATION)),
            rate: self.rate,
            size: self.size.unwrap_or(defaults.size),
            threads: self.threads.unwrap_or(threads),
            timeout: self.timeout,
            attempts: self.attempts,
            close: self.close,
            plain_echo: self.plain_echo,
            seed: self.seed,
            ..defaults
        })
    }

    fn address(&self) -> anyhow::Result<SocketAddr> {
        let resolved: Vec<_> =
            self.target.to_socket_addrs().with_context(|| format!("can't resolve {}", self.target))?.collect();
        if let Some(remote) = resolved.iter().find(|address| !is_local(address))
            && !self.allow_remote
        {
            bail!(
                "{remote} is on another machine, and would get all the load that this one can make; --allow-remote allows it"
            );
        }
        resolved.first().copied().with_context(|| format!("{} has no address", self.target))
    }
}

impl ServeArgs {
    /// Address and number of threads.
    ///
    /// # Errors
    /// When other machines can reach the address and that is not allowed.
    pub fn place(&self) -> anyhow::Result<(SocketAddr, usize)> {
        if !is_local(&self.listen) && !self.allow_remote {
            bail!(
                "{} can be reached from other machines, which can make this server send; --allow-remote allows it",
                self.listen
            );
        }
        Ok((self.listen, self.threads.unwrap_or_else(default_threads).clamp(1, 256)))
    }
}

fn is_local(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(line: &str) -> anyhow::Result<LoadPlan> {
        let words = format!("loadtest run {line}");
        match Cli::try_parse_from(words.split_whitespace())?.command {
            Command::Run(args) => args.plan(),
            _ => unreachable!("the command is run"),
        }
    }

    #[test]
    fn defaults_come_from_the_scenario() {
        let plan = plan("--target 127.0.0.1:1 --scenario large-messages").unwrap();
        assert_eq!((plan.connections, plan.size, plan.duration), (32, 16384, Some(DURATION)));
    }

    #[test]
    fn a_number_of_messages_needs_no_duration() {
        let plan = plan("--target 127.0.0.1:1 --scenario small-messages --messages 5M --connections 2k").unwrap();
        assert_eq!((plan.messages, plan.connections, plan.duration), (Some(5_000_000), 2_000, None));
    }

    #[test]
    fn remote_addresses_need_an_option() {
        let error = plan("--target 192.0.2.1:80 --scenario idle").unwrap_err().to_string();
        assert!(error.contains("--allow-remote") && error.contains("load"), "{error}");
        assert!(plan("--target 192.0.2.1:80 --scenario idle --allow-remote").is_ok());
        for local in ["127.0.0.2:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert!(plan(&format!("--target {local} --scenario idle")).is_ok(), "{local}");
        }
    }
}
