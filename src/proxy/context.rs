//! What is known of a session once it has a route: `session` makes it; `upstream` and `replay` go by it.

use std::sync::Arc;

use super::live::Live;
use super::socket::Socket;
use super::worker::Worker;
use crate::config;
use crate::pool::{Affinity, Pool};

#[derive(Debug)]
pub(super) struct SessionContext<'a> {
    /// The client's.
    pub(super) socket: &'a Socket,
    pub(super) worker: &'a Worker,
    pub(super) live: Arc<Live>,
    /// Which backend it belongs to.
    pub(super) affinity: Affinity,
    pub(super) pool: Arc<Pool>,
    /// One set of them, whatever is applied meanwhile.
    pub(super) settings: Arc<config::Pool>,
}
