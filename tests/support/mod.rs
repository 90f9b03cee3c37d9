//! Helpers of the tests: a balancer in process ([`Rig`]) or as the real program ([`Program`]), backends with a given behaviour
//! ([`Backend`]), and a registry ([`Registry`]).

mod backend;
mod health_backend;
mod line;
mod pattern;
mod program;
mod programs;
mod registry;
mod rig;
mod sealed;
mod seccomp;
#[path = "../../src/seeds.rs"]
mod seeds;
#[path = "../../src/route/hello/shape.rs"]
pub mod shape;

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout};

pub use backend::{Backend, spoken_to};
pub use health_backend::{Behaviour, HealthBackend};
pub use line::{Bench, Blackhole, MODES, Way, both_ways, fill, pending_error, reset};
pub use pattern::{Last, Pattern, Received, last};
pub use program::Program;
pub use programs::{CommandOutput, HeldPort, Process, command, output_of, program, programs, run};
pub use registry::Registry;
pub use rig::Rig;
pub use sealed::{agent_fixture, fixture, sealed, sealed_front};
pub use seccomp::{forbid_io_uring, has_io_uring};
pub(crate) use seeds::seeds;

/// No wait is longer; generous, because CI machines stall.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `condition` gives something.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut condition: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < deadline, "waited for {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Fails the test if it takes too long.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("took longer than {PATIENCE:?}: {what}"),
    }
}

/// A port without a listener. (It was free a moment ago: nothing else in these tests binds fixed ports.)
pub fn free_port() -> SocketAddr {
    free_port_of([127, 0, 0, 1])
}

/// As [`free_port`], on a loopback address that no other test uses.
pub fn free_port_of(address: [u8; 4]) -> SocketAddr {
    // It never listens: a program that another test starts just now has a copy of it until its exec(2), and a copy that
    // listened would keep the port.
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind((Ipv4Addr::from(address), 0).into()).unwrap();
    socket.local_addr().unwrap()
}

/// Connects, sends, finishes, and returns everything that comes back.
pub async fn exchange(address: SocketAddr, request: &[u8]) -> io::Result<Vec<u8>> {
    soon("an exchange", async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request).await?;
        stream.shutdown().await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(answer)
    })
    .await
}

/// One HTTP GET; status and body. After a 429 it waits for a moment and asks again.
pub async fn get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    loop {
        let answer = get_once(address, path).await?;
        if answer.0 != 429 {
            return Ok(answer);
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// As [`get`], and a 429 is an answer, too.
async fn get_once(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    soon(path, async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        status.map(|status| (status, body.to_owned())).ok_or_else(|| io::Error::other(head.to_owned()))
    })
    .await
}

/// The JSON of an admin path.
pub async fn get_json(admin: SocketAddr, path: &str) -> serde_json::Value {
    serde_json::from_str(&get(admin, path).await.unwrap().1).unwrap()
}

/// The value of a series, written as in the exposition; `None` if it is not there.
pub async fn metric(admin: SocketAddr, series: &str) -> Option<f64> {
    let text = get(admin, "/metrics").await.unwrap().1;
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map(|value| value.parse().unwrap())
}

/// The answers of `count` sessions, one after another, sorted.
pub async fn answers(front: SocketAddr, count: usize) -> Vec<String> {
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(String::from_utf8(exchange(front, b"?").await.unwrap()).unwrap());
    }
    all.sort();
    all
}

/// A session that has carried one byte there and back; the backend has to be an echo.
pub async fn session(front: SocketAddr) -> TcpStream {
    let mut stream = soon("a connect", TcpStream::connect(front)).await.unwrap();
    ping(&mut stream, b"!").await;
    stream
}

/// Sends bytes and waits for their echo.
pub async fn ping(stream: &mut TcpStream, bytes: &[u8]) {
    let mut back = vec![0; bytes.len()];
    let (mut read, mut write) = stream.split();
    soon("an echo", async {
        let (written, got) = tokio::join!(write.write_all(bytes), read.read_exact(&mut back));
        written.unwrap();
        got.unwrap();
    })
    .await;
    assert!(back == bytes, "the echo is not what was sent");
}

/// Waits until connects are refused.
pub async fn until_refused(address: SocketAddr) {
    until("connects are refused", || async {
        let error = TcpStream::connect(address).await.err()?;
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        Some(())
    })
    .await;
}
