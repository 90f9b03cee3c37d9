//! The admin side's connections: accepted within bounds, and none of them trusted to be quick or sane. The door to hyper.

use std::collections::VecDeque;
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
use super::triage::{self, RequestKind};
use crate::pace::Pace;

/// Connections over TCP, and over the socket: all of them fit in the descriptors that are kept back from sessions (256),
/// and neither side can shut out the other.
const MOST_TCP: usize = 64;
const MOST_SOCKET: usize = 16;

/// Beside these: of those that ask for `/live` and `/ready`, and of those that wait for a slot: as many that have said what they want as others.
const MOST_VITAL: usize = 8;
const MOST_WAITING: usize = 12;

/// For the head of a request, and between two requests.
const HEAD: Duration = Duration::from_secs(10);

/// Of a request's head, and of what is read ahead of a body.
const LONGEST_HEAD: usize = 16 * 1024;

/// The longest pause when no slot is free, or accept(2) fails.
const PAUSE: Duration = Duration::from_millis(20);

/// Between two looks for answers that are not read.
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
    let mut room = Room {
        most: front.most(),
        slots: ConnectionSlots::new(front.most()),
        vital: ConnectionSlots::new(MOST_VITAL),
        connections: JoinSet::new(),
        numbers: 0,
        routes,
    };
    // Connections for which there is no slot yet, and which are not turned away.
    let mut waiting: VecDeque<Arrived> = VecDeque::new();
    let mut complaints = Pace::new(Duration::from_secs(5));
    let (mut sweeps, mut looks) = (tokio::time::interval(SWEEP), tokio::time::interval(PAUSE));
    loop {
        room.tidy().await;
        let accepted = tokio::select! {
            accepted = front.accept() => accepted,
            _ = sweeps.tick() => {
                room.slots.sweep(Instant::now());
                continue;
            }
            () = room.slots.changed(), if !waiting.is_empty() => {
                room.admit_waiting(&mut waiting, false);
                continue;
            }
            // At the latest when time has made a difference.
            _ = looks.tick(), if !waiting.is_empty() => {
                room.admit_waiting(&mut waiting, false);
                continue;
            }
        };
        let (stream, caller) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if let Some(unsaid) = complaints.allow(Instant::now()) {
                    warn!(%error, unsaid, "the admin side's accept failed; accepting goes on");
                }
                sleep(PAUSE).await;
                continue;
            }
        };
        let arrived = Arrived { kind: stream.kind(), stream, caller };
        // In turn.
        if arrived.kind == RequestKind::Vital || waiting.is_empty() {
            waiting.extend(room.admit(arrived).err());
        } else {
            waiting.push_back(arrived);
        }
        // One that had said nothing when it was accepted may have asked what is vital since.
        if silent(&waiting) > MOST_WAITING {
            room.admit_waiting(&mut waiting, true);
        }
        // Nothing stays in the backlog, where what is vital would stand behind it.
        while turn_one_away(&mut waiting) {}
    }
}

fn silent(waiting: &VecDeque<Arrived>) -> usize {
    waiting.iter().filter(|one| one.kind == RequestKind::Silent).count()
}

/// Where too many wait: of those that have said what they want the first that shows no token, of the others the first.
/// Returns whether there was one.
fn turn_one_away(waiting: &mut VecDeque<Arrived>) -> bool {
    let silent = silent(waiting);
    let first = |is: fn(RequestKind) -> bool| waiting.iter().position(|one| is(one.kind));
    let away = if silent > MOST_WAITING {
        first(|kind| kind == RequestKind::Silent)
    } else if waiting.len() - silent > MOST_WAITING {
        first(|kind| kind == RequestKind::Anybody).or_else(|| first(|kind| kind != RequestKind::Silent))
    } else {
        None
    };
    let away = away.and_then(|away| waiting.remove(away));
    let was_one = away.is_some();
    if let Some(Arrived { stream: AdminStream::Tcp(stream), .. }) = away {
        triage::refuse(stream);
    }
    was_one
}

/// A connection that is not served yet.
struct Arrived {
    stream: AdminStream,
    caller: Caller,
    kind: RequestKind,
}

/// Connections that are served, and how many may be.
struct Room {
    most: usize,
    slots: Arc<ConnectionSlots>,
    /// Of those that ask whether we live: whatever the others do.
    vital: Arc<ConnectionSlots>,
    connections: JoinSet<()>,
    /// How many there have been: their names.
    numbers: u64,
    routes: Router,
}

impl Room {
    /// Serves a connection, if there is a slot for it.
    fn admit(&mut self, arrived: Arrived) -> Result<(), Arrived> {
        let now = Instant::now();
        let vital = if arrived.kind == RequestKind::Vital { self.vital.take(self.numbers, now) } else { None };
        // One answer, so that nothing else comes in by this way.
        let stays = vital.is_none();
        let Some(slot) = vital.or_else(|| self.slots.take(self.numbers, now)) else { return Err(arrived) };
        let Arrived { stream, caller, .. } = arrived;
        self.numbers += 1;
        let routes = self.routes.clone();
        self.connections.spawn(async move {
            match stream {
                AdminStream::Tcp(stream) => talk(stream, caller, slot, routes, stays).await,
                AdminStream::Socket(stream) => talk(stream, caller, slot, routes, stays).await,
            }
        });
        Ok(())
    }

