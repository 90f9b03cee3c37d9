//! Probes against real sockets on port 0, with the real clock: waits are on conditions and bounded.

mod advice;
mod ends;
mod exec;
mod grpc;
mod http;
mod local;
mod protocols;
mod script;
mod sharing;
mod sources;
mod tcp;
mod timing;
mod tls;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::*;
use crate::config::{HttpCheck, StatusSet};
use crate::health::ProbeResult;

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// A check that never times out within a test and probes in quick succession.
fn check(kind: CheckKind) -> Check {
    Check {
        kind,
        interval: Duration::from_millis(40),
        fast_interval: Duration::from_millis(20),
        down_interval: Duration::from_millis(30),
        timeout: 3 * PATIENCE,
        rise: 2,
        fall: 3,
        port: None,
        send_proxy: None,
        tls: None,
        linger: false,
        sources: Vec::new(),
    }
}

/// A request that passes with any status of 2xx.
fn get(path: &str) -> HttpCheck {
    HttpCheck {
        method: "GET".into(),
        path: path.into(),
        host: None,
        status: StatusSet { ranges: vec![(200, 299)] },
        headers: BTreeMap::new(),
        request_body: None,
        expect_headers: BTreeMap::new(),
        body: None,
        expect_not: None,
    }
}

/// The same, with one probe per test.
fn rare(kind: CheckKind) -> Check {
    let never = 3 * PATIENCE;
    Check { interval: never, fast_interval: never, down_interval: never, ..check(kind) }
}

fn subscribe(prober: &Prober, address: SocketAddr, check: &Check) -> (Subscription, UnboundedReceiver<ProbeReport>) {
    let (sender, receiver) = unbounded_channel();
    let sink = Box::new(move |report: &ProbeReport| drop(sender.send(report.clone())));
    (prober.subscribe(address, &Arc::new(check.clone()), sink), receiver)
}

async fn next(reports: &mut UnboundedReceiver<ProbeReport>) -> ProbeReport {
    timeout(PATIENCE, reports.recv()).await.expect("no report").expect("the probe ended")
}

/// The first result of a new probe.
async fn first(address: SocketAddr, check: &Check) -> Arc<ProbeResult> {
    let (_subscription, mut reports) = subscribe(&Prober::new(), address, check);
    next(&mut reports).await.result
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, waited).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Something to probe; it stops listening when dropped.
struct Backend {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Backend {
    /// Serves each connection with `serve`, which also gets its number.
    async fn start<F>(serve: impl Fn(TcpStream, usize) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&accepted);
        let task = tokio::spawn(async move {
            loop {
                // A probe may be gone before it is accepted.
                let Ok((stream, _)) = listener.accept().await else { continue };
                tokio::spawn(serve(stream, counter.fetch_add(1, Ordering::SeqCst)));
            }
        });
        Self { address, accepted, task: task.abort_handle() }
    }

    /// Accepts, keeps the connection and says nothing.
    async fn silent() -> Self {
        Self::start(|stream, _| async move {
            let _stream = stream;
            std::future::pending().await
        })
        .await
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A port that refuses, and that no other program can take while it is kept.
fn refusing() -> (tokio::net::TcpSocket, SocketAddr) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}
