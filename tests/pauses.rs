//! Time that passes while this program is stopped, or while only the kernels move bytes, is not idleness.

use std::net::SocketAddr;
use std::time::Duration;

use evenkeel::metrics::Outcome;
use rustix::process::Signal;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::support::{Bench, Last, Pattern, Program, Received, Way, both_ways, fill, get, has_io_uring, soon, until};

/// The last one where it is allowed.
const RELAYS: [&str; 4] = ["copy", "splice", "auto", "io_uring"];

/// Longer than every limit here.
const PAUSE: Duration = Duration::from_millis(1_500);

/// The real program, one listener for each relay, which a pause does not stop by itself.
struct Stoppable {
    program: Program,
    backend: TcpListener,
    fronts: Vec<SocketAddr>,
}

impl Stoppable {
    /// `listener`, `pool`: keys of the tables.
    async fn start(listener: &str, pool: &str) -> Self {
        let backend = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = backend.local_addr().unwrap();
        let mut text = "admin.bind = \"127.0.0.1:0\"\nworkers = 1\nlog.sessions = true\n".to_owned();
        let relays = &RELAYS[..RELAYS.len() - usize::from(!has_io_uring())];
        for relay in relays {
            text += &format!(
                "[listeners.{relay}]\nbind = \"127.0.0.1:0\"\npool = \"{relay}\"\n{listener}\n[pools.{relay}]\n\
                 backends = [\"{address}\"]\nrelay = \"{relay}\"\ncheck = {{ kind = \"none\" }}\n{pool}\n"
            );
        }
        let program = Program::start(&text, &[]);
        let mut fronts = Vec::new();
        for relay in relays {
            fronts.push(program.front(relay).await);
        }
        Self { program, backend, fronts }
    }

    /// A client and its backend, which have spoken to each other.
    async fn session(&self, front: SocketAddr) -> (TcpStream, TcpStream) {
        soon("a session", async {
            let mut client = TcpStream::connect(front).await.unwrap();
            let (mut backend, _) = self.backend.accept().await.unwrap();
            exchange(&mut client, &mut backend).await;
            (client, backend)
        })
        .await
    }

    /// Lets something happen while it is stopped, for longer than any limit.
    async fn meanwhile(&self, happens: impl Future<Output = ()>) {
        self.program.signal(Signal::STOP);
        // Asleep by now, whatever it was about to do.
        tokio::time::sleep(PAUSE / 3).await;
        happens.await;
        tokio::time::sleep(PAUSE).await;
        self.program.signal(Signal::CONT);
    }

    async fn end(mut self) {
        self.program.signal(Signal::TERM);
        assert!(self.program.end().await.success());
        for outcome in ["idle_timeout", "half_close_timeout", "first_byte_timeout", "refused"] {
            let log = self.program.log();
            assert!(!log.iter().any(|line| line.contains(outcome)), "{log:#?}");
        }
    }
}

async fn exchange(one: &mut TcpStream, other: &mut TcpStream) {
    send(one, b"hello").await;
    receive(other, b"hello").await;
    send(other, b"welcome").await;
    receive(one, b"welcome").await;
}

async fn send(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
}

async fn receive(stream: &mut TcpStream, expected: &[u8]) {
    let mut bytes = vec![0; expected.len()];
    soon("what was sent", stream.read_exact(&mut bytes)).await.unwrap();
    assert_eq!(bytes.escape_ascii().to_string(), expected.escape_ascii().to_string());
}

#[tokio::test]
async fn bytes_that_came_during_a_pause_are_read_before_the_idle_timeout() {
    let rig = Stoppable::start("", "timeouts = { idle = \"1s\" }").await;
    let mut sessions = Vec::new();
    for &front in &rig.fronts {
        // In turn one whose client speaks, one whose backend does, and one that speaks urgently.
        for _ in 0..18 {
            sessions.push(rig.session(front).await);
        }
    }
    rig.meanwhile(async {
        for three in sessions.chunks_mut(3) {
            send(&mut three[0].0, b"from the client").await;
            send(&mut three[1].1, b"from the backend").await;
            send(&mut three[2].0, b"ab").await;
            assert_eq!(SockRef::from(&three[2].0).send_out_of_band(b"!").unwrap(), 1);
            send(&mut three[2].0, b"cd").await;
        }
    })
    .await;
    for three in sessions.chunks_mut(3) {
        receive(&mut three[0].1, b"from the client").await;
        receive(&mut three[1].0, b"from the backend").await;
        receive(&mut three[2].1, b"abcd").await;
    }
    for (client, backend) in &mut sessions {
        exchange(client, backend).await;
    }
    drop(sessions);
    rig.end().await;
}

