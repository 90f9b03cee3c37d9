//! What a relay says about a backend that has not answered, in every mode: when it hears the first byte, and which side failed
//! whom.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{sleep, timeout};

use super::tests::connection;
use super::*;
use crate::pool::Bytes;

const PATIENCE: Duration = Duration::from_secs(20);

struct Session {
    client: TcpStream,
    backend: TcpStream,
    relaying: JoinHandle<Done<()>>,
    heard: Rc<Cell<u32>>,
}

impl Session {
    async fn early(self) -> Option<EarlyEnd> {
        // The ends that the test has not closed yet.
        drop((self.client, self.backend));
        timeout(PATIENCE, self.relaying).await.expect("an end").unwrap().early
    }
}

async fn session(mode: Mode, relay_context: &Rc<RelayContext>, first_byte: Option<Duration>) -> Session {
    let ((client, mut client_side), (backend, mut backend_side)) = (connection().await, connection().await);
    let (relay_context, heard) = (Rc::clone(relay_context), Rc::new(Cell::new(0)));
    let counted = Rc::clone(&heard);
    let relaying = spawn_local(async move {
        let limits = Rc::new(Cell::new(Limits::new(None, None, first_byte)));
        let terms = Terms { mode, limits, early: Vec::new(), before: None, throttles: None };
        let answered = |_| counted.set(counted.get() + 1);
        let never = std::future::pending();
        relay([&mut client_side, &mut backend_side], &relay_context, terms, Bytes::new(1).cell(0), &answered, never)
            .await
    });
    Session { client, backend, relaying, heard }
}

/// Runs a test in every mode, without and with a limit that is far away.
fn in_every_mode(test: impl AsyncFn(Session)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default()).unwrap();
    runtime.block_on(async {
        // In a default container there is none; `ring::tests` say so.
        let ring = Ring::open(Arc::default()).ok();
        let modes = [Mode::Copy, Mode::Splice, Mode::Auto, Mode::Ring];
        let modes = &modes[..modes.len() - usize::from(ring.is_none())];
        if let Some(ring) = &ring {
            spawn_local(ring.clone().drive());
        }
        let relay_context = Rc::new(RelayContext::new(8, Arc::default(), ring));
        for &mode in modes {
            for limit in [None, Some(PATIENCE)] {
                let session = session(mode, &relay_context, limit).await;
                timeout(PATIENCE, test(session)).await.unwrap_or_else(|_| panic!("too long: {mode:?}"));
            }
        }
    });
}

fn reset(stream: &TcpStream) {
    SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Sends and waits until the other end has it.
async fn pass(from: &mut TcpStream, to: &mut TcpStream) {
    from.write_all(b"some").await.unwrap();
    to.read_exact(&mut [0; 4]).await.unwrap();
}

#[test]
fn the_first_byte_is_heard_at_once_and_once() {
    in_every_mode(async |mut session| {
        pass(&mut session.client, &mut session.backend).await;
        assert_eq!(session.heard.get(), 0);
        for _ in 0..3 {
            pass(&mut session.backend, &mut session.client).await;
            while session.heard.get() == 0 {
                sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(session.heard.get(), 1);
            pass(&mut session.client, &mut session.backend).await;
        }
        reset(&session.backend);
        assert_eq!(session.early().await, None, "it had answered");
    });
}

#[test]
fn reset_before_the_first_byte() {
    in_every_mode(async |mut session| {
        pass(&mut session.client, &mut session.backend).await;
        reset(&session.backend);
        drop(std::mem::replace(&mut session.backend, connection().await.0));
        assert_eq!(session.client.read(&mut [0]).await.ok(), None, "a reset, or the relay's socket was dropped");
        assert_eq!((session.heard.get(), session.early().await), (0, Some(EarlyEnd::Reset)));
    });
}

#[test]
fn closed_before_the_first_byte() {
    in_every_mode(async |mut session| {
        pass(&mut session.client, &mut session.backend).await;
        drop(std::mem::replace(&mut session.backend, connection().await.0));
        assert_eq!(session.client.read(&mut [0]).await.unwrap(), 0);
        assert_eq!((session.heard.get(), session.early().await), (0, Some(EarlyEnd::Closed)));
    });
}

/// A reset or FIN of a backend that was asked nothing says nothing.
#[test]
fn nothing_was_asked() {
    for with_reset in [false, true] {
        in_every_mode(async |mut session| {
            if with_reset {
                reset(&session.backend);
            }
            drop(std::mem::replace(&mut session.backend, connection().await.0));
            assert_eq!(session.client.read(&mut [0]).await.is_err(), with_reset);
            assert_eq!(session.early().await, None);
        });
    }
}

/// A backend that only listens, and finishes after its client, has done what it should.
#[test]
fn the_client_finished_first() {
    in_every_mode(async |mut session| {
        pass(&mut session.client, &mut session.backend).await;
        session.client.shutdown().await.unwrap();
        assert_eq!(session.backend.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(session.early().await, None);
    });
}

#[test]
fn the_client_left_first() {
    in_every_mode(async |mut session| {
        pass(&mut session.client, &mut session.backend).await;
        reset(&session.client);
        drop(std::mem::replace(&mut session.client, connection().await.0));
        assert_eq!(session.backend.read(&mut [0]).await.ok(), None);
        assert_eq!(session.early().await, None);
    });
}
