//! From start to stop: what signals do to the real program and its sessions, and what it tells systemd.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixDatagram};

use crate::support::{
    Backend, Program, exchange, free_port_of, get, ping, program, session, soon, spoken_to, until, until_refused,
};

/// A balancer in front of one backend without probes.
fn config(backend: SocketAddr, listener: &str, shutdown: &str) -> String {
    format!(
        "workers = 2\n[admin]\nbind = \"127.0.0.1:0\"\n[shutdown]\n{shutdown}\n\
         [listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n{listener}\n\
         [pools.back]\nbackends = [\"{backend}\"]\ncheck = {{ kind = \"none\" }}\n"
    )
}

/// How a stream ends from which nothing more is to come.
async fn ending(stream: &mut TcpStream) -> Result<usize, ErrorKind> {
    soon("the end of a session", stream.read(&mut [0; 64])).await.map_err(|error| error.kind())
}

fn outcomes(program: &Program) -> Vec<String> {
    let log = program.log();
    let ends = log.iter().filter(|line| line.contains("session ended"));
    ends.map(|line| line.split("outcome=\"").nth(1).unwrap().split('"').next().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn without_sessions_a_stop_is_over_at_once() {
    let backend = Backend::echo().await;
    for (signal, name) in [(Signal::TERM, "SIGTERM"), (Signal::INT, "SIGINT")] {
        let mut program = Program::start(&config(backend.address(), "", "timeout = \"10m\""), &[]);
        let front = program.front("front").await;
        program.until_says(&format!("started version=\"{}\" file=", env!("CARGO_PKG_VERSION"))).await;
        assert_eq!(exchange(front, b"hello").await.unwrap(), b"hello");
        // A client of the admin listener keeps nothing alive.
        let mut onlooker = TcpStream::connect(program.admin().await).await.unwrap();
        onlooker.write_all(b"GET /live HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert_eq!(ending(&mut onlooker).await.map(|read| read > 0), Ok(true));

        program.signal(signal);
        assert_eq!(program.end().await.code(), Some(0));
        let log = program.log();
        assert!(log.last().unwrap().contains("stopped: every session has finished"), "{log:#?}");
        assert!(log.iter().any(|line| line.contains(&format!("{name}: a stop begins"))), "{log:#?}");
        assert_eq!(outcomes(&program), ["completed"]);
    }
}

#[tokio::test]
async fn a_stop_turns_readiness_off_then_the_front_and_lets_sessions_finish() {
    let backend = Backend::echo().await;
    let delay = Duration::from_secs(3);
    let mut program = Program::start(&config(backend.address(), "", "delay = \"3s\"\ntimeout = \"10m\""), &[]);
    let (front, admin) = (program.front("front").await, program.admin().await);
    let mut live = session(front).await;
    until("ready", || async { (get(admin, "/ready").await.unwrap().0 == 200).then_some(()) }).await;

    let stopped = Instant::now();
    program.signal(Signal::TERM);
    let said = until("not ready", || async {
        let (status, body) = get(admin, "/ready").await.unwrap();
        (status == 503).then_some(body)
    })
    .await;
    assert_eq!(said, "stopping\n");
    assert_eq!(exchange(front, b"late, but not too late").await.unwrap(), b"late, but not too late");

    until_refused(front).await;
    assert!(stopped.elapsed() >= delay, "refused after {:?}", stopped.elapsed());
    assert_eq!(get(admin, "/live").await.unwrap().0, 200);
    assert!(get(admin, "/metrics").await.unwrap().1.contains("\nevenkeel_draining 1\n"));
    let payload: Vec<u8> = (0..1_000_000_u32).map(|i| (i % 251) as u8).collect();
    ping(&mut live, &payload).await;
    live.shutdown().await.unwrap();
    assert_eq!(ending(&mut live).await, Ok(0));
    assert_eq!(program.end().await.code(), Some(0));
    // Those of `until_refused`, too.
    assert!(outcomes(&program).iter().all(|outcome| outcome == "completed"));
}

#[tokio::test]
async fn after_the_stop_timeout_sessions_are_reset_on_both_sides() {
    let (tell, mut ends) = tokio::sync::mpsc::unbounded_channel();
    let backend = Backend::serving(move |mut stream| {
        let tell = tell.clone();
        async move {
            let mut byte = [0];
            let end = loop {
                match stream.read(&mut byte).await {
                    Ok(1) => stream.write_all(&byte).await.unwrap(),
                    end => break end,
                }
            };
            tell.send(end.map_err(|error| error.kind())).unwrap();
        }
    })
    .await;
    let mut program = Program::start(&config(backend.address(), "", "timeout = \"300ms\""), &[]);
    let mut live = session(program.front("front").await).await;
    program.signal(Signal::TERM);
    assert_eq!(ending(&mut live).await, Err(ErrorKind::ConnectionReset));
    assert_eq!(soon("the backend's end", ends.recv()).await, Some(Err(ErrorKind::ConnectionReset)));
    assert_eq!(program.end().await.code(), Some(0));
    assert_eq!(outcomes(&program), ["drained"]);
    program.until_says("sessions were cut because shutdown.timeout is over sessions=1").await;
}

#[tokio::test]
async fn a_second_signal_ends_sessions_at_once_and_the_exit_code_is_0() {
    let backend = Backend::echo().await;
    for (shutdown, first, second) in [
        ("timeout = \"10m\"", Signal::TERM, Signal::TERM),
        ("delay = \"10m\"", Signal::TERM, Signal::INT),
        ("timeout = \"10m\"", Signal::INT, Signal::TERM),
    ] {
        let mut program = Program::start(&config(backend.address(), "", shutdown), &[]);
        let mut live = session(program.front("front").await).await;
        program.signal(first);
        program.until_says("stopping sessions=1").await;
        ping(&mut live, b"still here").await;
        program.signal(second);
        assert_eq!(ending(&mut live).await, Err(ErrorKind::ConnectionReset), "{shutdown}");
        assert_eq!(program.end().await.code(), Some(0));
        assert_eq!(outcomes(&program), ["killed"]);
    }
}

#[tokio::test]
async fn sighup_reads_the_file_and_an_equal_file_changes_nothing() {
    let backend = Backend::echo().await;
    let mut program = Program::start(&config(backend.address(), "", ""), &[]);
    let mut live = session(program.front("front").await).await;
    program.signal(Signal::HUP);
    program.until_says("SIGHUP: reading the file").await;
    program.until_says("the configuration is what it was").await;
    ping(&mut live, b"still here").await;
    drop(session(program.front("front").await).await);
    live.shutdown().await.unwrap();
    program.signal(Signal::TERM);
    assert_eq!(program.end().await.code(), Some(0));
    assert_eq!(program.log().iter().filter(|line| line.contains("SIGHUP")).count(), 1);
}

#[tokio::test]
async fn clients_in_the_backlog_at_a_stop_are_served() {
    let backend = Backend::echo().await;
    let mut program = Program::start(&config(backend.address(), "", "timeout = \"10m\""), &[]);
    let front = program.front("front").await;
    drop(session(front).await);
    program.until_says("session ended").await;

    // While it sleeps the kernel completes handshakes: more than one batch of them.
    program.signal(Signal::STOP);
    let mut clients = Vec::new();
    for i in 0..150 {
        let mut client = soon("a connect", TcpStream::connect(front)).await.unwrap();
        client.write_all(format!("client {i}").as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        clients.push(client);
    }
    program.signal(Signal::TERM);
    program.signal(Signal::CONT);
    for (i, mut client) in clients.into_iter().enumerate() {
        let mut answer = String::new();
        soon("an answer", client.read_to_string(&mut answer)).await.unwrap();
        assert_eq!(answer, format!("client {i}"));
    }
    assert_eq!(program.end().await.code(), Some(0));
    assert_eq!(outcomes(&program).iter().filter(|outcome| *outcome == "completed").count(), 1 + 150);
}

#[tokio::test]
async fn clients_that_wait_at_the_limit_are_refused_at_once_when_a_stop_begins() {
    let backend = Backend::echo().await;
    let mut program = Program::start(&config(backend.address(), "max_connections = 1", "timeout = \"10m\""), &[]);
    let (front, admin) = (program.front("front").await, program.admin().await);
    let mut live = session(front).await;
    let mut waiting = Vec::new();
    for _ in 0..3 {
        waiting.push(soon("a connect", TcpStream::connect(front)).await.unwrap());
    }
    until("at the limit", || async {
        let metrics = get(admin, "/metrics").await.unwrap().1;
        metrics.contains("evenkeel_listener_at_limit{listener=\"front\"} 1\n").then_some(())
    })
    .await;
    program.signal(Signal::TERM);
    for client in &mut waiting {
        assert_eq!(ending(client).await, Err(ErrorKind::ConnectionReset));
    }
    ping(&mut live, b"still here").await;
    live.shutdown().await.unwrap();
    assert_eq!(program.end().await.code(), Some(0));
    assert_eq!(outcomes(&program), ["completed"]);
}

#[tokio::test]
async fn a_hanging_read_of_the_file_does_not_delay_the_stop() {
    let Some(python) = program("python3") else { return };
    let backend = Backend::echo().await;
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    std::fs::write(&token, "secret").unwrap();
    // While another process has a lease on a file, opening it blocks (fcntl(2), F_SETLEASE), as on a network that is gone.
    let hold = "import fcntl, os, signal, sys\nsignal.signal(signal.SIGIO, signal.SIG_IGN)\n\
                file = os.open(sys.argv[1], os.O_RDWR)\nfcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n\
                print('held', flush=True)\nsys.stdin.read()";
    let mut lease = tokio::process::Command::new(python)
        .args(["-c", hold])
        .arg(&token)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut said = [0; 5];
    soon("the lease", lease.stdout.as_mut().unwrap().read_exact(&mut said)).await.unwrap();
    let text = config(backend.address(), "", "");
    let mut program = Program::start(
        &format!(
            "{text}[pools.other]\nconsul = {{ service = \"a\", address = \"{}\", token_file = {token:?} }}\n",
            backend.address()
        ),
        &[],
    );
    assert_eq!(exchange(program.front("front").await, b"hello").await.unwrap(), b"hello");
    program.signal(Signal::TERM);
    let begun = Instant::now();
    assert_eq!(program.end().await.code(), Some(0));
    // The kernel breaks the lease after 45 s.
    assert!(begun.elapsed() < Duration::from_secs(20) && lease.try_wait().unwrap().is_none());
}

#[tokio::test]
async fn systemd_hears_ready_when_the_sockets_listen_and_stopping_when_a_stop_begins() {
    let backend = Backend::echo().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    let front = free_port_of([127, 77, 0, 1]);
    let text = config(backend.address(), "", "timeout = \"10m\"").replacen(
        "127.0.0.1:0\"\npool",
        &format!("{front}\"\npool"),
        1,
    );
    let start = || {
        Program::start_as(&text, |command| {
            command.env("NOTIFY_SOCKET", &path);
        })
    };
    let hear = || async {
        let mut text = [0; 256];
        let read = soon("a word to systemd", systemd.recv(&mut text)).await.unwrap();
        String::from_utf8_lossy(&text[..read]).trim_end().to_owned()
    };
    let mut program = start();
    assert_eq!(hear().await, "READY=1");
    let mut live = session(front).await;

    // A second one can't start, and says nothing.
    let mut second = start();
    assert_eq!(second.end().await.code(), Some(1));
    assert_eq!(systemd.try_recv(&mut [0; 256]).unwrap_err().kind(), ErrorKind::WouldBlock);

    program.signal(Signal::TERM);
    assert_eq!(hear().await, "STOPPING=1");
    ping(&mut live, b"still here").await;
    live.shutdown().await.unwrap();
    assert_eq!(program.end().await.code(), Some(0));
}

#[tokio::test]
async fn an_abstract_notify_socket_works_and_a_missing_one_does_no_harm() {
    use std::os::linux::net::SocketAddrExt as _;
    let backend = Backend::echo().await;
    let text = config(backend.address(), "", "");
    let name = format!("evenkeel-test-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let systemd = std::os::unix::net::UnixDatagram::bind_addr(&address).unwrap();
    systemd.set_nonblocking(true).unwrap();
    let systemd = UnixDatagram::from_std(systemd).unwrap();
    let hear = || async {
        let mut text = [0; 256];
        let read = soon("a word to systemd", systemd.recv(&mut text)).await.unwrap();
        String::from_utf8_lossy(&text[..read]).trim_end().to_owned()
    };
    let mut program = Program::start_as(&text, |command| {
        command.env("NOTIFY_SOCKET", format!("@{name}"));
    });
    assert_eq!(hear().await, "READY=1");
    program.signal(Signal::TERM);
    assert_eq!(hear().await, "STOPPING=1");
    assert_eq!(program.end().await.code(), Some(0));

    for (socket, warned) in [("", false), ("/no/such/socket", true), ("@no such socket", true)] {
        let mut program = Program::start_as(&text, |command| {
            command.env("NOTIFY_SOCKET", socket);
        });
        let front = program.front("front").await;
        assert_eq!(exchange(front, b"hello").await.unwrap(), b"hello");
        program.signal(Signal::TERM);
        assert_eq!(program.end().await.code(), Some(0));
        let log = program.log();
        let told = log.iter().any(|line| line.contains(&format!("can't be told: READY=1 notify_socket={socket} ")));
        assert_eq!(told, warned, "{log:#?}");
    }
}

/// A process that stops still knows which backends are down, and applies `on_down`.
#[tokio::test]
async fn backends_are_probed_until_the_last_session_has_ended() {
    let backend = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let text = config(backend.local_addr().unwrap(), "", "timeout = \"10m\"").replace(
        "check = { kind = \"none\" }",
        "on_down = \"close\"\ncheck = { interval = \"100ms\", fast_interval = \"20ms\", timeout = \"5s\" }",
    );
    let mut program = Program::start(&text, &[]);
    let (front, admin) = (program.front("front").await, program.admin().await);
    until("ready", || async { (get(admin, "/ready").await.unwrap().0 == 200).then_some(()) }).await;
    let mut client = soon("a connect", TcpStream::connect(front)).await.unwrap();
    client.write_all(b"!").await.unwrap();
    let leg = spoken_to(&backend).await;
    program.signal(Signal::TERM);
    program.until_says("stopping").await;
    until_refused(front).await;
    drop(backend);
    assert_eq!(ending(&mut client).await, Err(ErrorKind::ConnectionReset));
    assert_eq!(program.end().await.code(), Some(0));
    assert!(outcomes(&program).contains(&"backend_down".to_owned()), "{:?}", outcomes(&program));
    drop(leg);
}