    /// Serves those that wait, in turn: all for which there are slots, or only those that ask what is vital. Looks again at
    /// those that had said nothing.
    fn admit_waiting(&mut self, waiting: &mut VecDeque<Arrived>, only_vital: bool) {
        let mut is_full = only_vital;
        for mut one in std::mem::take(waiting) {
            if one.kind == RequestKind::Silent {
                one.kind = one.stream.kind();
            }
            if one.kind != RequestKind::Vital && (is_full || self.is_crowded()) {
                waiting.push_back(one);
            } else if let Err(one) = self.admit(one) {
                is_full = true;
                waiting.push_back(one);
            }
        }
    }

    /// Whether some that had to go still hold their descriptors.
    fn is_crowded(&mut self) -> bool {
        while self.connections.try_join_next().is_some() {}
        self.connections.len() >= self.most + MOST_VITAL
    }

    /// Waits for connections that had to go: each holds a descriptor until its task has ended, which it does at its next turn.
    async fn tidy(&mut self) {
        while self.connections.try_join_next().is_some() {}
        while self.connections.len() > self.most + MOST_VITAL {
            self.connections.join_next().await;
        }
    }
}

impl AdminStream {
    fn kind(&self) -> RequestKind {
        match self {
            Self::Tcp(stream) => triage::kind(stream),
            Self::Socket(stream) => match triage::kind(stream) {
                RequestKind::Anybody => RequestKind::Known,
                kind => kind,
            },
        }
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

    /// Of these, followers of events: some slots are always left for requests.
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

async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    caller: Caller,
    slot: ConnectionSlot,
    routes: Router,
    stays: bool,
) {
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
        .keep_alive(stays)
        .serve_connection(TokioIo::new(stream), answer);
    tokio::select! {
        // What a client does wrong is its own affair.
        _ = connection => {}
        () = end.cancelled() => {}
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    async fn ask(address: std::net::SocketAddr, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    async fn answer(mut stream: TcpStream) -> String {
        let mut text = String::new();
        timeout(SOON, stream.read_to_string(&mut text)).await.expect("an answer").unwrap();
        text
    }

    /// All slots are taken by requests that are not answered. Those that ask whether we live are, at once and however many
    /// others come; a request without a token is turned away, and one that may be an operator's waits.
    #[tokio::test]
    async fn what_is_vital_waits_for_nobody() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (go, gone) = tokio::sync::watch::channel(false);
        let slow = move || {
            let mut gone = gone.clone();
            async move {
                gone.wait_for(|gone| *gone).await.unwrap();
                "slow"
            }
        };
        let routes = Router::new().route("/metrics", get(slow)).route("/live", get(|| async { "live" }));
        let serving = tokio::spawn(serve(AdminFront::Tcp(listener), routes));
        let metrics = |more: &str| format!("GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{more}\r\n");
        let mut crowd = Vec::new();
        for _ in 0..MOST_TCP {
            crowd.push(ask(address, &metrics("")).await);
        }
        let operator = ask(address, &metrics("Authorization: Bearer a\r\n")).await;
        let _silent = TcpStream::connect(address).await.unwrap();
        let mut others = Vec::new();
        for _ in 0..50 {
            others.push(ask(address, &metrics("")).await);
            let live = answer(ask(address, "GET /live HTTP/1.1\r\nHost: a\r\n\r\n").await).await;
            assert!(live.starts_with("HTTP/1.1 200 ") && live.ends_with("\r\n\r\nlive"), "{live}");
        }
        // One that asks a moment after it was accepted, while many come that say nothing.
        let mut silent = Vec::new();
        for _ in 0..5 {
            let mut late = TcpStream::connect(address).await.unwrap();
            silent.push(TcpStream::connect(address).await.unwrap());
            late.write_all(b"GET /live HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            for _ in 0..2 * MOST_WAITING {
                silent.push(TcpStream::connect(address).await.unwrap());
            }
            let live = answer(late).await;
            assert!(live.starts_with("HTTP/1.1 200 "), "{live}");
        }
        go.send(true).unwrap();
        for stream in crowd.into_iter().chain([operator]) {
            assert!(answer(stream).await.ends_with("slow"));
        }
        let mut refused = 0;
        for stream in others {
            let answer = answer(stream).await;
            let is_refused = answer.starts_with("HTTP/1.1 503 ") && answer.contains("too many ask at the same time");
            assert!(is_refused || answer.ends_with("slow"), "{answer}");
            refused += usize::from(is_refused);
        }
        // The operator is one of those that wait; a connection that has said nothing takes the place of none of them.
        assert_eq!(refused, 50 + 1 - MOST_WAITING);
        serving.abort();
    }
}
