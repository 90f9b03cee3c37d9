//! The admin side's connections: accepted within bounds, and none of them trusted to be quick or sane. The door to hyper.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::http::{HeaderValue, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::access::Caller;
use super::answer::written;
use super::place::user;
use super::slots::{ConnectionSlot, ConnectionSlots, SlotState};
use super::socket::SocketFile;
use crate::pace::Pace;

/// Connections over TCP, and over the socket: all of them fit in the descriptors that are kept back from sessions (256),
/// and neither side can shut out the other.
const MOST_TCP: usize = 64;
const MOST_SOCKET: usize = 16;

/// For the head of a request, and between two requests.
const HEAD: Duration = Duration::from_secs(10);

/// Of a request's head, and of what is read ahead of a body.
const LONGEST_HEAD: usize = 16 * 1024;

/// The longest pause when no seat is to be had, or accept(2) fails.
const PAUSE: Duration = Duration::from_millis(20);

/// Between two looks for answers that nobody reads.
const SWEEP: Duration = Duration::from_secs(1);

/// Where connections come from.
#[derive(Debug)]
pub(super) enum AdminFront {
    Tcp(TcpListener),
    Socket { listener: UnixListener, _file: SocketFile },
}

enum AdminStream {
    Tcp(TcpStream),
    Socket(UnixStream),
}

/// Serves for ever; dropping it ends every connection.
pub(super) async fn serve(front: AdminFront, routes: Router) -> Infallible {
    let most = front.most();
    let slots = ConnectionSlots::new(most);
    let mut connections = JoinSet::new();
    let mut complaints = Pace::new(Duration::from_secs(5));
    let mut sweeps = tokio::time::interval(SWEEP);
    let mut number = 0;
    loop {
        number += 1;
        let (stream, caller) = loop {
            while connections.try_join_next().is_some() {}
            // Whoever had to go holds a descriptor until its task has ended, which it does at its next turn.
            while connections.len() > most {
                connections.join_next().await;
            }
            let accepted = tokio::select! {
                accepted = front.accept() => accepted,
                _ = sweeps.tick() => {
                    slots.sweep(Instant::now());
                    continue;
                }
            };
            match accepted {
                Ok(accepted) => break accepted,
                Err(error) => {
                    if let Some(unsaid) = complaints.allow(Instant::now()) {
                        warn!(%error, unsaid, "the admin side's accept failed; accepting goes on");
                    }
                    sleep(PAUSE).await;
                }
            }
        };
        let slot = loop {
            match slots.take(number, Instant::now()) {
                Some(slot) => break slot,
                // At the latest when time has made a difference.
                None => {
                    let _ = timeout(PAUSE, slots.changed()).await;
                    slots.sweep(Instant::now());
                }
            }
        };
        let routes = routes.clone();
        connections.spawn(async move {
            match stream {
                AdminStream::Tcp(stream) => talk(stream, caller, slot, routes).await,
                AdminStream::Socket(stream) => talk(stream, caller, slot, routes).await,
            }
        });
    }
}

impl AdminFront {
    /// Connections at the same time.
    fn most(&self) -> usize {
        match self {
            Self::Tcp(_) => MOST_TCP,
            Self::Socket { .. } => MOST_SOCKET,
        }
    }

    /// Of these, followers of events: some seats are always left for who asks or changes something.
    pub(super) fn most_followers(&self) -> usize {
        match self {
            Self::Tcp(_) => 16,
            Self::Socket { .. } => MOST_SOCKET / 2,
        }
    }

    async fn accept(&self) -> io::Result<(AdminStream, Caller)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                let _ = stream.set_nodelay(true);
                Ok((AdminStream::Tcp(stream), Caller::Tcp(peer)))
            }
            Self::Socket { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                let user = stream.peer_cred().map_or_else(|_| "somebody".to_owned(), |peer| user(peer.uid()));
                Ok((AdminStream::Socket(stream), Caller::Socket(user.into())))
            }
        }
    }
}

/// By a clock that is before 1970 no date can be written, and hyper panics even where none is asked for. Says so by hand;
/// that we live is true all the same.
async fn talk_without_a_clock(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    const LIVE: &[u8] = b"GET /live ";
    let mut head = [0; LIVE.len()];
    if timeout(HEAD, stream.read_exact(&mut head)).await.is_err() {
        return;
    }
    let (status, body) = match &head[..] == LIVE {
        true => ("200 OK", "live\n"),
        false => ("503 Service Unavailable", "the wall clock of this machine is before 1970: set it\n"),
    };
    let length = body.len();
    let kind = "Content-Type: text/plain\r\nX-Content-Type-Options: nosniff\r\nConnection: close";
    let answer = format!("HTTP/1.1 {status}\r\n{kind}\r\nContent-Length: {length}\r\n\r\n{body}");
    // What a client does not take is its own affair. The rest of its request is read, so that this is not reset.
    let _ = timeout(HEAD, async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(LONGEST_HEAD as u64), &mut tokio::io::sink()).await
    })
    .await;
}

async fn talk<S: AsyncRead + AsyncWrite + Unpin>(stream: S, caller: Caller, slot: ConnectionSlot, routes: Router) {
    if SystemTime::now() < SystemTime::UNIX_EPOCH {
        return talk_without_a_clock(stream).await;
    }
    let end = slot.end.clone();
    let slot = Arc::new(slot);
    let routes = TowerToHyperService::new(routes);
    let answer = service_fn(|mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(caller.clone());
        request.extensions_mut().insert(Arc::clone(&slot));
        slot.set(SlotState::Busy);
        let (answer, slot) = (routes.call(request), Arc::clone(&slot));
        async move {
            let mut answer = answer.await?;
            // Whatever it is: no browser makes a page of it.
            answer.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
            if answer.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "text/event-stream") {
                slot.set(SlotState::Follows);
            }
            Ok::<_, Infallible>(written(answer, &slot))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(LONGEST_HEAD)
        .serve_connection(TokioIo::new(stream), answer);
    tokio::select! {
        // What a client does wrong is its own affair.
        _ = connection => {}
        () = end.cancelled() => {}
    }
}
