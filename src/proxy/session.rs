//! The life of a connection, top to bottom: who is it, connect to a backend, relay, one outcome. A session lives and dies
//! on one worker.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use tokio::time::timeout;

use super::caller::{self, Caller, Stranger};
use super::cut::Cut;
use super::listener::{Listener, Settings, Slot};
use super::live::Enlisted;
use super::opening::Opening;
use super::outcome::Record;
use super::relay::{Done, End, Mode, Side, Terms, relay};
use super::replay::{Request, Settled};
use super::socket::Socket;
use super::upstream::{Connected, Refusal, Search};
use super::worker::Worker;
use crate::config;
use crate::metrics::Outcome;

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
    pub(super) slot: Slot,
}

/// Serves one client until its end.
pub(super) async fn run(accepted: Accepted, worker: Rc<Worker>) {
    let Accepted { fd, peer, at, listener, slot: _slot } = accepted;
    let front = listener.settings();
    let enlisted = worker.enlist(NEXT.fetch_add(1, Relaxed), (listener, &front.pool), peer, at);
    let mut record = Record::new(Arc::clone(enlisted.live()), worker.log_sessions.load(Relaxed));
    let mut client = Socket::new(fd);

    // The record is dropped before the client's socket, always: who sees that close finds the session counted.
    let Some(caller) = identify(&client, &front, &enlisted, &mut record).await else { return drop(record) };
    // One set of them until it is relayed, whatever is applied meanwhile.
    let settings = front.pool.settings();
    drop(front);
    // Boxed: a session spends its life in the relay, which needs a third of the room.
    let reached = Box::pin(reach((&client, caller), &settings, &worker, &enlisted, &mut record)).await;
    let Some(Settled { connected, bytes, early, before }) = reached else { return drop(record) };
    let Connected { socket: mut backend, lease } = connected;
    #[cfg(test)]
    tests::panic_if_asked();

    if let Some(keepalive) = settings.tcp.keepalive {
        worker.young.add(backend.bare(), keepalive);
    }
    let limits = worker.quiet.limits(&enlisted.live().pool);
    let mode = match settings.relay {
        config::Relay::Copy => Mode::Copy,
        config::Relay::Splice => Mode::Splice,
        config::Relay::Auto if !worker.gear.has_ring() => Mode::Auto,
        config::Relay::Auto | config::Relay::IoUring => Mode::Ring,
    };
    let terms = Terms { mode, limits, early, before };
    drop(settings);
    let shown = enlisted.live().show_ends([client.bare().as_raw_fd(), backend.bare().as_raw_fd()]);
    let answered = || lease.answered();
    let done = relay([&mut client, &mut backend], &worker.gear, terms, bytes, &answered, enlisted.cut()).await;

    drop(shown);
    record.to_backend += done.to_backend;
    record.to_client = done.to_client;
    if let Some(at) = done.first_byte {
        record.answered(at);
    }
    if let Some(early) = done.early {
        lease.ended_early(early);
    }
    if done.finished_client {
        client.bare().may_close();
    }
    if done.finished_backend {
        backend.bare().may_close();
    }
    let (outcome, detail) = judge(done);
    record.end(outcome, detail);
    drop(lease);
    drop(record);
}

/// Finds out who the client is. `None` = the record says why not; then the client is reset.
async fn identify(client: &Socket, front: &Settings, enlisted: &Enlisted<'_>, record: &mut Record) -> Option<Caller> {
    let trusting = front.file.accept_proxy.as_ref().filter(|accept| accept.trusts(record.live.peer.ip()));
    let Some(accept) = trusting else {
        record.live.identified(record.live.peer);
        return Some(Caller::is(record.live.peer));
    };
    // In a box of its own: it is over before the relay begins, and most listeners never need it.
    let identified = Box::pin(caller::identify(client, record.live.peer, accept));
    let (outcome, detail) = tokio::select! {
        biased;
        identified = identified => match identified {
            Ok(caller) => {
                record.live.identified(caller.client);
                record.unique_id = caller.unique_id().map(|id| id.escape_ascii().to_string());
                return Some(caller);
            }
            Err(Stranger::Refused(why)) => (Outcome::Refused, Some(why)),
            Err(Stranger::Gone(why)) => (Outcome::ClientGone, Some(why)),
        },
        cut = enlisted.cut() => (cut.outcome(), None),
    };
    record.end(outcome, detail);
    None
}

