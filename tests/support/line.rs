//! A session of which the test holds both ends: a client's socket, the backend's socket, and the balancer between them.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use evenkeel::metrics::{Direction, Outcome};
use evenkeel::proxy::Phase;
use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::{Rig, has_io_uring, soon, until};

/// Ways of relaying, with what selects them in the pool's table. Every relay test runs in each of them.
pub const MODES: Modes = Modes;

/// See [`MODES`]: those that can be had here.
pub struct Modes;

impl IntoIterator for Modes {
    type Item = &'static Mode;
    type IntoIter = std::slice::Iter<'static, Mode>;

    fn into_iter(self) -> Self::IntoIter {
        // The last one is what containers forbid.
        ALL_MODES[..ALL_MODES.len() - usize::from(!has_io_uring())].iter()
    }
}

impl std::ops::Index<usize> for Modes {
    type Output = Mode;

    fn index(&self, index: usize) -> &Mode {
        &ALL_MODES[index]
    }
}

/// Its name, and what selects it in the pool's table.
pub type Mode = (&'static str, &'static str);

const ALL_MODES: &[Mode] = &[
    ("copy", "relay = \"copy\"\n"),
    ("splice", "relay = \"splice\"\n"),
    ("auto", "relay = \"auto\"\n"),
    ("auto without io_uring", WITHOUT_IO_URING),
    ("io_uring", "relay = \"io_uring\"\n"),
];

/// In the text of a configuration: the balancer that runs it may not use io_uring.
pub const WITHOUT_IO_URING: &str = "# io_uring is forbidden\n";

/// Which end sends first, or does what the test is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The client is the source.
    Up,
    /// The backend is the source.
    Down,
}

/// A balancer with one backend, which is the test itself.
pub struct Bench {
    pub rig: Rig,
    pub backend: TcpListener,
    pub mode: &'static str,
    pub way: Way,
}

impl Way {
    pub fn direction(self) -> Direction {
        match self {
            Self::Up => Direction::ToBackend,
            Self::Down => Direction::ToClient,
        }
    }

    pub fn back(self) -> Direction {
        match self {
            Self::Up => Direction::ToClient,
            Self::Down => Direction::ToBackend,
        }
    }

    /// The outcome when the source breaks.
    pub fn source_reset(self) -> Outcome {
        match self {
            Self::Up => Outcome::ClientReset,
            Self::Down => Outcome::BackendReset,
        }
    }

    /// The outcome when the sink breaks.
    pub fn sink_reset(self) -> Outcome {
        match self {
            Self::Up => Outcome::BackendReset,
            Self::Down => Outcome::ClientReset,
        }
    }
}

impl Bench {
    /// `more`: keys of the pool's table.
    pub async fn new(mode: (&'static str, &'static str), way: Way, more: &str) -> Self {
        let backend = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = backend.local_addr().unwrap().to_string();
        let more = format!("check = {{ kind = \"none\" }}\n{}\n{more}", mode.1);
        let rig = Rig::with_backends(&[&address], &more).await;
        Self { rig, backend, mode: mode.0, way }
    }

    /// A session's two ends: the client's, then the backend's. The balancer knows by then that it is connected: a reset
    /// that it meets before is a failed connect, and tried again.
    pub async fn session(&self) -> (TcpStream, TcpStream) {
        let connects = || self.rig.balancer().state().set().pools[0].times.connect.read().1;
        let before = connects();
        let ends = soon("a session", async {
            let client = TcpStream::connect(self.rig.front()).await.unwrap();
            let (backend, _) = self.backend.accept().await.unwrap();
            (client, backend)
        })
        .await;
        until("it is connected", || async { (connects() > before).then_some(()) }).await;
        ends
    }

    /// A session's two ends: the source, then the sink.
    pub async fn ends(&self) -> (TcpStream, TcpStream) {
        let (client, backend) = self.session().await;
        match self.way {
            Way::Up => (client, backend),
            Way::Down => (backend, client),
        }
    }

