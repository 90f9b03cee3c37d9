//! Storms on rings far too small for them: whatever ends a session, and wherever it is then, bytes arrive exactly, and every
//! buffer, ring session and descriptor comes back.
//!
//! Where io_uring is not allowed, as in a default container, these tests are skipped, and say so.

use std::cell::Cell;
use std::rc::{Rc, Weak};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::runtime;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_local, yield_now};
use tokio::time::{sleep, timeout};

use super::*;
use crate::metrics::Direction;
use crate::pool::{ByteCell, Bytes};
use crate::proxy::relay::tests::connection;
use crate::proxy::relay::{Done, End, Limits, Mode, PipeCounts, RelayContext, Side, Terms, relay};
use crate::proxy::socket::TcpFd;

const PATIENCE: Duration = Duration::from_secs(30);

struct Bench {
    ring: Ring,
    relay_context: Rc<RelayContext>,
    bytes: Bytes,
    sockets: Vec<Weak<TcpFd>>,
}

struct Session {
    client: TcpStream,
    backend: TcpStream,
    relaying: JoinHandle<Done<()>>,
    cut: oneshot::Sender<()>,
    counted: ByteCell,
}

fn on_ring<F: Future<Output = ()>>(entries: u32, buffers: u16, size: u32, test: impl FnOnce(Bench) -> F) {
    let runtime = runtime::Builder::new_current_thread().enable_all().build_local(Default::default()).unwrap();
    runtime.block_on(async {
        let ring = match Ring::with(entries, buffers, size, Arc::default()) {
            Ok(ring) => ring,
            Err(error) => return skip(&error),
        };
        spawn_local(ring.clone().drive());
        let relay_context = Rc::new(RelayContext::new(8, Arc::<PipeCounts>::default(), Some(ring.clone())));
        let bench = Bench { ring, relay_context, bytes: Bytes::new(1), sockets: Vec::new() };
        timeout(PATIENCE, test(bench)).await.expect("took too long");
    });
}

/// Past the test harness, which swallows what a test that passes prints.
fn skip(error: &Forbidden) {
    use std::io::Write;
    let _ = writeln!(io::stderr(), "SKIPPED: no io_uring here ({error}: {})", error.source);
}

impl Bench {
    async fn session(&mut self) -> Session {
        let ((client, mut client_side), (backend, mut backend_side)) = (connection().await, connection().await);
        let ends = [Rc::clone(client_side.tcp_fd()), Rc::clone(backend_side.tcp_fd())];
        self.sockets.extend(ends.iter().map(Rc::downgrade));
        let (cut, wish) = oneshot::channel();
        let (relay_context, bytes) = (Rc::clone(&self.relay_context), self.bytes.cell(0));
        let counted = bytes.clone();
        let relaying = spawn_local(async move {
            let cut = Box::pin(async {
                if wish.await.is_err() {
                    std::future::pending().await
                }
            });
            let limits = Rc::new(Cell::new(Limits::new(Some(PATIENCE), Some(PATIENCE), None)));
            let terms = Terms { mode: Mode::Ring, limits, early: Vec::new(), before: None, throttles: None };
            let done = relay([&mut client_side, &mut backend_side], &relay_context, terms, bytes, &|_| (), cut).await;
            let [client, backend] = ends;
            if done.finished_client {
                client.may_close();
            }
            if done.finished_backend {
                backend.may_close();
            }
            done
        });
        Session { client, backend, relaying, cut, counted }
    }

