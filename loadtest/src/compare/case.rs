//! What is compared: a closed set of cases, each one or two plans of the load generator.
//!
//! Pure. The shapes are the same for every system; `mixed` runs at fixed rates, because in a closed loop each system would
//! choose its own mixture of messages and connections, and the figures could not be compared.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::plan::Plan;
use crate::progress::Snapshot;
use crate::scenario::Scenario;

/// Of `mixed`: messages per second on the long-lived connections, and connections per second beside them. Together below
/// what every system can do on two CPUs.
const MIXED: (f64, f64) = (20_000.0, 2_000.0);

/// One thing to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Case {
    /// Ping-pong of 64 B on 64 connections
    #[value(name = "ping-64")]
    #[serde(rename = "ping-64")]
    Ping64,
    /// Ping-pong of 64 B on one connection: the latency that is added
    #[value(name = "ping-1")]
    #[serde(rename = "ping-1")]
    Ping1,
    /// Ping-pong of 1 KiB on 256 connections
    #[value(name = "ping-1k")]
    #[serde(rename = "ping-1k")]
    Ping1k,
    /// Ping-pong of 16 KiB on 32 connections
    #[value(name = "ping-16k")]
    #[serde(rename = "ping-16k")]
    Ping16k,
    /// Bulk streams from the backend on 8 connections
    Download,
    /// Bulk streams to the backend on 8 connections
    Upload,
    /// Connect, request, reply, close by the backend, on 64 connections at a time
    Churn,
    /// Messages on 64 long-lived connections beside connections that come and go, at fixed rates
    Mixed,
    /// Connections that do nothing: memory
    Idle,
}

/// What is counted, and what costs are per.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// One request and its reply.
    Message,
    /// 10^9 payload bytes.
    Gigabyte,
    /// One connection with a request and a reply.
    Connection,
    /// A message or a connection.
    Operation,
}

impl Case {
    /// All, in the order of the report.
    pub(super) const ALL: [Self; 9] = [
        Self::Ping64,
        Self::Ping1,
        Self::Ping1k,
        Self::Ping16k,
        Self::Download,
        Self::Upload,
        Self::Churn,
        Self::Mixed,
        Self::Idle,
    ];

    /// As it is written on the command line and in the JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ping64 => "ping-64",
            Self::Ping1 => "ping-1",
            Self::Ping1k => "ping-1k",
            Self::Ping16k => "ping-16k",
            Self::Download => "download",
            Self::Upload => "upload",
            Self::Churn => "churn",
            Self::Mixed => "mixed",
            Self::Idle => "idle",
        }
    }

    /// For people.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Ping64 => "64 B ping-pong × 64",
            Self::Ping1 => "64 B ping-pong × 1",
            Self::Ping1k => "1 KiB ping-pong × 256",
            Self::Ping16k => "16 KiB ping-pong × 32",
            Self::Download => "bulk download × 8",
            Self::Upload => "bulk upload × 8",
            Self::Churn => "connect-request-response-close × 64",
            Self::Mixed => "64 long-lived at 20,000 messages/s + 2,000 connections/s",
            Self::Idle => "idle connections",
        }
    }

    /// What is counted.
    pub(super) fn unit(self) -> Unit {
        match self {
            Self::Ping64 | Self::Ping1 | Self::Ping1k | Self::Ping16k => Unit::Message,
            Self::Download | Self::Upload => Unit::Gigabyte,
            Self::Churn => Unit::Connection,
            Self::Mixed | Self::Idle => Unit::Operation,
        }
    }

    /// Bulk transfers, where splice(2) matters.
    pub(super) fn is_bulk(self) -> bool {
        self.unit() == Unit::Gigabyte
    }

    /// The loads that run at the same time. `idle` is how many connections that case has.
    pub(super) fn plans(self, address: SocketAddr, duration: Duration, threads: usize, idle: u64) -> Vec<Plan> {
        let plan = |scenario, connections: u64, size| Plan {
            connections,
            size,
            duration: Some(duration),
            threads: threads.min(connections as usize).max(1),
            ..Plan::new(address, scenario)
        };
        let bulk = |scenario| Plan { connections: 8, ..plan(scenario, 8, Scenario::BulkDownload.default_size()) };
        match self {
            Self::Ping64 => vec![plan(Scenario::SmallMessages, 64, 64)],
            Self::Ping1 => vec![plan(Scenario::SmallMessages, 1, 64)],
            Self::Ping1k => vec![plan(Scenario::SmallMessages, 256, 1024)],
            Self::Ping16k => vec![plan(Scenario::LargeMessages, 32, 16 * 1024)],
            Self::Download => vec![bulk(Scenario::BulkDownload)],
            Self::Upload => vec![bulk(Scenario::BulkUpload)],
            Self::Churn => vec![plan(Scenario::ConnectRequestClose, 64, 64)],
            Self::Mixed => vec![
                Plan { rate: Some(MIXED.0), ..plan(Scenario::SmallMessages, 64, 64) },
                Plan { rate: Some(MIXED.1), seed: 2, ..plan(Scenario::ConnectRequestClose, 64, 64) },
            ],
            Self::Idle => vec![plan(Scenario::Idle, idle, 64)],
        }
    }
}

impl Unit {
    /// How many of it a run has done so far.
    pub(super) fn done(self, now: &Snapshot) -> f64 {
        match self {
            Self::Gigabyte => (now.sent + now.received) as f64 / 1e9,
            Self::Message | Self::Connection | Self::Operation => now.operations as f64,
        }
    }

    /// In the singular.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Gigabyte => "GB",
            Self::Connection => "connection",
            Self::Operation => "operation",
        }
    }

    /// The unit of CPU time per unit of work: seconds per gigabyte, else microseconds; and how many of them a second has.
    pub(super) fn cost(self) -> (&'static str, f64) {
        match self {
            Self::Gigabyte => ("s/GB", 1.0),
            Self::Message => ("µs/msg", 1e6),
            Self::Connection => ("µs/conn", 1e6),
            Self::Operation => ("µs/op", 1e6),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_listed_once_with_the_name_of_the_command_line_and_the_json() {
        use clap::ValueEnum;
        assert_eq!(Case::value_variants(), Case::ALL);
        for case in Case::ALL {
            assert_eq!(case.to_possible_value().unwrap().get_name(), case.name());
            assert_eq!(serde_json::to_value(case).unwrap(), case.name());
        }
    }

    #[test]
    fn every_load_is_a_valid_plan_that_ends() {
        for case in Case::ALL {
            for plan in case.plans(([127, 0, 0, 1], 1).into(), Duration::from_secs(1), 4, 3_000) {
                assert!(plan.threads as u64 <= plan.connections, "{case:?}");
                assert_eq!(plan.duration, Some(Duration::from_secs(1)));
            }
        }
    }
}
