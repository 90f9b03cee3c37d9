//! The life of a connection, top to bottom: identify the client, route, pick and dial a backend, relay, one outcome. A
//! session lives and dies on one worker.

use std::mem;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::warn;

use super::client::{self, Client, Greeting, IdentifyError};
use super::context::SessionContext;
use super::dial::Connected;
use super::early_data::EarlyData;
use super::forced_end::ForcedEnd;
use super::handshakes::pushed_out;
use super::listener::{Accepted, SessionSlot, Settings};
use super::outcome::{Ended, SessionRecord};
use super::relay::{Done, End, Mode, Side, Terms, relay};
use super::replay::{Request, Settled};
use super::routing::{refused, route};
use super::socket::{Socket, broken};
use super::starttls::Opening;
use super::upstream::{GivenUp, NoConnection, Search};
use super::worker::{Load, SessionGuard, Worker};
use crate::config::{self, LimitAction};
use crate::deadline::within;
use crate::metrics::{Outcome, Refusal};
use crate::pace::Pace;
use crate::pool::{ByteCell, Lease};
use crate::proxy_protocol;

/// Numbers sessions in the order in which they begin, over all workers.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// Makes ids of sessions unlike those of other runs and other balancers.
static RUN: LazyLock<u64> = LazyLock::new(|| fastrand::u64(..));

/// Serves one client until its end.
pub(super) fn run(accepted: Accepted, worker: Rc<Worker>, load: Load) -> impl Future<Output = ()> {
    let Accepted { fd, peer, at, listener, mut slot } = accepted;
    let front = listener.settings();
    let live = worker.enlist(NEXT.fetch_add(1, Relaxed), (listener, front.routes.only().cloned()), peer, at);
    slot.begins();
    let mut session = Session {
        lease: None,
        session_guard: SessionGuard::new(worker, &live, load),
        record: SessionRecord::new(live, front.log),
        backend: None,
        client: Socket::new(fd),
        _slot: slot,
    };
    // No `async fn`: that would hold its arguments a second time, for as long as the session is idle.
    async move {
        let session = &mut session;
        // Boxed: a session spends its life in the relay, which needs a third of the room.
        let (terms, bytes) = match Box::pin(session.begin(front)).await {
            Ok(begun) => begun,
            Err(ended) => return session.record.end(ended),
        };
        #[cfg(test)]
        tests::panic_if_asked();
        let (Some(lease), Some(backend)) = (&session.lease, &mut session.backend) else { return };
        let answered = |took| lease.answered(took);
        let relay_context = &session.session_guard.worker().relay_context;
        let cut = session.record.live.cut();
        let done = relay([&mut session.client, backend], relay_context, terms, bytes, &answered, cut).await;
        session.end(done);
    }
}

/// All that a session has for its whole life. Dropped from the top to the bottom, also by a panic.
struct Session {
    lease: Option<Lease>,
    /// Always before the sockets: when a client sees the close, the session is counted.
    record: SessionRecord,
    backend: Option<Socket>,
    client: Socket,
    session_guard: SessionGuard,
    _slot: SessionSlot,
}

impl Session {
    /// Identifies the client, routes the session and connects it to a backend.
    async fn begin(&mut self, front: Arc<Settings>) -> Result<(Terms, ByteCell), Ended> {
        let Self { client: socket, record, session_guard, .. } = self;
        let worker = session_guard.worker();
        let mut client = identify(socket, &front, record).await?;
        admit(socket, &front, client.address.ip(), record).await?;
        let context = route(&front, &mut client, (socket, worker, &record.live)).await?;
        if let Some(keepalive) = front.file.tcp.keepalive {
            worker.late_keepalive.add(socket.tcp_fd(), keepalive);
        }
        drop(front);
        let Settled { connected, bytes, early, before } = reach(&context, client, record).await?;
        let Connected { socket: backend, lease, settings } = connected;
        if let Some(keepalive) = settings.tcp.keepalive {
            worker.late_keepalive.add(backend.tcp_fd(), keepalive);
        }
        let mode = match settings.relay {
            config::Relay::Copy => Mode::Copy,
            config::Relay::Splice => Mode::Splice,
            config::Relay::Auto if !worker.relay_context.has_ring() => Mode::Auto,
            config::Relay::Auto | config::Relay::IoUring => Mode::Ring,
        };
        let throttles = settings
            .bandwidth
            .as_ref()
            .map(|bandwidth| Box::new(lease.pool().bandwidth.throttles(bandwidth, record.live.client().ip())));
        let terms = Terms { mode, limits: worker.idle_limits.limits(lease.pool()), early, before, throttles };
        record.live.show_ends(Some([socket.tcp_fd(), backend.tcp_fd()]));
        (self.lease, self.backend) = (Some(lease), Some(backend));
        Ok((terms, bytes))
    }