    /// Everything is back.
    async fn is_clean(&self) {
        let is_back = || {
            let inner = self.ring.0.inner.borrow();
            let sockets = self.sockets.iter().filter(|socket| socket.strong_count() > 0).count();
            (inner.table.len(), usize::from(inner.table.buffers()) - inner.raw.free(), sockets)
        };
        for _ in 0..1000 {
            let counts = &self.ring.0.counts;
            if is_back() == (0, 0, 0) && (counts.sessions(), counts.buffers()) == (0, 0) {
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
        panic!("lanes, buffers and sockets that are left: {:?}", is_back());
    }
}

fn byte(stream: u64, at: u64) -> u8 {
    (stream.wrapping_mul(0x9e37_79b9).wrapping_add(at).wrapping_mul(0x85eb_ca6b) >> 13) as u8
}

async fn pause(random: &mut fastrand::Rng) {
    match random.u8(..12) {
        0 => sleep(Duration::from_micros(random.u64(..4_000))).await,
        1..=3 => yield_now().await,
        _ => {}
    }
}

/// Sends up to `size` bytes, then FIN; less if the other side ends it. Returns whether all went well.
async fn send(mut to: OwnedWriteHalf, stream: u64, size: u64, mut random: fastrand::Rng) -> bool {
    let (mut at, longest) = (0, 1 << random.u32(7..18));
    while at < size {
        let piece: Vec<u8> = (at..size.min(at + random.u64(1..=longest))).map(|at| byte(stream, at)).collect();
        if to.write_all(&piece).await.is_err() {
            return false;
        }
        at += piece.len() as u64;
        pause(&mut random).await;
    }
    to.shutdown().await.is_ok()
}

/// Receives until the end: how much of the stream, all of it right, and whether FIN ended it.
async fn receive(mut from: OwnedReadHalf, stream: u64, mut random: fastrand::Rng) -> (u64, bool) {
    let (mut at, mut buffer) = (0, vec![0; 1 << random.u32(9..17)]);
    loop {
        match from.read(&mut buffer).await {
            Ok(0) => return (at, true),
            Err(_) => return (at, false),
            Ok(length) => {
                for &got in &buffer[..length] {
                    assert_eq!(got, byte(stream, at), "byte {at} of stream {stream}");
                    at += 1;
                }
            }
        }
        pause(&mut random).await;
    }
}

/// One session with a random course and a random end.
async fn course(session: Session, stream: u64, mut random: fastrand::Rng) {
    let Session { client, backend, relaying, cut, counted } = session;
    let mut size = || {
        let most = 1 << random.u32(6..19);
        random.u64(..most)
    };
    let sizes = [size(), size()];
    let resets = |socket: &TcpStream| SockRef::from(socket).set_linger(Some(Duration::ZERO)).unwrap();
    let end = random.u8(..8);
    if end == 0 {
        resets(&client);
    } else if end == 1 {
        resets(&backend);
    }
    let ((client_in, client_out), (backend_in, backend_out)) = (client.into_split(), backend.into_split());
    let sending = [
        spawn_local(send(client_out, stream, sizes[0], random.fork())),
        spawn_local(send(backend_out, stream + 1, sizes[1], random.fork())),
    ];
    let receiving = [
        spawn_local(receive(backend_in, stream, random.fork())),
        spawn_local(receive(client_in, stream + 1, random.fork())),
    ];
    let mut keep = Some(cut);
    if end < 4 {
        sleep(Duration::from_micros(random.u64(..20_000))).await;
        match end {
            // The connection is reset once both halves of its socket are gone.
            0 => (sending[0].abort(), receiving[1].abort()).0,
            1 => (sending[1].abort(), receiving[0].abort()).0,
            2 => drop(keep.take().unwrap().send(())),
            _ => relaying.abort(),
        }
    }
    let done = relaying.await;
    let [from_client, from_backend] = sending;
    // A failed write takes the socket's error, and the read then shows a reset as FIN.
    let is_sure = [from_backend.await.unwrap_or(false), from_client.await.unwrap_or(false)];
    let [up, down] = receiving;
    let (up, down) = (up.await, down.await);
    let Ok(done) = done else { return assert_eq!(end, 3, "the relay panicked") };
    for (direction, received) in [(0, &up), (1, &down)] {
        let counted = counted.of_session([Direction::ToBackend, Direction::ToClient][usize::from(direction)]);
        if let Ok((received, fin)) = received {
            let size = sizes[usize::from(direction)];
            assert!(*received <= counted && counted <= size);
            // tokio sends FIN when it drops half of a socket, before the reset.
            let may_be_short = end == direction || !is_sure[usize::from(direction)];
            assert!(!fin || may_be_short || *received == size, "FIN after {received} of {size} bytes, {end}");
        }
    }
    if end >= 4 {
        assert!(matches!(done.end, End::Completed), "{:?}", done.end);
        assert_eq!((up.unwrap(), down.unwrap()), ((sizes[0], true), (sizes[1], true)));
    }
}

#[test]
fn storms_leave_nothing_behind() {
    let seeds: Vec<u64> = match std::env::var("SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..4).map(|_| fastrand::u64(..1 << 32)).collect(),
    };
    for seed in seeds {
        eprintln!("SEED={seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let shapes = [(2, 4, 64), (8, 16, 1024), (64, 32, 16 * 1024), (1024, 256, 16 * 1024)];
        let (entries, buffers, size) = shapes[random.usize(..shapes.len())];
        on_ring(entries, buffers, size, async |mut bench| {
            let mut courses = Vec::new();
            for number in 0..60 {
                let session = bench.session().await;
                courses.push(spawn_local(course(session, 2 * number, random.fork())));
            }
            for course in courses {
                course.await.unwrap();
            }
            bench.is_clean().await;
        });
    }
}

/// All clients say something before the first backend hears of it.
async fn speak(sessions: &mut [Session], byte: u8) {
    for session in &mut *sessions {
        session.client.write_all(&[byte; 100]).await.unwrap();
    }
    let mut message = [0; 100];
    for session in sessions {
        session.backend.read_exact(&mut message).await.unwrap();
        assert_eq!(message, [byte; 100]);
    }
}

/// Four buffers for 200 sessions that all speak at once: each gets its turn.
#[test]
fn receivers_share_the_buffers_that_there_are() {
    on_ring(16, 4, 256, async |mut bench| {
        let mut sessions = Vec::new();
        for _ in 0..200 {
            sessions.push(bench.session().await);
        }
        for round in 0..20 {
            speak(&mut sessions, round).await;
        }
        assert_eq!(bench.ring.0.counts.sessions(), 200, "somebody has left the ring");
        assert_eq!(bench.bytes.read(Direction::ToBackend), 200 * 20 * 100);
        drop(sessions);
        bench.is_clean().await;
    });
}

/// A buffer that is never needed is never in memory.
#[test]
fn the_kernel_gets_as_many_buffers_as_it_needs() {
    on_ring(64, 64, 256, async |mut bench| {
        let untouched = |bench: &Bench| bench.ring.0.inner.borrow().raw.untouched();
        let mut sessions = Vec::new();
        for _ in 0..200 {
            sessions.push(bench.session().await);
        }
        for round in 0..3 {
            for session in &mut sessions {
                speak(std::slice::from_mut(session), round).await;
            }
        }
        assert_eq!(untouched(&bench), 64 - 16, "one at a time");
        speak(&mut sessions, 7).await;
        assert!(untouched(&bench) < 64 - 16, "all at once");
        assert_eq!(bench.ring.0.counts.sessions(), 200, "somebody has left the ring");
        drop(sessions);
        bench.is_clean().await;
    });
}

/// A side that does not read has its bytes taken off the ring: it holds no buffer, and the others do not notice it.
#[test]
fn who_does_not_read_holds_no_buffer() {
    on_ring(64, 16, 4096, async |mut bench| {
        let mut slow = Vec::new();
        for number in 0..8 {
            let session = bench.session().await;
            // Long enough to fill every buffer on the way.
            let filled = Cell::new(0);
            let fill = async {
                loop {
                    session.client.writable().await.unwrap();
                    let piece: Vec<u8> = (filled.get()..filled.get() + 10_000).map(|at| byte(number, at)).collect();
                    filled.set(filled.get() + session.client.try_write(&piece).unwrap_or(0) as u64);
                }
            };
            let _: Result<(), _> = timeout(Duration::from_millis(20), fill).await;
            slow.push((session, number, filled.get()));
        }
        assert_eq!(bench.ring.0.counts.buffers(), 0);
        assert_eq!(bench.ring.0.counts.sessions(), 0);

        let mut brisk = bench.session().await;
        let mut message = [0; 100];
        for round in 0..100 {
            brisk.client.write_all(&[round; 100]).await.unwrap();
            brisk.backend.read_exact(&mut message).await.unwrap();
        }
        assert_eq!(bench.ring.0.counts.sessions(), 1);

        for (session, number, filled) in slow {
            let (_, mut client_out) = session.client.into_split();
            let (backend_in, _backend_out) = session.backend.into_split();
            client_out.shutdown().await.unwrap();
            assert_eq!(receive(backend_in, number, fastrand::Rng::with_seed(number)).await, (filled, true));
        }
        drop(brisk);
        bench.is_clean().await;
    });
}

/// A session that had to leave joins again when it is calm, and nothing is lost on the way.
#[test]
fn back_to_the_ring_when_it_is_calm() {
    on_ring(64, 16, 4096, async |mut bench| {
        let mut session = bench.session().await;
        let on_ring = |bench: &Bench| bench.ring.0.counts.sessions();
        for _ in 0..3 {
            let (bulk, mut got) = (vec![7; 4 << 20], vec![0; 4 << 20]);
            let (written, read) = tokio::join!(session.client.write_all(&bulk), session.backend.read_exact(&mut got));
            written.unwrap();
            read.unwrap();
            assert!(got == bulk);
            assert_eq!(on_ring(&bench), 0, "bulk on the ring");
            let mut message = [0; 10];
            for round in 0..40 {
                session.backend.write_all(&[round; 10]).await.unwrap();
                session.client.read_exact(&mut message).await.unwrap();
                assert_eq!(message, [round; 10]);
                session.client.write_all(&[round; 10]).await.unwrap();
                session.backend.read_exact(&mut message).await.unwrap();
            }
            assert_eq!(on_ring(&bench), 1);
        }
        drop(session);
        bench.is_clean().await;
    });
}

/// On the ring it would not be seen: a half-closed session leaves, also from its second stay, before or after the reset.
#[test]
fn a_reset_of_the_side_that_has_finished_is_seen() {
    on_ring(64, 16, 4096, async |mut bench| {
        for (stays, is_off, finished) in [(1, false, 0), (1, true, 1), (2, false, 1), (2, true, 0), (2, true, 1)] {
            let mut session = bench.session().await;
            if stays == 2 {
                let (bulk, mut got) = (vec![7; 4 << 20], vec![0; 4 << 20]);
                let (written, read) =
                    tokio::join!(session.client.write_all(&bulk), session.backend.read_exact(&mut got));
                written.unwrap();
                read.unwrap();
                assert_eq!(bench.ring.0.counts.sessions(), 0, "bulk on the ring");
            }
            for round in 0..40 {
                speak(std::slice::from_mut(&mut session), round).await;
            }
            assert_eq!(bench.ring.0.counts.sessions(), 1);

            let Session { client, backend, relaying, cut: _cut, counted: _ } = session;
            let (mut finishes, mut waits) = if finished == 0 { (client, backend) } else { (backend, client) };
            finishes.shutdown().await.unwrap();
            assert_eq!(waits.read(&mut [0]).await.unwrap(), 0);
            while is_off && bench.ring.0.counts.sessions() > 0 {
                sleep(Duration::from_millis(1)).await;
            }
            SockRef::from(&finishes).set_linger(Some(Duration::ZERO)).unwrap();
            drop(finishes);

            let done = relaying.await.unwrap();
            let side = [Side::Client, Side::Backend][finished];
            assert!(matches!(&done.end, End::Broken(broken, _) if *broken == side), "{side:?}: {:?}", done.end);
            assert_eq!((done.finished_backend, done.finished_client), (finished == 0, finished == 1));
            assert_eq!(waits.read(&mut [0]).await.unwrap(), 0, "a reset after FIN");
        }
        bench.is_clean().await;
    });
}

/// The kernel's receive gives the bytes and may be silent about the reset behind them: if both are there before it is asked
/// for (a session that joins), or come before the worker looks.
#[test]
fn a_reset_behind_bytes_is_seen() {
    on_ring(64, 8, 1024, async |mut bench| {
        for (side, joins) in [(0, true), (1, true), (0, false), (1, false)] {
            // Its task has not had a turn yet.
            let mut session = bench.session().await;
            if !joins {
                speak(std::slice::from_mut(&mut session), 1).await;
            }
            let Session { client, backend, relaying, cut: _cut, counted: _ } = session;
            let (breaks, mut stays) = if side == 0 { (client, backend) } else { (backend, client) };
            assert_eq!(breaks.try_write(b"last").unwrap(), 4);
            SockRef::from(&breaks).set_linger(Some(Duration::ZERO)).unwrap();
            drop(breaks);
            let mut got = Vec::new();
            let end = stays.read_to_end(&mut got).await;
            assert_eq!((got.as_slice(), end.unwrap_err().kind()), (b"last".as_slice(), io::ErrorKind::ConnectionReset));
            let (end, side) = (relaying.await.unwrap().end, [Side::Client, Side::Backend][side]);
            assert!(matches!(end, End::Broken(broken, _) if broken == side), "{side:?}: {end:?}");
        }
        bench.is_clean().await;
    });
}

#[test]
fn a_lane_that_is_dropped_resets_its_connections() {
    on_ring(64, 16, 4096, async |mut bench| {
        let mut session = bench.session().await;
        session.client.write_all(b"hello").await.unwrap();
        session.backend.read_exact(&mut [0; 5]).await.unwrap();
        session.relaying.abort();
        let client = session.client.read(&mut [0; 5]).await;
        let backend = session.backend.read(&mut [0; 5]).await;
        assert_eq!(client.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(backend.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        bench.is_clean().await;
    });
}

/// Urgent data in the middle of what has arrived at once: one receive ends before it, and no other follows by itself, since
/// nothing more comes. Both ways; the urgent byte itself is dropped.
#[test]
fn urgent_data_does_not_stop_a_session() {
    on_ring(64, 16, 4_096, async |mut bench| {
        for way in 0..2 {
            let mut session = bench.session().await;
            while bench.ring.0.inner.borrow().table.len() == 0 {
                yield_now().await;
            }
            let (source, sink) = match way {
                0 => (&mut session.client, &mut session.backend),
                _ => (&mut session.backend, &mut session.client),
            };
            // All of it in one segment, of which the kernel tells once.
            SockRef::from(&*source).set_tcp_cork(true).unwrap();
            assert_eq!(source.try_write(b"ab").unwrap(), 2);
            assert_eq!(SockRef::from(&*source).send_out_of_band(b"!").unwrap(), 1);
            assert_eq!(source.try_write(b"cd").unwrap(), 2);
            SockRef::from(&*source).set_tcp_cork(false).unwrap();
            let mut heard = [0; 4];
            sink.read_exact(&mut heard).await.unwrap();
            assert_eq!(heard.escape_ascii().to_string(), "abcd", "direction {way}");
            let Session { client, backend, relaying, .. } = session;
            drop((client, backend));
            assert!(matches!(relaying.await.unwrap().end, End::Completed));
        }
        bench.is_clean().await;
    });
}
