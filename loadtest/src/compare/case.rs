//! The cases of the comparison; each is one or two load plans. Pure.
//!
//! The load is the same for every system. `mixed` runs at fixed rates: in a closed loop each system would choose its own mixture of
//! messages and connections, and the figures could not be compared.

use std::net::SocketAddr;
use std::time::Duration;

use crate::closed_set::closed_set;
use crate::plan::LoadPlan;
use crate::progress::RunProgress;
use crate::scenario::Scenario;

/// The rates of `mixed`: messages per second on the long-lived connections, and new connections per second beside them. Every
/// system can do that on two CPUs.
const MIXED: (f64, f64) = (20_000.0, 2_000.0);

closed_set! {
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub(super) serde enum Case {
        /// Ping-pong of 64 B on 64 connections
        Ping64 = "ping-64",
        /// Ping-pong of 64 B on one connection, which shows the added latency
        Ping1 = "ping-1",
        /// Ping-pong of 1 KiB on 256 connections
        Ping1k = "ping-1k",
        /// Ping-pong of 16 KiB on 32 connections
        Ping16k = "ping-16k",
        /// Bulk streams from the backend on 8 connections
        Download = "download",
        /// Bulk streams to the backend on 8 connections
        Upload = "upload",
        /// Connect, request, reply, close by the backend, on 64 connections at a time
        Churn = "churn",
        /// Messages on 64 long-lived connections, and short connections beside them, at fixed rates
        Mixed = "mixed",
        /// Connections that do nothing, which shows the memory
        Idle = "idle",
    }
}

/// The unit of work; costs are per unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WorkUnit {
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

    pub(super) fn unit(self) -> WorkUnit {
        match self {
            Self::Ping64 | Self::Ping1 | Self::Ping1k | Self::Ping16k => WorkUnit::Message,
            Self::Download | Self::Upload => WorkUnit::Gigabyte,
            Self::Churn => WorkUnit::Connection,
            Self::Mixed | Self::Idle => WorkUnit::Operation,
        }
    }

    /// Bulk transfers, where splice(2) matters.
    pub(super) fn is_bulk(self) -> bool {
        self.unit() == WorkUnit::Gigabyte
    }

    /// The load plans that run at the same time. `idle` is the number of connections of the case `idle`.
    pub(super) fn plans(self, address: SocketAddr, duration: Duration, threads: usize, idle: u64) -> Vec<LoadPlan> {
        let plan = |scenario, connections: u64, size| LoadPlan {
            connections,
            size,
            duration: Some(duration),
            threads: threads.min(connections as usize).max(1),
            ..LoadPlan::new(address, scenario)
        };
        let bulk = |scenario: Scenario| plan(scenario, 8, scenario.default_size());
        match self {
            Self::Ping64 => vec![plan(Scenario::SmallMessages, 64, 64)],
            Self::Ping1 => vec![plan(Scenario::SmallMessages, 1, 64)],
            Self::Ping1k => vec![plan(Scenario::SmallMessages, 256, 1024)],
            Self::Ping16k => vec![plan(Scenario::LargeMessages, 32, 16 * 1024)],
            Self::Download => vec![bulk(Scenario::BulkDownload)],
            Self::Upload => vec![bulk(Scenario::BulkUpload)],
            Self::Churn => vec![plan(Scenario::ConnectRequestClose, 64, 64)],
            Self::Mixed => vec![
                LoadPlan { rate: Some(MIXED.0), ..plan(Scenario::SmallMessages, 64, 64) },
                LoadPlan { rate: Some(MIXED.1), seed: 2, ..plan(Scenario::ConnectRequestClose, 64, 64) },
            ],
            Self::Idle => vec![plan(Scenario::Idle, idle, 64)],
        }
    }
}

impl WorkUnit {
    /// How many units a run has done so far.
    pub(super) fn done(self, now: &RunProgress) -> f64 {
        match self {
            Self::Gigabyte => (now.sent + now.received) as f64 / 1e9,
            Self::Message | Self::Connection | Self::Operation => now.operations as f64,
        }
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Gigabyte => "GB",
            Self::Connection => "connection",
            Self::Operation => "operation",
        }
    }

    /// The unit in which CPU time per unit of work is shown, and how many of it make a second.
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
        for &case in Case::ALL {
            assert_eq!(case.to_possible_value().unwrap().get_name(), case.name());
            assert_eq!(serde_json::to_value(case).unwrap(), case.name());
        }
    }

    #[test]
    fn every_load_is_a_valid_plan_that_ends() {
        for &case in Case::ALL {
            for plan in case.plans(([127, 0, 0, 1], 1).into(), Duration::from_secs(1), 4, 3_000) {
                assert!(plan.threads as u64 <= plan.connections, "{case:?}");
                assert_eq!(plan.duration, Some(Duration::from_secs(1)));
            }
        }
    }
}
