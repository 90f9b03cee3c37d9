//! The life of a connection, top to bottom: who is it, connect to a backend, relay, one outcome. A session lives and dies
//! on one worker.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use tokio::time::timeout;

use super::caller::{self, Caller, Stranger};
use super::cut::{Cut, Enlisted};
use super::listener::{Listener, Slot};
use super::outcome::Record;
use super::relay::{AUTO_PREFERS_RING, Done, End, Limits, Mode, Side, Terms, relay};
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
    let mut record = Record::new(NEXT.fetch_add(1, Relaxed), listener, peer, at, worker.log_sessions);
    let client = match Socket::new(fd) {
        Ok(client) => client,
        Err(error) => return record.end(Outcome::LocalError, Some(error.to_string())),
    };
    let enlisted = worker.enlist();

    // The record is dropped before the client's socket, always: who sees that close finds the session counted.
    let Some(caller) = identify(&client, &enlisted, &mut record).await else { return drop(record) };
    let timeouts = record.listener.pool.settings.timeouts;
    let limits = Limits::new(timeouts.idle, timeouts.half_close, timeouts.first_byte);
    // Boxed: a session spends its life in the relay, which needs a third of the room.
    let reached = Box::pin(reach(&client, caller, (&worker, &limits), &enlisted, &mut record)).await;
    let Some(Settled { connected, early, before }) = reached else { return drop(record) };
    let Connected { socket: backend, lease } = connected;
    #[cfg(test)]
    tests::panic_if_asked();

    let bytes = lease.backend().stats.bytes.cell(worker.index);
    let mode = match record.listener.pool.settings.relay {
        config::Relay::Auto if AUTO_PREFERS_RING => Mode::Ring,
        config::Relay::Auto => Mode::Auto,
        config::Relay::Copy => Mode::Copy,
        config::Relay::Splice => Mode::Splice,
        config::Relay::IoUring => Mode::Ring,
    };
    let terms = Terms { mode, limits, early, before };
    let (client_end, backend_end) = (Rc::clone(client.bare()), Rc::clone(backend.bare()));
    let answered = || lease.answered();
    let done = relay(client, backend, &worker.gear, terms, bytes, &answered, enlisted.cut()).await;

    record.to_backend += done.to_backend;
    record.to_client = done.to_client;
    if let Some(at) = done.first_byte {
        record.answered(at);
    }
    if let Some(early) = done.early {
        lease.ended_early(early);
    }
    if done.finished_client {
        client_end.may_close();
    }
    if done.finished_backend {
        backend_end.may_close();
    }
    let (outcome, detail) = judge(done);
    record.end(outcome, detail);
    drop(lease);
    drop(record);
}

/// Finds out who the client is. `None` = the record says why not; then the client is reset.
async fn identify(client: &Socket, enlisted: &Enlisted<'_>, record: &mut Record) -> Option<Caller> {
    let trusting = record.listener.accept_proxy.as_ref().filter(|accept| accept.trusts(record.peer.ip()));
    let Some(accept) = trusting else { return Some(Caller::is(record.peer)) };
    // In a box of its own: it is over before the relay begins, and most listeners never need it.
    let identified = Box::pin(caller::identify(client, record.peer, accept));
    let (outcome, detail) = tokio::select! {
        biased;
        identified = identified => match identified {
            Ok(caller) => {
                record.client = caller.client;
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
    client: &Socket,
    caller: Caller,
    (worker, limits): (&Worker, &Limits),
    enlisted: &Enlisted<'_>,
    record: &mut Record,
) -> Option<Settled> {
    let listener = Arc::clone(&record.listener);
    let mut search = Search::new(&listener, &worker.stock, worker.random());
    let connected = connect(client, &mut search, enlisted, record).await?;
    record.reached(&connected.lease);
    let header = greeting(&caller, client, record);
    let Some(most) = listener.pool.settings.replay else {
        announce(header, &connected.socket, enlisted, record).await?;
        return Some(Settled { connected, early: caller.early, before: None });
    };
    let request = Request::new(caller.early, most);
    let with = (client, worker, limits);
    // In a box of its own: most pools never need it.
    Box::pin(request.settle(connected, header.as_deref(), with, (&mut search, enlisted), record)).await
}

/// What the backend is told about the client before all else, if it is to be told.
fn greeting(caller: &Caller, client: &Socket, record: &mut Record) -> Option<Vec<u8>> {
    let send = record.listener.pool.settings.send_proxy.as_ref()?;
    let id = format!("{:016x}-{:x}", *RUN, record.id);
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
    enlisted: &Enlisted<'_>,
    record: &mut Record,
) -> Option<()> {
    let Some(header) = header else { return Some(()) };
    let limit = record.listener.pool.settings.connect.timeout;
    let (outcome, detail) = tokio::select! {
        biased;
        written = timeout(limit, caller::tell(backend, &header)) => match written {
            Ok(Ok(())) => return Some(()),
            Ok(Err(error)) => (Outcome::BackendReset, Some(error.to_string())),
            Err(_) => (Outcome::BackendReset, Some("it does not take the PROXY header".to_owned())),
        },
        cut = enlisted.cut() => (cut.outcome(), None),
    };
    record.end(outcome, detail);
    None
}

/// Connects, unless the client leaves or an operator ends the session first. `None` = the record says why.
async fn connect(
    client: &Socket,
    search: &mut Search<'_>,
    enlisted: &Enlisted<'_>,
    record: &mut Record,
) -> Option<Connected> {
    let refusal = tokio::select! {
        biased;
        result = search.next(&mut record.attempts) => match result {
            Ok(connected) => return Some(connected),
            Err(refusal) => refusal,
        },
        error = client.error() => {
            record.end(Outcome::ClientGone, Some(error.to_string()));
            return None;
        }
        cut = enlisted.cut() => {
            record.end(cut.outcome(), None);
            return None;
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
    // Refused before any byte: an ordinary close can't be mistaken for the end of an answer.
    client.bare().may_close();
    None
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
}
