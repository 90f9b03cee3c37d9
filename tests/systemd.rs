//! Listening sockets from systemd: its own `systemd-socket-activate` passes good ones, a shell passes odd ones.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::Stdio;

use rustix::process::Signal;
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::support::{Backend, Program, exchange, free_port_of, soon, until};

/// Debian has it in the package `systemd`.
const ACTIVATE: &str = "/usr/bin/systemd-socket-activate";

/// `None` = it is not installed, said so. In CI that is a failure.
fn activate(name: &str, listen: &[SocketAddr]) -> Option<Command> {
    if !std::path::Path::new(ACTIVATE).exists() {
        let text = format!("SKIPPED: {ACTIVATE} is missing (Debian: apt-get install systemd)");
        assert!(std::env::var_os("CI").is_none_or(|value| value != "true"), "{text}");
        eprintln!("{text}");
        return None;
    }
    let mut command = Command::new(ACTIVATE);
    for address in listen {
        command.arg(format!("--listen={address}"));
    }
    command.arg(format!("--fdname={name}")).arg(Program::PATH).arg("run");
    Some(command)
}

/// Passes one descriptor as systemd does.
fn pass(name: &str, socket: impl Into<OwnedFd>) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "export LISTEN_PID=$$; exec \"$0\" 3<&0 0</dev/null", Program::PATH]);
    command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", name).stdin(Stdio::from(socket.into()));
    command
}

fn config(backend: SocketAddr, listeners: &[(&str, SocketAddr)]) -> String {
    let listeners: String = listeners
        .iter()
        .map(|(name, bind)| format!("[listeners.{name}]\nbind = \"{bind}\"\npool = \"back\"\n"))
        .collect();
    format!(
        "[admin]\nbind = \"127.0.0.1:0\"\n{listeners}\
         [pools.back]\nbackends = [\"{backend}\"]\ncheck = {{ kind = \"none\" }}\n"
    )
}

fn fresh(last: u8) -> SocketAddr {
    free_port_of([127, 77, 2, last])
}

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// systemd starts the program when a client connects; that client must be served too.
async fn wake(program: &Program, address: SocketAddr) {
    program.until_says(&format!("Listening on {address}")).await;
    assert_eq!(exchange(address, b"the first").await.unwrap(), b"the first");
}

#[tokio::test]
async fn a_socket_is_matched_by_its_name() {
    let backend = Backend::echo().await;
    let (passed, written) = (fresh(1), fresh(2));
    let Some(command) = activate("front", &[passed]) else { return };
    let program = Program::start_by(&config(backend.address(), &[("front", written)]), command);
    wake(&program, passed).await;
    assert_eq!(program.front("front").await, passed);
    // What it got stands for what is written.
    TcpStream::connect(written).await.unwrap_err();
    program.stop().await;
}

#[tokio::test]
async fn a_socket_without_a_name_is_matched_by_its_address() {
    let backend = Backend::echo().await;
    let (passed, own) = (fresh(3), fresh(4));
    let Some(command) = activate("evenkeel.socket", &[passed]) else { return };
    let program = Program::start_by(&config(backend.address(), &[("a", own), ("b", passed)]), command);
    wake(&program, passed).await;
    // The other listener binds for itself.
    assert_eq!(exchange(own, b"hello").await.unwrap(), b"hello");
    let log = program.stop().await;
    assert_eq!(log.iter().filter(|line| line.contains("session ended") && line.contains("listener=b")).count(), 1);
    assert_eq!(log.iter().filter(|line| line.contains("session ended") && line.contains("listener=a")).count(), 1);
}

#[tokio::test]
async fn several_sockets_come_at_once() {
    let backend = Backend::echo().await;
    let (a, b, c) = (fresh(5), fresh(6), fresh(7));
    let Some(command) = activate("one:one:evenkeel.socket", &[a, b, c]) else { return };
    let program = Program::start_by(&config(backend.address(), &[("one", ANY), ("two", c)]), command);
    wake(&program, b).await;
    for address in [a, b, c] {
        assert_eq!(exchange(address, b"hello").await.unwrap(), b"hello");
    }
    let line = program.until_says("listening listener=one ").await;
    assert!(line.contains(&format!("addresses=[{a}, {b}]")), "{line}");
    program.stop().await;
}

