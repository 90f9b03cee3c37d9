//! A probe's connection, with or without TLS: what every exchange reads and writes.
//! Made by `attempt`, which also ends it: in order, so that no server has a reset to log.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::attempt::{Miss, Trace};
use super::tls::TlsStream;

/// As much as a server may still say.
const LAST_WORDS: u64 = 256 * 1024;

/// See the module.
pub(super) enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream>),
}

impl Wire {
    /// Writes all of it; an error quotes what had come before.
    pub(super) async fn send(&mut self, bytes: &[u8], trace: &Trace) -> Result<(), Miss> {
        self.write_all(bytes).await.map_err(|error| trace.missed(error))?;
        self.flush().await.map_err(|error| trace.missed(error))
    }

    /// Reads more into `trace.came`, which never gets longer than `limit`. A closed connection and a full tape are misses.
    pub(super) async fn receive(&mut self, limit: usize, trace: &mut Trace) -> Result<(), Miss> {
        let left = limit.saturating_sub(trace.came.len());
        if left == 0 {
            return Err(trace.failed(format!("more than {limit} bytes")));
        }
        match (&mut *self).take(left as u64).read_buf(&mut trace.came).await {
            Ok(0) => Err(trace.failed("closed")),
            Ok(_) => Ok(()),
            Err(error) => Err(trace.missed(error)),
        }
    }

    /// Ends the connection within `limit`. What the server still says is read, since the kernel makes a reset of a close
    /// with unread bytes. Whichever side ends first keeps a TIME_WAIT: the server's, where it was asked to close.
    pub(super) async fn leave(mut self, goodbye: Goodbye, limit: Duration) {
        let orderly = async {
            match goodbye {
                Goodbye::Close => {}
                Goodbye::Asked => drop(timeout(limit / 2, self.hear_out()).await),
                Goodbye::Say(words) => {
                    let _ = self.write_all(words).await;
                    let _ = self.flush().await;
                    let _ = timeout(limit / 2, self.hear_out()).await;
                }
            }
            let _ = self.shutdown().await;
            self.hear_out().await;
        };
        // Who does not end it in time is left with our end of it.
        let _ = timeout(limit, orderly).await;
    }

    /// Reads to the end, but not without end.
    async fn hear_out(&mut self) {
        let mut rest = self.take(LAST_WORDS);
        let mut buffer = [0; 4096];
        while rest.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
    }
}

/// How a connection that has served its purpose ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goodbye {
    /// We end our side, the server ends its own.
    Close,
    /// The server has been told that this was all, and ends first.
    Asked,
    /// It is told so by these bytes.
    Say(&'static [u8]),
}

impl Trace {
    /// An error of a connection that was made: the backend's doing, unless this machine lacked something.
    pub(super) fn missed(&self, error: io::Error) -> Miss {
        match Miss::from(error) {
            Miss::Failed(what) => self.failed(what),
            local => local,
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
