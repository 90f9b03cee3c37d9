//! The plan of a run: everything that the command line, or a test, decides.
//!
//! [`LoadPlan::new`] gives the defaults of a scenario. `run` checks the limits of the numbers, so that no caller can get round them.

use std::net::SocketAddr;
use std::time::Duration;

use crate::pacing::Pacing;
use crate::protocol::Header;
use crate::scenario::Scenario;

/// The plan of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadPlan {
    /// The target.
    pub address: SocketAddr,
    /// What each connection does.
    pub scenario: Scenario,
    /// Connections at the same time.
    pub connections: u64,
    /// Operations of all connections together; `None` = as many as fit into `duration`.
    pub messages: Option<u64>,
    /// No operation starts later than this; for `idle` how long the connections are kept.
    pub duration: Option<Duration>,
    /// Operations per second of all connections together (open loop); `None` = closed loop.
    pub rate: Option<f64>,
    /// Payload bytes: of a message, or of a bulk transfer.
    pub size: u64,
    /// Load threads.
    pub threads: usize,
    /// Longest time that a connect, or an operation, may take.
    pub timeout: Duration,
    /// Failures in a row after which a connection is not opened again.
    pub attempts: u32,
    /// Which side closes first in `connect-request-close`.
    pub close: CloseSide,
    /// The other side is any echo server: no header, and the request comes back as it is.
    pub plain_echo: bool,
    /// Seed of the payload.
    pub seed: u64,
}

/// The side that closes a connection first, and so keeps its TIME_WAIT (about a minute in which the port is taken).
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum CloseSide {
    /// The server: the load generator's source ports are free again at once.
    Server,
    /// The client: about 28,000 ports per address of the other side, so a high rate runs out of them.
    Client,
}

impl LoadPlan {
    /// The defaults of a scenario.
    pub fn new(address: SocketAddr, scenario: Scenario) -> Self {
        Self {
            address,
            scenario,
            connections: scenario.default_connections(),
            messages: None,
            duration: None,
            rate: None,
            size: scenario.default_size(),
            threads: default_threads(),
            timeout: Duration::from_secs(10),
            attempts: 20,
            close: CloseSide::Server,
            plain_echo: false,
            seed: 1,
        }
    }

    pub(crate) fn pacing(&self) -> Pacing {
        Pacing { slots: self.connections, rate: self.rate, total: self.messages, duration: self.duration }
    }

    pub(crate) fn header(&self, connection: u64) -> Header {
        let (up, down) = self.scenario.shape(self.size);
        let server_closes = self.scenario == Scenario::ConnectRequestClose && self.close == CloseSide::Server;
        Header { seed: self.seed, connection, up, down, exchanges: u64::from(server_closes) }
    }
}

/// One, or two where there are CPUs to spare for the system under test and the other side.
pub(crate) fn default_threads() -> usize {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    (cpus / 2).clamp(1, 2)
}
