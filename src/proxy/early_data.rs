//! What a client has said by the time its session begins. It is read before the backend is dialled, so that it can go with the
//! end of that handshake. Most clients speak first and at once; of those that do not, nothing is here.

use std::io;
use std::time::Instant;

use super::relay::{Before, Side};
use super::socket::Socket;
use crate::metrics::Direction;
use crate::pool::ByteCell;

/// Read in one system call; the rest is the relay's.
const PIECE: usize = 2 * 1_024;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct EarlyData(Vec<u8>);

impl EarlyData {
    /// Does not wait.
    ///
    /// # Errors
    /// If the connection is broken.
    pub(super) fn of(client: &Socket) -> io::Result<Self> {
        let mut piece = [0; PIECE];
        let read = client.read_now(&mut piece)?;
        Ok(Self(read.map_or_else(Vec::new, |read| piece[..read].to_vec())))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Tells the backend. Returns what its socket did not take, and what the relay has to know.
    pub(super) fn say(mut self, backend: &Socket, bytes: &ByteCell) -> (Vec<u8>, Before) {
        let now = Instant::now();
        let mut before = Before { asked: Some(now), last_progress: Some(now), ..Before::default() };
        match backend.write_now(&self.0) {
            Ok(written) => {
                bytes.add(Direction::ToBackend, written as u64);
                self.0.drain(..written);
            }
            Err(error) => before.broken = Some((Side::Backend, error)),
        }
        (self.0, before)
    }
}
