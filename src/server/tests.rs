use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use super::*;
use crate::config;
use crate::metrics::Outcome;
use crate::proxy::PANIC_NEXT_SESSION;

const PATIENCE: Duration = Duration::from_secs(20);

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited for {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn client(address: std::net::SocketAddr) -> TcpStream {
    let client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

fn echo(client: &mut TcpStream) -> io::Result<()> {
    client.write_all(b"?")?;
    client.read_exact(&mut [0])
}

/// A panic ends its session only; everything that it held comes back, and its client sees a reset, never FIN.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_ends_one_session() {
    let backend = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = backend.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in backend.incoming().flatten() {
            std::thread::spawn(move || io::copy(&mut &stream, &mut &stream));
        }
    });
    let text = format!(
        "workers = 1\n[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\nmax_connections = 2\n\
         [pools.back]\nbackends = [\"{address}\"]\ncheck = {{ kind = \"none\" }}\n"
    );
    let server = Server::start(&config::parse(&text, "test", &|_| None).unwrap(), Vec::new()).unwrap();
    let state = Arc::clone(server.state());
    tokio::task::spawn_blocking(move || {
        let front = state.set().listeners[0].addresses()[0];
        let mut living = client(front);
        echo(&mut living).unwrap();

        // More often than there are places: each comes back.
        for n in 1..=5 {
            PANIC_NEXT_SESSION.store(true, std::sync::atomic::Ordering::SeqCst);
            let mut unlucky = client(front);
            let error = unlucky.read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            echo(&mut living).unwrap();
            until("its place is free", || state.sessions() == 1 && state.workers.sessions() == [1]);
            assert_eq!(state.set().listeners[0].ended.read(Outcome::Panicked), n);
            let pool = Arc::clone(&state.set().pools[0]);
            assert_eq!((pool.sessions(), pool.sessions_of(&pool.members()[0])), (1, 1));
        }
        echo(&mut client(front)).unwrap();
        drop(living);
        until("all have ended", || state.sessions() == 0 && state.workers.sessions() == [0]);
        let ended: u64 = Outcome::ALL.iter().map(|&outcome| state.set().listeners[0].ended.read(outcome)).sum();
        assert_eq!((ended, state.set().listeners[0].accepted.load(Relaxed)), (7, 7));
    })
    .await
    .unwrap();
}
