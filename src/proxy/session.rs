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
use super::cut::Cut;
use super::listener::{Listener, Settings, Slot};
use super::live::Enlisted;
use super::outcome::Record;
use super::relay::{Done, End, Mode, Side, Terms, relay};
use super::socket::Socket;
use super::upstream::{self, Connected, Refusal};
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
    let client = Socket::new(fd);

    // The record is dropped before the client's socket, always: who sees that close finds the session counted.
    let Some(mut caller) = identify(&client, &front, &enlisted, &mut record).await else { return drop(record) };
    // One set of them until it is relayed, whatever is applied meanwhile.
    let settings = front.pool.settings();
    drop(front);
    // Boxed: a session spends its life in the relay, which needs a third of the room.
    let reached = Box::pin(reach(&client, &settings, &worker, &enlisted, &mut record)).await;
    let Some(Connected { socket: backend, lease }) = reached else { return drop(record) };
    #[cfg(test)]
    tests::panic_if_asked();

    let connected = Instant::now();
    let bytes = lease.backend().stats.bytes.cell(worker.index);
    enlisted.live().reached(lease.backend(), lease.address(), &bytes);
    record.connected_after = Some(connected - at);
    if !announce(&caller, (&client, &backend), &settings, &enlisted, &mut record).await {
        drop(lease);
        return drop(record);
    }
    let limits = worker.limits(&enlisted.live().pool);
    let mode = match settings.relay {
        config::Relay::Copy => Mode::Copy,
        config::Relay::Splice => Mode::Splice,
        config::Relay::Auto if !worker.gear.has_ring() => Mode::Auto,
        config::Relay::Auto | config::Relay::IoUring => Mode::Ring,
    };
    let terms = Terms { mode, limits, early: std::mem::take(&mut caller.early) };
    drop((caller, settings));
    let (client_end, backend_end) = (Rc::clone(client.bare()), Rc::clone(backend.bare()));
    let answered = || lease.answered();
    let done = relay(client, backend, &worker.gear, terms, bytes, &answered, enlisted.cut()).await;

    record.to_backend = done.to_backend;
    record.to_client = done.to_client;
    record.first_byte = done.first_byte.map(|at| at - connected);
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

/// Tells the backend who the client is, if it is to be told. `false` = the record says why not; then both are reset.
async fn announce(
    caller: &Caller,
    (client, backend): (&Socket, &Socket),
    settings: &config::Pool,
    enlisted: &Enlisted<'_>,
    record: &mut Record,
) -> bool {
    let Some(send) = &settings.send_proxy else { return true };
    let id = format!("{:016x}-{:x}", *RUN, record.live.id());
    let (header, unique_id) = caller.header(send, client, &id);
    if let Some(unique_id) = unique_id {
        record.unique_id = Some(unique_id.escape_ascii().to_string());
    }
    let (outcome, detail) = tokio::select! {
        biased;
        written = timeout(settings.connect.timeout, caller::tell(backend, &header)) => match written {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => (Outcome::BackendReset, Some(error.to_string())),
            Err(_) => (Outcome::BackendReset, Some("it does not take the PROXY header".to_owned())),
        },
        cut = enlisted.cut() => (cut.outcome(), None),
    };
    record.end(outcome, detail);
    false
}

/// Connects, unless the client leaves or an operator ends the session first. `None` = the record says why.
async fn reach(
    client: &Socket,
    settings: &config::Pool,
    worker: &Worker,
    enlisted: &Enlisted<'_>,
    record: &mut Record,
) -> Option<Connected> {
    let mut random = worker.random();
    let pool = Arc::clone(&record.live.pool);
    let refusal = tokio::select! {
        biased;
        result = upstream::connect((&pool, settings), &worker.stock, &mut random, &mut record.attempts) => match result {
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
        Refusal::Failed(backend, reason, error) => {
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
