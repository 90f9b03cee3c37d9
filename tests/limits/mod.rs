//! Limits are exact, and clients over one wait; no shortage of descriptors ends anything.

mod accepting;
mod access;
mod clients;
mod descriptors;
mod exact;
mod told;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::{Backend, until};

/// Clients that have connected, and how many of them have been served (echoed) so far.
struct Crowd {
    served: Arc<AtomicUsize>,
    /// Each leaves when told.
    leave: tokio::sync::mpsc::UnboundedSender<()>,
    tasks: JoinSet<()>,
}

impl Crowd {
    fn new(front: std::net::SocketAddr, size: usize) -> Self {
        let served = Arc::new(AtomicUsize::new(0));
        let (leave, left) = tokio::sync::mpsc::unbounded_channel();
        let left = Arc::new(tokio::sync::Mutex::new(left));
        let mut tasks = JoinSet::new();
        for _ in 0..size {
            let (served, left) = (Arc::clone(&served), Arc::clone(&left));
            tasks.spawn(async move {
                let mut stream = TcpStream::connect(front).await.unwrap();
                stream.write_all(b"x").await.unwrap();
                assert_eq!(stream.read_u8().await.unwrap(), b'x');
                served.fetch_add(1, SeqCst);
                left.lock().await.recv().await.unwrap();
            });
        }
        Self { served, leave, tasks }
    }

    fn served(&self) -> usize {
        self.served.load(SeqCst)
    }

    async fn until_served(&self, count: usize) {
        until(&format!("{count} served"), || async { (self.served() >= count).then_some(()) }).await;
        assert_eq!(self.served(), count);
    }
}

fn two_listeners(top: &str, one: &str, backend: &Backend) -> String {
    format!(
        "workers = 2\n{top}\n[listeners.one]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n{one}\n\
         [listeners.two]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n\
         [pools.back]\nbackends = [\"{}\"]\ncheck = {{ kind = \"none\" }}\n",
        backend.address()
    )
}
