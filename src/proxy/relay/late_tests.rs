//! A limit in time is believed only after what is ready has been read. Here the event loop is late in a way that repeats: it
//! tells of one socket in a turn, and of those that matter after many others, long after the limits are over.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use tokio::runtime;
use tokio::task::{JoinHandle, spawn_local};

use super::tests::{a_moment, pair};
use super::*;
use crate::pool::Bytes;

/// Long enough for all sessions to be on their way.
const LIMIT: Duration = Duration::from_secs(1);

/// Sockets of which the loop tells first.
const OTHERS: usize = 64;

struct Session {
    client: TcpStream,
    backend: TcpStream,
    relaying: JoinHandle<Done<()>>,
    name: String,
}

/// Sessions in each relay.
async fn sessions(limits: Limits, context: &Rc<RelayContext>) -> Vec<Session> {
    let bytes = Bytes::new(1);
    let modes = [Mode::Copy, Mode::Splice, Mode::Ring];
    let modes = modes.into_iter().filter(|mode| *mode != Mode::Ring || context.has_ring());
    let start = |mode| {
        let ((mut ours, client), (mut other, backend)) = (pair(), pair());
        let (context, cell, limits) = (Rc::clone(context), bytes.cell(0), Rc::new(Cell::new(limits)));
        let relaying = spawn_local(async move {
            let terms = Terms { mode, limits, early: Vec::new(), before: None, throttles: None };
            let cut = std::future::pending::<()>();
            relay([&mut ours, &mut other], &context, terms, cell, &|_| (), cut).await
        });
        Session { client, backend, relaying, name: format!("{mode:?}") }
    };
    modes.map(start).collect()
}

/// What `says` lets one end of a session say while no time seems to pass has to arrive at the other end, whatever was over by
/// then.
async fn hears_what_came(
    limits: Limits,
    before: impl Fn(&mut Session),
    says: impl Fn(&mut Session) -> &mut TcpStream,
    hears: impl Fn(&mut Session) -> &mut TcpStream,
) {
    let ring = Ring::open(Arc::default()).ok();
    if let Some(ring) = &ring {
        spawn_local(ring.clone().drive());
    }
    let context = Rc::new(RelayContext::new(8, Arc::default(), ring));
    let mut others: Vec<_> = (0..OTHERS).map(|_| pair()).collect();
    for (ours, _) in &others {
        ours.watch().unwrap();
    }
    let mut sessions = sessions(limits, &context).await;
    sessions.iter_mut().for_each(before);
    for _ in 0..20 {
        a_moment().await;
    }

    for (_, peer) in &mut others {
        peer.write_all(b"!").unwrap();
    }
    for session in &mut sessions {
        says(session).write_all(b"just in time").unwrap();
    }
    // The loop, and all tasks, stand still.
    std::thread::sleep(LIMIT + LIMIT / 10);

    for session in &mut sessions {
        let (mut heard, mut some) = (Vec::new(), [0; 100]);
        while heard != b"just in time" {
            if let Ok(read @ 1..) = hears(session).read(&mut some) {
                heard.extend_from_slice(&some[..read]);
                continue;
            }
            a_moment().await;
            if session.relaying.is_finished() {
                panic!("{}: {:?}", session.name, (&mut session.relaying).await.unwrap().end);
            }
        }
    }
}

fn late_loop(test: impl Future<Output = ()>) {
    let mut builder = runtime::Builder::new_current_thread();
    builder.enable_all().max_io_events_per_tick(1);
    builder.build_local(Default::default()).unwrap().block_on(test);
}

fn client(session: &mut Session) -> &mut TcpStream {
    &mut session.client
}

fn backend(session: &mut Session) -> &mut TcpStream {
    &mut session.backend
}

#[test]
fn idle_is_believed_after_a_look() {
    let limits = Limits::new(Some(LIMIT), None, None);
    late_loop(hears_what_came(limits, |_| (), client, backend));
    late_loop(hears_what_came(limits, |_| (), backend, client));
}

#[test]
fn half_close_is_believed_after_a_look() {
    let limits = Limits::new(None, Some(LIMIT), None);
    let client_ends = |session: &mut Session| session.client.shutdown(Shutdown::Write).unwrap();
    late_loop(hears_what_came(limits, client_ends, backend, client));
    let backend_ends = |session: &mut Session| session.backend.shutdown(Shutdown::Write).unwrap();
    late_loop(hears_what_came(limits, backend_ends, client, backend));
}

#[test]
fn first_byte_is_believed_after_a_look() {
    let limits = Limits::new(None, None, Some(LIMIT));
    let asks = |session: &mut Session| session.client.write_all(b"?").unwrap();
    late_loop(hears_what_came(limits, asks, backend, client));
}