#[tokio::test]
async fn an_inherited_socket_without_a_listener_is_an_error_that_names_it() {
    let backend = Backend::echo().await;
    let (passed, other) = (fresh(8), fresh(9));
    let Some(command) = activate("stray", &[passed]) else { return };
    let mut program = Program::start_by(&config(backend.address(), &[("front", other)]), command);
    program.until_says(&format!("Listening on {passed}")).await;
    let _client = soon("a connect", TcpStream::connect(passed)).await.unwrap();
    assert_eq!(program.end().await.code(), Some(1));
    assert_eq!(
        *program.log().last().unwrap(),
        format!(
            "evenkeel: no listener takes the socket `stray` ({passed}) from systemd: bind one to {passed}, or say its name \
             in FileDescriptorName="
        )
    );
    TcpStream::connect(other).await.unwrap_err();
}

#[tokio::test]
async fn an_inherited_socket_serves_clients_from_before_the_start() {
    let backend = Backend::echo().await;
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let early = tokio::spawn(exchange(address, b"early"));
    until("somebody waits", || async { TcpStream::connect(address).await.ok() }).await;
    let program = Program::start_by(&config(backend.address(), &[("front", ANY)]), pass("front", socket));
    assert_eq!(early.await.unwrap().unwrap(), b"early");
    program.stop().await;
}

#[tokio::test]
async fn odd_sockets_are_refused_by_name() {
    let backend = Backend::echo().await;
    let text = config(backend.address(), &[("front", ANY)]);
    let directory = tempfile::tempdir().unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let connected = std::net::TcpStream::connect(backend.address()).unwrap();
    let unix = std::os::unix::net::UnixListener::bind(directory.path().join("socket")).unwrap();
    let file = std::fs::File::open("/dev/null").unwrap();
    for (socket, why) in [
        (OwnedFd::from(udp), "not a stream socket"),
        (connected.into(), "not a listening socket"),
        (unix.into(), "not an internet socket"),
        (file.into(), "Socket operation on non-socket (os error 88)"),
    ] {
        let mut program = Program::start_by(&text, pass("front", socket));
        assert_eq!(program.end().await.code(), Some(1));
        let last = program.log().pop().unwrap();
        assert_eq!(last, format!("evenkeel: the socket `front` from systemd is of no use: {why}"));
    }
}

#[tokio::test]
async fn sockets_for_another_process_id_are_ignored() {
    let backend = Backend::echo().await;
    let program = Program::start_as(&config(backend.address(), &[("front", ANY)]), |command| {
        command.env("LISTEN_PID", "1").env("LISTEN_FDS", "3").env("LISTEN_FDNAMES", "a:b:c");
    });
    assert_eq!(exchange(program.front("front").await, b"hello").await.unwrap(), b"hello");
    program.stop().await;
    let more = "$LISTEN_FDS counts more than the descriptors that are open from 3 on";
    for (key, value, why) in [
        ("LISTEN_FDS", "three", "invalid LISTEN_FDS"),
        ("LISTEN_FDS", "99999999999", "invalid LISTEN_FDS"),
        ("LISTEN_FDS", "60000", more),
        ("LISTEN_FDNAMES", "front:front", "invalid LISTEN_FDNAMES"),
    ] {
        let mut command = pass("front", std::fs::File::open("/dev/null").unwrap());
        command.env(key, value);
        let mut program = Program::start_by(&config(backend.address(), &[("front", ANY)]), command);
        assert_eq!(program.end().await.code(), Some(1));
        assert_eq!(program.log(), [format!("evenkeel: the sockets from systemd: {why}")]);
    }
}
