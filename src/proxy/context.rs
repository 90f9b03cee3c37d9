//! What is known of a session once it has a route: `session` makes it; `upstream` and `replay` go by it.

use std::sync::Arc;

use super::live::Live;
use super::socket::Socket;
use super::worker::Worker;
use crate::pool::Chain;

#[derive(Debug)]
pub(super) struct SessionContext<'a> {
    /// The client's.
    pub(super) socket: &'a Socket,
    pub(super) worker: &'a Worker,
    pub(super) live: Arc<Live>,
    /// The pool that it is routed to, and those behind it.
    pub(super) chain: Chain,
}
