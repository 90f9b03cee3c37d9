//! A probe's connection, with or without TLS: what every exchange reads and writes.
//! Made by `attempt`. Dropping it resets the connection, since its linger time is zero.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;

use super::attempt::{Miss, Trace};
use super::tls::TlsStream;

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

    /// Ends the sending side, so that the server reads an end and no reset: it has nothing to log. The reset that follows
    /// the drop leaves no TIME_WAIT behind.
    pub(super) async fn leave(&mut self) {
        // One that has gone already needs no manners.
        let _ = self.shutdown().await;
    }
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