    fn end(&mut self, done: Done<ForcedEnd>) {
        let Self { lease, record, backend, client, .. } = self;
        if let Some(at) = done.first_byte {
            record.answered(at);
        }
        if let (Some(lease), Some(early)) = (lease, done.early) {
            lease.ended_early(early);
        }
        if done.finished_client {
            client.tcp_fd().may_close();
        }
        if done.finished_backend
            && let Some(backend) = backend
        {
            backend.tcp_fd().may_close();
        }
        record.end(done.end.into());
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.backend.is_some() {
            // They are about to be closed.
            self.record.live.show_ends(None);
        }
    }
}

/// Identifies the client. A client that can't be identified is reset.
async fn identify(socket: &Socket, front: &Settings, record: &mut SessionRecord) -> Result<Client, Ended> {
    let peer = record.live.peer;
    let trusting = front.file.accept_proxy.as_ref().filter(|accept| accept.trusts(peer.ip()));
    let client = match trusting {
        None => Client::is(peer),
        Some(accept) => {
            let handshake = record.live.listener.handshake(front);
            tokio::select! {
                biased;
                // In a box of its own: it is over before the relay begins, and most listeners never need it.
                client = Box::pin(client::identify(socket, peer, accept)) => client?,
                () = pushed_out(handshake.as_ref()) => return Err(refused(socket, Refusal::Handshakes)),
                cut = record.live.cut() => return Err(cut.into()),
            }
        }
    };
    record.live.identified(client.address);
    if let Some(id) = client.unique_id() {
        record.rare().unique_id = Some(id.escape_ascii().to_string().into());
    }
    Ok(client)
}

/// Whether the client may have a session, by the listener's lists and by what it has already. It may have to wait.
async fn admit(socket: &Socket, front: &Settings, client: IpAddr, record: &mut SessionRecord) -> Result<(), Ended> {
    if front.access.as_ref().is_some_and(|access| !access.admits(client)) {
        return Err(refused(socket, Refusal::Denied));
    }
    let (Some(keys), Some(clients)) = (&front.file.per_client, &front.clients) else { return Ok(()) };
    let begun = tokio::select! {
        biased;
        begun = clients.begin(client, keys) => begun,
        error = socket.error() => return Err(Ended::because(Outcome::ClientGone, error)),
        cut = record.live.cut() => return Err(cut.into()),
    };
    match begun {
        Ok(place) => record.rare().client_place = Some(place),
        Err(why) if keys.action == LimitAction::Reset => return Err(Ended::refused(why, None)),
        Err(why) => return Err(refused(socket, why)),
    }
    Ok(())
}

/// Finds a backend, and one that answers where requests are replayed.
async fn reach(context: &SessionContext<'_>, mut client: Client, record: &mut SessionRecord) -> Result<Settled, Ended> {
    let (mut early_data, early) = (EarlyData::default(), mem::take(&mut client.early));
    if early.is_empty() && context.chain.first().settings.replay.is_none() {
        early_data = EarlyData::of(context.socket).map_err(|error| Ended::because(Outcome::ClientGone, error))?;
    }
    let opening = client.starttls.then(|| Opening::new(&client, context.socket, own_id(context)));
    let mut search = Search::new(context, !early_data.is_empty() || !early.is_empty(), opening.as_ref());
    let is_silent = early_data.is_empty() && early.is_empty() && opening.is_none();
    let connected = connect(context, &mut search, is_silent, record).await?;
    let Some(most) = connected.settings.replay else {
        let header = greeting(&client, context, &connected.settings, record);
        let bytes = record.reached(&connected, context.worker.index);
        announce(header, &connected, context).await?;
        if early_data.is_empty() {
            return Ok(Settled { connected, bytes, early, before: None });
        }
        let (early, before) = early_data.say(&connected.socket, &bytes);
        return Ok(Settled { connected, bytes, early, before: Some(Box::new(before)) });
    };
    // A pool may keep what its fallback does not, and the other way round.
    let early = if early_data.is_empty() { early } else { early_data.into_bytes() };
    let header = |settings: &config::Pool, record: &mut SessionRecord| greeting(&client, context, settings, record);
    // In a box of its own: most pools never need it.
    Box::pin(Request::new(early, most).settle(connected, &header, context, &mut search, record)).await
}

/// What the backend is told about the client before all else, if it is to be told, and was not yet.
fn greeting(
    client: &Client,
    context: &SessionContext<'_>,
    settings: &config::Pool,
    record: &mut SessionRecord,
) -> Option<Vec<u8>> {
    let send = settings.send_proxy.as_ref()?;
    let Greeting { bytes, unique_id, left_out } = client.header(send, context.socket, &own_id(context));
    if !left_out.is_empty() {
        warn_left_out(&left_out, context);
    }
    if let Some(unique_id) = unique_id {
        record.rare().unique_id = Some(unique_id.escape_ascii().to_string().into());
    }
    (!client.starttls).then_some(bytes)
}

/// The id of the session, for backends.
fn own_id(context: &SessionContext<'_>) -> String {
    format!("{:016x}-{:x}", *RUN, context.live.id())
}

