//! A new configuration in a running process: what changes, what is not disturbed, and what is refused.

mod changes;
mod files;
mod fronts;
mod plan;
mod storm;

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::soon;

/// A session with an echoing backend, for as long as the test likes.
struct Live {
    stream: TcpStream,
    said: u8,
}

impl Live {
    async fn new(front: SocketAddr) -> Self {
        let stream = soon("a connect", TcpStream::connect(front)).await.unwrap();
        let mut live = Self { stream, said: 0 };
        live.goes_on().await;
        live
    }

    /// Another byte goes there and comes back.
    async fn goes_on(&mut self) {
        self.said = self.said.wrapping_add(1);
        let mut heard = [0];
        soon("an echo", async {
            self.stream.write_all(&[self.said]).await.unwrap();
            self.stream.read_exact(&mut heard).await.unwrap();
        })
        .await;
        assert_eq!(heard, [self.said]);
    }

    /// Waits for its end: whether that was a reset.
    async fn ends_reset(mut self) -> bool {
        soon("its end", self.stream.read(&mut [0])).await.is_err()
    }
}

/// A file with one listener and one pool of these backends.
fn file(backends: &[SocketAddr], listener: &str, pool: &str) -> String {
    let backends: Vec<_> = backends.iter().map(ToString::to_string).collect();
    let check = if pool.contains("check") { "" } else { "check = { kind = \"none\" }\n" };
    format!(
        "[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n{listener}\n\
         [pools.back]\nbackends = {backends:?}\n{check}{pool}\n"
    )
}