/// More of them than one turn of the event loop can tell of (1,024).
#[tokio::test]
async fn after_a_pause_many_sessions_are_not_idle() {
    const MANY: usize = 1_400;
    for relay in [0, if has_io_uring() { 3 } else { 0 }] {
        let rig = Stoppable::start("", "timeouts = { idle = \"1s\" }").await;
        let mut sessions = Vec::new();
        for _ in 0..MANY {
            sessions.push(rig.session(rig.fronts[relay]).await);
            if sessions.len() % 100 == 0 {
                for (client, _) in &mut sessions {
                    send(client, b".").await;
                }
            }
        }
        rig.meanwhile(async {
            for (client, _) in &mut sessions {
                send(client, b"from the client").await;
            }
        })
        .await;
        for (number, (_, backend)) in sessions.iter_mut().enumerate() {
            let dots = (MANY - number / 100 * 100) / 100;
            receive(backend, &[".".repeat(dots).as_bytes(), b"from the client"].concat()).await;
        }
        drop(sessions);
        rig.end().await;
    }
}

#[tokio::test]
async fn after_a_pause_a_half_closed_session_does_not_time_out() {
    let rig = Stoppable::start("", "timeouts = { half_close = \"1s\" }").await;
    let mut sessions = Vec::new();
    for &front in &rig.fronts {
        for way in [Way::Up, Way::Down] {
            let (client, backend) = rig.session(front).await;
            let (mut source, mut sink) = if way == Way::Up { (client, backend) } else { (backend, client) };
            source.shutdown().await.unwrap();
            assert_eq!(soon("FIN", sink.read(&mut [0; 10])).await.unwrap(), 0);
            sessions.push((source, sink));
        }
    }
    rig.meanwhile(async {
        for (_, sink) in &mut sessions {
            send(sink, b"late").await;
        }
    })
    .await;
    for (source, sink) in &mut sessions {
        receive(source, b"late").await;
        send(sink, b"later").await;
        receive(source, b"later").await;
    }
    drop(sessions);
    rig.end().await;
}

/// With and without replays.
#[tokio::test]
async fn after_a_pause_an_answer_that_came_in_time_is_not_late() {
    for replay in ["", "replay = \"until_response\""] {
        let rig = Stoppable::start("", &format!("timeouts = {{ first_byte = \"1s\" }}\n{replay}")).await;
        let mut sessions = Vec::new();
        for &front in &rig.fronts {
            let mut client = TcpStream::connect(front).await.unwrap();
            send(&mut client, b"question").await;
            let (mut backend, _) = soon("a session", rig.backend.accept()).await.unwrap();
            receive(&mut backend, b"question").await;
            sessions.push((client, backend));
        }
        rig.meanwhile(async {
            for (_, backend) in &mut sessions {
                send(backend, b"answer").await;
            }
        })
        .await;
        for (client, backend) in &mut sessions {
            receive(client, b"answer").await;
            exchange(client, backend).await;
        }
        drop(sessions);
        rig.end().await;
    }
}

