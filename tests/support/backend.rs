//! Backends with a given behaviour. Each connection is a task; drop closes the port and every connection.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use super::soon;

/// The next connection that says something; probes come to the same port, and say nothing.
pub async fn spoken_to(listener: &TcpListener) -> TcpStream {
    soon("a session", async {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            if stream.read(&mut [0]).await.is_ok_and(|read| read == 1) {
                return stream;
            }
        }
    })
    .await
}

pub struct Backend {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Backend {
    /// Does `serve` with every connection.
    pub async fn serving<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::on((Ipv4Addr::LOCALHOST, 0).into(), serve).await
    }

    /// As [`Self::serving`], at a given address.
    pub async fn on<F>(address: SocketAddr, serve: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = listen(address);
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        let accepting = tokio::spawn(async move {
            let mut tasks = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, SeqCst);
                tasks.spawn(serve(stream));
            }
        });
        Self { address, connections, accepting }
    }

    /// Sends back what it gets, then FIN for FIN.
    pub async fn echo() -> Self {
        Self::echo_at(Ipv4Addr::LOCALHOST).await
    }

    /// As [`Self::echo`], at another address.
    pub async fn echo_at(address: Ipv4Addr) -> Self {
        Self::on((address, 0).into(), |stream| async move {
            let (mut read, mut write) = stream.into_split();
            // A client that resets ends it, too.
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        })
        .await
    }

    /// Says its name after the first bytes, and finishes.
    pub async fn answering(name: &'static str) -> Self {
        Self::answering_at(Ipv4Addr::LOCALHOST, name).await
    }

    /// As [`Self::answering`], at another address.
    pub async fn answering_at(address: Ipv4Addr, name: &'static str) -> Self {
        Self::on((address, 0).into(), move |mut stream| async move {
            let mut request = [0; 1024];
            if stream.read(&mut request).await.is_ok_and(|n| n > 0) {
                let _ = stream.write_all(name.as_bytes()).await;
                let _ = stream.shutdown().await;
                // Until the other side has finished, too.
                while stream.read(&mut request).await.is_ok_and(|n| n > 0) {}
            }
        })
        .await
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections so far, probes included.
    pub fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }

    /// Closes the port and every connection, as the end of a process does.
    pub async fn stop(self) {
        self.accepting.abort();
        let mut this = self;
        let _ = (&mut this.accepting).await;
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// With a backlog for a crowd: the 128 of `TcpListener::bind` drop SYNs, and a dropped SYN is a second's wait.
fn listen(address: SocketAddr) -> TcpListener {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    socket.listen(4_096).unwrap()
}
