//! The clients of a listener and what they have: asked by each session when it begins and when it ends, never for a byte.
//! `route` decides; here are the clock, the locks and the sessions that wait. A reload keeps it.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::sleep_until;

use crate::config::{ClientPrefix, LimitMode, PerClient, RateKeys, WaitKeys, first_address};
use crate::deadline::within;
use crate::metrics::Refusal;
use crate::pool::Refusals;
use crate::route::{ClientLimits, ClientSlot, ClientView, Clients, Over, SessionRate};

/// A part of the clients has a lock of its own, so that workers seldom meet, and a part that grows holds up a session for a
/// millisecond at most.
const PARTS: usize = 64;

/// Of the sessions that wait, one client has at most this part.
const WAITING_PART: u32 = 10;

/// The clients of a listener.
#[derive(Debug)]
pub struct ClientTable {
    prefix: ClientPrefix,
    /// Locks: held for a few steps of a table when a session begins and when it ends.
    parts: Box<[Mutex<Part>]>,
    hasher: RandomState,
    /// The zero of its clock.
    since: Instant,
    /// Sessions that wait for a limit. Relaxed: a bound that is met by one too many does no harm.
    waiting: AtomicU32,
    /// What would have been refused, but for `mode = "observe"`.
    observed: Refusals,
}

#[derive(Debug)]
struct Part {
    clients: Clients,
    /// Sessions that wait, by client, in the order in which they came. Only the first looks whether it may begin.
    queues: HashMap<ClientSlot, VecDeque<Arc<Notify>>>,
}

/// A session's place among those of its client; dropping it gives it back.
#[derive(Debug)]
pub(super) struct ClientPlace {
    table: Arc<ClientTable>,
    part: u8,
    slot: ClientSlot,
}

impl ClientTable {
    /// For these keys; the one from before, if that tells clients apart in the same way.
    pub fn renewed(keys: &PerClient, before: Option<Arc<Self>>) -> Arc<Self> {
        let Some(before) = before.filter(|before| before.prefix == keys.prefix) else {
            return Arc::new(Self::new(keys));
        };
        for part in &before.parts {
            lock(part).clients.bound(of_part(keys));
        }
        before
    }

    fn new(keys: &PerClient) -> Self {
        let part = |_| {
            let clients = Clients::new(of_part(keys), RandomState::new());
            Mutex::new(Part { clients, queues: HashMap::new() })
        };
        Self {
            prefix: keys.prefix,
            parts: (0..PARTS).map(part).collect(),
            hasher: RandomState::new(),
            since: Instant::now(),
            waiting: AtomicU32::new(0),
            observed: Refusals::default(),
        }
    }

    /// Begins a session of this client, perhaps after a wait.
    ///
    /// # Errors
    /// It may not have one.
    ///
    /// # Cancel safety
    /// Safe: it does not wait any more.
    pub(super) async fn begin(self: &Arc<Self>, ip: IpAddr, keys: &PerClient) -> Result<ClientPlace, Refusal> {
        let client = self.client(ip);
        let part = self.hasher.hash_one(client) as usize % PARTS;
        let (limits, now) = (limits(keys), self.now());
        let (slot, over) = {
            let Part { clients, queues } = &mut *lock(&self.parts[part]);
            let slot = clients.meet(client);
            match (clients.begin(slot, limits, now), keys.mode, keys.wait) {
                (Ok(()), ..) => return Ok(self.place(part, slot)),
                (Err(over), LimitMode::Observe, _) => {
                    clients.begin_anyway(slot);
                    self.observed.count(over.refusal());
                    return Ok(self.place(part, slot));
                }
                (Err(over), LimitMode::Enforce, None) => return Err(over.refusal()),
                (Err(over), LimitMode::Enforce, Some(keys)) => {
                    let of_client = u16::try_from(keys.max_waiting / WAITING_PART).unwrap_or(u16::MAX);
                    if self.waiting.load(Relaxed) >= keys.max_waiting || !clients.wait(slot, of_client) {
                        return Err(over.refusal());
                    }
                    let turn = Arc::new(Notify::new());
                    let queue = queues.entry(slot).or_default();
                    if queue.is_empty() {
                        turn.notify_one();
                    }
                    queue.push_back(Arc::clone(&turn));
                    self.waiting.fetch_add(1, Relaxed);
                    (Waiting { table: self, part, slot, turn }, over)
                }
            }
        };
        let WaitKeys { wait_timeout, .. } =
            keys.wait.unwrap_or(WaitKeys { max_waiting: 0, wait_timeout: Duration::ZERO });
        slot.until_begun(limits, over, self.since + Duration::from_nanos(now) + wait_timeout).await
    }