/// Finds a backend, and one that answers where requests are replayed. `None` = the record says why there is none.
async fn reach(
    (client, caller): (&Socket, Caller),
    settings: &Arc<config::Pool>,
    worker: &Worker,
    enlisted: &Enlisted<'_>,
    record: &mut Record,
) -> Option<Settled> {
    let live = Arc::clone(&record.live);
    let mut opening = Opening::default();
    if caller.early.is_empty() && settings.replay.is_none() {
        opening = match Opening::of(client) {
            Ok(opening) => opening,
            Err(error) => {
                record.end(Outcome::ClientGone, Some(error.to_string()));
                return None;
            }
        };
    }
    let has_bytes = !opening.is_empty() || !caller.early.is_empty() || settings.send_proxy.is_some();
    let mut search = Search::new((&live.pool, settings), &live.listener, &worker.stock, worker.random(), has_bytes);
    let connected = match connect(client, &mut search, enlisted, record).await {
        Ok(connected) => connected,
        Err(Unconnected::Refused) => {
            // Refused before any byte: an ordinary close can't be mistaken for the end of an answer. Who has sent some is
            // reset, as the kernel does it where they have not been read.
            if opening.is_empty() {
                client.bare().may_close();
            }
            return None;
        }
        Err(Unconnected::Ended) => return None,
    };
    let header = greeting(&caller, client, settings, record);
    let Some(most) = settings.replay else {
        let bytes = record.reached(&connected.lease, worker.index);
        announce(header, &connected.socket, settings, enlisted, record).await?;
        if opening.is_empty() {
            return Some(Settled { connected, bytes, early: caller.early, before: None });
        }
        let (early, before) = opening.say(&connected.socket, &bytes);
        return Some(Settled { connected, bytes, early, before: Some(Box::new(before)) });
    };
    let request = Request::new(caller.early, most);
    let with = (client, worker, &**settings);
    // In a box of its own: most pools never need it.
    Box::pin(request.settle(connected, header.as_deref(), with, (&mut search, enlisted), record)).await
}

/// What the backend is told about the client before all else, if it is to be told.
fn greeting(caller: &Caller, client: &Socket, settings: &config::Pool, record: &mut Record) -> Option<Vec<u8>> {
    let send = settings.send_proxy.as_ref()?;
    let id = format!("{:016x}-{:x}", *RUN, record.live.id());
    let (header, unique_id) = caller.header(send, client, &id);
    if let Some(unique_id) = unique_id {
        record.unique_id = Some(unique_id.escape_ascii().to_string());
    }
    Some(header)
}

/// Tells the backend. `None` = the record says why not; then both are reset.
async fn announce(
    header: Option<Vec<u8>>,
    backend: &Socket,
    settings: &config::Pool,
    enlisted: &Enlisted<'_>,
    record: &mut Record,
) -> Option<()> {
    let Some(header) = header else { return Some(()) };
    let (outcome, detail) = tokio::select! {
        biased;
        written = timeout(settings.connect.timeout, caller::tell(backend, &header)) => match written {
            Ok(Ok(())) => return Some(()),
            Ok(Err(error)) => (Outcome::BackendReset, Some(error.to_string())),
            Err(_) => (Outcome::BackendReset, Some("it does not take the PROXY header".to_owned())),
        },
        cut = enlisted.cut() => (cut.outcome(), None),
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
    enlisted: &Enlisted<'_>,
    record: &mut Record,
) -> Result<Connected, Unconnected> {
    let refusal = tokio::select! {
        biased;
        result = search.next(&mut record.attempts) => match result {
            Ok(connected) => return Ok(connected),
            Err(refusal) => refusal,
        },
        error = client.error() => {
            record.end(Outcome::ClientGone, Some(error.to_string()));
            return Err(Unconnected::Ended);
        }
        cut = enlisted.cut() => {
            record.end(cut.outcome(), None);
            return Err(Unconnected::Ended);
        }
    };
    let (outcome, detail) = match refusal {
        Refusal::NoBackend => (Outcome::NoBackend, None),
        Refusal::Failed((backend, reason, error)) => {
            let outcome = if reason.blames_backend() { Outcome::ConnectFailed } else { Outcome::LocalError };
            (outcome, Some(format!("{}: {}: {error}", backend.id, reason.name())))
        }
    };
    record.end(outcome, detail);
    Err(Unconnected::Refused)
}

fn judge(done: Done<Cut>) -> (Outcome, Option<String>) {
    match done.end {
        End::Completed => (Outcome::Completed, None),
        End::Broken(Side::Client, error) => (Outcome::ClientReset, Some(error.to_string())),
        End::Broken(Side::Backend, error) => (Outcome::BackendReset, Some(error.to_string())),
        End::Idle => (Outcome::IdleTimeout, None),
        End::HalfClosed => (Outcome::HalfCloseTimeout, None),
        End::FirstByte => (Outcome::FirstByteTimeout, None),
        End::Cut(cut) => (cut.outcome(), None),
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

    /// An idle session is little more than this. Debug builds make it larger than others; a bound that is too low has to be
    /// raised with a reason.
    #[test]
    fn a_session_is_small() {
        fn size<A, B, F: Future>(_: impl FnOnce(A, B) -> F) -> usize {
            size_of::<F>()
        }
        let size = size(super::run);
        eprintln!("a session: {size} bytes");
        assert!(size <= 1_600, "{size}");
    }
}
