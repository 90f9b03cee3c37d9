//! Which pool a session goes to: asks the routes of its listener, with more and more of the client's first bytes where they
//! need them.
//! Used by `session`.

use std::mem;
use std::sync::Arc;

use tokio::time::sleep_until;

use super::client::Client;
use super::context::SessionContext;
use super::handshakes::pushed_out;
use super::listener::Settings;
use super::live::{Live, Phase, RoutedBy};
use super::outcome::Ended;
use super::sniff::Sniffed;
use super::socket::Socket;
use super::worker::Worker;
use crate::config::{HashBy, Sniff};
use crate::metrics::Refusal;
use crate::pool::{Chain, Pool};
use crate::route::{ClientFacts, Decision, affinity};

/// Of a client's first bytes: what a session keeps, for `evenkeel plan`.
const KEPT: usize = 64;

/// Decides which pool the session goes to.
///
/// Not cancel safe: dropping it loses what was read.
pub(super) async fn route<'a>(
    front: &Settings,
    client: &mut Client,
    (socket, worker, live): (&'a Socket, &'a Worker, &Arc<Live>),
) -> Result<SessionContext<'a>, Ended> {
    let pool = match front.routes.only().filter(|pool| !pool.hashes_by_name()) {
        Some(pool) => {
            live.routed(pool, None);
            Arc::clone(pool)
        }
        // In a box of its own: it is over before the relay begins, and most listeners never need it.
        None => Box::pin(by_rules(front, client, (socket, worker, live))).await?,
    };
    let facts = client.facts();
    let chain = Chain::new(&pool, |settings| {
        let by = settings.hashing.by;
        let destination = if by == HashBy::Destination { client.destination(socket) } else { None };
        affinity(by, settings.sticky, &ClientFacts { destination, ..facts })
    });
    Ok(SessionContext { socket, worker, live: Arc::clone(live), chain })
}

/// The client may not have a session, and neither side has said anything that was read: an ordinary close, which can't be
/// mistaken for the end of an answer.
pub(super) fn refused(socket: &Socket, why: Refusal) -> Ended {
    socket.tcp_fd().may_close();
    Ended::refused(why, None)
}

async fn by_rules(
    front: &Settings,
    client: &mut Client,
    (socket, worker, live): (&Socket, &Worker, &Arc<Live>),
) -> Result<Arc<Pool>, Ended> {
    // A pool that needs the name may have become one after the listener was read.
    let is_named = || front.routes.pools().any(|pool| pool.hashes_by_name());
    let unwritten = || if is_named() { &Sniff::USUAL } else { &Sniff::NOTHING };
    let limits = front.file.sniff.as_ref().unwrap_or_else(unwritten);
    let early = mem::take(&mut client.early);
    let mut known = client.facts();
    if front.routes.hashes_destination() {
        known.destination = client.destination(socket);
    }
    let mut sniffed = Sniffed::new(socket, limits, early, worker.random().u64(..));
    let mut handshake = None;
    let (pool, route) = loop {
        match front.routes.decide(&sniffed.facts(known)) {
            // Its backends are told apart by the name, although its routes did not ask.
            Decision::Pool(pool, _) if pool.hashes_by_name() && sniffed.is_open() => {}
            Decision::Pool(pool, route) => break (pool, route),
            Decision::Refused(why) => return Err(sniffed.refused(why)),
            Decision::NeedsBytes => {}
        }
        live.phase(Phase::Sniffing);
        let handshake = handshake.get_or_insert_with(|| live.listener.handshake(front));
        tokio::select! {
            biased;
            read = sniffed.read_more() => read?,
            () = pushed_out(handshake.as_ref()) => return Err(sniffed.refused(Refusal::Handshakes)),
            cut = live.cut() => return Err(cut.into()),
        }
    };
    drop(handshake);
    live.phase(Phase::Connecting);
    let first_bytes = sniffed.bytes[..sniffed.bytes.len().min(KEPT)].into();
    let (hello, lot) = (sniffed.hello().cloned(), sniffed.lot);
    let is_all = front.file.sniff.is_some() && sniffed.is_all && sniffed.bytes.len() <= KEPT;
    live.routed(pool, Some(RoutedBy { route, hello: hello.clone(), first_bytes, is_all, lot }));
    (client.early, client.hello, client.starttls) = (sniffed.bytes, hello, sniffed.is_starttls);
    live.listener.routed.count(&pool.name);
    until_probed(front, live, pool).await?;
    Ok(Arc::clone(pool))
}

/// Waits for the first probes of a pool that is new.
async fn until_probed(front: &Settings, live: &Live, pool: &Pool) -> Result<(), Ended> {
    if !pool.is_awaited() {
        return Ok(());
    }
    tokio::select! {
        biased;
        () = pool.until_known() => Ok(()),
        () = sleep_until(front.waits_until().into()) => Ok(()),
        cut = live.cut() => Err(cut.into()),
    }
}