    /// The only pool's relayed bytes.
    pub fn bytes(&self, direction: Direction) -> u64 {
        self.rig.balancer().state().set().pools[0].bytes(direction)
    }

    /// Waits until the balancer knows that one side of a session has finished.
    pub async fn until_half_closed(&self) {
        let workers = &self.rig.balancer().state().workers;
        let is_so = || workers.list_sessions().iter().any(|session| session.phase == Phase::HalfClosed);
        until("it is half-closed", || async { is_so().then_some(()) }).await;
    }

    /// Waits until a limit has ended another session, which begins now: whatever an earlier session waits for, it has
    /// waited for longer than that limit. `request` is what the client of the other one sends.
    pub async fn until_another_ends(&self, outcome: Outcome, request: &[u8]) {
        let before = self.rig.ended(outcome);
        let (mut client, _backend) = self.session().await;
        client.write_all(request).await.unwrap();
        until("another session ends", || async { (self.rig.ended(outcome) > before).then_some(()) }).await;
    }

    /// Waits until all sessions have ended and counts add up; exactly `count` of them must have ended so.
    pub async fn ended(&self, outcome: Outcome, count: u64) {
        self.all_ended(&[(outcome, count)]).await;
    }

    /// As [`Self::ended`], for several outcomes, in their own order.
    pub async fn all_ended(&self, wanted: &[(Outcome, u64)]) {
        self.rig.until_no_sessions().await;
        let ended: Vec<_> =
            Outcome::ALL.iter().map(|&o| (o.name(), self.rig.ended(o))).filter(|(_, count)| *count > 0).collect();
        let wanted: Vec<_> = wanted.iter().map(|&(outcome, count)| (outcome.name(), count)).collect();
        assert_eq!(ended, wanted, "{} {:?}", self.mode, self.way);
    }
}

/// Runs a test in every mode and both ways. `more`: keys of the pool's table.
pub async fn both_ways(more: &str, test: impl AsyncFn(&Bench)) {
    for &mode in MODES {
        for way in [Way::Up, Way::Down] {
            let bench = Bench::new(mode, way, more).await;
            soon(&format!("{} {way:?}", mode.0), test(&bench)).await;
            bench.rig.until_no_sessions().await;
            bench.rig.stop().await;
        }
    }
}

/// Resets the connection.
pub fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// The error that the kernel holds for this socket: a reset shows here also when FIN came before it.
pub fn pending_error(stream: &TcpStream) -> Option<std::io::Error> {
    SockRef::from(stream).take_error().unwrap()
}

/// Writes the pattern until the way to a peer that does not read is full; returns how many bytes were taken.
pub async fn fill(stream: &TcpStream, pattern: &super::Pattern, most: u64) -> u64 {
    let mut taken = 0;
    let mut quiet = 0;
    // The balancer and the kernel move what is under way; full is what stays full.
    while quiet < 40 && taken < most {
        match stream.try_write(pattern.piece(taken, most - taken)) {
            Ok(n) => {
                taken += n as u64;
                quiet = 0;
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                quiet += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => panic!("after {taken} bytes: {error}"),
        }
    }
    taken
}

/// A port that takes no connection: its backlog is full, a SYN gets no answer.
pub struct Blackhole {
    address: SocketAddr,
    listener: std::net::TcpListener,
    waiting: Vec<TcpStream>,
}

impl Blackhole {
    pub async fn new() -> Self {
        let raw = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        raw.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        raw.listen(0).unwrap();
        let listener: std::net::TcpListener = raw.into();
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        // Until one is not answered; a loopback connect that is takes microseconds.
        loop {
            match timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
                Ok(stream) => waiting.push(stream.unwrap()),
                Err(_) => break,
            }
            assert!(waiting.len() < 100, "the backlog never gets full");
        }
        Self { address, listener, waiting }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on it answers. First come those who made it one, and they have left.
    pub fn open(self) -> TcpListener {
        drop(self.waiting);
        self.listener.set_nonblocking(true).unwrap();
        TcpListener::from_std(self.listener).unwrap()
    }
}