/// A client in front that says too much does so in every session: a line in a while.
fn warn_left_out(left_out: &[u8], context: &SessionContext<'_>) {
    const SAY_EVERY: Duration = Duration::from_secs(10);
    // A lock: for sessions of this kind alone, and for as long as it takes to compare two times.
    static PACE: LazyLock<Mutex<Pace>> = LazyLock::new(|| Mutex::new(Pace::new(SAY_EVERY)));
    let allowed = PACE.lock().unwrap_or_else(PoisonError::into_inner).allow(Instant::now());
    if let Some(unsaid) = allowed {
        let types: Vec<String> = left_out.iter().map(|kind| format!("0x{kind:02x}")).collect();
        warn!(
            pool = %context.chain.first().pool.name, client = %context.live.peer, types = types.join(","), unsaid,
            "values of the PROXY header are left out: it would be longer than {} bytes", proxy_protocol::LONGEST
        );
    }
}

/// Tells the backend. Where that fails, both are reset.
async fn announce(header: Option<Vec<u8>>, to: &Connected, context: &SessionContext<'_>) -> Result<(), Ended> {
    let Some(header) = header else { return Ok(()) };
    tokio::select! {
        biased;
        written = within(to.settings.connect.timeout, client::tell(&to.socket, &header)) => match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Ended::because(Outcome::BackendReset, error)),
            Err(_) => Err(Ended::because(Outcome::BackendReset, "it does not take the PROXY header")),
        },
        cut = context.live.cut() => Err(cut.into()),
    }
}

/// Connects, unless the client leaves or an operator ends the session first.
async fn connect(
    context: &SessionContext<'_>,
    search: &mut Search<'_>,
    is_silent: bool,
    record: &mut SessionRecord,
) -> Result<Connected, Ended> {
    let found = tokio::select! {
        biased;
        found = search.next(&mut record.attempts) => Ok(found),
        error = context.socket.error() => Err(Ended::because(Outcome::ClientGone, error)),
        cut = context.live.cut() => Err(cut.into()),
    };
    if let Some(queued) = search.queued() {
        record.rare().queued = Some(queued);
    }
    found?.map_err(|none| {
        // Refused before any byte: an ordinary close can't be mistaken for the end of an answer. A client that has sent some
        // is reset, as the kernel does it where they have not been read.
        if is_silent {
            context.socket.tcp_fd().may_close();
        }
        none.into()
    })
}

impl From<IdentifyError> for Ended {
    fn from(error: IdentifyError) -> Self {
        match error {
            IdentifyError::Refused(why) => Self::refused(Refusal::ProxyHeader, Some(why)),
            IdentifyError::Gone(why) => Self::because(Outcome::ClientGone, why),
        }
    }
}

impl From<NoConnection> for Ended {
    fn from(NoConnection { given_up, last }: NoConnection) -> Self {
        match (given_up, last) {
            (GivenUp::QueueFull, _) => Outcome::QueueFull.into(),
            (GivenUp::QueueTimeout, _) => Outcome::QueueTimeout.into(),
            (_, None) => Outcome::NoBackend.into(),
            (GivenUp::Starttls, Some((backend, _, error))) => {
                Self::because(Outcome::StarttlsFailed, format!("{}: {error}", backend.id))
            }
            (given_up, Some((backend, reason, error))) => {
                let outcome = if reason.blames_backend() { Outcome::ConnectFailed } else { Outcome::LocalError };
                Self::because(outcome, format!("{}: {}: {error}; {}", backend.id, reason.name(), given_up.says()))
            }
        }
    }
}

impl From<End<ForcedEnd>> for Ended {
    fn from(end: End<ForcedEnd>) -> Self {
        match end {
            End::Completed => Outcome::Completed.into(),
            End::Broken(Side::Client, error) => Self::because(Outcome::ClientReset, broken(&error)),
            End::Broken(Side::Backend, error) => Self::because(Outcome::BackendReset, broken(&error)),
            End::Idle => Outcome::IdleTimeout.into(),
            End::HalfClosed => Outcome::HalfCloseTimeout.into(),
            End::FirstByte => Outcome::FirstByteTimeout.into(),
            End::Forced(cut) => cut.into(),
            End::Local(error) => Self::because(Outcome::LocalError, error),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

    /// Makes the next session that reaches its relay panic.
    pub(crate) static PANIC: AtomicBool = AtomicBool::new(false);

    pub(super) fn panic_if_asked() {
        assert!(!PANIC.swap(false, SeqCst), "asked for by a test");
    }

    /// An idle session is little more than this. tokio adds 96 bytes, and its tasks come in steps of 128: beyond this bound,
    /// each session takes 128 bytes more.
    #[test]
    fn a_session_is_small() {
        fn size<A, B, C, F: Future>(_: impl FnOnce(A, B, C) -> F) -> usize {
            size_of::<F>()
        }
        let size = size(super::run);
        eprintln!("a session: {size} bytes");
        assert!(size <= 672, "{size}");
    }
}
