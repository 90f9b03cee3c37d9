//! The backend of the load generator: checks every request and computes every reply.
//!
//! It is too cheap to be the bottleneck: for each exchange one read and one write, no buffer per connection, no timer. It does not
//! know the scenarios, only the header of a connection.

mod connection;
mod request_reader;

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

use self::connection::ServeContext;

/// Pause after a failed accept, so that the loop does not spin at EMFILE.
const PAUSE: Duration = Duration::from_millis(10);

/// Length of the accept queue; the kernel limits it to `somaxconn`.
const BACKLOG: i32 = 4096;

/// A running server. Drop closes all its connections.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    totals: Arc<ServerCounters>,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

/// The counts of a server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Connections accepted.
    pub connections: u64,
    /// Requests that were right and were answered.
    pub exchanges: u64,
    /// Requests with wrong bytes.
    pub mismatches: u64,
    /// Connections without a complete and valid header.
    pub bad_headers: u64,
}

/// Relaxed: plain counts.
#[derive(Debug, Default)]
struct ServerCounters {
    connections: AtomicU64,
    exchanges: AtomicU64,
    mismatches: AtomicU64,
    bad_headers: AtomicU64,
}

impl Server {
    /// Listens on `address` (port 0 = any free port) and serves on `threads` threads until it is dropped.
    ///
    /// # Errors
    /// When the address can't be bound or a thread can't start.
    pub fn start(address: SocketAddr, threads: usize) -> io::Result<Self> {
        let listener = listen(address)?;
        let address = listener.local_addr()?;
        let totals = Arc::<ServerCounters>::default();
        let (stop, stopped) = watch::channel(false);
        let mut server = Self { address, totals, stop, threads: Vec::new() };
        // The first thread accepts and gives the connections to all threads in turn. With one listener for each thread, eight
        // connections could all come to the same thread.
        let mut others = Vec::new();
        for index in 1..threads {
            // Unbounded; the descriptor limit bounds the number of sockets.
            let (sender, receiver) = mpsc::unbounded_channel();
            others.push(sender);
            server.spawn(index, stopped.clone(), |context| take(context, receiver))?;
        }
        server.spawn(0, stopped, |context| accept(context, listener, others))?;
        Ok(server)
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The counts so far.
    pub fn totals(&self) -> Totals {
        let ServerCounters { connections, exchanges, mismatches, bad_headers } = &*self.totals;
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
        F: FnOnce(Rc<ServeContext>) -> T + Send + 'static,
        T: Future<Output = ()> + 'static,
    {
        let totals = self.totals.clone();
        let (report, reported) = std::sync::mpsc::channel();
        let thread = thread::Builder::new().name(format!("serve-{index}")).spawn(move || {
            let runtime = match runtime() {
                Ok(runtime) => runtime,
                Err(error) => return drop(report.send(Err(error))),
            };
            // The other side waits for this message.
            let _ = report.send(Ok(()));
            runtime.block_on(async {
                tokio::task::spawn_local(task(Rc::new(ServeContext::new(totals))));
                // An error means that the server was dropped, which is a stop too.
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

async fn accept(
    context: Rc<ServeContext>,
    listener: TcpListener,
    others: Vec<mpsc::UnboundedSender<std::net::TcpStream>>,
) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let mut turn = 0;
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        context.accepted();
        turn = (turn + 1) % (others.len() + 1);
        match turn.checked_sub(1) {
            None => serve(&context, stream),
            // It fails only when the server ends.
            Some(other) => drop(stream.into_std().map(|stream| others[other].send(stream))),
        }
    }
}

async fn take(context: Rc<ServeContext>, mut streams: mpsc::UnboundedReceiver<std::net::TcpStream>) {
    while let Some(stream) = streams.recv().await {
        if let Ok(stream) = TcpStream::from_std(stream) {
            serve(&context, stream);
        }
    }
}

fn serve(context: &Rc<ServeContext>, stream: TcpStream) {
    let context = context.clone();
    // The client sees and counts a failed connection.
    tokio::task::spawn_local(async move { drop(connection::serve(&context, stream).await) });
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
