//! The life of a connection, top to bottom: who is it, connect to a backend, relay, one outcome. A session lives and dies
//! on one worker.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::warn;

use super::client::{self, Client, Greeting, IdentifyError};
use super::early_data::EarlyData;
use super::forced_end::ForcedEnd;
use super::listener::{Listener, SessionSlot, Settings};
use super::outcome::SessionRecord;
use super::relay::{Done, End, Mode, Side, Terms, relay};
use super::replay::{Request, Settled};
use super::socket::{Socket, broken};
use super::upstream::{Connected, GivenUp, NoConnection, Search};
use super::worker::{Load, SessionGuard, Worker};
use crate::config;
use crate::deadline::within;
use crate::metrics::Outcome;
use crate::pace::Pace;
use crate::pool::{ByteCell, Lease};
use crate::proxy_protocol;

/// Numbers sessions in the order in which they begin, over all workers.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// Makes ids of sessions unlike those of other runs and other balancers.
static RUN: LazyLock<u64> = LazyLock::new(|| fastrand::u64(..));

/// A connection that was accepted, on its way to a worker.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) fd: OwnedFd,
    pub(super) peer: SocketAddr,
    pub(super) at: Instant,
    pub(super) listener: Arc<Listener>,
    /// Its place under the limits; given back when all else of the session is gone.
    pub(super) slot: SessionSlot,
}

/// Serves one client until its end.
pub(super) fn run(accepted: Accepted, worker: Rc<Worker>, load: Load) -> impl Future<Output = ()> {
    let Accepted { fd, peer, at, listener, mut slot } = accepted;
    let front = listener.settings();
    let live = worker.enlist(NEXT.fetch_add(1, Relaxed), (listener, &front.pool), peer, at);
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
        let Some((terms, bytes)) = Box::pin(session.begin(front)).await else { return };
        #[cfg(test)]
        tests::panic_if_asked();
        let (Some(lease), Some(backend)) = (&session.lease, &mut session.backend) else { return };
        let answered = || lease.answered();
        let relay_context = &session.session_guard.worker().relay_context;
        let cut = session.record.live.cut();
        let done = relay([&mut session.client, backend], relay_context, terms, bytes, &answered, cut).await;
        session.end(done);
    }
}

/// All that a session has for its whole life. Dropped from the top to the bottom, also by a panic.
struct Session {
    lease: Option<Lease>,
    /// Before the sockets, always: who sees the client's close finds the session counted.
    record: SessionRecord,
    backend: Option<Socket>,
    client: Socket,
    session_guard: SessionGuard,
    _slot: SessionSlot,
}

