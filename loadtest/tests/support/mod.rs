//! Servers and proxies that each fail in one way. They are plain threads with blocking sockets, and end when a socket closes.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use loadtest::protocol::HEADER_LENGTH;
use loadtest::{LoadPlan, RunReport, Scenario, Server};

/// Message size of all plans here.
pub(crate) const SIZE: usize = 64;

/// Limit for a test that has failed.
const BOUND: Duration = Duration::from_secs(20);

pub(crate) fn server() -> Server {
    Server::start(([127, 0, 0, 1], 0).into(), 1).unwrap()
}

/// A small plan that ends by itself, also when everything fails.
pub(crate) fn plan(address: SocketAddr, scenario: Scenario) -> LoadPlan {
    let idle = scenario == Scenario::Idle;
    LoadPlan {
        connections: 4,
        messages: (!idle).then_some(40),
        duration: idle.then_some(Duration::ZERO),
        size: SIZE as u64,
        threads: 1,
        timeout: Duration::from_secs(10),
        attempts: 2,
        ..LoadPlan::new(address, scenario)
    }
}

pub(crate) fn run(plan: &LoadPlan) -> RunReport {
    loadtest::run(plan, |_| {}).unwrap()
}

pub(crate) fn assert_good(report: &RunReport) {
    assert!(report.passed(false), "{report}");
    assert_eq!(report.connections_abandoned, 0);
    assert_eq!(report.not_started, 0);
}

/// Gives every accepted connection to `serve`, each on a thread of its own.
pub(crate) fn listener(serve: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
    let (listener, address) = bind();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = serve.clone();
            thread::spawn(move || serve(bounded(stream)));
        }
    });
    address
}

/// An address without a listener.
pub(crate) fn dead() -> SocketAddr {
    bind().1
}

pub(crate) fn plain_echo() -> SocketAddr {
    listener(|mut stream| {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&buffer[..read]).is_err() {
                return;
            }
        }
    })
}

/// What a proxy does to the bytes of one direction; `passed` counts those that were read before.
pub(crate) type Meddle = fn(passed: u64, data: &mut Vec<u8>);

/// A proxy to `server`.
pub(crate) fn proxy(server: SocketAddr, up: Meddle, down: Meddle) -> SocketAddr {
    listener(move |client| {
        let server = bounded(TcpStream::connect(server).unwrap());
        let (from_client, to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        thread::spawn(move || relay(from_client, to_server, up));
        relay(server, client, down);
    })
}

pub(crate) fn untouched(_: u64, _: &mut Vec<u8>) {}

/// How a proxy mixes two connections up.
#[derive(Clone, Copy)]
pub(crate) enum Swap {
    /// Each client gets the other's reply.
    Replies,
    /// Each server gets the other's request, and each client the reply to its own.
    Both,
}

/// A proxy for exactly two connections whose second exchange is mixed up.
pub(crate) fn swapping_proxy(server: SocketAddr, swap: Swap) -> SocketAddr {
    let (listener, address) = bind();
    thread::spawn(move || {
        let mut clients = [(); 2].map(|()| bounded(listener.accept().unwrap().0));
        let mut servers = [(); 2].map(|()| bounded(TcpStream::connect(server).unwrap()));
        for (client, server) in clients.iter_mut().zip(&mut servers) {
            pass::<{ HEADER_LENGTH + SIZE }>(client, server);
            pass::<SIZE>(server, client);
        }
        for (index, client) in clients.iter_mut().enumerate() {
            let to = if matches!(swap, Swap::Both) { 1 - index } else { index };
            pass::<SIZE>(client, &mut servers[to]);
        }
        for (index, server) in servers.iter_mut().enumerate() {
            pass::<SIZE>(server, &mut clients[1 - index]);
        }
        // The clients close now, and the plan allows only one attempt.
    });
    address
}

fn bind() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn bounded(stream: TcpStream) -> TcpStream {
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(BOUND)).unwrap();
    stream.set_write_timeout(Some(BOUND)).unwrap();
    stream
}

fn relay(mut from: TcpStream, mut to: TcpStream, meddle: Meddle) {
    let mut passed = 0;
    let mut buffer = [0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        let mut data = buffer[..read].to_vec();
        meddle(passed, &mut data);
        passed += read as u64;
        if to.write_all(&data).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

fn pass<const N: usize>(from: &mut TcpStream, to: &mut TcpStream) {
    let mut data = [0; N];
    from.read_exact(&mut data).unwrap();
    to.write_all(&data).unwrap();
}