#[tokio::test]
async fn after_a_pause_a_proxy_header_is_not_late() {
    let rig = Stoppable::start("accept_proxy = { from = [\"127.0.0.1\"], timeout = \"1s\" }", "").await;
    let mut client = TcpStream::connect(rig.fronts[0]).await.unwrap();
    let admin = rig.program.admin().await;
    until("it waits for the header", || async {
        let sessions = get(admin, "/api/v1/sessions?phase=identifying").await.ok()?.1;
        sessions.contains("\"matched\":1").then_some(())
    })
    .await;
    rig.meanwhile(send(&mut client, b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\nhello")).await;
    let (mut backend, _) = soon("a session", rig.backend.accept()).await.unwrap();
    receive(&mut backend, b"hello").await;
    drop((client, backend));
    rig.end().await;
}

#[tokio::test]
async fn after_a_pause_a_probe_with_an_answer_does_not_fail() {
    let backend = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = backend.local_addr().unwrap();
    let mut program = Program::start(
        &format!(
            "admin.bind = \"127.0.0.1:0\"\n[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n[pools.back]\n\
             backends = [\"{address}\"]\ncheck = {{ kind = \"script\", interval = \"100ms\", timeout = \"1s\", rise = 1, \
             fall = 1, steps = [{{ send = \"PING\" }}, {{ expect = \"PONG\" }}] }}\n"
        ),
        &[],
    );
    let question = async || {
        let (mut probe, _) = soon("a probe", backend.accept()).await.unwrap();
        receive(&mut probe, b"PING").await;
        probe
    };
    let mut probe = question().await;
    send(&mut probe, b"PONG").await;
    program.until_says("up: ").await;
    let mut probe = question().await;
    program.signal(Signal::STOP);
    send(&mut probe, b"PONG").await;
    tokio::time::sleep(PAUSE).await;
    program.signal(Signal::CONT);
    // The next one comes after the verdict.
    let mut probe = question().await;
    send(&mut probe, b"PONG").await;
    program.signal(Signal::TERM);
    program.end().await;
    assert!(!program.log().iter().any(|line| line.contains("down")), "{:#?}", program.log());
}

/// Ends whose sink's kernel holds little, so that what it does not read stays in the balancer's.
async fn narrow_ends(bench: &Bench) -> (TcpStream, TcpStream) {
    const LITTLE: u32 = 32 * 1024;
    SockRef::from(&bench.backend).set_recv_buffer_size(LITTLE as usize).unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(LITTLE).unwrap();
    let client = socket.connect(bench.rig.front()).await.unwrap();
    let (backend, _) = bench.backend.accept().await.unwrap();
    if bench.way == Way::Up { (client, backend) } else { (backend, client) }
}

/// All that is sent is with the kernels at once, and they pass it on for longer than any limit.
async fn read_slowly(bench: &Bench, finishes: bool) {
    const SIZE: u64 = 1_500_000;
    let (mut source, mut sink) = narrow_ends(bench).await;
    let there = Pattern::new(21);
    let send = async {
        there.write(&mut source, 0, SIZE).await.unwrap();
        if finishes {
            source.shutdown().await.unwrap();
        }
    };
    let read = async {
        let (mut read, step) = (0, SIZE / 30);
        while read < SIZE {
            there.read(&mut sink, read, read + step).await.unwrap();
            read += step;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::join!(send, read);
    // It is alive: nothing was closed.
    sink.write_all(b"thanks").await.unwrap();
    receive(&mut source, b"thanks").await;
    if !finishes {
        source.shutdown().await.unwrap();
    }
    assert_eq!(there.read_to_last(&mut sink, SIZE).await, Received { bytes: SIZE, last: Last::Fin });
    drop((source, sink));
    bench.ended(Outcome::Completed, 1).await;
}

#[tokio::test]
async fn a_slow_reader_is_not_idle() {
    both_ways("timeouts = { idle = \"400ms\" }", async |bench| read_slowly(bench, false).await).await;
}

#[tokio::test]
async fn a_slow_reader_that_gets_all_its_bytes_completes() {
    both_ways("timeouts = { idle = \"1h\", half_close = \"400ms\" }", async |bench| read_slowly(bench, true).await)
        .await;
}

/// An end that reads nothing still times out, however much the kernels hold for it.
#[tokio::test]
async fn a_reader_that_takes_nothing_is_idle() {
    // More than `fill` takes to find that nothing more goes in.
    both_ways("timeouts = { idle = \"1500ms\" }", async |bench| {
        let (source, _sink) = bench.ends().await;
        fill(&source, &Pattern::new(22), 64 << 20).await;
        bench.ended(Outcome::IdleTimeout, 1).await;
    })
    .await;
}