impl Session {
    /// Finds out who the client is, and connects. `None` = the record says why not.
    async fn begin(&mut self, front: Arc<Settings>) -> Option<(Terms, ByteCell)> {
        let Self { client, record, session_guard, .. } = self;
        let worker = session_guard.worker();
        let caller = identify(client, &front, record).await?;
        // One set of them until it is relayed, whatever is applied meanwhile.
        let settings = front.pool.settings();
        if let Some(keepalive) = front.file.tcp.keepalive {
            worker.late_keepalive.add(client.tcp_fd(), keepalive);
        }
        drop(front);
        let Settled { connected, bytes, early, before } = reach((client, caller), &settings, worker, record).await?;
        let Connected { socket, lease } = connected;

        if let Some(keepalive) = settings.tcp.keepalive {
            worker.late_keepalive.add(socket.tcp_fd(), keepalive);
        }
        let limits = worker.idle_limits.limits(&record.live.pool);
        let mode = match settings.relay {
            config::Relay::Copy => Mode::Copy,
            config::Relay::Splice => Mode::Splice,
            config::Relay::Auto if !worker.relay_context.has_ring() => Mode::Auto,
            config::Relay::Auto | config::Relay::IoUring => Mode::Ring,
        };
        record.live.show_ends(Some([client.tcp_fd().as_raw_fd(), socket.tcp_fd().as_raw_fd()]));
        (self.lease, self.backend) = (Some(lease), Some(socket));
        Some((Terms { mode, limits, early, before }, bytes))
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
        let (outcome, detail) = judge(done);
        record.end(outcome, detail);
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

/// Finds out who the client is. `None` = the record says why not; then the client is reset.
async fn identify(client: &Socket, front: &Settings, record: &mut SessionRecord) -> Option<Client> {
    let trusting = front.file.accept_proxy.as_ref().filter(|accept| accept.trusts(record.live.peer.ip()));
    let Some(accept) = trusting else {
        record.live.identified(record.live.peer);
        return Some(Client::is(record.live.peer));
    };
    // In a box of its own: it is over before the relay begins, and most listeners never need it.
    let identified = Box::pin(client::identify(client, record.live.peer, accept));
    let (outcome, detail) = tokio::select! {
        biased;
        identified = identified => match identified {
            Ok(caller) => {
                record.live.identified(caller.client);
                record.rare().unique_id = caller.unique_id().map(|id| id.escape_ascii().to_string().into());
                return Some(caller);
            }
            Err(IdentifyError::Refused(why)) => (Outcome::Refused, Some(why)),
            Err(IdentifyError::Gone(why)) => (Outcome::ClientGone, Some(why)),
        },
        cut = record.live.cut() => (cut.outcome(), None),
    };
    record.end(outcome, detail);
    None
}

/// Finds a backend, and one that answers where requests are replayed. `None` = the record says why there is none.
async fn reach(
    (client, caller): (&Socket, Client),
    settings: &Arc<config::Pool>,
    worker: &Worker,
    record: &mut SessionRecord,
) -> Option<Settled> {
    let live = Arc::clone(&record.live);
    let mut early_data = EarlyData::default();
    if caller.early.is_empty() && settings.replay.is_none() {
        early_data = match EarlyData::of(client) {
            Ok(early_data) => early_data,
            Err(error) => {
                record.end(Outcome::ClientGone, Some(error.to_string()));
                return None;
            }
        };
    }
    let has_bytes = !early_data.is_empty() || !caller.early.is_empty() || settings.send_proxy.is_some();
    let mut search = Search::new(&live, settings, &worker.stock, worker.random(), has_bytes);
    let connected = match connect(client, &mut search, record).await {
        Ok(connected) => connected,
        Err(Unconnected::Refused) => {
            // Refused before any byte: an ordinary close can't be mistaken for the end of an answer. Who has sent some is
            // reset, as the kernel does it where they have not been read.
            if early_data.is_empty() {
                client.tcp_fd().may_close();
            }
            return None;
        }
        Err(Unconnected::Ended) => return None,
    };
    let header = greeting(&caller, client, settings, record);
    let Some(most) = settings.replay else {
        let bytes = record.reached(&connected, worker.index);
        announce(header, &connected.socket, settings, record).await?;
        if early_data.is_empty() {
            return Some(Settled { connected, bytes, early: caller.early, before: None });
        }
        let (early, before) = early_data.say(&connected.socket, &bytes);
        return Some(Settled { connected, bytes, early, before: Some(Box::new(before)) });
    };
    let request = Request::new(caller.early, most);
    let with = (client, worker, &**settings);
    // In a box of its own: most pools never need it.
    Box::pin(request.settle(connected, header.as_deref(), with, &mut search, record)).await
}

/// What the backend is told about the client before all else, if it is to be told.
fn greeting(caller: &Client, client: &Socket, settings: &config::Pool, record: &mut SessionRecord) -> Option<Vec<u8>> {
    let send = settings.send_proxy.as_ref()?;
    let id = format!("{:016x}-{:x}", *RUN, record.live.id());
    let Greeting { bytes, unique_id, left_out } = caller.header(send, client, &id);
    if !left_out.is_empty() {
        warn_left_out(&left_out, settings, record);
    }
    if let Some(unique_id) = unique_id {
        record.rare().unique_id = Some(unique_id.escape_ascii().to_string().into());
    }
    Some(bytes)
}

/// A client in front that says too much does so in every session: a line in a while.
fn warn_left_out(left_out: &[u8], settings: &config::Pool, record: &SessionRecord) {
    const SAY_EVERY: Duration = Duration::from_secs(10);
    // A lock: for sessions of this kind alone, and for as long as it takes to compare two times.
    static PACE: LazyLock<Mutex<Pace>> = LazyLock::new(|| Mutex::new(Pace::new(SAY_EVERY)));
    let allowed = PACE.lock().unwrap_or_else(PoisonError::into_inner).allow(Instant::now());
    if let Some(unsaid) = allowed {
        let types: Vec<String> = left_out.iter().map(|kind| format!("0x{kind:02x}")).collect();
        warn!(
            pool = %settings.name, client = %record.live.peer, types = types.join(","), unsaid,
            "values of the PROXY header are left out: it would be longer than {} bytes", proxy_protocol::LONGEST
        );
    }
}

/// Tells the backend. `None` = the record says why not; then both are reset.
async fn announce(
    header: Option<Vec<u8>>,
    backend: &Socket,
    settings: &config::Pool,
    record: &mut SessionRecord,
) -> Option<()> {
    let Some(header) = header else { return Some(()) };
    let (outcome, detail) = tokio::select! {
        biased;
        written = within(settings.connect.timeout, client::tell(backend, &header)) => match written {
            Ok(Ok(())) => return Some(()),
            Ok(Err(error)) => (Outcome::BackendReset, Some(error.to_string())),
            Err(_) => (Outcome::BackendReset, Some("it does not take the PROXY header".to_owned())),
        },
        cut = record.live.cut() => (cut.outcome(), None),
    };
    record.end(outcome, detail);
    None
}

/// Why a session did not get to a backend; the record says more.
enum Unconnected {
    /// There is none for it.
    Refused,
    /// The client left, or an operator ended it.
    Ended,
}

/// Connects, unless the client leaves or an operator ends the session first.
async fn connect(
    client: &Socket,
    search: &mut Search<'_>,
    record: &mut SessionRecord,
) -> Result<Connected, Unconnected> {
    let found = tokio::select! {
        biased;
        found = search.next(&mut record.attempts) => Ok(found),
        error = client.error() => Err((Outcome::ClientGone, Some(error.to_string()))),
        cut = record.live.cut() => Err((cut.outcome(), None)),
    };
    if let Some(queued) = search.queued() {
        record.rare().queued = Some(queued);
    }
    let refusal = match found {
        Ok(Ok(connected)) => return Ok(connected),
        Ok(Err(refusal)) => refusal,
        Err((outcome, detail)) => {
            record.end(outcome, detail);
            return Err(Unconnected::Ended);
        }
    };
    let NoConnection { given_up, last } = refusal;
    let (outcome, detail) = match (given_up, last) {
        (GivenUp::QueueFull, _) => (Outcome::QueueFull, None),
        (GivenUp::QueueTimeout, _) => (Outcome::QueueTimeout, None),
        (_, None) => (Outcome::NoBackend, None),
        (given_up, Some((backend, reason, error))) => {
            let outcome = if reason.blames_backend() { Outcome::ConnectFailed } else { Outcome::LocalError };
            (outcome, Some(format!("{}: {}: {error}; {}", backend.id, reason.name(), given_up.says())))
        }
    };
    record.end(outcome, detail);
    Err(Unconnected::Refused)
}

fn judge(done: Done<ForcedEnd>) -> (Outcome, Option<String>) {
    match done.end {
        End::Completed => (Outcome::Completed, None),
        End::Broken(Side::Client, error) => (Outcome::ClientReset, Some(broken(&error))),
        End::Broken(Side::Backend, error) => (Outcome::BackendReset, Some(broken(&error))),
        End::Idle => (Outcome::IdleTimeout, None),
        End::HalfClosed => (Outcome::HalfCloseTimeout, None),
        End::FirstByte => (Outcome::FirstByteTimeout, None),
        End::Forced(cut) => (cut.outcome(), None),
        End::Local(error) => (Outcome::LocalError, Some(error.to_string())),
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
