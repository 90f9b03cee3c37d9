//! The backend that belongs to the load generator: checks every request, computes every reply, for all scenarios.
//!
//! Cheap enough not to be the bottleneck: per exchange one read and one write, no buffer per connection, no timer. It knows no
//! scenario, only what the header of a connection asks for.

mod connection;
mod intake;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::{mpsc, watch};

use self::connection::Counter;

/// Pause after a failed accept: at EMFILE it would otherwise spin.
const PAUSE: Duration = Duration::from_millis(10);

/// Connections that may wait for accept; the kernel cuts it down to its `somaxconn`.
const BACKLOG: i32 = 4096;

/// A running server. Dropping it closes all its connections.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    totals: Arc<Atomics>,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

/// What a server has counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Connections accepted.
    pub connections: u64,
    /// Requests that were received and answered.
    pub exchanges: u64,
    /// Requests that were not what the client must have sent.
    pub mismatches: u64,
    /// Connections that did not start with a header, or a whole one.
    pub bad_headers: u64,
}

/// Relaxed everywhere: plain counts, read for display.
#[derive(Debug, Default)]
struct Atomics {
    connections: AtomicU64,
    exchanges: AtomicU64,
    mismatches: AtomicU64,
    bad_headers: AtomicU64,
}

impl Server {
    /// Listens on `address` (port 0 = any free one) and serves on `threads` threads until dropped.
    pub fn start(address: SocketAddr, threads: usize) -> io::Result<Self> {
        let listener = listen(address)?;
        let address = listener.local_addr()?;
        let totals = Arc::<Atomics>::default();
        let (stop, stopped) = watch::channel(false);
        let mut server = Self { address, totals, stop, threads: Vec::new() };
        // The first thread accepts and deals out in turn: with a listener each, eight connections may well sit on one thread.
        let mut others = Vec::new();
        for index in 1..threads {
            // Unbounded, since it holds sockets: the descriptor limit is its bound.
            let (sender, receiver) = mpsc::unbounded_channel();
            others.push(sender);
            server.spawn(index, stopped.clone(), |desk| take(desk, receiver))?;
        }
        server.spawn(0, stopped, |desk| accept(desk, listener, others))?;
        Ok(server)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has counted so far.
    pub fn totals(&self) -> Totals {
        let Atomics { connections, exchanges, mismatches, bad_headers } = &*self.totals;
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Totals {
            connections: load(connections),
            exchanges: load(exchanges),
            mismatches: load(mismatches),
            bad_headers: load(bad_headers),
        }
    }

    fn spawn<F, T>(&mut self, index: usize, mut stopped: watch::Receiver<bool>, task: F) -> io::Result<()>
    where
        F: FnOnce(Rc<Counter>) -> T + Send + 'static,
        T: Future<Output = ()> + 'static,
    {
        let totals = self.totals.clone();
        let (report, reported) = std::sync::mpsc::channel();
        let thread = thread::Builder::new().name(format!("serve-{index}")).spawn(move || {
            let runtime = match runtime() {
                Ok(runtime) => runtime,
                Err(error) => return drop(report.send(Err(error))),
            };
            // The other side waits for this, and only for this.
            let _ = report.send(Ok(()));
            runtime.block_on(async {
                tokio::task::spawn_local(task(Rc::new(Counter::new(totals))));
                // An error means that the server is gone, which means the same.
                let _ = stopped.wait_for(|stop| *stop).await;
            });
        })?;
        self.threads.push(thread);
        reported.recv().unwrap_or_else(|_| Err(io::Error::other("the thread ended at once")))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

async fn accept(counter: Rc<Counter>, listener: TcpListener, others: Vec<mpsc::UnboundedSender<std::net::TcpStream>>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let mut turn = 0;
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        counter.accepted();
        turn = (turn + 1) % (others.len() + 1);
        match turn.checked_sub(1) {
            None => serve(&counter, stream),
            // It fails only at the end of the server.
            Some(other) => drop(stream.into_std().map(|stream| others[other].send(stream))),
        }
    }
}

async fn take(counter: Rc<Counter>, mut streams: mpsc::UnboundedReceiver<std::net::TcpStream>) {
    while let Some(stream) = streams.recv().await {
        if let Ok(stream) = TcpStream::from_std(stream) {
            serve(&counter, stream);
        }
    }
}

fn serve(counter: &Rc<Counter>, stream: TcpStream) {
    let counter = counter.clone();
    // A connection that fails is the client's to judge: it sees the failure too.
    tokio::task::spawn_local(async move { drop(connection::serve(&counter, stream).await) });
}

fn runtime() -> io::Result<LocalRuntime> {
    Builder::new_current_thread().enable_all().build_local(LocalOptions::default())
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
