//! A probe's connection, with or without TLS: reads, writes, and the close.
//! Used by every exchange; `attempt` makes and closes it.
//! It is closed in order, so that the server has no reset to log.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::either::Either;

use super::attempt::{Miss, Trace};
use super::tls::TlsStream;

/// The most that is read from a server before the close, in bytes.
const DISCARD_LIMIT: u64 = 256 * 1024;

pub(super) type Wire = Either<TcpStream, Box<TlsStream>>;

/// Writes all bytes. An error quotes what was received before.
pub(super) async fn send(stream: &mut Wire, bytes: &[u8], trace: &Trace) -> Result<(), Miss> {
    stream.write_all(bytes).await.map_err(|error| trace.missed(error))?;
    stream.flush().await.map_err(|error| trace.missed(error))
}

/// Reads more into `trace.came`, which never gets longer than `limit`. A closed connection and a full buffer are
/// failures.
pub(super) async fn receive(stream: &mut Wire, limit: usize, trace: &mut Trace) -> Result<(), Miss> {
    let left = limit.saturating_sub(trace.came.len());
    if left == 0 {
        return Err(trace.failed(format!("more than {limit} bytes")));
    }
    match (&mut *stream).take(left as u64).read_buf(&mut trace.came).await {
        Ok(0) => Err(trace.failed("closed")),
        Ok(_) => Ok(()),
        Err(error) => Err(trace.missed(error)),
    }
}

/// Ends the connection within `limit`. What the server still sends is read, because the kernel turns a close with unread
/// bytes into a reset. The side that ends first keeps a TIME_WAIT; that is the server, if it was asked to close.
pub(super) async fn leave(mut stream: Wire, goodbye: Goodbye, limit: Duration) {
    let orderly = async {
        match goodbye {
            Goodbye::Close => {}
            Goodbye::Asked => drop(timeout(limit / 2, discard_rest(&mut stream)).await),
            Goodbye::Say(words) => {
                let _ = stream.write_all(words).await;
                let _ = stream.flush().await;
                let _ = timeout(limit / 2, discard_rest(&mut stream)).await;
            }
        }
        let _ = stream.shutdown().await;
        discard_rest(&mut stream).await;
    };
    // If the server does not end it in time, dropping the stream ends it.
    let _ = timeout(limit, orderly).await;
}

/// Reads to the end, but at most [`DISCARD_LIMIT`] bytes.
async fn discard_rest(stream: &mut Wire) {
    let mut rest = stream.take(DISCARD_LIMIT);
    let mut buffer = [0; 4096];
    while rest.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
}

/// How a connection is ended after the exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goodbye {
    /// We end our side first.
    Close,
    /// The exchange asked the server to close, so it ends first.
    Asked,
    /// These bytes ask the server to close.
    Say(&'static [u8]),
}

impl Trace {
    /// An error of an established connection: the backend's fault, unless this machine lacked something.
    pub(super) fn missed(&self, error: io::Error) -> Miss {
        match Miss::from(error) {
            Miss::Failed(what) => self.failed(what),
            local => local,
        }
    }
}
