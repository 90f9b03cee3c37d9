//! The scenarios: what the connections of a run do.
//!
//! A scenario is the sizes of an exchange (bytes up, bytes down) and one of three loops. `exchanges` serves ping-pong and bulk;
//! `churn` opens a connection for each exchange; `idle` keeps connections and does nothing with them.

mod churn;
mod exchanges;
mod idle;

use std::rc::Rc;

use crate::closed_set::closed_set;
use crate::load_thread::LoadThread;

closed_set! {
    /// What the connections of a run do.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub serde enum Scenario {
        /// Ping-pong of small messages on long-lived connections
        SmallMessages = "small-messages",
        /// Ping-pong of large messages on long-lived connections
        LargeMessages = "large-messages",
        /// Large streams from the server; an operation is one stream of `--size`
        BulkDownload = "bulk-download",
        /// Large streams to the server; an operation is one stream of `--size`
        BulkUpload = "bulk-upload",
        /// One request and reply per connection
        ConnectRequestClose = "connect-request-close",
        /// Connections that are kept open, and must still work at the end
        Idle = "idle",
    }
}

/// Bytes of the small side of a bulk transfer: the request, or the reply.
const SMALL_SIDE: u64 = 8;

impl Scenario {
    /// Whether a plain echo server can be the other side.
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
            Self::BulkDownload => (SMALL_SIDE, size),
            Self::BulkUpload => (size, SMALL_SIDE),
            Self::SmallMessages | Self::LargeMessages | Self::ConnectRequestClose | Self::Idle => (size, size),
        }
    }

    /// Runs one slot, from connect to the end of the run. `index` is the number of the slot within its thread.
    pub(crate) async fn run(self, thread: Rc<LoadThread>, slot: u64, index: usize) {
        match self {
            Self::SmallMessages | Self::LargeMessages | Self::BulkDownload | Self::BulkUpload => {
                exchanges::run(&thread, slot, index).await;
            }
            Self::ConnectRequestClose => churn::run(&thread, slot, index).await,
            Self::Idle => idle::run(&thread).await,
        }
    }
}
