//! What a client has sent before its session begins.
//! Used by `session`.
//! It is read before the backend is dialled, so that it can go with the end of that handshake. Most clients speak first and
//! at once; for the others it is empty.

use std::io;
use std::time::Instant;

use super::relay::{Before, Side};
use super::socket::Socket;
use crate::metrics::Direction;
use crate::pool::ByteCell;

/// The most that is read, in bytes; the relay reads the rest.
const READ_SIZE: usize = 2 * 1_024;

/// The bytes.
#[derive(Debug, Default)]
pub(super) struct EarlyData(Vec<u8>);

impl EarlyData {
    /// Reads what has arrived, without a wait.
    ///
    /// # Errors
    /// The connection is broken.
    pub(super) fn of(client: &Socket) -> io::Result<Self> {
        let mut piece = [0; READ_SIZE];
        let read = client.read_now(&mut piece)?;
        Ok(Self(read.map_or_else(Vec::new, |read| piece[..read].to_vec())))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Sends the bytes to the backend. Returns those that its socket did not take, and what the relay has to know.
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