    /// The clients that were over a limit most often, then those with the most sessions, and how many are known.
    pub fn worst(&self, most: usize) -> (Vec<ClientView>, usize) {
        let rank = |view: &ClientView| std::cmp::Reverse((view.over(), view.sessions, view.address));
        let (mut worst, mut known) = (Vec::new(), 0);
        for part in &self.parts {
            let part = lock(part);
            known += part.clients.len();
            worst.extend(part.clients.views());
            drop(part);
            worst.sort_unstable_by_key(rank);
            worst.truncate(most);
        }
        (worst, known)
    }

    /// How many clients are known.
    pub fn known(&self) -> usize {
        self.parts.iter().map(|part| lock(part).clients.len()).sum()
    }

    /// The bits of an address that make a client.
    pub fn prefix(&self) -> ClientPrefix {
        self.prefix
    }

    /// What would have been refused for this reason, but for `mode = "observe"`.
    pub fn observed(&self, reason: Refusal) -> u64 {
        self.observed.read(reason)
    }

    /// Sessions that wait for a limit now.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Relaxed)
    }

    fn client(&self, ip: IpAddr) -> IpAddr {
        let ip = ip.to_canonical();
        first_address(ip, if ip.is_ipv4() { self.prefix.v4 } else { self.prefix.v6 })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn place(self: &Arc<Self>, part: usize, slot: ClientSlot) -> ClientPlace {
        ClientPlace { table: Arc::clone(self), part: part as u8, slot }
    }
}

impl Drop for ClientPlace {
    fn drop(&mut self) {
        let Part { clients, queues } = &mut *lock(&self.table.parts[usize::from(self.part)]);
        if let Some(first) = queues.get(&self.slot).and_then(VecDeque::front) {
            first.notify_one();
        }
        clients.end(self.slot);
    }
}

/// A session that waits for a limit of its client.
struct Waiting<'a> {
    table: &'a Arc<ClientTable>,
    part: usize,
    slot: ClientSlot,
    /// Told when it is the first, and when a session of the client has ended.
    turn: Arc<Notify>,
}

impl Waiting<'_> {
    async fn until_begun(self, limits: ClientLimits, mut over: Over, until: Instant) -> Result<ClientPlace, Refusal> {
        let until = tokio::time::Instant::from_std(until);
        loop {
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            if within(left, self.turn.notified()).await.is_err() {
                return Err(over.refusal());
            }
            loop {
                over = match self.try_begin(limits) {
                    Ok(place) => return Ok(place),
                    Err(over) => over,
                };
                let Over::Rate(at) = over else { break };
                let at = tokio::time::Instant::from_std(self.table.since + Duration::from_nanos(at));
                if at > until {
                    sleep_until(until).await;
                    return Err(over.refusal());
                }
                sleep_until(at).await;
            }
        }
    }

    fn try_begin(&self, limits: ClientLimits) -> Result<ClientPlace, Over> {
        let now = self.table.now();
        lock(&self.table.parts[self.part]).clients.try_begin(self.slot, limits, now)?;
        Ok(self.table.place(self.part, self.slot))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Part { clients, queues } = &mut *lock(&self.table.parts[self.part]);
        if let Some(queue) = queues.get_mut(&self.slot) {
            queue.retain(|turn| !Arc::ptr_eq(turn, &self.turn));
            match queue.front() {
                // It may have been its turn: the next one looks.
                Some(next) => next.notify_one(),
                None => drop(queues.remove(&self.slot)),
            }
        }
        clients.stop_waiting(self.slot);
        self.table.waiting.fetch_sub(1, Relaxed);
    }
}

/// Of a part, which has a little less or more than its share of all clients.
fn of_part(keys: &PerClient) -> usize {
    keys.max_clients.div_ceil(PARTS)
}

fn limits(keys: &PerClient) -> ClientLimits {
    ClientLimits { sessions: keys.max_connections, rate: keys.rate.as_ref().map(session_rate) }
}

/// As the keys say.
pub(super) fn session_rate(keys: &RateKeys) -> SessionRate {
    SessionRate::new(keys.rate, keys.burst)
}

fn lock(part: &Mutex<Part>) -> MutexGuard<'_, Part> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}
