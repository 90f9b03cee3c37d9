//! What a connection does, as a closed set: the shape of an exchange (bytes up, bytes down) and one of three courses.
//!
//! Ping-pong and bulk are the same course with different sizes (`exchanges`); `churn` opens a connection for each exchange;
//! `idle` keeps connections and does nothing with them. A new scenario is a new shape, or a file here.

mod churn;
mod exchanges;
mod idle;

use std::rc::Rc;

use crate::lane::Lane;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// Ping-pong of small messages on long-lived connections.
    SmallMessages,
    /// Ping-pong of large messages on long-lived connections.
    LargeMessages,
    /// Large streams from the server; an operation is one stream of `--size`.
    BulkDownload,
    /// Large streams to the server; an operation is one stream of `--size`.
    BulkUpload,
    /// One request and reply per connection.
    ConnectRequestClose,
    /// Connections that are kept open, and must still work at the end.
    Idle,
}

/// Bytes of the small side of a bulk transfer: the wish for it, or the receipt.
const TICKET: u64 = 8;

impl Scenario {
    /// As it is written on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::SmallMessages => "small-messages",
            Self::LargeMessages => "large-messages",
            Self::BulkDownload => "bulk-download",
            Self::BulkUpload => "bulk-upload",
            Self::ConnectRequestClose => "connect-request-close",
            Self::Idle => "idle",
        }
    }

    /// Whether a plain echo server can be on the other side.
    pub fn echoes(self) -> bool {
        matches!(self, Self::SmallMessages | Self::LargeMessages | Self::Idle)
    }

    pub(crate) fn default_size(self) -> u64 {
        match self {
            Self::SmallMessages | Self::ConnectRequestClose | Self::Idle => 64,
            Self::LargeMessages => 16 * 1024,
            Self::BulkDownload | Self::BulkUpload => 16 * 1024 * 1024,
        }
    }

    pub(crate) fn default_connections(self) -> u64 {
        match self {
            Self::SmallMessages | Self::ConnectRequestClose => 64,
            Self::LargeMessages => 32,
            Self::BulkDownload | Self::BulkUpload => 8,
            Self::Idle => 1_000,
        }
    }

    /// Bytes up and down per exchange.
    pub(crate) fn shape(self, size: u64) -> (u64, u64) {
        match self {
            Self::BulkDownload => (TICKET, size),
            Self::BulkUpload => (size, TICKET),
            Self::SmallMessages | Self::LargeMessages | Self::ConnectRequestClose | Self::Idle => (size, size),
        }
    }

    /// Does what this scenario does in one slot, from connect to the end of the run. `place` counts within the lane.
    pub(crate) async fn run(self, lane: Rc<Lane>, slot: u64, place: usize) {
        match self {
            Self::SmallMessages | Self::LargeMessages | Self::BulkDownload | Self::BulkUpload => {
                exchanges::run(&lane, slot, place).await;
            }
            Self::ConnectRequestClose => churn::run(&lane, slot, place).await,
            Self::Idle => idle::run(&lane).await,
        }
    }
}
